//! From the workers to the background: a bounded queue a worker, emptied every 50 ms.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::request;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Note, Record, is_failure,
    log::{Log, LogError},
    record::Ending,
};
use crate::{
    config::{AccessLog, Errors, Observe},
    metrics::{ACCESS_LOG_DROPPED, ACCESS_LOG_LINES, LABEL_REASON},
    split::BUCKETS,
    trace::draw_below,
};

/// Records that wait in one worker's queue: what it can answer in two ticks, and more.
const QUEUE: usize = 8192;
/// How often the queues are emptied.
const TICK: Duration = Duration::from_millis(50);

/// The process's side of it, owned by the proxy. Dropping it ends the background task.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    flush: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
    #[cfg(feature = "otlp")]
    background: Handle,
    _ends: DropGuard,
}

struct Shared {
    counts: Counts,
    /// By worker.
    queues: Mutex<Vec<Queue>>,
    /// There is a first queue.
    begun: Notify,
    log: Mutex<Option<Arc<Log>>>,
    #[cfg(feature = "otlp")]
    spans: super::otlp::Counts,
    #[cfg(feature = "otlp")]
    exporter: Mutex<Option<Arc<super::otlp::Exporter>>>,
}

struct Queue {
    sender: mpsc::Sender<Record>,
    /// Until the background task takes it.
    receiver: Option<mpsc::Receiver<Record>>,
}

/// Lines written, and lines lost by reason.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) written: IntCounter,
    /// A queue was full, or the log's thread too far behind.
    dropped_queue: IntCounter,
    /// More failures a second than get a line without being drawn.
    pub(super) dropped_errors: IntCounter,
    /// The place cannot be written.
    pub(super) dropped_write: IntCounter,
}

/// One worker's side: decides which requests get a note, and takes what became of them.
pub(crate) struct Scribe {
    queue: mpsc::Sender<Record>,
    dropped: IntCounter,
    log: Option<AccessLog>,
    /// Sampled requests become spans.
    exports: bool,
}

// === impl Recorder ===

impl Recorder {
    /// Starts the part that runs in the background, which sleeps until something is to be kept.
    pub(crate) fn start(background: &Handle, registry: &Registry) -> prometheus::Result<Self> {
        let shared = Arc::new(Shared {
            counts: Counts::register(registry)?,
            queues: Mutex::default(),
            begun: Notify::new(),
            log: Mutex::default(),
            #[cfg(feature = "otlp")]
            spans: super::otlp::Counts::register(registry)?,
            #[cfg(feature = "otlp")]
            exporter: Mutex::default(),
        });
        let (flush, asked) = mpsc::channel(1);
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(empty(Arc::clone(&shared), asked)));
        Ok(Self {
            shared,
            flush,
            #[cfg(feature = "otlp")]
            background: background.clone(),
            _ends: token.drop_guard(),
        })
    }

    /// Makes ready for what a config asks to be kept.
    ///
    /// # Errors
    /// When the log cannot be opened; the one before it stays then.
    pub(crate) fn follow(&self, observe: &Observe) -> Result<(), LogError> {
        let mut log = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = observe.access_log.as_ref().map(|log| &log.to);
        if wanted != log.as_ref().map(|log| &log.target) {
            *log = wanted.map(|target| Log::open(target, self.shared.counts.clone())).transpose()?.map(Arc::new);
        }
        #[cfg(feature = "otlp")]
        self.follow_export(observe);
        Ok(())
    }

    #[cfg(feature = "otlp")]
    fn follow_export(&self, observe: &Observe) {
        let wanted = observe.tracing.as_ref().and_then(|tracing| tracing.export.as_ref());
        let mut exporter = self.shared.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted != exporter.as_ref().map(|exporter| &exporter.export) {
            let start = |export| super::otlp::Exporter::start(export, self.shared.spans.clone(), &self.background);
            *exporter = wanted.map(start).map(Arc::new);
        }
    }

    /// A worker's side; `None` where nothing is kept.
    pub(crate) fn scribe(&self, worker: usize, observe: &Observe) -> Option<Scribe> {
        let log = observe.access_log.clone();
        let exports = observe.tracing.as_ref().is_some_and(|tracing| tracing.export.is_some());
        if log.is_none() && !exports {
            return None;
        }
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        while queues.len() <= worker {
            let (sender, receiver) = mpsc::channel(QUEUE);
            queues.push(Queue { sender, receiver: Some(receiver) });
        }
        self.shared.begun.notify_one();
        Some(Scribe {
            queue: queues[worker].sender.clone(),
            dropped: self.shared.counts.dropped_queue.clone(),
            log,
            exports,
        })
    }

    /// Comes back when everything that ended so far is written, or after `at_most`.
    pub(crate) async fn flush(&self, at_most: Duration) {
        let (tell, told) = tokio::sync::oneshot::channel();
        if self.flush.try_send(tell).is_ok() {
            drop(tokio::time::timeout(at_most, told).await);
        }
    }
}

