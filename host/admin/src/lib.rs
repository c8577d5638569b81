//! Metrics, status, health and a live page of hotpick's channels.
//!
//! [`Admin`] is a tower service that any HTTP server can mount. The sidecar `hotpick proxy --admin` serves it as well.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page with channels, endpoints, policies and events, live |
//! | `/channels`, `/policies` | the same as JSON |
//! | `/metrics` | metrics for Prometheus, by gRPC's names (gRFCs A66, A94, A96, A121) |
//! | `/healthz` | 200: the process answers |
//! | `/readyz` | 200 if every channel has resolved and can pick, otherwise 503 and why not |
//! | `/live`, `/history` | the data of the page |
//! | `grpc.channelz.v1.Channelz` | channels and subchannels, by gRPC (gRFC A14) |
//! | `/tap` | RPCs as they end, one line of JSON each; only if [allowed](AdminBuilder::allow_tap) |
//!
//! ```no_run
//! use hotpick::{Channel, PolicyDir};
//! use hotpick_admin::{Admin, Calls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let policies = PolicyDir::open("policies.d")?;
//! let calls = Calls::default();
//! let channel = Channel::builder("dns:///shop.example:443")
//!     .policies(&policies)
//!     .policy("color")
//!     .observer(calls.clone())
//!     .connect_lazy()?;
//! // Mount it in an HTTP server, for instance with `hyper_util::service::TowerToHyperService`.
//! let admin = Admin::builder().policies(&policies).channel(&channel, &calls).build();
//! # let _ = admin;
//! # Ok(())
//! # }
//! ```

mod access;
mod call_metrics;
mod calls;
mod channelz;
mod control;
mod line;
mod live;
mod metrics;
mod service;
mod status;
mod subjects;
mod tap;

pub use self::calls::{Calls, MethodNames};
pub use self::line::{is_unprintable, line};
pub use self::service::{Admin, AdminBuilder};
