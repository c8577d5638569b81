//! gRFC A61, implemented independently as in its text, and compared with the policy in random histories.

use std::collections::BTreeSet;

use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, LazyHost, Rpc, endpoint, histories};
use hotpick_guest::{ConnectivityState, Duration, PickResult, SubConn};

use super::PickFirst;

/// The states that A61 reports, and the first pass over the list.
#[derive(Debug)]
struct Model {
    list: Vec<SubConn>,
    reports: ConnectivityState,
    selected: Option<SubConn>,
    /// Endpoints that have failed in this pass, or were in backoff when it started. `None`: no pass is running.
    pass: Option<BTreeSet<SubConn>>,
}

impl Model {
    fn start_pass(&mut self, host: &LazyHost<PickFirst>) {
        let is_failed = |id: &SubConn| host.state(*id) == TransientFailure;
        self.pass = Some(self.list.iter().copied().filter(is_failed).collect());
        self.end_of_pass();
    }

    /// Ends a pass in which all endpoints have failed. TRANSIENT_FAILURE is reported until one is READY.
    fn end_of_pass(&mut self) {
        if self.pass.as_ref().is_some_and(|failed| self.list.iter().all(|id| failed.contains(id))) {
            self.pass = None;
            self.reports = TransientFailure;
        }
    }

    fn list(&mut self, list: Vec<SubConn>, host: &LazyHost<PickFirst>) {
        let was_empty = self.list.is_empty();
        self.list = list;
        if self.selected.is_some_and(|selected| self.list.contains(&selected)) {
            return;
        }
        let lost = self.selected.take().is_some();
        if self.list.is_empty() {
            (self.reports, self.pass) = (Idle, None);
            return;
        }
        // TRANSIENT_FAILURE stays, IDLE stays.
        if was_empty || lost || self.reports == Connecting {
            self.reports = Connecting;
        }
        if self.reports != Idle {
            self.start_pass(host);
        }
    }

    fn becomes(&mut self, id: SubConn, state: ConnectivityState) {
        match state {
            Ready if self.selected.is_none() => {
                (self.selected, self.reports, self.pass) = (Some(id), Ready, None);
            }
            // The connection is lost. The next RPC starts a pass.
            Idle if self.selected == Some(id) => (self.selected, self.reports) = (None, Idle),
            TransientFailure => {
                if let Some(failed) = &mut self.pass {
                    failed.insert(id);
                    self.end_of_pass();
                }
            }
            _ => {}
        }
    }

    fn pick(&mut self, host: &LazyHost<PickFirst>) -> PickResult {
        if self.reports == Idle && !self.list.is_empty() {
            self.reports = Connecting;
            self.start_pass(host);
        }
        match (self.selected, self.reports) {
            (Some(selected), _) => PickResult::Pick(selected),
            (None, TransientFailure) => PickResult::Fail(hotpick_guest::FailCode::Unavailable),
            _ => PickResult::Queue,
        }
    }
}

fn history(mut random: Random) {
    let mut host = LazyHost::<PickFirst>::new(FakeHost::start("{}").expect("started"));
    let mut model = Model { list: Vec::new(), reports: Idle, selected: None, pass: None };
    let mut last = 0;
    for _ in 0..80 {
        match random.below(12) {
            0 => {
                last += 1;
                let list = host.all().iter().copied().chain([last]).collect();
                model.list(list, &host);
                host.change(&[endpoint(last, &[])], &[]);
            }
            1 if host.all().len() > random.below(3) => {
                let gone = host.all()[random.below(host.all().len())];
                let list = host.all().iter().copied().filter(|id| *id != gone).collect();
                model.list(list, &host);
                host.change(&[], &[gone]);
            }
            2 => {
                host.policy().run(Duration::from_millis([0, 100, 250, 1_000][random.below(4)]));
                host.settle();
            }
            3..=4 => {
                let expected = model.pick(&host);
                assert_eq!(host.policy().pick(&Rpc::default()), expected, "{model:?}, {host:?}");
                host.settle();
            }
            _ => {
                let Some((id, next)) = host.next(&mut random) else { continue };
                host.becomes(id, next);
                model.becomes(id, next);
            }
        }
        // At most one connection, and an attempt while RPCs wait.
        assert!(host.ready().len() <= 1, "{host:?}");
        if model.reports == Connecting {
            let is_wanted = |id: &SubConn| host.wanted().contains(id) || host.state(*id) == TransientFailure;
            assert!(host.all().iter().any(is_wanted), "{model:?}, {host:?}");
        }
    }
}

#[test]
fn it_is_as_grfc_a61_in_random_histories() {
    histories(&[], history);
}
