//! Keeps a route's reads and what they were answered, for `banyan record`: one at a time a route, where the file allows it, bounded in time and
//! size, and made in the background of what the shadow's copies have anyway. `line.rs` says what stands in it, `secrets.rs` what never does.

mod asked;
mod line;
mod recorder;
mod secrets;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

pub(super) use asked::{Asked, Told};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use line::fuzz as fuzz_recording;
pub(super) use line::headers;
pub use line::{BadLine, BodyKept, End, Head, Line, Read, WhyEnded};
pub(super) use recorder::Recorder;
use recorder::{Kept, Skips};
pub(super) use secrets::Secrets;

/// Lines that wait to be written; one more is dropped and counted.
const QUEUE: usize = 256;

/// How much is recorded.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    /// For how long.
    pub time: Duration,
    /// Bytes of all lines.
    pub size: u64,
}

/// Why nothing is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRecording {
    /// The file names none.
    #[error("there is no such route")]
    NoRoute,
    /// The file does not say `compare: {record: true}`.
    #[error("the file does not allow it: the route's `compare` has no `record: true`")]
    NotAllowed,
    /// Another one is under way.
    #[error("this route is being recorded already")]
    Busy,
}

/// The lines of one recording, as they come. Dropping it ends it.
#[derive(Debug)]
pub struct Recording {
    lines: mpsc::Receiver<Kept>,
    skips: Arc<Skips>,
    ends: Instant,
    left: u64,
    recorded: u64,
    head: Option<Bytes>,
    is_over: bool,
}

// === impl Recording ===

impl Recording {
    fn new(route: &str, limits: RecordLimits, lines: mpsc::Receiver<Kept>, skips: Arc<Skips>) -> Self {
        let head = Head { version: line::VERSION, route: route.to_owned(), began: now() };
        let (ends, left, head) = (Instant::now() + limits.time, limits.size, Some(Line::Head(head).to_bytes()));
        Self { lines, skips, ends, left, recorded: 0, head, is_over: false }
    }

    /// The next line, with its end; `None` behind the last one, which says why it was the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.is_over {
            return None;
        }
        let why = tokio::select! {
            line = self.lines.recv() => match line {
                Some(kept) if kept.line.len() as u64 <= self.left => {
                    self.left -= kept.line.len() as u64;
                    self.recorded += 1;
                    return Some(kept.line);
                }
                Some(_) => WhyEnded::Size,
                None => WhyEnded::Stopped,
            },
            () = tokio::time::sleep_until(self.ends) => WhyEnded::Time,
        };
        self.is_over = true;
        self.lines.close();
        Some(Line::End(self.skips.end(why, self.recorded)).to_bytes())
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
