//! OpenTelemetry metrics and traces of hotpick's channels, by gRPC's names.
//!
//! [`Metrics`] and [`Traces`] are observers of a channel's RPCs. They use the API of OpenTelemetry alone: which SDK and
//! which exporter is up to the program.
//!
//! ```
//! use hotpick::Channel;
//! use hotpick_otel::{Metrics, Traces};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), hotpick::channel::ConnectError> {
//! let metrics = Metrics::new(&opentelemetry::global::meter("shop"));
//! let traces = Traces::new(opentelemetry::global::tracer("shop"));
//! let channel = Channel::builder("static:///127.0.0.1:5001")
//!     .observer(metrics.clone())
//!     .observer(traces)
//!     .connect_lazy()?;
//! metrics.follow(&channel); // connections, too
//! # Ok(())
//! # }
//! ```

mod metrics;
mod policies;
mod propagation;
mod traces;

pub use self::metrics::Metrics;
pub use self::traces::Traces;
