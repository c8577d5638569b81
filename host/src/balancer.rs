//! The loop that owns all mutable balancing state of a channel.
//!
//! Endpoints come in from the resolver, policies from the directory, states from the subconns; what goes
//! out is one immutable value, the current picker, and a report for whoever asks.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::connectivity::ConnectivityState;
use crate::picker::{
    Always, Picker, PickerBuilder, PickerCell, Placement, Policy, PolicyVersion, RoundRobin, StartError,
};
use crate::policy_dir::PolicyUpdate;
use crate::resolver::{Endpoint, ResolverStream, ResolverUpdate};
use crate::subconn::{ReadySet, SubConn, SubConnOptions};

/// The news of a channel's policy.
pub(crate) type PolicyStream = Pin<Box<dyn Stream<Item = PolicyUpdate> + Send>>;

/// What the balancer is given to work with.
pub(crate) struct Inputs {
    pub(crate) endpoints: ResolverStream,
    pub(crate) policies: Option<PolicyStream>,
    /// Name, target and configuration for the policies that come.
    pub(crate) policy_name: String,
    pub(crate) placement: Placement,
    /// How long RPCs wait for the first policy before round robin serves them.
    pub(crate) patience: Duration,
    pub(crate) subconns: SubConnOptions,
    pub(crate) closed: CancellationToken,
}

/// How the channel is, as of the last change.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: ConnectivityState,
    pub(crate) policy: PolicyVersion,
    pub(crate) swaps: u64,
    pub(crate) subconns: Vec<SubConn>,
    /// The last one that the policy built.
    pub(crate) picker: Option<Arc<dyn Picker>>,
    pub(crate) refused: Option<StartError>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            state: ConnectivityState::Connecting,
            policy: RoundRobin::default().version(),
            swaps: 0,
            subconns: Vec::new(),
            picker: None,
            refused: None,
        }
    }
}

/// Balances until `closed`.
pub(crate) async fn run(mut inputs: Inputs, cell: Arc<PickerCell>, report: watch::Sender<Report>) {
    let (events, mut changed) = mpsc::unbounded_channel();
    let mut balancer = Balancer {
        policy_name: inputs.policy_name,
        placement: inputs.placement,
        options: inputs.subconns,
        events,
        members: Vec::new(),
        ready: ReadySet::default(),
        next_id: 0,
        resolved: Resolved::NotYet,
        builder: RoundRobin::builder(),
        waiting_for_policy: inputs.policies.is_some(),
        starting: None,
        cell,
        report,
    };
    let mut policies = inputs.policies.unwrap_or_else(|| Box::pin(tokio_stream::pending()));
    let patience = tokio::time::sleep(inputs.patience);
    tokio::pin!(patience);
    let (mut endpoints_open, mut policies_open) = (true, true);

    loop {
        // First the end; then what is rare, so that a flood of the frequent cannot hold it up.
        tokio::select! {
            biased;
            () = inputs.closed.cancelled() => break,
            started = started(&mut balancer.starting) => balancer.started(started),
            update = policies.next(), if policies_open => match update {
                Some(update) => balancer.policy_update(update),
                None => policies_open = false,
            },
            update = inputs.endpoints.next(), if endpoints_open => match update {
                Some(update) => balancer.resolved(update),
                None => endpoints_open = false,
            },
            Some(_) = changed.recv() => while changed.try_recv().is_ok() {},
            () = &mut patience, if balancer.waiting_for_policy => {
                tracing::warn!(policy = balancer.policy_name, "policy is not there in time: round robin serves until it is");
                balancer.waiting_for_policy = false;
            }
        }
        balancer.publish();
    }
}

/// However the loop ends, with its channel, its runtime or a panic: no connection stays behind, and no RPC
/// waits for a picker that will not come.
impl Drop for Balancer {
    fn drop(&mut self) {
        for member in &self.members {
            member.subconn.shutdown();
        }
        self.cell.publish(Arc::new(Always::Drop(Status::unavailable("the channel is closed"))));
        self.report.send_modify(|report| report.state = ConnectivityState::Shutdown);
    }
}

struct Balancer {
    policy_name: String,
    placement: Placement,
    options: SubConnOptions,
    events: mpsc::UnboundedSender<u32>,
    /// In the resolver's order.
    members: Vec<Member>,
    /// Of the last publication.
    ready: ReadySet,
    next_id: u32,
    resolved: Resolved,
    builder: Box<dyn PickerBuilder>,
    waiting_for_policy: bool,
    starting: Option<Starting>,
    cell: Arc<PickerCell>,
    report: watch::Sender<Report>,
}

struct Member {
    subconn: SubConn,
    /// As the channel sees it: once in TRANSIENT_FAILURE it stays there until READY (gRFC A62), so that
    /// RPCs fail fast instead of hanging at each new attempt.
    state: ConnectivityState,
}

enum Resolved {
    NotYet,
    Failed(String),
    Endpoints,
}

struct Starting {
    version: PolicyVersion,
    task: JoinHandle<Result<Box<dyn PickerBuilder>, StartError>>,
}

type Started = (PolicyVersion, Result<Box<dyn PickerBuilder>, StartError>);

/// Waits for the policy that is being started; for ever if none is. Cancel-safe.
async fn started(starting: &mut Option<Starting>) -> Started {
    let Some(current) = starting else { return std::future::pending().await };
    let result = (&mut current.task).await;
    let version = std::mem::take(&mut current.version);
    *starting = None;
    (
        version,
        result.unwrap_or_else(|error| Err(StartError::new(format!("policy could not be started: {error}")))),
    )
}

