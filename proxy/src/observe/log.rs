//! The access log's own thread. Its writes may block (a pipe that nobody reads, a slow disk) and hold up nobody else: what cannot be handed
//! to it is dropped and counted.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Record, line, queue::Counts};
use crate::config::LogTarget;

/// Batches that wait for the thread.
const BATCHES: usize = 4;
/// Lines a second of failed requests that were not drawn.
const MOST_EXTRA: u32 = 1000;
/// A buffer that grew beyond this is given back.
const USUAL_BYTES: usize = 1 << 20;

/// Why the access log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the access log `{path}` cannot be opened: {cause}")]
pub struct LogError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// The thread, seen from the background runtime. It ends when this is dropped and all it was given is written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) target: LogTarget,
    orders: SyncSender<Order>,
}

enum Order {
    Lines(Vec<Record>),
    /// Everything before this is written.
    Flush(oneshot::Sender<()>),
}

/// What the thread owns.
struct Pen {
    to: To,
    counts: Counts,
    buffer: Vec<u8>,
    /// The second in which extra lines are counted, and how many there were.
    extra: (Instant, u32),
    /// The last write failed, perhaps in the middle of a line.
    is_torn: bool,
}

enum To {
    Stdout,
    /// `None`: it could not be opened again.
    File(PathBuf, Option<File>),
}

// === impl Log ===

impl Log {
    pub(super) fn open(target: &LogTarget, counts: Counts) -> Result<Self, LogError> {
        let to = match target {
            LogTarget::Stdout => To::Stdout,
            LogTarget::File(path) => {
                let file = open(path).map_err(|cause| LogError { path: path.clone(), cause })?;
                To::File(path.clone(), Some(file))
            }
        };
        let (orders, queue) = sync_channel(BATCHES);
        let pen = Pen { to, counts, buffer: Vec::new(), extra: (Instant::now(), 0), is_torn: false };
        let thread = std::thread::Builder::new().name("banyan-access-log".to_owned());
        thread.spawn(move || pen.run(&queue)).map_err(|cause| LogError { path: "its thread".into(), cause })?;
        Ok(Self { target: target.clone(), orders })
    }

    /// Hands over a batch; gives the number of records that found no place.
    pub(super) fn take(&self, batch: Vec<Record>) -> usize {
        match self.orders.try_send(Order::Lines(batch)) {
            Ok(()) => 0,
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => match order {
                Order::Lines(batch) => batch.len(),
                Order::Flush(_) => 0,
            },
        }
    }

    /// Told when everything so far is written; at once dropped when the thread is too far behind.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        drop(self.orders.try_send(Order::Flush(tell)));
        told
    }
}

// === impl Pen ===

impl Pen {
    fn run(mut self, queue: &Receiver<Order>) {
        while let Ok(order) = queue.recv() {
            match order {
                Order::Lines(batch) => self.write(&batch),
                Order::Flush(tell) => drop(tell.send(())),
            }
        }
    }

    fn write(&mut self, batch: &[Record]) {
        self.buffer.clear();
        if self.is_torn {
            self.buffer.push(b'\n');
        }
        let mut lines = 0;
        for record in batch {
            if self.is_wanted(record) {
                line::write(record, &mut self.buffer);
                lines += 1;
            }
        }
        if lines == 0 {
            return;
        }
        match self.to.write(&self.buffer) {
            Ok(()) => {
                self.counts.written.inc_by(lines);
                if std::mem::take(&mut self.is_torn) {
                    info!("the access log is written again");
                }
            }
            Err(error) => {
                self.counts.dropped_write.inc_by(lines);
                if !std::mem::replace(&mut self.is_torn, true) {
                    warn!("the access log cannot be written, its lines are dropped until it can: {error}");
                }
            }
        }
        if self.buffer.capacity() > USUAL_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Drawn, or failed and among the first of its second.
    fn is_wanted(&mut self, record: &Record) -> bool {
        if record.is_drawn {
            return true;
        }
        if !record.is_logged {
            return false;
        }
        let (since, count) = &mut self.extra;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        let is_wanted = *count <= MOST_EXTRA;
        if !is_wanted {
            self.counts.dropped_errors.inc();
        }
        is_wanted
    }
}

// === impl To ===

impl To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::File(path, file) => {
                if !file.as_ref().is_some_and(|file| is_same(file, path)) {
                    *file = None;
                    *file = Some(open(path)?);
                }
                match file {
                    Some(file) => file.write_all(bytes),
                    None => Ok(()),
                }
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Of a named pipe: opened for writing alone, it would wait for its first reader.
    let is_pipe = path.metadata().is_ok_and(|found| found.file_type().is_fifo());
    OpenOptions::new().append(true).read(is_pipe).create(true).mode(0o640).open(path)
}

/// Whether the path still leads to the file that is open.
fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
