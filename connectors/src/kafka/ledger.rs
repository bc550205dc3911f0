//! Which ends of the source may be confirmed: those before which everything stands in Kafka.
//!
//! A flow's own records stand in one partition, whose reports come in order, so a delivered end answers for all rows before it. Events stand in
//! partitions of their own, and may be late or never come: an end counts only when all events before it were delivered, too.

use std::collections::{BTreeMap, VecDeque};

use crate::position::Lsn;

/// What was sent, in sections that each close with an end.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The last one is open.
    sections: VecDeque<Section>,
    /// The number of the first.
    first: usize,
    /// By topic, how many events were sent and not yet delivered.
    under_way: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Section {
    /// Events that were sent and not yet delivered.
    events: u64,
    /// Once it was sent.
    end: Option<Lsn>,
    /// The end was delivered.
    stands: bool,
}

/// What a record's report says about it, in the one word that librdkafka carries along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(usize);

// === impl Ticket ===

impl Ticket {
    /// Of records that stand between ends.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn get(self) -> usize {
        self.0
    }

    pub(super) fn of(word: usize) -> Self {
        Self(word)
    }
}

// === impl Ledger ===

impl Default for Ledger {
    fn default() -> Self {
        // From one on, so that no ticket is none.
        Self { sections: VecDeque::from([Section::default()]), first: 1, under_way: BTreeMap::new() }
    }
}

impl Ledger {
    /// An event is sent to `topic`.
    pub(super) fn event(&mut self, topic: &str) -> Ticket {
        match self.under_way.get_mut(topic) {
            Some(count) => *count += 1,
            None => drop(self.under_way.insert(topic.to_owned(), 1)),
        }
        if let Some(open) = self.sections.back_mut() {
            open.events += 1;
        }
        Ticket(self.last() << 1)
    }

    /// An end is sent: it closes the section.
    pub(super) fn end(&mut self, end: Lsn) -> Ticket {
        let ticket = Ticket(self.last() << 1 | 1);
        if let Some(open) = self.sections.back_mut() {
            open.end = Some(end);
        }
        self.sections.push_back(Section::default());
        ticket
    }

    /// The topics whose events hold back an end that stands in Kafka itself.
    pub(super) fn late(&self) -> Vec<&str> {
        if !self.sections.front().is_some_and(|section| section.stands) {
            return Vec::new();
        }
        self.under_way.iter().filter(|(_, count)| **count > 0).map(|(topic, _)| topic.as_str()).collect()
    }

    /// A record was delivered to `topic`. Gives the end that may be confirmed from now on, when it is a new one.
    pub(super) fn delivered(&mut self, ticket: Ticket, topic: &str) -> Option<Lsn> {
        let section = (ticket.0 >> 1).checked_sub(self.first).and_then(|at| self.sections.get_mut(at))?;
        if ticket.0 & 1 == 1 {
            section.stands = true;
        } else {
            section.events -= 1;
            if let Some(count) = self.under_way.get_mut(topic) {
                *count -= 1;
            }
        }
        let mut confirmed = None;
        while let Some(section) = self.sections.front().filter(|section| section.stands && section.events == 0) {
            confirmed = section.end;
            self.sections.pop_front();
            self.first += 1;
        }
        confirmed
    }

    /// The number of the open section.
    fn last(&self) -> usize {
        self.first + self.sections.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order of the reports, and whichever never come: what is confirmed is the last end before which all was delivered.
        #[test]
        fn an_end_is_confirmed_when_all_before_it_was_delivered_and_not_earlier(
            sent in proptest::collection::vec(any::<bool>(), 1..40),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut ledger = Ledger::default();
            let tickets: Vec<(Ticket, Option<Lsn>)> = (1..)
                .zip(&sent)
                .map(|(at, is_end)| {
                    let end = is_end.then(|| Lsn::new(at));
                    match end {
                        Some(_) => (ledger.end(Lsn::new(at)), end),
                        None => (ledger.event("t"), end),
                    }
                })
                .collect();
            prop_assert!(tickets.iter().all(|(ticket, _)| *ticket != Ticket::NONE));
            let (mut delivered, mut confirmed) = (vec![false; sent.len()], None);
            for index in order {
                let at = index.index(sent.len());
                if std::mem::replace(&mut delivered[at], true) {
                    continue;
                }
                let before = confirmed;
                confirmed = ledger.delivered(Ticket::of(tickets[at].0.get()), "t").or(confirmed);
                let whole = delivered.iter().take_while(|delivered| **delivered).count();
                let expected = tickets[..whole].iter().rev().find_map(|(_, end)| *end);
                prop_assert_eq!(confirmed, expected);
                prop_assert!(confirmed >= before);
                let next_end = (whole..sent.len()).find(|at| sent[*at]);
                prop_assert_eq!(ledger.late().is_empty(), !next_end.is_some_and(|at| delivered[at]));
            }
        }
    }
}
