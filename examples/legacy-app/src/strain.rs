//! Makes the monolith as slow as real ones are, and lets it collapse under too much: for measurements of what a proxy can save.
//!
//! Every page takes 40 ms of the machine's attention. Up to `capacity` pages at once take just that; beyond it they get in each other's way (locks,
//! caches, connections), and each takes as much longer as the square of the excess, so that all together get less done than before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request, middleware};

const PAGE: Duration = Duration::from_millis(40);
/// Who comes later slows down those who are here already.
const STEPS: u32 = 8;

/// Counts a page as long as it is worked on, also when its client goes away.
struct Busy<'b>(&'b AtomicUsize);

/// The pages under this strain.
pub(crate) fn under(capacity: Option<usize>, pages: Router) -> Router {
    let Some(capacity) = capacity else { return pages };
    let busy = Arc::<AtomicUsize>::default();
    pages.layer(middleware::from_fn(move |request: Request, next: middleware::Next| {
        let busy = Arc::clone(&busy);
        async move {
            let busy = Busy::new(&busy);
            let mut done = 0.0;
            while done < 1.0 {
                tokio::time::sleep(PAGE / STEPS).await;
                done += busy.speed(capacity) / f64::from(STEPS);
            }
            next.run(request).await
        }
    }))
}

// === impl Busy ===

impl<'b> Busy<'b> {
    fn new(busy: &'b AtomicUsize) -> Self {
        busy.fetch_add(1, Ordering::SeqCst);
        Self(busy)
    }

    /// How fast a page gets on, against one alone.
    fn speed(&self, capacity: usize) -> f64 {
        let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let excess = share(self.0.load(Ordering::SeqCst)) / share(capacity.max(1));
        1.0 / (excess * excess).max(1.0)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
