//! The task of one subconn: it alone drives the state machine and makes connections.

use std::sync::Arc;

use futures_util::future::{BoxFuture, select_all};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::dial::DialError;
use super::health::{Checkup, Health};
use super::machine::{Machine, State};
use super::stats::OpenConnection;
use super::transport::{Loss, Transport};
use super::{Backoff, Dialer, Pool, Shared};
use crate::connectivity::ConnectivityState;
use crate::supervision::guarded_task;

/// What a subconn is told.
#[derive(Debug)]
pub(super) enum Command {
    Connect,
    EnterIdle,
    Shutdown,
}

/// Runs until SHUTDOWN. Sends the subconn's number to `events` whenever its state has changed.
pub(super) async fn run(
    shared: Arc<Shared>,
    dialer: Dialer,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<u32>,
) {
    let machine = Machine::new(dialer.options.backoff);
    let mut task = Task { shared, dialer, commands, events, machine, connected: None };
    while task.machine.state() != State::Shutdown {
        if guarded_task("a subconn", task.step()).await.is_none() {
            task.begin_anew();
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    dialer: Dialer,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<u32>,
    machine: Machine,
    /// On its way from CONNECTING to READY.
    connected: Option<Dialled>,
}

impl Task {
    /// From one state to the next.
    async fn step(&mut self) {
        match self.machine.state() {
            State::Ready { .. } => self.serve().await,
            State::Shutdown => {}
            state => {
                self.announce(state.into(), None);
                self.advance(state).await;
            }
        }
    }

    /// After a panic: as if its connections had been lost, and could not be made again at once.
    fn begin_anew(&mut self) {
        self.connected = None;
        self.machine = Machine::new(self.dialer.options.backoff);
        self.machine.connect();
        self.machine.failed(Instant::now(), false, fastrand::f64());
        self.failed_with("the host panicked".to_owned());
    }

    /// Shows a state to those who look, and tells the balancer if it is another than before.
    fn announce(&self, state: ConnectivityState, error: Option<String>) {
        let mut condition = self.shared.condition();
        let changed = std::mem::replace(&mut condition.state, state) != state;
        condition.error = error.or(condition.error.take());
        drop(condition);
        // The state first: who finds no connection in READY waits for the next word.
        if state != ConnectivityState::Ready && !self.shared.pool.load().transports.is_empty() {
            self.shared.set_pool(Pool::default());
        }
        self.shared.hand_out();
        self.shared.stats.ready(state == ConnectivityState::Ready);
        if changed {
            // No one listens once the channel is gone, and then SHUTDOWN is near.
            let _ = self.events.send(self.shared.id);
        }
    }

    fn failed_with(&self, error: String) {
        self.shared.condition().error = Some(error);
    }

    /// Waits for the end of a state other than READY.
    async fn advance(&mut self, state: State) {
        let (shared, dialer) = (Arc::clone(&self.shared), self.dialer.clone());
        // One attempt, however many commands come meanwhile.
        let mut dialling = std::pin::pin!(dial(&shared, &dialer));
        while self.machine.state() == state {
            tokio::select! {
                biased;
                command = self.commands.recv() => self.obey(command),
                dialled = &mut dialling, if state == State::Connecting => match dialled {
                    Ok(dialled) => {
                        self.connected = Some(dialled);
                        self.machine.connected(Instant::now());
                    }
                    Err(DialError { text, is_ours }) => {
                        tracing::debug!(error = text, "subconn failed");
                        self.failed_with(text);
                        self.machine.failed(Instant::now(), is_ours, fastrand::f64());
                    }
                },
                () = until(state) => self.machine.tick(Instant::now()),
            }
        }
    }

    fn obey(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Connect) => self.machine.connect(),
            Some(Command::EnterIdle) => self.machine.enter_idle(Instant::now(), false),
            Some(Command::Shutdown) | None => self.machine.shutdown(),
        }
    }

    /// READY: keeps as many connections as are wanted, until the last of them is lost or given up.
    async fn serve(&mut self) {
        // READY without a connection cannot be: both are set together.
        let Some(first) = self.connected.take() else { return self.machine.shutdown() };
        let options = self.dialer.options;
        let mut live = vec![Live::new(first)];
        let mut another: Option<Dialling> = None;
        // Of the further connections: attempts in a row that led to none that has proven itself.
        let mut failures = 0;
        let mut checkup =
            Checkup::start(&live[0].transport, &self.dialer, self.shared.origin(), Health::Unknown);
        while matches!(self.machine.state(), State::Ready { .. }) {
            match checkup.health() {
                Health::Serving => {
                    // The pool first: who sees READY must be able to send.
                    let transports = live.iter().map(|live| Arc::clone(&live.transport)).collect();
                    let may_grow = live.len() < options.max_connections;
                    self.shared.set_pool(Pool { transports, may_grow });
                    self.announce(ConnectivityState::Ready, None);
                }
                Health::Unknown => self.announce(ConnectivityState::Connecting, None),
                Health::Failing(reason) => {
                    self.announce(ConnectivityState::TransientFailure, Some(reason));
                }
            }
            if live.len() < options.connections && another.is_none() {
                another = Some(self.dial_another(failures));
            }
            if live.len() < options.max_connections
                && another.is_none()
                && self.shared.room.is_awaited()
                && live.iter().all(|live| !live.transport.link().has_room())
            {
                another = Some(self.dial_another(failures));
            }
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::EnterIdle) => {
                        let answered = live.iter().any(|live| live.transport.link().answered());
                        self.machine.enter_idle(Instant::now(), answered);
                    }
                    command => self.obey(command),
                },
                (index, loss) = lost(&live) => {
                    let mut gone = live.remove(index);
                    gone.open.ends(loss.kind.clone());
                    if gone.has_proven(&loss, options.backoff) {
                        failures = 0;
                    } else {
                        failures += 1;
                    }
                    self.lost(&loss, live.is_empty());
                    if let (0, Some(first)) = (index, live.first()) {
                        // It is the same server: what was said of it counts until it says otherwise.
                        let health = checkup.health();
                        checkup = Checkup::start(&first.transport, &self.dialer, self.shared.origin(), health);
                    }
                }
                () = checkup.changed() => {}
                () = self.shared.room.changed() => self.shared.hand_out(),
                dialled = finished(&mut another) => match dialled {
                    Ok(dialled) => live.push(Live::new(dialled)),
                    Err(error) => {
                        tracing::debug!(%error, "no further connection");
                        failures += 1;
                    }
                },
            }
        }
    }

    /// A connection is gone; `last`: there is no other.
    fn lost(&mut self, loss: &Loss, last: bool) {
        let address = self.shared.endpoint.load().addresses()[0].to_string();
        tracing::debug!(address, reason = loss.reason, "subconn lost");
        if loss.too_many_pings {
            let interval = &mut self.dialer.options.keep_alive_interval;
            *interval = interval.map(|interval| interval.saturating_mul(2));
        }
        if last {
            self.failed_with(format!("connection to {address} lost: {}", loss.reason));
            self.machine.lost(Instant::now(), loss.answered, fastrand::f64());
        }
    }

    /// One connection more, after the backoff for so many failures in a row.
    fn dial_another(&self, failures: u32) -> Dialling {
        let (shared, dialer) = (Arc::clone(&self.shared), self.dialer.clone());
        Box::pin(async move {
            if failures > 0 {
                sleep(dialer.options.backoff.delay(failures, fastrand::f64())).await;
            }
            dial(&shared, &dialer).await
        })
    }
}

