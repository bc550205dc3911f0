//! What the demo says, and the one way in which it waits.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Ctrl-C, or the wish of whoever sent SIGTERM. Every wait of the demo looks at it.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

/// The terminal. The story goes to stdout; what only shows that something is under way goes to stderr, and is wiped again.
pub(crate) struct Screen {
    stop: Stop,
    live: bool,
}

/// Ctrl-C came while something was waited for.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Stopped;

/// Between two looks at what is waited for: at first, so that what comes at once is measured well, and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(30));
/// A wait shorter than this is not worth a line.
const PATIENCE: Duration = Duration::from_millis(400);

// === impl Stop ===

impl Stop {
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, or returns early with an error once the demo is to stop.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), Stopped> {
        let end = Instant::now() + time;
        loop {
            if self.is_wanted() {
                return Err(Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(LOOKS.1.min(left));
        }
    }
}

// === impl Screen ===

impl Screen {
    pub(crate) fn new(stop: Stop) -> Self {
        Self { stop, live: io::stderr().is_terminal() }
    }

    /// One line of the story.
    #[expect(clippy::unused_self, reason = "what is said goes through the screen, as what is waited for does")]
    pub(crate) fn say(&self, line: &str) {
        // A closed pipe (`demo | head`) must not end the demo in the middle: the clean-up comes first.
        let _ = writeln!(io::stdout(), "{line}");
        let _ = io::stdout().flush();
    }

    /// Sleeps as long as nobody pressed Ctrl-C.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), Stopped> {
        self.stop.rest(time)
    }

    /// Asks `look` again and again until it has something, at most for `limit`. What `look` fails with is taken for "not yet", and told
    /// when the time is up.
    ///
    /// # Errors
    /// When the time is up, or on Ctrl-C ([`Stopped`]).
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let mut last = None;
        let mut pause = LOOKS.0;
        let mut shown = began;
        let outcome = loop {
            if self.stop.is_wanted() {
                break Err(Stopped.into());
            }
            match look() {
                Ok(Some(found)) => break Ok(found),
                Ok(None) => {}
                Err(error) if error.is::<GivenUp>() => break Err(error),
                Err(error) => last = Some(error),
            }
            if began.elapsed() > limit {
                let late = format!("waited {} s for {what}", limit.as_secs());
                break Err(match last {
                    Some(error) => error.context(late),
                    None => anyhow::anyhow!(late),
                });
            }
            if self.live && began.elapsed() > PATIENCE && shown.elapsed() > PATIENCE / 4 {
                shown = Instant::now();
                let _ = write!(io::stderr(), "\r\x1b[K   … {what}, {:.1} s", began.elapsed().as_secs_f64());
            }
            thread::sleep(pause);
            pause = (pause * 11 / 10 + Duration::from_micros(1)).min(LOOKS.1);
        };
        if shown != began {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        outcome
    }
}

/// Waiting longer makes no sense: the thing that was waited for is gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct GivenUp(pub(crate) String);

/// Ctrl-C and SIGTERM from now on only set the flag; a third one ends the process at once (the lifelines of the parts clean up).
pub(crate) fn listen_for_stop(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Stop> {
    use tokio::signal::unix::{SignalKind, signal};
    let _inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let stop = Stop::default();
    let flag = stop.clone();
    runtime.spawn(async move {
        let mut asked = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            flag.now();
            asked += 1;
            if asked == 3 {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}

/// Fails the step unless `holds`.
pub(crate) fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> anyhow::Result<()> {
    if !holds {
        bail!(otherwise());
    }
    Ok(())
}
