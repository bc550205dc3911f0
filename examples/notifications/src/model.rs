//! The read model: a function of the events and of nothing else, whatever their topics' order among each other and however often one comes.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Value, json};

/// One record of an outbox's topic.
pub(crate) struct Event<'a> {
    /// The header `id`: the same when the event is sent again.
    pub(crate) id: &'a str,
    /// The header `eventType`.
    pub(crate) kind: &'a str,
    /// The record's time, milliseconds since 1970: when it was committed at its source.
    pub(crate) at: i64,
    /// The header `origin`.
    pub(crate) origin: &'a str,
    pub(crate) payload: &'a [u8],
}

/// What is known of all accounts.
#[derive(Default)]
pub(crate) struct Model {
    /// By account. Events of one account come in their order, so the last name is the right one.
    names: BTreeMap<i64, String>,
    /// By account, then by time and id: not in the order in which two topics happened to be read.
    notifications: BTreeMap<i64, BTreeMap<(i64, String), Notification>>,
    /// Whoever publishes at least once may publish twice.
    seen: HashSet<String>,
    pub(crate) doubled: u64,
    /// Of kinds that mean nothing here, or with a payload that is not understood.
    pub(crate) passed_over: u64,
}

struct Notification {
    what: String,
    origin: String,
}

#[derive(Deserialize)]
struct Payment {
    account_id: i64,
    amount: String,
    currency: String,
}

#[derive(Deserialize)]
struct Account {
    account_id: i64,
    name: String,
}

// === impl Model ===

impl Model {
    /// Takes an event in; one that was taken before changes nothing.
    pub(crate) fn take(&mut self, event: &Event<'_>) {
        if !self.seen.insert(event.id.to_owned()) {
            self.doubled += 1;
            return;
        }
        let understood = match event.kind {
            "PaymentMade" => serde_json::from_slice(event.payload).map(|payment: Payment| {
                let what = format!("paid {} {}", payment.amount, payment.currency);
                let key = (event.at, event.id.to_owned());
                let notification = Notification { what, origin: event.origin.to_owned() };
                self.notifications.entry(payment.account_id).or_default().insert(key, notification);
            }),
            "AccountOpened" | "SignedIn" => serde_json::from_slice(event.payload).map(|account: Account| {
                self.names.insert(account.account_id, account.name);
            }),
            _ => {
                self.passed_over += 1;
                return;
            }
        };
        if understood.is_err() {
            self.passed_over += 1;
        }
    }

    /// Distinct events so far.
    pub(crate) fn events(&self) -> usize {
        self.seen.len()
    }

    /// Of one account.
    pub(crate) fn of(&self, account: i64) -> Value {
        let name = self.names.get(&account).cloned().unwrap_or_else(|| format!("account {account}"));
        let one = |((at, id), notification): (&(i64, String), &Notification)| json!({ "at": at, "id": id, "text": format!("{name} {}", notification.what), "from": notification.origin });
        let list: Vec<Value> = self.notifications.get(&account).into_iter().flatten().map(one).collect();
        json!({ "account": account, "name": name, "notifications": list })
    }

    /// Of all, in the order of their numbers.
    pub(crate) fn document(&self) -> Value {
        let accounts: std::collections::BTreeSet<i64> =
            self.names.keys().chain(self.notifications.keys()).copied().collect();
        json!(accounts.into_iter().map(|account| self.of(account)).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(order: &[usize]) -> String {
        let events = [
            ("1", "SignedIn", 10, r#"{"account_id": 7, "name": "ann"}"#),
            ("2", "PaymentMade", 20, r#"{"account_id": 7, "amount": "12.50", "currency": "EUR"}"#),
            ("3", "PaymentMade", 5, r#"{"account_id": 7, "amount": "1.00", "currency": "EUR"}"#),
            ("4", "StockCounted", 1, "{}"),
            ("5", "PaymentMade", 1, "no JSON"),
        ];
        let mut model = Model::default();
        for (id, kind, at, payload) in order.iter().map(|at| events[*at]) {
            model.take(&Event { id, kind, at, origin: "legacy", payload: payload.as_bytes() });
        }
        model.document().to_string()
    }

    #[test]
    fn neither_the_order_of_topics_nor_an_event_that_comes_twice_changes_the_model() {
        let once = taken(&[0, 1, 2, 3, 4]);
        assert!(once.contains("ann paid 12.50 EUR") && once.find("1.00") < once.find("12.50"), "{once}");
        for order in [&[2, 1, 0, 3, 4][..], &[1, 0, 1, 4, 2, 0, 2, 3, 3]] {
            assert_eq!(taken(order), once);
        }
    }
}
