//! Policies in languages whose components contain an interpreter.
//!
//! Their wrappers use the interfaces of `script.wit`, which are fast for an interpreter. This module composes them with
//! two adapters into components of the contract.

use anyhow::Context as _;
use hotpick::policy::CONTRACT;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The WIT package that these components are built against.
pub(super) const SCRIPT: &str = include_str!("script.wit");

const NOTE: &str = "hotpick:script/note@0.1.0";
const INFO: &str = "hotpick:script/info@0.1.0";
const SCRIPT_PICKER: &str = "hotpick:script/picker@0.1.0";
const PICKER: &str = "hotpick:policy/picker@0.1.0";

/// Turns a component of the world `hotpick:script/policy` into one of the contract. A component that does not export
/// the picker of `hotpick:script` is returned unchanged: its wrapper implements the contract itself.
pub(super) fn compose(policy: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let component = Package::from_bytes("local:policy", None, policy.as_slice(), graph.types_mut())?;
    let world = &graph.types()[component.ty()];
    if !world.exports.contains_key(SCRIPT_PICKER) {
        return Ok(policy);
    }
    let imports_info = world.imports.contains_key(INFO);
    let others: Vec<_> = world.exports.keys().filter(|name| *name != SCRIPT_PICKER).cloned().collect();

    let component = graph.register_package(component)?;
    let keep = shim(&mut graph, "keep", include_str!("keep.wat"))?;
    let policy = graph.instantiate(component);
    if imports_info {
        connect(&mut graph, keep, policy, INFO)?;
    }
    let ask = shim(&mut graph, "ask", include_str!("ask.wat"))?;
    connect(&mut graph, keep, ask, NOTE)?;
    connect(&mut graph, policy, ask, SCRIPT_PICKER)?;
    export(&mut graph, ask, PICKER)?;
    for name in others {
        export(&mut graph, policy, &name)?;
    }
    Ok(graph.encode(EncodeOptions::default())?)
}

fn connect(graph: &mut CompositionGraph, from: NodeId, to: NodeId, name: &str) -> anyhow::Result<()> {
    let instance = graph.alias_instance_export(from, name)?;
    Ok(graph.set_instantiation_argument(to, name, instance)?)
}

fn export(graph: &mut CompositionGraph, from: NodeId, name: &str) -> anyhow::Result<()> {
    let instance = graph.alias_instance_export(from, name)?;
    graph.export(instance, name)?;
    Ok(())
}

/// Adds an instance of one of the two adapters of a policy.
fn shim(graph: &mut CompositionGraph, world: &str, module: &str) -> anyhow::Result<NodeId> {
    let bytes = encode(world, module).with_context(|| format!("cannot build the component {world:?}"))?;
    let package = Package::from_bytes(&format!("hotpick:{world}"), None, bytes, graph.types_mut())?;
    let package = graph.register_package(package)?;
    Ok(graph.instantiate(package))
}

/// Returns the component of a core module, in one of the worlds of `script.wit`.
fn encode(world: &str, module: &str) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(&core_module(world, module)?)?.encode()
}

