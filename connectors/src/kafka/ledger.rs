//! Which ends of the source may be confirmed: those before which everything stands in Kafka.
//!
//! A flow's own records stand in one partition, whose reports come in order, so a delivered end answers for all rows before it. Events, and rows
//! with `order: key`, stand in partitions of their own, and may be late or never come: an end counts only when all of them before it were
//! delivered, too.

use std::collections::{BTreeMap, VecDeque};

use crate::position::Lsn;

/// So many sections are kept apart. Where an event holds back more, the last ones become one, and are confirmed together.
const MOST: usize = 4096;

/// What was sent, in sections that each close with an end.
#[derive(Debug)]
pub(super) struct Ledger {
    /// By their numbers; the last one is open.
    sections: VecDeque<Section>,
    most: usize,
    /// By topic, how many events and rows were sent and not yet delivered.
    under_way: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Section {
    /// The number that its records carry; of one that was several, the highest.
    number: usize,
    /// Events and rows that were sent and not yet delivered.
    events: u64,
    /// The same of ends.
    ends: u64,
    /// The last one that was sent.
    end: Option<Lsn>,
}

/// What a record's report says about it, in the one word that librdkafka carries along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// What a ticket's record is.
const END: usize = 1;
const EVENT: usize = 2;
const ROW: usize = 3;

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

    fn new(number: usize, what: usize) -> Self {
        Self(number << 2 | what)
    }

    fn is_end(self) -> bool {
        self.0 & 3 == END
    }

    /// Its record is an event.
    pub(super) fn is_event(self) -> bool {
        self.0 & 3 == EVENT
    }
}

// === impl Ledger ===

impl Default for Ledger {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Ledger {
    fn new(most: usize) -> Self {
        // From one on, so that no ticket is none.
        Self { sections: VecDeque::from([Section::open(1)]), most, under_way: BTreeMap::new() }
    }

    /// An event is sent to `topic`.
    pub(super) fn event(&mut self, topic: &str) -> Ticket {
        self.beside(topic, EVENT)
    }

    /// A row is sent to a topic of its table.
    pub(super) fn row(&mut self, topic: &str) -> Ticket {
        self.beside(topic, ROW)
    }

    fn beside(&mut self, topic: &str, what: usize) -> Ticket {
        match self.under_way.get_mut(topic) {
            Some(count) => *count += 1,
            None => drop(self.under_way.insert(topic.to_owned(), 1)),
        }
        let open = self.open();
        open.events += 1;
        Ticket::new(open.number, what)
    }

    /// An end is sent: it closes the section.
    pub(super) fn end(&mut self, end: Lsn) -> Ticket {
        let open = self.open();
        (open.ends, open.end) = (1, Some(end));
        let number = open.number;
        self.sections.push_back(Section::open(number + 1));
        if self.sections.len() > self.most {
            self.join_last();
        }
        Ticket::new(number, END)
    }

    /// Makes one section of the last two that are closed.
    fn join_last(&mut self) {
        let Some(at) = self.sections.len().checked_sub(3) else { return };
        let Some(first) = self.sections.remove(at) else { return };
        let joined = &mut self.sections[at];
        joined.events += first.events;
        joined.ends += first.ends;
    }

    /// The topics whose events hold back an end that stands in Kafka itself.
    pub(super) fn late(&self) -> Vec<&str> {
        if !self.sections.front().is_some_and(Section::stands) {
            return Vec::new();
        }
        self.missing()
    }

    /// The topics whose events were not all delivered.
    pub(super) fn missing(&self) -> Vec<&str> {
        self.under_way.iter().filter(|(_, count)| **count > 0).map(|(topic, _)| topic.as_str()).collect()
    }

    /// A record was delivered to `topic`. Gives the end that may be confirmed from now on, when it is a new one.
    pub(super) fn delivered(&mut self, ticket: Ticket, topic: &str) -> Option<Lsn> {
        let number = ticket.0 >> 2;
        let at = self.sections.partition_point(|section| section.number < number);
        let section = self.sections.get_mut(at)?;
        if ticket.is_end() {
            section.ends -= 1;
        } else {
            section.events -= 1;
            if let Some(count) = self.under_way.get_mut(topic) {
                *count -= 1;
            }
        }
        let mut confirmed = None;
        while let Some(section) = self.sections.front().filter(|section| section.stands() && section.events == 0) {
            confirmed = section.end;
            self.sections.pop_front();
        }
        confirmed
    }

    /// There is one, always.
    fn open(&mut self) -> &mut Section {
        if self.sections.is_empty() {
            self.sections.push_back(Section::open(1));
        }
        let last = self.sections.len() - 1;
        &mut self.sections[last]
    }
}

// === impl Section ===

impl Section {
    fn open(number: usize) -> Self {
        Self { number, events: 0, ends: 0, end: None }
    }

    /// It is closed, and its ends were delivered.
    fn stands(&self) -> bool {
        self.end.is_some() && self.ends == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order of the reports, and whichever never come: what is confirmed is the last end before which all was delivered, or, where
        /// sections were joined, an earlier one; and the last of all when all was.
        #[test]
        fn an_end_is_confirmed_when_all_before_it_was_delivered_and_not_earlier(
            sent in proptest::collection::vec(any::<bool>(), 1..40),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
            most in prop_oneof![Just(3_usize), Just(100)],
        ) {
            let mut ledger = Ledger::new(most);
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
            prop_assert!(ledger.sections.len() <= most);
            let (mut delivered, mut confirmed) = (vec![false; sent.len()], None);
            let in_any_order = order.iter().map(|index| index.index(sent.len())).chain(0..sent.len());
            for at in in_any_order.collect::<Vec<_>>() {
                if std::mem::replace(&mut delivered[at], true) {
                    continue;
                }
                let before = confirmed;
                confirmed = ledger.delivered(Ticket::of(tickets[at].0.get()), "t").or(confirmed);
                let whole = delivered.iter().take_while(|delivered| **delivered).count();
                let expected = tickets[..whole].iter().rev().find_map(|(_, end)| *end);
                prop_assert!(confirmed <= expected && confirmed >= before);
                if most > sent.len() {
                    prop_assert_eq!(confirmed, expected);
                    let next_end = (whole..sent.len()).find(|at| sent[*at]);
                    prop_assert_eq!(ledger.late().is_empty(), !next_end.is_some_and(|at| delivered[at]));
                }
            }
            prop_assert_eq!(confirmed, tickets.iter().rev().find_map(|(_, end)| *end));
            prop_assert!(ledger.missing().is_empty());
        }
    }
}
