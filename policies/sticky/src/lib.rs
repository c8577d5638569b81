//! `sticky`: sends all RPCs of a session to the same endpoint.
//!
//! Follows gRFC A55 (stateful session affinity). A metadata key or a cookie names the session. The session is placed
//! once, and moves only when its endpoint is removed from the resolver's list or cannot be reached. In A55 the server's
//! response tells the client where the session is. A policy does not see responses, so this one remembers the sessions,
//! and hands them over to the next version at a swap. New sessions are placed by P2C: of two random endpoints, the one
//! with the lower load.

#[cfg(test)]
mod model;
mod sessions;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::Config as _;
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Connectivity, ConnectivityState, Description, Duration, Endpoint, FailCode, Handover, Nanos,
    PickInfo, PickResult, Placement, Policy, Saved, SubConn, SubConnMap, Weights, call, env, hash, nanos,
};

use self::sessions::Sessions;

hotpick_guest::config! {
    /// Sends all RPCs of a session to the same endpoint.
    struct Config {
        /// The metadata key whose value is the session. The default is "session-id" if no cookie is configured.
        metadata: Option<String>,
        /// The cookie whose value is the session, instead of a metadata key.
        cookie: Option<String>,
        /// How long a session is remembered after its last use.
        #[range(1.0..=2_592_000.0)]
        ttl: Duration = Duration::from_secs(3_600),
        /// Greatest number of sessions that are remembered. The least recently used ones are forgotten.
        #[range(2..=100_000)]
        max_sessions: u32 = 50_000,
        /// Whether a session moves when its endpoint cannot be reached. Otherwise its RPCs fail until it can.
        move_when_unreachable: bool = true,
    }
}

#[derive(Debug)]
struct Sticky {
    key: call::Key,
    /// The cookie's name and `=`.
    cookie: Option<String>,
    move_when_unreachable: bool,
    endpoints: SubConnMap<()>,
    states: States,
    weights: Weights,
    answers: Answers,
    ready: Group,
    sessions: Sessions,
}

impl Policy for Sticky {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement.must_be_alone("each of several would have sessions of its own")?;
        if let (Some(_), Some(_)) = (&config.metadata, &config.cookie) {
            return Err("cookie: must not be given together with metadata".to_owned());
        }
        let key = match (&config.metadata, &config.cookie) {
            (_, Some(_)) => call::declare("cookie", "cookie")?,
            (metadata, None) => {
                let key = call::declare(metadata.as_deref().unwrap_or("session-id"), "metadata")?;
                call::declare_affinity(key)?;
                key
            }
        };
        if let Some(cookie) = config.cookie.as_deref().filter(|cookie| cookie.contains(['=', ';', ' '])) {
            return Err(format!("cookie: \"{cookie}\" is not a valid cookie name"));
        }
        Ok(Self {
            key,
            cookie: config.cookie.map(|name| name + "="),
            move_when_unreachable: config.move_when_unreachable,
            endpoints: SubConnMap::default(),
            states: States::default(),
            weights: Weights::default(),
            answers: Answers::default(),
            ready: Group::new(Balance::P2c),
            sessions: Sessions::new(config.max_sessions, nanos(config.ttl), placement.seed),
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        for id in removed {
            self.states.remove(*id);
            self.endpoints.remove(*id);
        }
        for endpoint in added {
            self.endpoints.insert(endpoint.id, ());
        }
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready.update(ready.to_vec(), &self.weights);
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let session = if self.cookie.is_some() { self.cookie() } else { info.affinity };
        let Some(session) = session else {
            return self.ready.pick(info, &mut self.answers).map_or(PickResult::Queue, PickResult::Pick);
        };
        let home = self.sessions.get(session, info.now).filter(|home| self.endpoints.has(*home));
        match home {
            Some(home) if !self.states.has_failed(home) => {
                // A retry goes to another endpoint. The session does not move.
                let goes_elsewhere = info.attempt > 0 && self.move_when_unreachable && call::tried(home);
                let other = if goes_elsewhere { self.ready.pick(info, &mut self.answers) } else { None };
                return PickResult::Pick(other.unwrap_or(home));
            }
            Some(_) if !self.move_when_unreachable => {
                call::explain("the endpoint of this session cannot be reached");
                return PickResult::Fail(FailCode::Unavailable);
            }
            _ => {}
        }
        let Some(placed) = self.ready.pick(info, &mut self.answers) else { return PickResult::Queue };
        self.sessions.set(session, placed, info.now);
        PickResult::Pick(placed)
    }
}

impl Sticky {
    /// Returns the hash of the cookie's value.
    fn cookie(&self) -> Option<u64> {
        let name = self.cookie.as_deref()?.as_bytes();
        // HTTP/2 may send each cookie in a header of its own.
        call::metadata_all(self.key).iter().find_map(|cookies| {
            let mut cookies = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let value = cookies.find_map(|cookie| cookie.strip_prefix(name));
            value.filter(|value| !matches!(value, [] | [b'"', b'"'])).map(hash)
        })
    }
}

impl Connectivity for Sticky {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, _message: &str, _now: Nanos) {
        self.states.note(id, state);
    }
}

