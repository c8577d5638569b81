//! The optional interfaces that a policy may export. Each is in a world of its own, so that a component exports only
//! those that [`export!`](crate::export) names.

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

macro_rules! part {
    ($name:ident, $world:literal, $inline:literal, $macro:literal, $module:literal $(, $types:literal)?) => {
        pub mod $name {
            wit_bindgen::generate!({
                path: "wit",
                inline: $inline,
                world: $world,
                with: { $($types: crate::__bindings::hotpick::policy::types)? },
                pub_export_macro: true,
                export_macro_name: $macro,
                default_bindings_module: $module,
                runtime_path: "::hotpick_guest::__wit_bindgen::rt",
                additional_derives: [PartialEq],
            });
        }
    };
}

part!(
    plans,
    "hotpick:parts/plans-part",
    "package hotpick:parts; world plans-part { export hotpick:policy/plans@0.1.0; }",
    "__export_plans",
    "hotpick_guest::__parts::plans",
    "hotpick:policy/types@0.1.0"
);
part!(
    outcomes,
    "hotpick:parts/outcomes-part",
    "package hotpick:parts; world outcomes-part { export hotpick:policy/outcomes@0.1.0; }",
    "__export_outcomes",
    "hotpick_guest::__parts::outcomes",
    "hotpick:policy/types@0.1.0"
);
part!(
    connectivity,
    "hotpick:parts/connectivity-part",
    "package hotpick:parts; world connectivity-part { export hotpick:policy/connectivity@0.1.0; }",
    "__export_connectivity",
    "hotpick_guest::__parts::connectivity",
    "hotpick:policy/types@0.1.0"
);
part!(
    alarms,
    "hotpick:parts/alarms-part",
    "package hotpick:parts; world alarms-part { export hotpick:policy/alarms@0.1.0; }",
    "__export_alarms",
    "hotpick_guest::__parts::alarms",
    "hotpick:policy/types@0.1.0"
);
part!(
    handover,
    "hotpick:parts/handover-part",
    "package hotpick:parts; world handover-part { export hotpick:policy/handover@0.1.0; }",
    "__export_handover",
    "hotpick_guest::__parts::handover"
);
part!(
    about,
    "hotpick:parts/about-part",
    "package hotpick:parts; world about-part { export hotpick:policy/about@0.1.0; }",
    "__export_about",
    "hotpick_guest::__parts::about"
);
