//! The writing end of a recording, which a route's copies tell what they were answered.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderName, header::CONTENT_ENCODING};
use tokio::sync::mpsc;

use super::{
    Asked, BodyKept, End, Line, QUEUE, Read, RecordLimits, Recording, Secrets, Told, WhyEnded, line::answer_headers,
    now,
};
use crate::{
    links::Owner,
    shadow::{
        budget::{Budget, Charge},
        ticket::Recorded,
    },
};

/// Held by the route as long as the recording goes on.
#[derive(Debug)]
pub(in crate::shadow) struct Recorder {
    lines: mpsc::Sender<Kept>,
    skips: Arc<Skips>,
    /// Of answers.
    headers: Box<[HeaderName]>,
}

/// A line that waits to be written, and what it is charged.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) line: Bytes,
    _charge: Charge,
}

/// Reads that were left out.
#[derive(Debug, Default)]
pub(super) struct Skips {
    secret_in_query: AtomicU64,
    with_body: AtomicU64,
    dropped: AtomicU64,
}

// === impl Recorder ===

impl Recorder {
    /// Both ends of a new one; `headers` are the ones that are compared.
    pub(in crate::shadow) fn new(
        route: &str,
        limits: RecordLimits,
        headers: &[HeaderName],
        secrets: &Secrets,
    ) -> (Self, Recording) {
        let (to, lines) = mpsc::channel(QUEUE);
        let skips = Arc::new(Skips::default());
        let headers = headers.iter().filter(|name| !secrets.has_header(name)).cloned().chain([CONTENT_ENCODING]);
        let recorder = Self { lines: to, skips: Arc::clone(&skips), headers: headers.collect() };
        (recorder, Recording::new(route, limits, lines, skips))
    }

    /// Nobody reads it any more.
    pub(in crate::shadow) fn is_over(&self) -> bool {
        self.lines.is_closed()
    }

    /// A read was answered so.
    pub(in crate::shadow) fn record(&self, told: Told, side: Owner, control: &Recorded, budget: &Arc<Budget>) {
        let skipped = match told {
            Told::WithBody => &self.skips.with_body,
            Told::Read(asked) if asked.has_secret() => &self.skips.secret_in_query,
            Told::Read(asked) => match self.try_record(*asked, side, control, budget) {
                Some(()) => return,
                None => &self.skips.dropped,
            },
        };
        skipped.fetch_add(1, Ordering::Relaxed);
    }

    fn try_record(&self, asked: Asked, side: Owner, control: &Recorded, budget: &Arc<Budget>) -> Option<()> {
        let permit = self.lines.try_reserve().ok()?;
        // The body in one, as a text, and the line: each is at most twice as long as the one before.
        let mut charge = Charge::new(Arc::clone(budget));
        charge.take(control.body.kept() * 4).then_some(())?;
        let joined = control.body.joined(&mut charge).ok()?;
        let answer = control.answer(&joined)?;
        let read = Read {
            at: now(),
            method: asked.method,
            target: asked.target,
            prefix: asked.prefix,
            headers: asked.headers,
            side,
            status: answer.status.as_u16(),
            took_ms: control.took.as_secs_f64() * 1000.0,
            answer_headers: answer_headers(&answer, |name| self.headers.contains(name)),
            body: BodyKept::of(answer.body),
        };
        let line = Line::Read(Box::new(read)).to_bytes();
        charge.keep(line.len());
        permit.send(Kept { line, _charge: charge });
        Some(())
    }
}

// === impl Skips ===

impl Skips {
    pub(super) fn end(&self, why: WhyEnded, recorded: u64) -> End {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (secret_in_query, with_body) = (of(&self.secret_in_query), of(&self.with_body));
        End { why, recorded, secret_in_query, with_body, dropped: of(&self.dropped) }
    }
}
