//! The task of one subconn, which alone drives its state machine and dials.

use std::sync::Arc;

use futures_util::future::{BoxFuture, select_all};
use http::uri::Scheme;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument as _;

use super::connection::{Connection, Loss};
use super::counters::OpenConnection;
use super::dial::{DialError, Dialer};
use super::health::{Checkup, Health};
use super::machine::{State, SubConnMachine};
use super::pool::{Command, Open, Pool};
use crate::backoff::Backoff;
use crate::connectivity::ConnectivityState;
use crate::resolver::Endpoint;
use crate::subconn::SubConn;
use crate::supervision::guarded_task;

/// Creates a subconn in IDLE, and its task. Whenever the state has changed, the subconn's number is sent to `events`.
///
/// The task runs until [`SubConn::shutdown`].
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub(crate) fn spawn(
    id: u32,
    endpoint: Endpoint,
    dialer: Dialer,
    events: mpsc::UnboundedSender<u32>,
) -> SubConn {
    let (commands, receiver) = mpsc::unbounded_channel();
    let authority = dialer.authority.clone().unwrap_or_else(|| endpoint.addresses()[0].authority());
    let by_tls = || if dialer.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let scheme = dialer.scheme.clone().unwrap_or_else(by_tls);
    let pool = Arc::new(Pool::new(authority, scheme, commands));
    let subconn = SubConn::new(id, endpoint, Arc::<Pool>::clone(&pool));
    let machine = SubConnMachine::new(dialer.options.backoff);
    let task =
        Task { subconn: subconn.clone(), pool, dialer, commands: receiver, events, machine, connected: None };
    let span = tracing::info_span!("subconn", id, endpoint = %subconn.endpoint().addresses()[0]);
    // In the channel's span as well, so that a filter for it sees this task.
    tokio::spawn(task.run().instrument(span).in_current_span());
    subconn
}

struct Task {
    subconn: SubConn,
    pool: Arc<Pool>,
    dialer: Dialer,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<u32>,
    machine: SubConnMachine,
    /// The connection, between CONNECTING and READY.
    connected: Option<Dialled>,
}

impl Task {
    async fn run(mut self) {
        while self.machine.state() != State::Shutdown {
            if guarded_task("a subconn", self.step()).await.is_none() {
                self.recover();
            }
        }
    }

    /// Runs one state of the machine, until it changes.
    async fn step(&mut self) {
        match self.machine.state() {
            State::Ready { .. } => self.serve().await,
            State::Shutdown => {}
            state => {
                self.publish(state.into(), None);
                self.advance(state).await;
            }
        }
    }

    /// Recovers from a panic: all connections are lost, and the next attempt is made after a backoff.
    fn recover(&mut self) {
        self.connected = None;
        self.machine = SubConnMachine::new(self.dialer.options.backoff);
        self.machine.connect();
        self.machine.failed(Instant::now(), false, fastrand::f64());
        self.subconn.set_error("the host panicked".to_owned());
    }

    /// Publishes a state, and notifies the balancer if the state has changed.
    fn publish(&self, state: ConnectivityState, error: Option<String>) {
        let changed = self.subconn.set_state(state, error);
        // The state changes before the pool is emptied: an RPC that finds READY but no connection waits for a grant.
        if state != ConnectivityState::Ready && self.pool.has_connections() {
            self.pool.set(Open::default());
        }
        self.pool.grant(&self.subconn);
        self.subconn.counters().set_ready(state == ConnectivityState::Ready);
        if changed {
            // Fails only after the channel is dropped; SHUTDOWN follows.
            let _ = self.events.send(self.subconn.id());
        }
    }

    /// Waits for the end of a state other than READY.
    async fn advance(&mut self, state: State) {
        let (subconn, pool, dialer) = (self.subconn.clone(), Arc::clone(&self.pool), self.dialer.clone());
        // Outside of the loop, so that a command does not restart the attempt.
        let mut dialling = std::pin::pin!(dial(&subconn, &pool, &dialer));
        while self.machine.state() == state {
            tokio::select! {
                biased;
                command = self.commands.recv() => self.apply(command),
                dialled = &mut dialling, if state == State::Connecting => match dialled {
                    Ok(dialled) => {
                        self.connected = Some(dialled);
                        self.machine.connected(Instant::now());
                    }
                    Err(DialError { text, is_ours }) => {
                        tracing::debug!(error = text, "subconn failed");
                        self.subconn.set_error(text);
                        self.machine.failed(Instant::now(), is_ours, fastrand::f64());
                    }
                },
                () = backoff_over(state) => self.machine.tick(Instant::now()),
            }
        }
    }

