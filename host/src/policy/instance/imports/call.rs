//! The interface `call`: the RPC being picked.

use std::hash::Hasher as _;

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use twox_hash::XxHash64;

use super::current_call::PickExtras;
use super::numbers::Values;
use super::state::{Affinity, AffinityKind, HostState};
use super::tape::{Question, hashed};
use crate::headers::{BASE64, is_reserved};
use crate::picker::PickInfo;
use crate::policy::instance::bindings::hotpick::policy::call;
use crate::policy::instance::time::nanos;
use crate::text::clip;
use crate::trace::Value;

/// Returns the hash of a metadata key's values: see [`hash`].
pub(crate) fn affinity(metadata: &HeaderMap, key: &HeaderName) -> Option<u64> {
    // Usually no key has several values, and looking for more of them costs more than finding the first.
    if metadata.len() == metadata.keys_len() {
        hash(metadata.get(key).into_iter())
    } else {
        hash(metadata.get_all(key).iter())
    }
}

/// Hashes a key's values, joined by commas if there are several (gRFC A76). `None`: there is no value, or only an empty
/// one.
fn hash<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> Option<u64> {
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return (!first.is_empty()).then(|| XxHash64::oneshot(0, first));
    };
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(first);
    for value in std::iter::once(second).chain(values) {
        hasher.write(b",");
        hasher.write(value.as_bytes());
    }
    Some(hasher.finish())
}

/// Returns the number of a key's value. `None`: the value is empty.
fn number_of(values: &mut Values, key: usize, value: &HeaderValue) -> Option<u64> {
    (!value.is_empty()).then(|| values.number(key, value.as_bytes()))
}

impl HostState {
    /// Starts a pick: keeps the parts of the RPC that the policy has declared to read.
    pub(crate) fn start_pick(&mut self, info: &PickInfo<'_>) {
        let call = &mut self.call;
        call.active = true;
        call.deadline = info.deadline;
        if self.reads_metadata {
            for (index, key) in self.keys.iter().enumerate() {
                call.metadata.extend(info.metadata.get_all(key).iter().map(|value| (index, value.clone())));
            }
        }
        if !info.tried.is_empty() {
            call.tried.extend_from_slice(info.tried);
        }
    }

    /// Starts a pick of a trace, which has the answers.
    #[cfg(feature = "testing")]
    pub(crate) const fn activate_call(&mut self) {
        self.call.active = true;
    }

    /// Ends a pick, and discards the RPC. Returns what the policy has set beside its result, if anything.
    pub(crate) fn end_pick(&mut self) -> Option<PickExtras> {
        let call = &mut self.call;
        call.active = false;
        // Even clearing an empty vector has a cost.
        if !call.metadata.is_empty() {
            call.metadata.clear();
        }
        if !call.tried.is_empty() {
            call.tried.clear();
        }
        if call.explanation.is_none() && call.added.is_empty() {
            return None;
        }
        Some(PickExtras { explanation: call.explanation.take(), metadata: std::mem::take(&mut call.added) })
    }

    /// Returns the hash or the number of the declared affinity key's value. `None`: no key is declared, or the RPC has
    /// no value.
    pub(crate) fn affinity(&mut self, info: &PickInfo<'_>) -> Option<u64> {
        let Affinity { key, kind } = self.affinity?;
        let name = self.keys.get(key)?;
        #[cfg(feature = "testing")]
        if let Some((past, hash)) = info.past.and_then(|past| past.affinity)
            && past == name.as_str()
            && kind == AffinityKind::Hash
        {
            return Some(hash);
        }
        match kind {
            AffinityKind::Hash => affinity(info.metadata, name),
            AffinityKind::Number => number_of(&mut self.values, key, info.metadata.get(name)?),
        }
    }

    fn declare_affinity_of(&mut self, key: u32, kind: AffinityKind) -> Result<(), String> {
        if !self.in_init {
            return Err("the affinity key can only be declared in init".to_owned());
        }
        let key = key as usize;
        if key >= self.keys.len() {
            return Err(format!("{key} is not a declared metadata key"));
        }
        self.affinity = Some(Affinity { key, kind });
        Ok(())
    }
}

impl call::Host for HostState {
    fn declare_metadata(&mut self, key: String) -> Result<u32, String> {
        let question = Question::declare_metadata(hashed(&[key.as_bytes()]));
        self.answered(question, |state| state.declare_key(key))
    }

    fn declare_affinity(&mut self, key: u32) -> Result<(), String> {
        let question = Question::declare_affinity(key.into());
        self.answered(question, |state| state.declare_affinity_of(key, AffinityKind::Hash))
    }

    fn declare_affinity_number(&mut self, key: u32) -> Result<(), String> {
        let question = Question::declare_affinity_number(key.into());
        self.answered(question, |state| state.declare_affinity_of(key, AffinityKind::Number))
    }

    fn metadata(&mut self, key: u32) -> Option<String> {
        let shown = |state: &Self, value: &Option<String>| {
            let shown = state.shown(key, value.as_ref()?.as_bytes())?;
            Some(String::from_utf8(shown).ok())
        };
        self.answered_as(Question::metadata(key.into()), |state| state.text(key), shown)
    }

