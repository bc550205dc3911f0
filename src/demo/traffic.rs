//! A gentle stream of customers, so that there is something to see. It pauses its writes while a copy is behind: the in-process Kafka keeps
//! only some 7,000 rows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;
use ureq::Agent;

use super::{admin::Admin, screen::Stop, shop::Customer};

/// The stream; it ends when this is dropped.
pub(crate) struct Traffic {
    counts: Arc<Counts>,
    worker: Option<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

/// How many were sent, and how many of them got no good answer.
#[derive(Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
}

/// Between two requests.
const PACE: Duration = Duration::from_millis(40);
/// One request of so many is a new payment.
const WRITE_EVERY: u64 = 25;
/// With a copy further behind than this, in seconds, nothing is written.
const BEHIND: f64 = 2.0;
/// Payments that the shop opens with.
const SEEDED: u64 = 120;

// === impl Traffic ===

impl Traffic {
    pub(crate) fn start(agent: &Agent, base: &str, admin: Admin, stop: Stop) -> Self {
        let counts = Arc::<Counts>::default();
        let (agent, base, tally) = (agent.clone(), base.to_owned(), counts.clone());
        let worker = thread::spawn(move || {
            for n in 0_u64.. {
                if tally.over.load(Ordering::Relaxed) || stop.rest(PACE).is_err() {
                    return;
                }
                let customer = Customer::named(&agent, &base, format!("passer-by-{}", n * 7 % 200));
                let reply = if n % WRITE_EVERY == 0 && may_write(&admin) {
                    let payment = json!({ "account_id": n % 8 + 1, "amount": format!("{}.50", n % 90 + 10), "note": "passing by" });
                    customer.post_json("/payments", &payment)
                } else if n % 10 == 9 {
                    customer.page("/inventory")
                } else {
                    customer.get(&format!("/payments/{}", n * 13 % SEEDED + 1))
                };
                tally.sent.fetch_add(1, Ordering::Relaxed);
                if !reply.is_ok_and(|reply| reply.is_fine()) {
                    tally.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { counts, worker: Some(worker) }
    }

    pub(crate) fn stop(&mut self) {
        self.counts.over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally { sent: self.counts.sent.load(Ordering::Relaxed), failed: self.counts.failed.load(Ordering::Relaxed) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether the copy of the payments keeps up. A lag that is not known is too much.
fn may_write(admin: &Admin) -> bool {
    let flow = [("sync", "payments"), ("flow", "legacy_to_modern")];
    let lag = admin.metrics().ok().and_then(|metrics| metrics.sum("banyan_sync_lag_seconds", &flow));
    lag.is_some_and(|lag| lag < BEHIND)
}
