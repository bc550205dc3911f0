//! A bound that all workers share, and the queue before it.
//!
//! The queue is one for the whole process, first come first served: with one a worker, the worker whose neighbours are busy would starve.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

/// How many may be in, and who waits.
#[derive(Debug)]
pub(crate) struct Limit {
    places: Semaphore,
    size: AtomicUsize,
    /// Places that were taken away while somebody had them.
    owed: AtomicUsize,
    queued: AtomicUsize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Limit>);

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many wait as may.
    Queue,
    /// It waited as long as it may.
    Late,
}

/// Counts one who waits.
struct Waiting<'l>(&'l Limit);

// === impl Limit ===

impl Limit {
    /// No place at all, until [`resize`](Self::resize).
    pub(crate) fn new() -> Arc<Self> {
        let none = AtomicUsize::new;
        Arc::new(Self { places: Semaphore::new(0), size: none(0), owed: none(0), queued: none(0) })
    }

    /// A place; at once when there is one, else behind no more than `queue` others and for no longer than `patience`.
    pub(crate) async fn enter(self: &Arc<Self>, queue: usize, patience: Duration) -> Result<Place, Full> {
        if let Ok(place) = self.places.try_acquire() {
            place.forget();
            return Ok(Place(Arc::clone(self)));
        }
        let _waiting = Waiting::try_new(self, queue).ok_or(Full::Queue)?;
        match tokio::time::timeout(patience, self.places.acquire()).await {
            Ok(Ok(place)) => {
                place.forget();
                Ok(Place(Arc::clone(self)))
            }
            // Nobody ever closes it.
            Ok(Err(_)) | Err(_) => Err(Full::Late),
        }
    }

    /// How many may be in.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Changes how many may be in; whoever is in stays. Called by one at a time.
    pub(crate) fn resize(&self, size: usize) {
        let size = size.min(Semaphore::MAX_PERMITS);
        let old = self.size.swap(size, Ordering::Relaxed);
        if size < old {
            let taken = self.places.forget_permits(old - size);
            self.owed.fetch_add(old - size - taken, Ordering::AcqRel);
        } else {
            let mut more = size - old;
            while more > 0 && self.pay() {
                more -= 1;
            }
            self.places.add_permits(more);
        }
    }

    /// One of the places that are owed, if there is one.
    fn pay(&self) -> bool {
        self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1)).is_ok()
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.owed.load(Ordering::Relaxed) == 0 || !self.0.pay() {
            self.0.places.add_permits(1);
        }
    }
}

// === impl Waiting ===

impl<'l> Waiting<'l> {
    fn try_new(limit: &'l Limit, most: usize) -> Option<Self> {
        let before = limit.queued.fetch_add(1, Ordering::AcqRel);
        let waiting = Self(limit);
        (before < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn beyond_the_queue_there_is_no_waiting_and_in_it_a_deadline() {
        let limit = Limit::new();
        limit.resize(1);
        let place = limit.enter(0, LONG).await.unwrap();
        assert_eq!(limit.enter(0, LONG).await.unwrap_err(), Full::Queue);
        assert_eq!(limit.enter(1, Duration::from_secs(1)).await.unwrap_err(), Full::Late);
        let second = limit.enter(1, LONG);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!((limit.queued(), limit.enter(1, LONG).await.unwrap_err()), (1, Full::Queue));
        drop(place);
        second.await.unwrap();
        assert_eq!(limit.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_smaller_limit_holds_once_those_who_are_in_have_left() {
        let limit = Limit::new();
        limit.resize(3);
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(limit.enter(0, LONG).await.unwrap());
        }
        limit.resize(1);
        places.pop();
        places.pop();
        assert!(limit.enter(0, LONG).await.is_err());
        places.pop();
        let one = limit.enter(0, LONG).await.unwrap();
        assert!(limit.enter(0, LONG).await.is_err());
        limit.resize(2);
        let _two = limit.enter(0, LONG).await.unwrap();
        assert!(limit.enter(0, LONG).await.is_err());
        drop(one);
    }
}