/// Parses a core module, and embeds the metadata of one of the worlds of `script.wit`.
pub(super) fn core_module(world: &str, module: &str) -> anyhow::Result<Vec<u8>> {
    let mut module = wat::parse_str(module)?;
    let mut resolve = Resolve::default();
    resolve.push_source("policy.wit", CONTRACT)?;
    let package = resolve.push_source("script.wit", SCRIPT)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use hotpick::connectivity::ConnectivityState;
    use hotpick::picker::{PickInfo, PickResult};
    use hotpick::policy::{Limits, TestChannel, WasmPolicy};
    use hotpick::policy::{Placement, StartError};
    use hotpick::resolver::Endpoint;
    use http::HeaderMap;

    use super::*;

    static BARE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

    /// A policy whose picks return the value of an expression in WAT.
    fn policy(answer: &str) -> Vec<u8> {
        let module = format!(
            r#"(module
                (import "{INFO}" "attempt" (func $attempt (result i32)))
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
                (func (export "hotpick:policy/lifecycle@0.1.0#init")
                    (param i32 i32 i32 i32 i32 i32 i64 i64) (result i32) (i32.const 0))
                (func (export "hotpick:policy/endpoints@0.1.0#changed") (param i32 i32 i32 i32 i64))
                (func (export "hotpick:policy/endpoints@0.1.0#ready") (param i32 i32 i64))
                (func (export "{SCRIPT_PICKER}#pick") (result f64) {answer}))"#
        );
        encode("policy", &module).expect("a component")
    }

    #[test]
    fn a_composed_policy_fits_the_contract() {
        let composed = compose(policy("(f64.const 0)")).expect("composed");
        let graph = &mut CompositionGraph::new();
        let package =
            Package::from_bytes("local:composed", None, composed, graph.types_mut()).expect("a component");
        let world = &graph.types()[package.ty()];
        let exports: Vec<_> = world.exports.keys().map(String::as_str).collect();
        let expected =
            ["lifecycle", "endpoints", "picker"].map(|name| format!("hotpick:policy/{name}@0.1.0"));
        assert_eq!(exports.len(), 3);
        assert!(expected.iter().all(|name| exports.contains(&name.as_str())), "{exports:?}");
        assert!(world.imports.keys().all(|name| !name.starts_with("hotpick:script/")), "{:?}", world.imports);
    }

    /// Returns the pick that an answer becomes, in a channel with one ready endpoint.
    fn pick(answer: &str, attempt: usize) -> Result<PickResult, StartError> {
        let composed = compose(policy(answer)).expect("composed");
        let policy = WasmPolicy::compile("script", 0, &composed, Limits::default()).expect("a policy");
        let mut trial = TestChannel::start(&policy, &Placement::new("test:///", "{}")).expect("it starts");
        let endpoint = Endpoint::new("10.0.0.1:80".parse().expect("an address"));
        trial.update([(endpoint, ConnectivityState::Ready)]).expect("the policy is notified");
        let tried = vec![0; attempt];
        let mut info = PickInfo::new("/test.Test/Test", &BARE);
        info.tried = &tried;
        trial.pick(&info)
    }

    #[tokio::test]
    async fn a_number_is_an_answer() {
        let bits = 2u64.pow(32);
        let number = |case: u64, content: u64| format!("(f64.const {})", case * bits + content);
        let code = |status: &tonic::Status| status.code();
        let picked = pick(&number(0, 0), 0).expect("a pick");
        assert!(matches!(&picked, PickResult::Pick(pick) if pick.subconn.id() == 0), "{picked:?}");
        assert!(matches!(pick(&number(1, 0), 0), Ok(PickResult::Queue)));
        let failed = pick(&number(2, 7), 0).expect("a pick");
        assert!(
            matches!(&failed, PickResult::Fail(status) if code(status) == tonic::Code::Unavailable),
            "{failed:?}"
        );
        let dropped = pick(&number(3, 8), 0).expect("a pick");
        assert!(
            matches!(&dropped, PickResult::Drop(status) if code(status) == tonic::Code::Unauthenticated),
            "{dropped:?}"
        );
        // The policy can read the number of the attempt.
        let attempt = "(f64.add (f64.const 0x2p32) (f64.convert_i32_u (call $attempt)))";
        let failed = pick(attempt, 4).expect("a pick");
        assert!(
            matches!(&failed, PickResult::Fail(status) if code(status) == tonic::Code::ResourceExhausted),
            "{failed:?}"
        );
    }

    #[tokio::test]
    async fn an_invalid_answer_is_a_fault() {
        let answers = [
            "nan",
            "inf",
            "-1",
            "-0.5",
            "0.5",
            "1e300", // not an integer
            "0x4p32",
            "0x10000p32",
            "0x100000001p32",  // unknown case
            "0x2.00000009p32", // unknown code
            "1",               // unknown subconn
        ];
        for answer in answers {
            let seen = pick(&format!("(f64.const {answer})"), 0);
            assert!(seen.is_err(), "{answer}: {seen:?}");
        }
    }

    #[test]
    fn a_component_of_the_contract_is_returned_unchanged() {
        let whole = compose(policy("(f64.const 0)")).expect("composed");
        assert_eq!(compose(whole.clone()).expect("unchanged"), whole);
    }
}