impl Balancer {
    fn policy_update(&mut self, update: PolicyUpdate) {
        let name = &self.policy_name;
        match update {
            PolicyUpdate::Loaded(policy) => {
                let version = policy.version();
                if self.report.borrow().policy == version {
                    // A bad file gave way to the one that is in force.
                    self.starting = None;
                    self.waiting_for_policy = false;
                    self.report.send_modify(|report| report.refused = None);
                    return;
                }
                let (placement, ready) = (self.placement.clone(), self.ready.clone());
                let task = tokio::task::spawn_blocking(move || policy.start(&placement, &ready));
                // One that is still starting is overtaken.
                self.starting = Some(Starting { version, task });
            }
            PolicyUpdate::Unknown => {
                tracing::warn!(policy = name, "no such policy: round robin serves until there is one");
                self.waiting_for_policy = false;
            }
            // The directory has said why.
            PolicyUpdate::Rejected(_) | PolicyUpdate::Withdrawn => self.waiting_for_policy = false,
        }
    }

    fn started(&mut self, (version, result): Started) {
        self.waiting_for_policy = false;
        match result {
            Ok(builder) => {
                tracing::info!(policy = %version, "policy in force");
                // The old builder goes; its instance follows with the last picker that uses it.
                self.builder = builder;
                self.report.send_modify(|report| {
                    // The first to come replaces only the stand-in.
                    report.swaps += u64::from(report.policy.generation > 0);
                    report.policy = version;
                    report.refused = None;
                    report.picker = None;
                });
            }
            Err(error) => {
                let in_force = self.report.borrow().policy.to_string();
                tracing::warn!(%error, in_force, "policy not taken");
                self.report.send_modify(|report| report.refused = Some(error));
            }
        }
    }

    fn resolved(&mut self, update: ResolverUpdate) {
        match update.endpoints {
            Ok(endpoints) => {
                self.resolved = Resolved::Endpoints;
                self.follow(endpoints);
            }
            // An error does not take away what is known to be good.
            Err(error) if matches!(self.resolved, Resolved::Endpoints) => {
                tracing::warn!(error, "resolver failed: the endpoints stay as they are");
            }
            Err(error) => self.resolved = Resolved::Failed(error),
        }
    }

    /// Keeps the subconns of endpoints that stay, makes those of new ones, ends the others.
    fn follow(&mut self, endpoints: Vec<Endpoint>) {
        let mut before: std::collections::HashMap<_, _> = std::mem::take(&mut self.members)
            .into_iter()
            .map(|member| (member.subconn.endpoint().addresses().to_vec(), member))
            .collect();
        let mut seen = std::collections::HashSet::new();
        for endpoint in endpoints {
            // Duplicates collapse into the first.
            if !seen.insert(endpoint.addresses().to_vec()) {
                continue;
            }
            let member = match before.remove(endpoint.addresses()) {
                Some(member) => {
                    if *member.subconn.endpoint() != endpoint {
                        member.subconn.update(endpoint);
                    }
                    member
                }
                None => self.member(endpoint),
            };
            self.members.push(member);
        }
        for member in before.values() {
            member.subconn.shutdown();
        }
    }

    fn member(&mut self, endpoint: Endpoint) -> Member {
        let id = self.next_id;
        self.next_id += 1;
        let subconn = SubConn::spawn(id, endpoint, self.options, self.events.clone());
        Member { subconn, state: ConnectivityState::Idle }
    }

    fn publish(&mut self) {
        let mut ready = Vec::new();
        for member in &mut self.members {
            let state = member.subconn.state();
            member.state = match (member.state, state) {
                (
                    ConnectivityState::TransientFailure,
                    ConnectivityState::Idle | ConnectivityState::Connecting,
                ) => ConnectivityState::TransientFailure,
                _ => state,
            };
            match state {
                ConnectivityState::Ready => ready.push(member.subconn.clone()),
                ConnectivityState::Idle => member.subconn.connect(),
                _ => {}
            }
        }
        let state = match self.resolved {
            Resolved::NotYet => ConnectivityState::Connecting,
            Resolved::Failed(_) => ConnectivityState::TransientFailure,
            Resolved::Endpoints => {
                ConnectivityState::aggregate(self.members.iter().map(|member| member.state))
            }
        };
        let all: Vec<_> = self.members.iter().map(|member| member.subconn.clone()).collect();
        self.ready = ReadySet::new(all.clone(), ready);
        // The picker is in place before the state is told: who waits for READY can pick.
        let mut picker = None;
        match state {
            ConnectivityState::Ready if !self.waiting_for_policy => {
                let built = self.builder.build(&self.ready);
                self.cell.publish(Arc::clone(&built));
                picker = Some(built);
            }
            ConnectivityState::TransientFailure => {
                self.cell.publish(Arc::new(Always::Fail(Status::unavailable(self.why_not()))));
            }
            _ => self.cell.publish(Arc::new(Always::Queue)),
        }
        self.report.send_modify(|report| {
            report.state = state;
            report.subconns = all;
            // While nothing is ready, the last one tells what the policy has done.
            if picker.is_some() {
                report.picker = picker;
            }
        });
    }

    /// Why no RPC can be served.
    fn why_not(&self) -> String {
        let target = &self.placement.target;
        match &self.resolved {
            Resolved::Failed(error) => format!("{target} could not be resolved: {error}"),
            _ if self.members.is_empty() => {
                format!("{target} has no endpoints: the resolver produced zero addresses")
            }
            _ => {
                let mut errors = self.members.iter().filter_map(|member| member.subconn.last_error());
                let last = errors.next_back().unwrap_or_default();
                format!("no endpoint of {target} is ready: last connection error: {last}")
            }
        }
    }
}
