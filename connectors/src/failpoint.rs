//! Places between source and target at which a test may end the process, as `kill -9` does.
//!
//! `BANYAN_FAILPOINT=chunk-read:2` ends it the second time that [`Point::ChunkRead`] is reached. Random kills find these places seldom, and say
//! nothing of those they never met. Debug builds alone listen, which is what tests run: in what people run no variable may end a process, and a
//! point costs nothing there.

/// One of the places. Their order is about a row's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A generation is noted; there is no slot, or no snapshot, yet.
    GenerationNoted,
    /// The slot or the snapshot is made; nothing was sent.
    GenerationMade,
    /// A row of a copy in one piece was read, and not queued.
    CopyRow,
    /// All rows of such a copy are queued, and END is not.
    CopyEnd,
    /// START, and what of the copy comes with it, stands in Kafka; that is not noted.
    StartDelivered,
    /// The source remembers a complete generation; nothing was read of its log.
    StartNoted,
    /// A chunk was read; its mark is not in the log.
    ChunkRead,
    /// Its mark is in the log, and was not met.
    ChunkMarked,
    /// Its rows are queued; the COMMIT behind them is not.
    ChunkQueued,
    /// It stands in Kafka; that is not kept.
    ChunkDelivered,
    /// It is kept that it stands in Kafka; the source was not told.
    ChunkKept,
    /// A row was read from the source, and not queued.
    RowRead,
    /// The end of a source transaction was read, and not queued.
    CommitRead,
    /// A record is about to be queued.
    QueueBefore,
    /// A record is queued; whether it stands in Kafka is not known.
    QueueAfter,
    /// A COMMIT stands in Kafka, and nobody has noticed.
    ReportBefore,
    /// It counts as delivered; the source was not told.
    ReportAfter,
    /// The source is about to be told what stands in Kafka.
    ConfirmBefore,
    /// It was told, or will be with the next message.
    ConfirmAfter,
    /// START's target transaction is open.
    ApplyStart,
    /// It is committed.
    ApplyStarted,
    /// The applier has read a row, and not written it.
    ApplyRead,
    /// Rows and position are written; the target transaction is open.
    ApplyWritten,
    /// It is committed; the process does not know yet.
    ApplyCommitted,
    /// A copy's end is written; the target transaction is open.
    ApplyEnd,
    /// A target transaction with a copy's end in it is committed.
    ApplyEnded,
    /// A transaction to be parked is written; the target transaction is open.
    ParkWritten,
    /// It is parked; the process does not know yet.
    ParkCommitted,
    /// What was parked is applied; the target transaction is open.
    ReplayWritten,
    /// It is committed; the process does not know yet.
    ReplayCommitted,
    /// With `order: key`: a lane has noted that it waits for the others.
    LanesWait,
    /// All lanes wait; what they met for is not done.
    LanesMet,
    /// The copy of an emptied table is noted and announced; nothing behind the TRUNCATE was left out yet.
    TableEmptied,
}

// === impl Point ===

impl Point {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::GenerationNoted,
        Self::GenerationMade,
        Self::CopyRow,
        Self::CopyEnd,
        Self::StartDelivered,
        Self::StartNoted,
        Self::ChunkRead,
        Self::ChunkMarked,
        Self::ChunkQueued,
        Self::ChunkDelivered,
        Self::ChunkKept,
        Self::RowRead,
        Self::CommitRead,
        Self::QueueBefore,
        Self::QueueAfter,
        Self::ReportBefore,
        Self::ReportAfter,
        Self::ConfirmBefore,
        Self::ConfirmAfter,
        Self::ApplyStart,
        Self::ApplyStarted,
        Self::ApplyRead,
        Self::ApplyWritten,
        Self::ApplyCommitted,
        Self::ApplyEnd,
        Self::ApplyEnded,
        Self::ParkWritten,
        Self::ParkCommitted,
        Self::ReplayWritten,
        Self::ReplayCommitted,
        Self::LanesWait,
        Self::LanesMet,
        Self::TableEmptied,
    ];

    /// As the variable has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenerationNoted => "generation-noted",
            Self::GenerationMade => "generation-made",
            Self::CopyRow => "copy-row",
            Self::CopyEnd => "copy-end",
            Self::StartDelivered => "start-delivered",
            Self::StartNoted => "start-noted",
            Self::ChunkRead => "chunk-read",
            Self::ChunkMarked => "chunk-marked",
            Self::ChunkQueued => "chunk-queued",
            Self::ChunkDelivered => "chunk-delivered",
            Self::ChunkKept => "chunk-kept",
            Self::RowRead => "row-read",
            Self::CommitRead => "commit-read",
            Self::QueueBefore => "queue-before",
            Self::QueueAfter => "queue-after",
            Self::ReportBefore => "report-before",
            Self::ReportAfter => "report-after",
            Self::ConfirmBefore => "confirm-before",
            Self::ConfirmAfter => "confirm-after",
            Self::ApplyStart => "apply-start",
            Self::ApplyStarted => "apply-started",
            Self::ApplyRead => "apply-read",
            Self::ApplyWritten => "apply-written",
            Self::ApplyCommitted => "apply-committed",
            Self::ApplyEnd => "apply-end",
            Self::ApplyEnded => "apply-ended",
            Self::ParkWritten => "park-written",
            Self::ParkCommitted => "park-committed",
            Self::ReplayWritten => "replay-written",
            Self::ReplayCommitted => "replay-committed",
            Self::LanesWait => "lanes-wait",
            Self::LanesMet => "lanes-met",
            Self::TableEmptied => "table-emptied",
        }
    }
}

/// The process has come to `point`, and may end here: no destructor runs, nothing is flushed.
#[cfg(debug_assertions)]
pub(crate) fn reached(point: Point) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    static LEFT: AtomicU64 = AtomicU64::new(0);
    static WANTED: LazyLock<Option<Point>> = LazyLock::new(|| {
        let wanted = std::env::var("BANYAN_FAILPOINT").ok()?;
        let (name, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        LEFT.store(times.parse().ok()?, Ordering::Relaxed);
        Point::ALL.into_iter().find(|point| point.name() == name)
    });

    if *WANTED == Some(point) && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        tracing::error!(point = point.name(), "the process ends at a failpoint");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) const fn reached(_: Point) {}