impl Handover for Sticky {
    fn save(&mut self) -> Saved {
        self.sessions.save(env::now())
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        parts.iter().try_for_each(|part| self.sessions.restore(part, env::now()))
    }
}

impl About for Sticky {
    fn describe() -> Description {
        Description::of::<Config>("Sends all RPCs of a session to the same endpoint.")
    }
}

hotpick_guest::export!(Sticky: Connectivity, Handover, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint};

    use super::*;

    fn start(config: &str) -> FakeHost<Sticky> {
        let mut host = FakeHost::start(config).expect("started");
        host.endpoints(&(0..4).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        host
    }

    fn rpc(session: usize) -> Rpc {
        Rpc::with_metadata("session-id", &format!("s{session}"))
    }

    fn homes(host: &mut FakeHost<Sticky>) -> Vec<SubConn> {
        (0..400).flat_map(|session| host.picks_for(&rpc(session), 1)).collect()
    }

    #[test]
    fn a_session_stays_and_sessions_are_spread() {
        let mut host = start("{}");
        let before = homes(&mut host);
        assert_eq!(homes(&mut host), before);
        let mut counts = vec![0; 4];
        before.iter().for_each(|home| counts[*home as usize] += 1);
        assert!(chi_square(&counts, &[1.0; 4]).is_likely(), "{counts:?}");
        // Neither more endpoints nor a flap move a session.
        host.endpoints(&(0..5).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        host.ready(&[1, 2]);
        host.connectivity(0, ConnectivityState::Idle, "");
        assert_eq!(homes(&mut host), before);
    }

    #[test]
    fn a_session_moves_once_when_its_endpoint_is_gone_or_cannot_be_reached() {
        let mut host = start("{}");
        let before = homes(&mut host);
        host.change(&[], &[2]);
        host.ready(&[0, 1, 3]);
        let after = homes(&mut host);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 2));
        host.connectivity(1, ConnectivityState::TransientFailure, "refused");
        host.ready(&[0, 3]);
        let last = homes(&mut host);
        assert!(after.iter().zip(&last).all(|(before, after)| before == after || *before == 1));
        host.connectivity(1, ConnectivityState::Ready, "");
        host.ready(&[0, 1, 3]);
        assert_eq!(homes(&mut host), last);
    }

    #[test]
    fn a_session_can_be_bound_to_its_endpoint_for_better_or_worse() {
        let mut host = start(r#"{"moveWhenUnreachable":false}"#);
        let home = host.picks_for(&rpc(1), 1)[0];
        host.connectivity(home, ConnectivityState::TransientFailure, "refused");
        assert_eq!(host.pick(&rpc(1)), PickResult::Fail(FailCode::Unavailable));
        host.connectivity(home, ConnectivityState::Ready, "");
        assert_eq!(host.pick(&rpc(1)), PickResult::Pick(home));
    }

    #[test]
    fn a_cookie_can_be_the_session() {
        let mut host = start(r#"{"cookie":"JSESSIONID"}"#);
        let with = |cookie: &str| Rpc::with_metadata("cookie", cookie);
        for n in 0..20 {
            let home = host.picks_for(&with(&format!("JSESSIONID=a{n}")), 1);
            let beside = with("theme=dark").and_metadata("cookie", &format!("x=1; JSESSIONID=a{n};y=2"));
            assert_eq!(host.picks_for(&beside, 3), [home[0]; 3]);
        }
        assert_eq!(host.policy().sessions.len(), 20);
        host.picks_for(&with("XJSESSIONID=1"), 5);
        assert_eq!(host.policy().sessions.len(), 20, "another cookie");
    }

    #[test]
    fn rpcs_without_a_session_go_anywhere_and_are_not_remembered() {
        let mut host = start("{}");
        let counts = host.counts(&[0, 1, 2, 3], 4_000);
        assert!(chi_square(&counts, &[1.0; 4]).is_likely(), "{counts:?}");
        assert_eq!(host.policy().sessions.len(), 0);
        host.ready(&[]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        assert_eq!(host.pick(&rpc(1)), PickResult::Queue);
    }

    #[test]
    fn nothing_is_no_session() {
        for (config, empty) in [
            ("{}", Rpc::with_metadata("session-id", "")),
            (r#"{"cookie":"s"}"#, Rpc::with_metadata("cookie", "s=; t=1")),
        ] {
            let mut host = start(config);
            let mut picked = host.picks_for(&empty, 100);
            picked.sort_unstable();
            picked.dedup();
            assert_eq!((picked.len(), host.policy().sessions.len()), (4, 0), "{config}");
        }
    }

    #[test]
    fn a_retry_goes_elsewhere_and_the_session_stays() {
        let mut host = start("{}");
        let home = host.picks_for(&rpc(1), 1)[0];
        let mut retry = rpc(1);
        retry.tried.push(home);
        for _ in 0..20 {
            assert!(host.picks_for(&retry, 1)[0] != home);
            assert_eq!(host.picks_for(&rpc(1), 1), [home]);
        }
        host.ready(&[home]);
        assert_eq!(host.picks_for(&retry, 1), [home], "there is no other");
        let mut bound = start(r#"{"moveWhenUnreachable":false}"#);
        let home = bound.picks_for(&rpc(1), 1)[0];
        retry.tried = vec![home];
        assert_eq!(bound.picks_for(&retry, 1), [home]);
    }

    #[test]
    fn it_is_one_alone() {
        let error = FakeHost::<Sticky>::start_as_one_of_two("{}").expect_err("refused");
        assert!(error.starts_with("shards: must be 1"), "{error}");
    }

    #[test]
    fn sessions_are_handed_over() {
        let mut host = start("{}");
        let before = homes(&mut host);
        let saved = host.save();
        let mut next = FakeHost::<Sticky>::start_with_seed("{}", 99).expect("started");
        next.restore(vec![saved]).expect("taken over");
        next.endpoints(&(0..4).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        assert_eq!(homes(&mut next), before);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"metadata":"a","cookie":"b"}"#, "cookie: must not be given together with metadata"),
            (r#"{"metadata":"Session"}"#, "metadata: "),
            (r#"{"cookie":"a=b"}"#, "cookie: "),
            (r#"{"cookie":""}"#, "cookie: "),
            (r#"{"ttl":"0s"}"#, "ttl: must be a duration like \"1.5s\", 1 to 2592000 seconds, not \"0s\""),
            (r#"{"ttl":-1}"#, "ttl: "),
            (r#"{"maxSessions":0}"#, "maxSessions: "),
            (r#"{"maxSessions":1e9}"#, "maxSessions: "),
            (r#"{"moveWhenUnreachable":"no"}"#, "moveWhenUnreachable: "),
            (r#"{"session":"x"}"#, "session: no such field"),
        ] {
            let error = FakeHost::<Sticky>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
