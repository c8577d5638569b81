//! Valid and invalid policies in WebAssembly text, including those that no compiler would emit.

use hotpick::policy::componentize;

/// Parts of a policy. A test sets those that it needs; the defaults make a valid policy.
#[derive(Clone, Copy, Debug)]
pub struct Wat<'a> {
    /// Imports of the module.
    pub imports: &'a str,
    /// Pages of memory.
    pub memory: u32,
    /// Instructions at the start of `cabi_realloc`.
    pub realloc: &'a str,
    /// Additional exports and definitions of the module.
    pub exports: &'a str,
    /// Body of `init`. It leaves a pointer to a `result<_, string>` on the stack; address 0 holds an `ok`.
    pub init: &'a str,
    /// Body of `changed`.
    pub changed: &'a str,
    /// Instructions of `ready` after it has stored the first ready subconn in `$first`.
    pub ready: &'a str,
    /// Body of `pick`: an expression for a pointer to a `pick-result`. `$call` is the number of the pick; `$wait` is
    /// whether the RPC is wait-for-ready, which trial picks are not; `$first` is the first ready subconn, or -1 if
    /// there is none. `(call $picked (i32))` returns a `pick`, or a `queue` for -1.
    pub pick: &'a str,
}

impl Default for Wat<'_> {
    fn default() -> Self {
        Self {
            imports: "",
            memory: 2,
            realloc: "",
            exports: "",
            init: "(i32.const 0)",
            changed: "",
            ready: "",
            pick: "(call $picked (global.get $first))",
        }
    }
}

impl Wat<'_> {
    /// Returns the core module, without a `component-type` section.
    ///
    /// # Panics
    ///
    /// Panics if the text does not parse.
    #[must_use]
    pub fn module(&self) -> Vec<u8> {
        let Self { imports, memory, realloc, exports, init, changed, ready, pick } = self;
        wat::parse_str(format!(
            r#"(module
                {imports}
                (memory (export "memory") {memory})
                (global $heap (mut i32) (i32.const 1024))
                (global $first (mut i32) (i32.const -1))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    {realloc}
                    (local.set $at (i32.and
                        (i32.add (global.get $heap) (i32.sub (local.get 2) (i32.const 1)))
                        (i32.sub (i32.const 0) (local.get 2))))
                    (global.set $heap (i32.add (local.get $at) (local.get 3)))
                    (local.get $at))
                (func $picked (param i32) (result i32)
                    (i32.store8 (i32.const 16) (i32.eq (local.get 0) (i32.const -1)))
                    (i32.store (i32.const 20) (local.get 0))
                    (i32.const 16))
                (func (export "hotpick:policy/lifecycle@0.1.0#init")
                    (param i32 i32 i32 i32 i32 i32 i64 i64) (result i32)
                    {init})
                (func (export "hotpick:policy/endpoints@0.1.0#changed") (param i32 i32 i32 i32 i64)
                    {changed}
                    (global.set $heap (i32.const 1024)))
                (func (export "hotpick:policy/endpoints@0.1.0#ready") (param $at i32) (param $n i32) (param i64)
                    (global.set $first
                        (if (result i32) (local.get $n)
                            (then (i32.load (local.get $at)))
                            (else (i32.const -1))))
                    {ready}
                    (global.set $heap (i32.const 1024)))
                (func (export "hotpick:policy/picker@0.1.0#pick")
                    (param $call i64) (param i32 i32 i64 i64 i64 i32) (param $wait i32) (param i32) (result i32)
                    {pick})
                {exports})"#
        ))
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the core module with a `component-type` section, as most toolchains emit it.
    ///
    /// # Panics
    ///
    /// Panics if the contract does not parse.
    #[must_use]
    pub fn module_with_type(&self) -> Vec<u8> {
        let mut module = self.module();
        let mut wit = wit_parser::Resolve::default();
        let package = wit.push_source("policy.wit", hotpick::policy::CONTRACT).expect("the contract");
        let world = wit.select_world(&[package], Some("policy")).expect("the world");
        wit_component::embed_component_metadata(
            &mut module,
            &wit,
            world,
            wit_component::StringEncoding::UTF8,
        )
        .expect("embedded");
        module
    }

    /// Returns the component.
    ///
    /// # Panics
    ///
    /// Panics if the module does not fit the contract.
    #[must_use]
    pub fn component(&self) -> Vec<u8> {
        componentize(&self.module()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the component, for the world in the first package of this WIT. The other packages are its dependencies.
    ///
    /// # Panics
    ///
    /// Panics if the module does not fit the world.
    #[must_use]
    pub fn component_with(&self, packages: &str) -> Vec<u8> {
        let mut module = self.module();
        let mut wit = wit_parser::Resolve::default();
        wit.push_source("policy.wit", hotpick::policy::CONTRACT).expect("the contract");
        let package = wit.push_source("world.wit", packages).unwrap_or_else(|error| panic!("{error:?}"));
        let world = wit.select_world(&[package], None).expect("one world");
        let encoding = wit_component::StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &wit, world, encoding).expect("embedded");
        componentize(&module).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns a valid policy that always picks the first ready subconn.
    #[must_use]
    pub fn first() -> Vec<u8> {
        Self::default().component()
    }

    /// Returns a policy that runs `what` at every `n`th pick of an instance if the RPC is wait-for-ready, which trial
    /// picks are not. Otherwise it picks the first ready subconn.
    #[must_use]
    pub fn every(n: u32, what: &str) -> Vec<u8> {
        Wat { pick: &Self::picks_but(n, what), ..Wat::default() }.component()
    }

    /// Returns the body of `pick` for [`every`](Self::every).
    #[must_use]
    pub fn picks_but(n: u32, what: &str) -> String {
        format!(
            "(if (i32.and (local.get $wait) (i64.eqz (i64.rem_u (local.get $call) (i64.const {n}))))
                 (then {what}))
             (call $picked (global.get $first))"
        )
    }
}
