//! At most so many rows a second, over the whole of a run.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

pub(super) struct Throttle {
    rate: Option<NonZeroU32>,
    began: Instant,
    rows: u64,
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, began: Instant::now(), rows: 0 }
    }

    /// Waits until so many rows more may be read.
    pub(super) async fn wait(&mut self, rows: usize) {
        let Some(rate) = self.rate else { return };
        tokio::time::sleep_until(self.began + Duration::from_secs_f64(self.rows as f64 / f64::from(rate.get()))).await;
        self.rows += rows as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_held_over_the_run_and_none_is_no_limit() {
        let began = Instant::now();
        let mut throttle = Throttle::new(NonZeroU32::new(100));
        for _ in 0..4 {
            throttle.wait(50).await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(1500));
        let mut free = Throttle::new(None);
        free.wait(1_000_000).await;
        free.wait(1_000_000).await;
        assert_eq!(began.elapsed(), Duration::from_millis(1500));
    }
}
