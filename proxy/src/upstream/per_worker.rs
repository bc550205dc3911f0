//! A place of its own for each worker, for what it alone writes. Workers come and go by a reload: places are added and never move or go, so
//! that what an ended worker counted stays counted, and the next one of its index counts on.

use std::sync::OnceLock;

#[derive(Debug)]
pub(super) struct PerWorker<T> {
    places: Box<[T]>,
    /// For workers beyond those.
    more: OnceLock<Box<Self>>,
}

// === impl PerWorker ===

impl<T: Default> PerWorker<T> {
    /// Places for so many workers, to begin with.
    pub(super) fn new(workers: usize) -> Self {
        Self { places: std::iter::repeat_with(T::default).take(workers.max(1)).collect(), more: OnceLock::new() }
    }

    pub(super) fn of(&self, worker: usize) -> &T {
        match self.places.get(worker) {
            Some(place) => place,
            None => self.beyond(worker - self.places.len()),
        }
    }

    /// As many again, for a worker that a reload has added.
    #[cold]
    fn beyond(&self, worker: usize) -> &T {
        self.more.get_or_init(|| Box::new(Self::new(self.places.len()))).of(worker)
    }
}

impl<T> PerWorker<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::successors(Some(self), |some| some.more.get().map(|more| &**more)).flat_map(|some| &some.places)
    }

    /// Faster than by the iterator, for whom every request asks.
    pub(super) fn sum(&self, of: impl Fn(&T) -> usize) -> usize {
        let here = self.places.iter().map(&of).sum::<usize>();
        match self.more.get() {
            None => here,
            Some(_) => self.iter().map(of).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn places_are_added_and_stay() {
        let places = PerWorker::<AtomicUsize>::new(2);
        let count = |place: &AtomicUsize| place.load(Ordering::Relaxed);
        for worker in 0..2 {
            places.of(worker).fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!((places.sum(count), places.iter().count()), (2, 2));
        for worker in [7, 3, 0] {
            places.of(worker).fetch_add(10, Ordering::Relaxed);
        }
        assert_eq!(places.iter().map(count).collect::<Vec<_>>(), [11, 1, 0, 10, 0, 0, 0, 10]);
        assert_eq!(places.sum(count), 32);
        assert_eq!([7, 3, 0, 1].map(|worker| count(places.of(worker))), [10, 10, 11, 1]);
    }
}
