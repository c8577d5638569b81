//! What the page shows: a history of the last minutes, a timeline of events, and a stream of both.

mod history;
mod sampler;
mod stream;
mod timeline;

pub(crate) use self::sampler::Live;
pub(crate) use self::stream::stream;
