//! A bare typed call of a component's `pick`: the lower bound of the cost of a pick in a component.

use std::time::Instant;

use hotpick_tests::standard;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

mod bindings {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        missing_debug_implementations,
        reason = "generated"
    )]
    wasmtime::component::bindgen!({ path: "../wit", world: "policy" });
}

use bindings::Policy;
use bindings::exports::hotpick::policy::lifecycle::Placement;
use bindings::exports::hotpick::policy::picker::PickInfo;

/// `round_robin.wasm` in an engine configured like the host's, but without its guards.
pub(crate) struct Bare {
    store: Store<()>,
    policy: Policy,
}

impl Bare {
    pub(crate) fn start(endpoints: u32) -> Self {
        let mut config = Config::new();
        config.wasm_component_model(true).concurrency_support(false).epoch_interruption(true);
        let engine = Engine::new(&config).expect("an engine");
        // As the host compiles it.
        let component = standard("round_robin");
        let component = Component::new(&engine, hotpick::policy::forwarded(&component)).expect("a component");
        let mut linker = Linker::<()>::new(&engine);
        linker.define_unknown_imports_as_traps(&component).expect("imports");
        linker.allow_shadowing(true);
        define_env(&mut linker);
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let policy = Policy::instantiate(&mut store, &component, &linker).expect("an instance");
        let place = Placement { target: String::new(), shard: 0, shards: 1, seed: 1, generation: 1 };
        let init = policy.hotpick_policy_lifecycle().call_init(&mut store, "{}", &place);
        init.expect("no trap").expect("configuration accepted");
        let ready: Vec<u32> = (0..endpoints).collect();
        policy.hotpick_policy_endpoints().call_ready(&mut store, &ready, 0).expect("no trap");
        Self { store, policy }
    }

    pub(crate) fn nanos_per_call(&mut self, calls: u32) -> f64 {
        let info = PickInfo {
            call: 1,
            method: 0,
            affinity: None,
            random: 1,
            now: 1,
            attempt: 0,
            wait_for_ready: false,
            requeued: false,
        };
        let picker = self.policy.hotpick_policy_picker();
        let begin = Instant::now();
        for _ in 0..calls {
            std::hint::black_box(
                picker.call_pick(&mut self.store, std::hint::black_box(info)).expect("no trap"),
            );
        }
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    }
}

/// Defines the imports that `round_robin` calls when it starts.
fn define_env(linker: &mut Linker<()>) {
    let mut env = linker.instance("hotpick:policy/env@0.1.0").expect("a name");
    env.func_wrap("random", |_, (): ()| Ok((1_u64,))).expect("a name");
}
