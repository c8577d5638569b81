//! What `bindgen!` makes of `wit/policy.wit`, and nothing else.

#![allow(missing_docs, reason = "generated")]
#![allow(unreachable_pub, unused_qualifications, missing_debug_implementations, reason = "generated")]

wasmtime::component::bindgen!({ path: "wit", world: "policy-full" });
