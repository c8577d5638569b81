//! The interface `metrics`: instruments of the policy's own.

use std::sync::Arc;

use super::State;
use crate::policy::bindings::hotpick::policy::metrics;
use crate::policy::meter::Kind;

impl State {
    fn make(&mut self, name: &str, help: &str, kind: Kind) -> Result<u32, String> {
        if !self.in_init {
            return Err("instruments are made in init".to_owned());
        }
        let instrument = self.meter.make(name, help, kind, &self.limits, self.generation)?;
        let known = self.instruments.iter().position(|known| Arc::ptr_eq(known, &instrument));
        let at = known.unwrap_or_else(|| {
            self.instruments.push(instrument);
            self.instruments.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    }
}

impl metrics::Host for State {
    fn counter(&mut self, name: String, help: String) -> Result<u32, String> {
        self.make(&name, &help, Kind::Counter)
    }

    fn gauge(&mut self, name: String, help: String) -> Result<u32, String> {
        self.make(&name, &help, Kind::Gauge)
    }

    fn histogram(&mut self, name: String, help: String, buckets: Vec<f64>) -> Result<u32, String> {
        self.make(&name, &help, Kind::Histogram(buckets))
    }

    fn add(&mut self, id: u32, delta: u64) {
        if let Some(instrument) = self.instruments.get(id as usize) {
            instrument.add(delta);
        }
    }

    fn observe(&mut self, id: u32, value: f64) {
        if let Some(instrument) = self.instruments.get(id as usize) {
            instrument.observe(value);
        }
    }
}
