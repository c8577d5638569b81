//! Traces of gRFCs A72 and A121.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hotpick::call::{
    AttemptKind, AttemptRecord, Call, CallEvent, CallObserver, CallRecord, CallWatcher, code_name,
};
use http::HeaderMap;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};
use tonic::Code;

use crate::propagation::{TRACEPARENT, extract, has_context, inject, traceparent, uses_traceparent};

/// Makes spans of RPCs: an observer.
///
/// An RPC is a span `Sent.package.Service.Method` with one child `Attempt.…` for each attempt (gRFC A72), and a child
/// `Attempt Delay` while an attempt waits (gRFC A121). An RPC of a client of a [`Proxy`](hotpick::proxy::Proxy) has a span
/// `Recv.…` around it. The parent is the current context, or the one that the RPC's metadata has; the context of each attempt
/// is sent with it. Both by the program's propagator (`opentelemetry::global::set_text_map_propagator`).
pub struct Traces<T>(Arc<Inner<T>>);

struct Inner<T> {
    tracer: T,
    /// Part of the RPCs without a parent that are traced.
    roots: f64,
}

impl<T> Traces<T> {
    /// Traces RPCs whose parent is sampled, and all RPCs without a parent that the tracer samples.
    #[must_use]
    pub fn new(tracer: T) -> Self {
        Self::sampled(tracer, 1.0)
    }

    /// Traces RPCs whose parent is sampled, and this part, from 0 to 1, of the RPCs without a parent. The decision is made
    /// before anything is asked of the tracer, so that an RPC without a trace costs little. Its context is sent all the same,
    /// so that its server does not decide otherwise.
    #[must_use]
    pub fn sampled(tracer: T, roots: f64) -> Self {
        Self(Arc::new(Inner { tracer, roots }))
    }
}

impl<T> Clone for Traces<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Traces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", self.0.roots)
    }
}

impl<T> CallObserver for Traces<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn call_started(&self, call: &Call, metadata: &HeaderMap) -> Option<Box<dyn CallWatcher>> {
        let current = Context::map_current(|current| current.has_active_span().then(|| current.clone()));
        let is_carried = current.is_none() && has_context(metadata);
        let parent = current.or_else(|| is_carried.then(|| extract(metadata))).unwrap_or_default();
        let context = parent.span().span_context().clone();
        let is_traced = if context.is_valid() {
            context.is_sampled()
        } else {
            // Also with a header that is malformed: a client could otherwise have all of its RPCs traced by mistake.
            self.0.roots >= 1.0 || fastrand::f64() < self.0.roots
        };
        Some(match is_traced {
            true => Box::new(Spans::start(Arc::clone(&self.0), call, parent)),
            false if context.is_valid() => Box::new(Unsampled::Of(parent)),
            false => Box::new(Unsampled::root(is_carried)),
        })
    }
}

/// An RPC that is not traced: only its context is sent.
enum Unsampled {
    Of(Context),
    /// An RPC without a parent, whose context has the form of the W3C.
    Root {
        trace: [u64; 2],
        span: u64,
        /// The RPC came with headers of a context that is malformed.
        is_carried: bool,
    },
}

impl Unsampled {
    fn root(is_carried: bool) -> Self {
        // Never zero, which is no trace.
        let (trace, span) = ([fastrand::u64(..), fastrand::u64(..) | 1], fastrand::u64(..) | 1);
        if uses_traceparent() {
            return Self::Root { trace, span, is_carried };
        }
        let trace = TraceId::from(u128::from(trace[0]) << 64 | u128::from(trace[1]));
        let context =
            SpanContext::new(trace, SpanId::from(span), TraceFlags::default(), false, TraceState::NONE);
        Self::Of(Context::new().with_remote_span_context(context))
    }
}

impl CallWatcher for Unsampled {
    fn on(&mut self, event: CallEvent<'_>) {
        if let CallEvent::Sending { metadata, .. } = event {
            match self {
                Self::Of(context) => inject(context, metadata),
                Self::Root { trace, span, is_carried } => {
                    if *is_carried {
                        // It belongs to another trace.
                        metadata.remove("tracestate");
                    }
                    metadata.insert(TRACEPARENT, traceparent(*trace, *span));
                }
            }
        }
    }
}

/// The spans of one RPC.
struct Spans<T> {
    inner: Arc<Inner<T>>,
    method: String,
    server: Option<Context>,
    call: Context,
    attempts: Vec<Attempt>,
}

/// The spans of one attempt.
struct Attempt {
    context: Context,
    delay: Option<Context>,
    was_delayed: bool,
}

