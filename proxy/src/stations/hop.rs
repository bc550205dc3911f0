//! Passes a request's trace on: as it came, or with Banyan as a hop of its own where the file says `tracing`.

use http::HeaderMap;

use super::check::Seen;
use crate::{
    config::Tracing,
    observe::{Hop, Note},
    split::BUCKETS,
    trace::{TRACEPARENT, TRACESTATE, Trace, draw_below},
};

/// Writes what the upstream gets, and leaves in `seen` and on the note which trace it is.
pub(super) fn pass_on(headers: &mut HeaderMap, seen: &mut Seen, tracing: Option<&Tracing>, note: Option<&Note>) {
    if let Some(tracing) = tracing {
        let hop = match seen.trace {
            Some(before) => before.child(),
            None => {
                headers.remove(TRACESTATE);
                Trace::begin(draw_below(BUCKETS) < tracing.sample.buckets())
            }
        };
        headers.insert(TRACEPARENT, hop.header());
        if let Some(note) = note {
            note.is_hop(Hop { own: hop, parent: seen.trace.map(|before| before.span) });
        }
        seen.trace = Some(hop);
    } else if seen.traceparent && seen.trace.is_none() {
        // Malformed is absent, and a state belongs to its parent.
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
    if let (Some(note), Some(trace)) = (note, seen.trace) {
        note.traced(trace.id);
    }
}
