//! `hotpick top`: the page of an admin listener, in a terminal.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::app::{App, Ask};
use super::client::Listener;
use super::events::Events;
use super::view::draw;

#[derive(Debug, clap::Args)]
pub(crate) struct TopArguments {
    /// The admin listener of a sidecar: http://HOST:PORT.
    #[arg(value_name = "URL")]
    url: String,
}

/// Time between attempts to reach the listener.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn top(arguments: &TopArguments) -> anyhow::Result<ExitCode> {
    let listener = Listener::parse(&arguments.url)?;
    anyhow::ensure!(
        std::io::stdout().is_terminal(),
        "top needs a terminal: use `curl {}/channels` instead",
        arguments.url.trim_end_matches('/')
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(follow(listener))?;
    Ok(ExitCode::SUCCESS)
}

async fn follow(listener: Listener) -> anyhow::Result<()> {
    // Before the terminal is taken: a mistyped address is an error like any other.
    let mut events = Some(Events::of(listener.get("/live", None).await?.into_body()));
    let mut terminal = Terminal::take()?;
    let mut app = App::default();
    loop {
        terminal.draw(&app)?;
        let again = async {
            sleep(AGAIN).await;
            listener.get("/live", None).await
        };
        let update = async {
            match &mut events {
                Some(events) => Ok(events.next().await),
                None => Err(again.await),
            }
        };
        tokio::select! {
            update = update => match update {
                Ok(Some(update)) => app.update(update),
                Ok(None) => {
                    events = None;
                    "the listener has closed the connection".clone_into(&mut app.problem);
                }
                Err(Ok(answer)) => events = Some(Events::of(answer.into_body())),
                Err(Err(error)) => app.problem = format!("{error:#}"),
            },
            key = terminal.key() => if app.apply(key) == Ask::Quit { return Ok(()) },
        }
    }
}

impl App {
    /// Applies a key, or the change of the terminal's size if it is `None`.
    pub(crate) fn apply(&mut self, key: Option<event::KeyEvent>) -> Ask {
        key.map_or(Ask::Nothing, |key| self.key(key))
    }
}

/// The terminal, as a picture with keys, until dropped.
pub(crate) struct Terminal {
    terminal: DefaultTerminal,
    keys: mpsc::UnboundedReceiver<Option<event::KeyEvent>>,
}

impl Terminal {
    /// Takes the terminal.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let terminal = ratatui::try_init().context("cannot draw on this terminal")?;
        let (sender, keys) = mpsc::unbounded_channel();
        // Reading blocks, so it has a thread of its own, which ends with the process.
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            while let Ok(event) = event::read() {
                let key = match event {
                    Event::Key(key) if key.kind == KeyEventKind::Press => Some(key),
                    Event::Resize(..) => None,
                    _ => continue,
                };
                if sender.send(key).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { terminal, keys })
    }

    pub(crate) fn draw(&mut self, app: &App) -> anyhow::Result<()> {
        self.terminal.draw(|frame| draw(frame, app))?;
        Ok(())
    }

    /// Waits for a key; `None`: the size has changed. Cancel-safe.
    pub(crate) async fn key(&mut self) -> Option<event::KeyEvent> {
        match self.keys.recv().await {
            Some(key) => key,
            // The terminal is gone.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