/// Empties the queues until it is dropped.
async fn empty(shared: Arc<Shared>, mut flush: mpsc::Receiver<tokio::sync::oneshot::Sender<()>>) {
    let mut receivers = Vec::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = if receivers.is_empty() {
            tokio::select! {
                () = shared.begun.notified() => None,
                Some(asked) = flush.recv() => Some(asked),
            }
        } else {
            tokio::select! {
                _ = tick.tick() => None,
                Some(asked) = flush.recv() => Some(asked),
            }
        };
        {
            let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
            receivers.extend(queues.iter_mut().filter_map(|queue| queue.receiver.take()));
        }
        let mut batch = Vec::new();
        for receiver in &mut receivers {
            // Without a waker: a request that ends wakes nobody.
            while let Ok(record) = receiver.try_recv() {
                batch.push(record);
            }
        }
        #[cfg(feature = "otlp")]
        let exporter = shared.exporter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        #[cfg(feature = "otlp")]
        if let Some(exporter) = &exporter {
            exporter.take(&batch);
        }
        let log = shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(log) = &log
            && !batch.is_empty()
        {
            shared.counts.dropped_queue.inc_by(log.take(batch) as u64);
        }
        if let Some(asked) = asked {
            if let Some(log) = log {
                drop(log.flush().await);
            }
            #[cfg(feature = "otlp")]
            if let Some(exporter) = exporter {
                drop(exporter.flush().await);
            }
            // Whoever asked may wait no more.
            let _ = asked.send(());
        }
    }
}

// === impl Counts ===

impl Counts {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let written = IntCounter::new(ACCESS_LOG_LINES, "Lines of the access log that were written")?;
        let dropped = IntCounterVec::new(
            Opts::new(ACCESS_LOG_DROPPED, "Lines of the access log that were not written, by reason"),
            &[LABEL_REASON],
        )?;
        registry.register(Box::new(written.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self {
            written,
            dropped_queue: dropped.with_label_values(&["queue"]),
            dropped_errors: dropped.with_label_values(&["errors"]),
            dropped_write: dropped.with_label_values(&["write"]),
        })
    }
}

// === impl Scribe ===

impl Scribe {
    /// The note of a request that is to be kept, or may have to be.
    pub(crate) fn note(&self, head: &request::Parts) -> Option<Rc<Note>> {
        let Some(log) = &self.log else { return Some(Rc::new(Note::new(head, false, false, false))) };
        let sample = log.sample.buckets();
        let is_drawn = sample >= BUCKETS || draw_below(BUCKETS) < sample;
        let is_kept = is_drawn || self.exports || log.errors == Errors::Always;
        is_kept.then(|| Rc::new(Note::new(head, is_drawn, log.client, log.path)))
    }

    /// Takes what became of a request. Never waits: where there is no place it is dropped and counted.
    pub(crate) fn take(&self, note: &Note, ending: Ending) {
        let mut record = Record::new(note, ending);
        let tells_failures = self.log.as_ref().is_some_and(|log| log.errors == Errors::Always);
        record.is_logged |= tells_failures && is_failure(&record);
        let is_exported = self.exports && record.is_sampled();
        if (record.is_logged || is_exported) && self.queue.try_send(record).is_err() {
            self.dropped.inc();
        }
    }
}
