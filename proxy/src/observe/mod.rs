//! What is kept of single requests besides the counts: the access log, and spans for a collector of traces.
//!
//! On the answering path a request that is to be kept has a [`Note`], which the stations write on; when its answer ends, a [`Record`] of it
//! goes into its worker's queue, or is dropped and counted when that is full. Nothing there waits. The background runtime empties the queues
//! every 50 ms, so that no request has to wake anybody, and hands what it finds to the log's own thread. Where nothing is kept a request has
//! no note, which costs it a branch.

mod line;
mod log;
mod note;
#[cfg(feature = "otlp")]
mod otlp;
mod queue;
mod record;

pub(crate) use line::is_failure;
pub(crate) use log::LogError;
pub(crate) use note::Note;
pub(crate) use queue::{Recorder, Scribe};
pub(crate) use record::{Ending, Hop, Record, Trouble};