/// One of the connections of a READY subconn.
struct Live {
    transport: Arc<Transport>,
    open: OpenConnection,
    since: Instant,
}

impl Live {
    fn new((transport, open): Dialled) -> Self {
        Self { transport: Arc::new(transport), open, since: Instant::now() }
    }

    fn has_proven(&self, loss: &Loss, backoff: Backoff) -> bool {
        loss.answered || self.since.elapsed() >= backoff.proven_after
    }
}

/// However the task ends, with its runtime or a panic, no one goes on waiting for it.
impl Drop for Task {
    fn drop(&mut self) {
        self.announce(ConnectivityState::Shutdown, None);
    }
}

/// A connection, and what counts it.
type Dialled = (Transport, OpenConnection);
type Dialling = BoxFuture<'static, Result<Dialled, DialError>>;

/// Waits for the connection that is being made; for ever if none is. Cancel-safe.
async fn finished(dialling: &mut Option<Dialling>) -> Result<Dialled, DialError> {
    let Some(current) = dialling else { return std::future::pending().await };
    let result = current.await;
    *dialling = None;
    result
}

async fn dial(shared: &Shared, dialer: &Dialer) -> Result<Dialled, DialError> {
    shared.stats.dialled();
    let endpoint = shared.endpoint.load_full();
    // Names are looked up on a thread, which panics if there can be none.
    let dialled = guarded_task("a connection's making", dialer.dial(&endpoint, &shared.room)).await;
    let lack = || DialError { text: "the host panicked".to_owned(), is_ours: true };
    match dialled.unwrap_or_else(|| Err(lack())) {
        Ok(transport) => Ok((transport, dialer.counters.opened())),
        Err(error) => {
            dialer.counters.failed();
            Err(error)
        }
    }
}

/// Waits until the backoff is over; for ever if there is none.
async fn until(state: State) {
    match state {
        State::TransientFailure { until } => sleep_until(until).await,
        _ => std::future::pending().await,
    }
}

/// Waits until one of the connections, of which there is at least one, is lost. Gives its index.
async fn lost(live: &[Live]) -> (usize, Loss) {
    let (loss, index, _) = select_all(live.iter().map(|live| Box::pin(live.transport.lost()))).await;
    (index, loss)
}