    fn metadata_all(&mut self, key: u32) -> Vec<Vec<u8>> {
        let shown = |state: &Self, values: &Vec<Vec<u8>>| {
            values.iter().map(|value| state.shown(key, value)).collect()
        };
        self.answered_as(Question::metadata_all(key.into()), |state| state.all_values(key), shown)
    }

    fn metadata_hash(&mut self, key: u32) -> Option<u64> {
        self.answered(Question::metadata_hash(key.into()), |state| state.value_hash(key))
    }

    fn metadata_number(&mut self, key: u32) -> Option<u64> {
        self.answered(Question::metadata_number(key.into()), |state| state.value_number(key))
    }

    fn set_metadata(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        // A value that comes from the RPC's metadata must not be in the trace, not even its hash.
        let question = Question::set_metadata(hashed(&[key.as_bytes()]));
        self.answered(question, |state| state.add_metadata(key, value))
    }

    fn tried(&mut self, id: u32) -> bool {
        self.answered(Question::tried(id.into()), |state| state.call.tried.contains(&id))
    }

    fn time_left(&mut self) -> Option<u64> {
        self.answered(Question::time_left(0), |state| state.remaining())
    }

    fn explain(&mut self, message: String) {
        if self.call.active {
            self.call.explanation = Some(clip(&message, self.limits.log_line));
        }
    }
}

impl HostState {
    fn declare_key(&mut self, key: String) -> Result<u32, String> {
        if !self.in_init {
            return Err("metadata keys can only be declared in init".to_owned());
        }
        let name = header_name(&key)?;
        if !self.grants.may_read(name.as_str()) {
            return Err(format!("the operator does not grant metadata key {key:?}"));
        }
        let index = match self.keys.iter().position(|known| *known == name) {
            Some(index) => index,
            None if self.keys.len() == self.limits.metadata_keys => {
                return Err(format!("at most {} metadata keys are allowed", self.limits.metadata_keys));
            }
            None => {
                self.keys.push(name);
                self.keys.len() - 1
            }
        };
        u32::try_from(index).map_err(|error| error.to_string())
    }

    fn text(&self, key: u32) -> Option<String> {
        let value = self.call.first(key as usize)?;
        value.to_str().ok().filter(|text| text.len() <= self.limits.metadata_value).map(str::to_owned)
    }

    fn all_values(&self, key: u32) -> Vec<Vec<u8>> {
        let binary = self.keys.get(key as usize).is_some_and(is_binary);
        let fits = |bytes: &Vec<u8>| bytes.len() <= self.limits.metadata_value;
        let decode = |value: &HeaderValue| {
            if binary { BASE64.decode(value.as_bytes()).ok() } else { Some(value.as_bytes().to_vec()) }
        };
        self.call.values(key as usize).filter_map(decode).filter(fits).collect()
    }

    fn value_hash(&self, key: u32) -> Option<u64> {
        hash(self.call.values(key as usize))
    }

    fn value_number(&mut self, key: u32) -> Option<u64> {
        let key = key as usize;
        number_of(&mut self.values, key, self.call.first(key)?)
    }

    fn add_metadata(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        if !self.call.active {
            return Err("metadata can only be set in pick".to_owned());
        }
        let name = header_name(&key)?;
        if is_reserved(&name) {
            return Err(format!("metadata key {key:?} is reserved by gRPC"));
        }
        if !self.grants.may_set(name.as_str()) {
            return Err(format!("the operator does not grant metadata key {key:?}"));
        }
        if value.len() > self.limits.metadata_value {
            let limit = self.limits.metadata_value;
            return Err(format!("the value of metadata key {key:?} has more than {limit} bytes"));
        }
        if self.call.added.len() == self.limits.metadata_keys {
            return Err(format!("at most {} metadata keys are allowed", self.limits.metadata_keys));
        }
        let value = if is_binary(&name) { BASE64.encode(value).into_bytes() } else { value };
        let value = HeaderValue::from_bytes(&value)
            .map_err(|_| format!("the value of metadata key {key:?} is not a valid header value"))?;
        self.call.added.push((name, value));
        Ok(())
    }

    fn remaining(&self) -> Option<u64> {
        let deadline = self.call.deadline.filter(|_| self.call.active)?;
        Some(nanos(deadline.saturating_duration_since(Instant::now())))
    }

    /// Returns what a trace contains in place of a value of metadata.
    fn shown(&self, key: u32, value: &[u8]) -> Option<Vec<u8>> {
        let recorder = self.recorder.as_ref()?;
        let name = self.keys.get(key as usize)?;
        Some(Value::from(recorder.value(name.as_str(), value)).bytes())
    }
}

fn header_name(key: &str) -> Result<HeaderName, String> {
    HeaderName::from_lowercase(key.as_bytes())
        .map_err(|_| format!("{key:?} is not a metadata key: use a-z, 0-9, '-', '_' and '.'"))
}

fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}
