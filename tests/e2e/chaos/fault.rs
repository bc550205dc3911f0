//! What may happen, drawn from a seed.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

/// One side, or one of two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// What is frozen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Frozen {
    Banyan,
    Kafka,
    /// All sessions of Banyan on a side.
    Sessions(Side),
    /// All of a side's server.
    Server(Side),
}

/// Which wire of Banyan's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Far {
    Database(Side),
    Kafka,
}

/// What a wire does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Broken {
    /// Connections are reset, and new ones refused.
    Cut,
    /// Connections stay, and nothing comes through: half-open for whoever does not know.
    Silent,
    /// Everything comes late.
    Slow,
}

/// One fault, with how long it lasts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// kill -9, and away for so long.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT later.
    Freeze(Frozen, Duration),
    Wire(Far, Broken, Duration),
    /// In good order, or as in a crash.
    Restart(Side, bool, Duration),
    /// In good order, or by kill -9.
    RestartKafka(bool, Duration),
    /// Somebody locks a table of the target.
    Lock(Duration),
    /// Somebody and the applier wait for each other.
    Deadlock,
    /// Banyan's role may have one connection.
    Limit(Side, Duration),
    /// An administrator ends all of Banyan's sessions.
    Terminate(Side),
    /// A second process of the installation comes, and one of both is killed.
    Second(bool, Duration),
    /// One transaction of very many rows.
    Many,
}

/// A fault, and what is around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) pause: Duration,
    pub(super) fault: Fault,
    /// Banyan is killed, too, as soon as it is over.
    pub(super) is_killed: bool,
}

// === impl Step ===

impl Step {
    /// Draws as often for a long run as for a short one.
    pub(super) fn draw(random: &mut StdRng, is_long: bool) -> Self {
        let pause = Duration::from_millis(random.random_range(0..1_500));
        let is_killed = random.random_range(0..4) == 0;
        let short = random.random_range(50..1_500);
        // Now and then longer than leases, lock timeouts and the patience with a half transaction.
        let lasts = if random.random_range(0..6) == 0 { short * if is_long { 25 } else { 4 } } else { short };
        let lasts = Duration::from_millis(lasts);
        let side = if random.random() { Side::Source } else { Side::Target };
        let far = match random.random_range(0..3) {
            0 => Far::Kafka,
            _ => Far::Database(side),
        };
        let broken = match random.random_range(0..3) {
            0 => Broken::Cut,
            1 => Broken::Silent,
            _ => Broken::Slow,
        };
        let frozen = match random.random_range(0..5) {
            0 | 1 => Frozen::Banyan,
            2 => Frozen::Kafka,
            3 => Frozen::Sessions(side),
            _ => Frozen::Server(side),
        };
        let is_rude = random.random();
        let fault = match random.random_range(0..22) {
            0..4 => Fault::Kill(lasts),
            4..7 => Fault::Freeze(frozen, lasts),
            7..11 => Fault::Wire(far, broken, lasts),
            11..13 => Fault::Restart(side, is_rude, lasts),
            13 => Fault::RestartKafka(is_rude, lasts),
            14 => Fault::Lock(lasts),
            15 => Fault::Deadlock,
            16 => Fault::Limit(side, lasts),
            17..19 => Fault::Terminate(side),
            19 | 20 => Fault::Second(is_rude, lasts),
            _ => Fault::Many,
        };
        Self { pause, fault, is_killed }
    }
}
