//! The interface `metrics`: instruments that the policy declares.

use std::sync::Arc;

use super::state::HostState;
use super::tape::{Question, hashed};
use crate::policy::instance::bindings::hotpick::policy::metrics;
use crate::policy::judge::Kind;

impl HostState {
    fn declare(&mut self, name: &str, help: &str, kind: Kind) -> Result<u32, String> {
        if !self.in_init {
            return Err("instruments can only be declared in init".to_owned());
        }
        let instrument = self.instruments.declare(name, help, kind, &self.limits, self.generation)?;
        let known = self.declared.iter().position(|known| Arc::ptr_eq(known, &instrument));
        let at = known.unwrap_or_else(|| {
            self.declared.push(instrument);
            self.declared.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    }
}

impl metrics::Host for HostState {
    fn counter(&mut self, name: String, help: String) -> Result<u32, String> {
        let question = Question::counter(hashed(&[name.as_bytes()]));
        self.answered(question, |state| state.declare(&name, &help, Kind::Counter))
    }

    fn gauge(&mut self, name: String, help: String) -> Result<u32, String> {
        let question = Question::gauge(hashed(&[name.as_bytes()]));
        self.answered(question, |state| state.declare(&name, &help, Kind::Gauge))
    }

    fn histogram(&mut self, name: String, help: String, buckets: Vec<f64>) -> Result<u32, String> {
        let question = Question::histogram(hashed(&[name.as_bytes()]));
        self.answered(question, |state| state.declare(&name, &help, Kind::Histogram(buckets)))
    }

    fn add(&mut self, id: u32, delta: u64) {
        if let Some(instrument) = self.declared.get(id as usize) {
            instrument.add(delta);
        }
    }

    fn observe(&mut self, id: u32, value: f64) {
        if let Some(instrument) = self.declared.get(id as usize) {
            instrument.observe(value);
        }
    }
}
