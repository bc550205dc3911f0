//! Replicas over a log in memory: what each of them makes of records that come late, twice, in another order, or from one that was away.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::{Act, Counts, Phase, Replicas, Rollouts, walk::Seen};
use crate::{
    config::{Config, Weight},
    table::RouteTable,
    tests::Setup,
};

/// What one replica has appended, and what it is.
#[derive(Default)]
struct Wire {
    out: Mutex<Vec<(String, Option<Vec<u8>>)>>,
    decides: AtomicBool,
}

impl Replicas for Wire {
    fn append(&self, key: String, value: Option<Vec<u8>>) {
        self.out.lock().unwrap().push((key, value));
    }

    fn decides(&self) -> bool {
        self.decides.load(Ordering::SeqCst)
    }

    fn name(&self) -> &str {
        "banyan.state"
    }
}

type Record = (String, Option<Vec<u8>>);

struct Replica {
    rollouts: Rollouts,
    wire: Arc<Wire>,
    config: Config,
    registry: prometheus::Registry,
}

fn config(dir: &std::path::Path, rollout: &Value) -> Config {
    let mut setup =
        Setup::new(([127, 0, 0, 1], 9).into()).upstream("modern", ([127, 0, 0, 1], 9).into(), &json!({})).route(
            json!({"name": "payments", "match": {"path_prefix": "/payments"}, "legacy": "legacy", "modern": "modern",
            "weight": 100, "sticky": [{"header": "x-user-id"}], "rollout": rollout}),
        );
    setup.config.state.dir = dir.to_owned();
    setup.config
}

impl Replica {
    fn start(dir: &std::path::Path) -> Self {
        Self::start_with(dir, &json!({"steps": [20, 50, 100]}))
    }

    fn start_with(dir: &std::path::Path, rollout: &Value) -> Self {
        let config = config(dir, rollout);
        let (wire, registry) = (Arc::new(Wire::default()), prometheus::Registry::new());
        let replicas: Arc<dyn Replicas> = Arc::<Wire>::clone(&wire);
        let rollouts = Rollouts::open(&config, Some(replicas), &registry, false).unwrap();
        let replica = Self { rollouts, wire, config, registry };
        replica.reload();
        replica
    }

    fn reload(&self) {
        let (mut table, _) = RouteTable::compile(&self.config, &crate::tests::Links::default()).unwrap();
        self.rollouts.attach(&mut table);
        self.rollouts.follow(&self.config, &table);
    }

    fn hear(&self, log: &[Record]) {
        for (key, value) in log {
            self.rollouts.inner.heard(key, value.as_deref());
        }
    }

    fn is_elected(&self) {
        self.rollouts.inner.is_current();
        self.wire.decides.store(true, Ordering::SeqCst);
    }

    /// One look of the one that decides; gives what it has appended.
    fn decide(&self, due: &[(String, Seen)]) -> Vec<Record> {
        let inner = &self.rollouts.inner;
        inner.walks().decide(&*self.wire, due, &inner.metrics);
        self.appended()
    }

    fn appended(&self) -> Vec<Record> {
        std::mem::take(&mut self.wire.out.lock().unwrap())
    }

    /// It decides, and hears what it said, until it has no more to say.
    fn settle(&self, log: &mut Vec<Record>) {
        loop {
            let more = self.decide(&[]);
            if more.is_empty() {
                return;
            }
            self.hear(&more);
            log.extend(more);
        }
    }

    fn demand(&self, act: Act, why: &str) -> Record {
        let demand = self.rollouts.inner.walks().demand("payments", act, "ann", why).unwrap();
        (format!("demand/{}", demand.id), serde_json::to_vec(&demand).ok())
    }

    fn phase(&self) -> Phase {
        self.rollouts.status("payments").unwrap().phase
    }

    fn weight(&self) -> Weight {
        self.rollouts.inner.walks().routes["payments"].cap.weight()
    }

    fn rollbacks(&self) -> f64 {
        let families = self.registry.gather();
        let counted = families.iter().filter(|family| family.name() == crate::metrics::ROLLOUT_ROLLBACKS);
        counted
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }
}

fn weight(percent: f64) -> Weight {
    Weight::try_new(percent).unwrap()
}

/// A replica that decides, with a rollout that walks, and the log of that.
fn walking(dir: &std::path::Path) -> (Replica, Vec<Record>) {
    let (replica, mut log) = (Replica::start(dir), Vec::new());
    replica.is_elected();
    replica.settle(&mut log);
    assert_eq!((replica.phase(), replica.weight()), (Phase::Paused, weight(20.0)));
    replica.hear(&[replica.demand(Act::Resume, "first start")]);
    replica.settle(&mut log);
    assert_eq!(replica.phase(), Phase::Walking);
    (replica, log)
}

#[test]
fn a_reload_before_anybody_decides_does_not_begin_a_rollout_whose_state_may_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (replica, mut log) = (Replica::start(dir.path()), Vec::new());
    replica.reload();
    replica.is_elected();
    replica.settle(&mut log);
    assert_eq!(replica.phase(), Phase::Paused);
}

#[test]
fn acts_are_done_in_the_order_in_which_they_were_asked_for() {
    for turn in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let (replica, mut log) = walking(dir.path());
        replica.hear(&[replica.demand(Act::Rollback, "ill")]);
        replica.settle(&mut log);
        // Two people at once: one resumes it, another one takes it back again.
        let resumes = replica.demand(Act::Resume, "mended");
        let mut again = replica.rollouts.inner.walks();
        again.routes.get_mut("payments").unwrap().standing.phase = Phase::Walking;
        let back = again.demand("payments", Act::Rollback, "bob", "it is not").unwrap();
        again.routes.get_mut("payments").unwrap().standing.phase = Phase::RolledBack;
        drop(again);
        replica.hear(&[resumes, (format!("demand/{}", back.id), serde_json::to_vec(&back).ok())]);
        replica.settle(&mut log);
        assert_eq!((replica.phase(), replica.weight()), (Phase::RolledBack, Weight::ZERO), "turn {turn}");
    }
}