    fn apply(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Connect) => self.machine.connect(),
            Some(Command::EnterIdle) => self.machine.enter_idle(Instant::now(), false),
            Some(Command::Shutdown) | None => self.machine.shutdown(),
        }
    }

    /// Runs READY: keeps the configured number of connections, until the last one is lost or given up.
    async fn serve(&mut self) {
        // Cannot be `None`: READY and the connection are set together.
        let Some(first) = self.connected.take() else { return self.machine.shutdown() };
        let options = self.dialer.options;
        let mut live = vec![Live::new(first)];
        let mut another: Option<Dialling> = None;
        // Consecutive attempts at further connections that did not lead to a proven one.
        let mut failures = 0;
        let mut checkup =
            Checkup::start(&live[0].connection, &self.dialer, self.pool.origin(), Health::Unknown);
        while matches!(self.machine.state(), State::Ready { .. }) {
            match checkup.health() {
                Health::Serving => {
                    // The pool before the state: a caller that sees READY must be able to send.
                    let connections = live.iter().map(|live| Arc::clone(&live.connection)).collect();
                    let may_grow = live.len() < options.max_connections;
                    self.pool.set(Open { connections, may_grow });
                    self.publish(ConnectivityState::Ready, None);
                }
                Health::Unknown => self.publish(ConnectivityState::Connecting, None),
                Health::Failing(reason) => {
                    self.publish(ConnectivityState::TransientFailure, Some(reason));
                }
            }
            if live.len() < options.connections && another.is_none() {
                another = Some(self.dial_another(failures));
            }
            if live.len() < options.max_connections
                && another.is_none()
                && self.pool.queue().has_waiters()
                && live.iter().all(|live| !live.connection.state().has_free_stream())
            {
                another = Some(self.dial_another(failures));
            }
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::EnterIdle) => {
                        let answered = live.iter().any(|live| live.connection.state().answered());
                        self.machine.enter_idle(Instant::now(), answered);
                    }
                    command => self.apply(command),
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
                        // The same server: its last health counts until the new check answers.
                        let health = checkup.health();
                        checkup = Checkup::start(&first.connection, &self.dialer, self.pool.origin(), health);
                    }
                }
                () = checkup.changed() => {}
                () = self.pool.queue().changed() => self.pool.grant(&self.subconn),
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

    /// Handles the loss of a connection. `last`: no other connection is left.
    fn lost(&mut self, loss: &Loss, last: bool) {
        let address = self.subconn.endpoint().addresses()[0].to_string();
        tracing::debug!(address, reason = loss.reason, "subconn lost");
        if loss.too_many_pings {
            let interval = &mut self.dialer.options.keep_alive_interval;
            *interval = interval.map(|interval| interval.saturating_mul(2));
        }
        if last {
            self.subconn.set_error(format!("connection to {address} lost: {}", loss.reason));
            self.machine.lost(Instant::now(), loss.answered, fastrand::f64());
        }
    }

    /// Dials one more connection, after the backoff for this number of consecutive failures.
    fn dial_another(&self, failures: u32) -> Dialling {
        let (subconn, pool, dialer) = (self.subconn.clone(), Arc::clone(&self.pool), self.dialer.clone());
        Box::pin(async move {
            if failures > 0 {
                sleep(dialer.options.backoff.delay(failures, fastrand::f64())).await;
            }
            dial(&subconn, &pool, &dialer).await
        })
    }
}

/// One of the connections of a READY subconn.
struct Live {
    connection: Arc<Connection>,
    open: OpenConnection,
    since: Instant,
}

impl Live {
    fn new((connection, open): Dialled) -> Self {
        Self { connection: Arc::new(connection), open, since: Instant::now() }
    }

    fn has_proven(&self, loss: &Loss, backoff: Backoff) -> bool {
        loss.answered || self.since.elapsed() >= backoff.proven_after
    }
}

/// Publishes SHUTDOWN however the task ends (with its runtime or by a panic), so that no RPC waits forever.
impl Drop for Task {
    fn drop(&mut self) {
        self.publish(ConnectivityState::Shutdown, None);
    }
}

/// A connection, and its entry in the counters.
type Dialled = (Connection, OpenConnection);
type Dialling = BoxFuture<'static, Result<Dialled, DialError>>;

/// Waits for the end of an attempt to connect. Waits forever if there is none.
///
/// # Cancel safety
///
/// Cancel-safe.
async fn finished(dialling: &mut Option<Dialling>) -> Result<Dialled, DialError> {
    let Some(current) = dialling else { return std::future::pending().await };
    let result = current.await;
    *dialling = None;
    result
}

async fn dial(subconn: &SubConn, pool: &Pool, dialer: &Dialer) -> Result<Dialled, DialError> {
    subconn.counters().dialled();
    let endpoint = subconn.endpoint();
    // Name lookup panics if the system cannot start another thread.
    let dialled = guarded_task("a dial", dialer.dial(&endpoint, pool.queue().signal())).await;
    let panicked = || DialError { text: "the host panicked".to_owned(), is_ours: true };
    match dialled.unwrap_or_else(|| Err(panicked())) {
        Ok(connection) => Ok((connection, dialer.counters.opened())),
        Err(error) => {
            dialer.counters.failed();
            Err(error)
        }
    }
}

/// Waits until the backoff is over. Waits forever in other states.
async fn backoff_over(state: State) {
    match state {
        State::TransientFailure { until } => sleep_until(until).await,
        _ => std::future::pending().await,
    }
}

/// Waits until one of the connections is lost. Returns its index and how it was lost. `live` must not be empty.
async fn lost(live: &[Live]) -> (usize, Loss) {
    let (loss, index, _) = select_all(live.iter().map(|live| Box::pin(live.connection.lost()))).await;
    (index, loss)
}
