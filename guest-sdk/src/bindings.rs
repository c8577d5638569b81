//! Generated from `wit/policy.wit`.

#![allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unnameable_types,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::semicolon_if_nothing_returned,
    clippy::uninlined_format_args,
    clippy::use_self,
    reason = "generated"
)]

wit_bindgen::generate!({
    path: "wit",
    world: "policy",
    pub_export_macro: true,
    export_macro_name: "__export_policy",
    default_bindings_module: "hotpick_guest::__bindings",
    runtime_path: "::hotpick_guest::__wit_bindgen::rt",
    additional_derives: [PartialEq, Eq],
});