#[test]
fn what_one_that_was_paused_says_too_late_does_not_stay_the_newest_in_the_log() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (replica, mut log) = walking(dir.path());
    // Another one believes to decide, is stopped in the middle of it, and says so later.
    let stale = Replica::start(other.path());
    stale.hear(&log);
    stale.is_elected();
    stale.hear(&[stale.demand(Act::Pause, "just a moment")]);
    let late = stale.decide(&[]);
    assert!(late.iter().any(|(key, _)| key == "rollout/payments"));

    replica.hear(&[replica.demand(Act::Rollback, "ill")]);
    replica.settle(&mut log);
    replica.hear(&late);
    log.extend(late);
    replica.settle(&mut log);
    assert_eq!((replica.phase(), replica.weight()), (Phase::RolledBack, Weight::ZERO));

    // What is left of the log when Kafka has compacted it.
    let newest = log.iter().rfind(|(key, _)| key == "rollout/payments").unwrap().clone();
    let fresh = tempfile::tempdir().unwrap();
    let joins = Replica::start(fresh.path());
    joins.hear(&[newest]);
    assert_eq!((joins.phase(), joins.weight()), (Phase::RolledBack, Weight::ZERO));
}

#[test]
fn a_log_that_was_wiped_brings_nobody_back_to_modern() {
    let dir = tempfile::tempdir().unwrap();
    let (replica, mut log) = walking(dir.path());
    replica.hear(&[replica.demand(Act::Rollback, "ill")]);
    replica.settle(&mut log);
    let (standings, demands) = replica.rollouts.inner.walks().kept();
    replica.rollouts.inner.store.save(&standings, &demands).unwrap();
    drop(replica);

    let (again, mut log) = (Replica::start(dir.path()), Vec::new());
    again.is_elected();
    again.settle(&mut log);
    assert_eq!((again.phase(), again.weight()), (Phase::RolledBack, Weight::ZERO));
    assert!(log.iter().any(|(key, _)| key == "rollout/payments"), "the others hear of it");
}

#[test]
fn a_route_that_is_taken_out_of_the_file_and_put_in_again_stands_where_the_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let (mut replica, mut log) = walking(dir.path());
    replica.hear(&[replica.demand(Act::Pause, "over lunch")]);
    replica.settle(&mut log);
    let routes = std::mem::take(&mut replica.config.routes);
    replica.reload();
    replica.config.routes = routes;
    replica.reload();
    replica.settle(&mut log);
    assert_eq!((replica.phase(), replica.weight()), (Phase::Paused, weight(20.0)));
}

#[test]
fn a_new_replica_does_not_tell_again_what_happened_before_it_came() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (replica, mut log) = walking(dir.path());
    replica.hear(&[replica.demand(Act::Rollback, "ill")]);
    replica.settle(&mut log);
    assert!((replica.rollbacks() - 1.0).abs() < f64::EPSILON);
    let joins = Replica::start(other.path());
    joins.hear(&log[log.len() - 2..]);
    assert_eq!((joins.phase(), joins.rollbacks().to_bits()), (Phase::RolledBack, 0.0_f64.to_bits()));
    assert_eq!(joins.rollouts.history("payments").unwrap().len(), 3);
    // What happens from now on is told.
    joins.rollouts.inner.is_current();
    replica.hear(&[replica.demand(Act::Resume, "mended")]);
    replica.settle(&mut log);
    replica.hear(&[replica.demand(Act::Rollback, "ill again")]);
    replica.settle(&mut log);
    joins.hear(&log);
    assert!((joins.rollbacks() - 1.0).abs() < f64::EPSILON, "{}", joins.rollbacks());
}

#[test]
fn the_circuit_of_a_replica_that_is_gone_rolls_nobody_back() {
    let dir = tempfile::tempdir().unwrap();
    let (replica, mut log) = walking(dir.path());
    let sights = json!({"payments": {"counts": Counts::default(), "circuit_was_open": true}}).to_string();
    let gone: Record = ("seen/0123".to_owned(), Some(sights.into_bytes()));
    // It stands in the log from days ago.
    replica.hear(std::slice::from_ref(&gone));
    let seen = Seen { took: std::time::Duration::from_secs(10), ..Seen::default() };
    let due = [("payments".to_owned(), seen)];
    let said = replica.decide(&due);
    replica.hear(&said);
    log.extend(said);
    assert_eq!(replica.phase(), Phase::Walking);
    // One that says it now is heard.
    replica.hear(&[gone]);
    let said = replica.decide(&due);
    replica.hear(&said);
    assert_eq!(replica.phase(), Phase::RolledBack);
}

#[test]
fn a_demand_that_may_be_done_already_is_not_made_again_before_the_log_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let (replica, mut log) = walking(dir.path());
    drop(replica.demand(Act::Rollback, "ill"));
    let (standings, demands) = replica.rollouts.inner.walks().kept();
    replica.rollouts.inner.store.save(&standings, &demands).unwrap();
    drop(replica);
    let again = Replica::start(dir.path());
    let says = |replica: &Replica| {
        replica.rollouts.inner.walks().publish(&*replica.wire);
        replica.appended().iter().any(|(key, _)| key.starts_with("demand/"))
    };
    assert!(!says(&again));
    assert_eq!(again.weight(), Weight::ZERO);
    again.hear(&log);
    again.rollouts.inner.is_current();
    assert!(says(&again));
    log.clear();
}