impl<T> Spans<T>
where
    T: Tracer,
    T::Span: Send + Sync + 'static,
{
    fn start(inner: Arc<Inner<T>>, call: &Call, parent: Context) -> Self {
        let method = call.method().replace('/', ".");
        let span = |name: &str, kind, parent: &Context| {
            let builder = inner.tracer.span_builder(format!("{name}.{method}")).with_kind(kind);
            parent.with_span(builder.start_with_context(&inner.tracer, parent))
        };
        let server = call.peer.map(|peer| {
            let context = span("Recv", SpanKind::Server, &parent);
            context.span().set_attribute(KeyValue::new("network.peer.address", peer.to_string()));
            context
        });
        let sent = span("Sent", SpanKind::Client, server.as_ref().unwrap_or(&parent));
        sent.span().set_attribute(KeyValue::new("grpc.target", call.target.to_string()));
        Self { inner: Arc::clone(&inner), method, server, call: sent, attempts: Vec::new() }
    }

    fn attempt_started(&mut self, record: &AttemptRecord) {
        let builder = self.inner.tracer.span_builder(format!("Attempt.{}", self.method));
        let is_transparent = record.kind == AttemptKind::TransparentRetry;
        let builder = builder.with_kind(SpanKind::Client).with_attributes([
            KeyValue::new("previous-rpc-attempts", i64::from(record.previous)),
            KeyValue::new("transparent-retry", is_transparent),
        ]);
        let span = builder.start_with_context(&self.inner.tracer, &self.call);
        self.attempts.push(Attempt { context: self.call.with_span(span), delay: None, was_delayed: false });
    }

    fn delayed(&mut self, attempt: usize, delay: &'static str, reason: &str) {
        let Some(attempt) = self.attempts.get_mut(attempt) else { return };
        attempt.was_delayed = true;
        let inner = &self.inner;
        let context = attempt.delay.get_or_insert_with(|| {
            let builder = inner.tracer.span_builder("Attempt Delay");
            let builder = builder.with_attributes([KeyValue::new("grpc.delay_type", delay)]);
            attempt.context.with_span(builder.start_with_context(&inner.tracer, &attempt.context))
        });
        let attributes = vec![
            KeyValue::new("grpc.delay_type", delay),
            KeyValue::new("grpc.delay_reason", reason.to_owned()),
        ];
        context.span().add_event("Delay state transition", attributes);
    }

    fn sending(&mut self, attempt: usize, record: &AttemptRecord, metadata: &mut HeaderMap) {
        let Some(attempt) = self.attempts.get_mut(attempt) else { return };
        let span = attempt.context.span();
        if attempt.was_delayed {
            span.add_event("Delayed LB pick complete", Vec::new());
        }
        if let Some(pick) = &record.pick {
            let address = pick.subconn.endpoint().addresses()[0].to_string();
            span.set_attribute(KeyValue::new("server.address", address));
            span.set_attribute(KeyValue::new("hotpick.picked_by", pick.by.name()));
            if let Some(policy) = &pick.policy {
                span.set_attribute(KeyValue::new("hotpick.policy", policy.to_string()));
            }
        }
        inject(&attempt.context, metadata);
    }

    fn message(&self, attempt: usize, name: &'static str, sequence: u64, size: u64) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if let Some(attempt) = self.attempts.get(attempt) {
            let attributes = vec![
                KeyValue::new("sequence-number", number(sequence)),
                KeyValue::new("message-size", number(size)),
            ];
            attempt.context.span().add_event(name, attributes);
        }
    }

    fn attempt_ended(&self, attempt: usize, record: &AttemptRecord) {
        if let Some(attempt) = self.attempts.get(attempt) {
            end(&attempt.context, record.code.unwrap_or(Code::Unknown), "");
        }
    }

    fn ended(&self, record: &CallRecord<'_>) {
        for context in [Some(&self.call), self.server.as_ref()].into_iter().flatten() {
            end(context, record.code, record.message.unwrap_or_default());
        }
    }
}

fn end(context: &Context, code: Code, message: &str) {
    let span = context.span();
    span.set_attribute(KeyValue::new("rpc.response.status_code", code_name(code)));
    span.set_status(match code {
        Code::Ok => Status::Ok,
        _ => Status::error(if message.is_empty() {
            code_name(code).to_owned()
        } else {
            format!("{}: {message}", code_name(code))
        }),
    });
    span.end();
}

impl<T> CallWatcher for Spans<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn on(&mut self, event: CallEvent<'_>) {
        match event {
            CallEvent::Resolved(waited) => {
                let millis = i64::try_from(waited.as_millis()).unwrap_or(i64::MAX);
                let attributes = vec![KeyValue::new("grpc.delay_ms", millis)];
                if waited > Duration::ZERO {
                    self.call.span().add_event("Delayed name resolution complete", attributes);
                }
            }
            CallEvent::AttemptStarted { record, .. } => self.attempt_started(record),
            CallEvent::Delayed { attempt, delay, reason } => self.delayed(attempt, delay.name(), reason),
            CallEvent::DelayEnded { attempt } => {
                if let Some(delay) = self.attempts.get_mut(attempt).and_then(|attempt| attempt.delay.take()) {
                    delay.span().end();
                }
            }
            CallEvent::Sending { attempt, record, metadata } => self.sending(attempt, record, metadata),
            CallEvent::MessageSent { attempt, sequence, size } => {
                self.message(attempt, "Outbound message", sequence, size);
            }
            CallEvent::MessageReceived { attempt, sequence, size } => {
                self.message(attempt, "Inbound message", sequence, size);
            }
            CallEvent::AttemptEnded { attempt, record } => self.attempt_ended(attempt, record),
            CallEvent::Ended(record) => self.ended(record),
            _ => {}
        }
    }
}
