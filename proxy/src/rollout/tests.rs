//! Rollouts against scripted modern services, in simulated time: the right verdict each time.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    Act, Arm, Counts, Event, Gate, Phase, Standing, What,
    gates::Lag,
    walk::{Found, Here, Seen},
};
use crate::config::{Rollout, Weight};

/// How a side behaves, as shares between 0 and 1 and times.
#[derive(Clone, Copy)]
struct Service {
    fails: f64,
    /// Most answers take about this.
    usual: Duration,
    /// One in fifty takes so many times as long.
    tail: f64,
    /// Of its answers, so many differ from the other side's.
    differs: f64,
}

struct Test {
    spec: Rollout,
    ceiling: Weight,
    standing: Standing,
    now: u64,
    random: SmallRng,
    /// Requests of both sides in one interval.
    requests: u64,
    lag: Lag,
    events: Vec<Event>,
}

const HEALTHY: Service = Service { fails: 0.002, usual: Duration::from_millis(20), tail: 4.0, differs: 0.0 };
const INTERVAL: Duration = Duration::from_secs(10);
const HOUR: u64 = 360;

fn weight(percent: f64) -> Weight {
    Weight::try_new(percent).unwrap()
}

impl Service {
    fn arm(&self, requests: u64, random: &mut SmallRng) -> Arm {
        let mut arm = Arm::default();
        for _ in 0..requests {
            if random.random_bool(self.fails) {
                arm.failed += 1;
            } else {
                arm.ok += 1;
            }
            let spread = random.random_range(0.5..1.5) * if random.random_bool(0.02) { self.tail } else { 1.0 };
            arm.saw(self.usual.mul_f64(spread), 1);
        }
        arm
    }
}

impl Test {
    fn new(spec: &serde_json::Value) -> Self {
        let mut rollout = serde_json::json!({"steps": [5, 25, 50, 100], "every": "10m", "min_requests": 500});
        rollout.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: Rollout = serde_json::from_value(rollout).unwrap();
        let here = Here { route: "payments", spec: &spec, ceiling: Weight::FULL, now: 0 };
        let (standing, event) = here.begin(Found::New);
        let random = SmallRng::seed_from_u64(3);
        let (ceiling, events) = (Weight::FULL, vec![event]);
        Self { spec, ceiling, standing, now: 0, random, requests: 2000, lag: Lag::Unseen, events }
    }

    fn here(&self) -> Here<'_> {
        Here { route: "payments", spec: &self.spec, ceiling: self.ceiling, now: self.now }
    }

    fn effective(&self) -> f64 {
        self.here().effective(&self.standing).percent()
    }

    /// One interval.
    fn goes_on(&mut self, legacy: Service, modern: Service) -> Option<Event> {
        let share = self.effective() / 100.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of some requests")]
        let ours = (self.requests as f64 * share) as u64;
        let compared = self.requests - ours;
        let differ = (0..compared).filter(|_| self.random.random_bool(modern.differs)).count() as u64;
        let counts = Counts {
            legacy: legacy.arm(self.requests - ours, &mut self.random),
            modern: modern.arm(ours, &mut self.random),
            compared,
            differ,
        };
        self.look(&Seen { took: INTERVAL, counts, lag: self.lag, circuit_was_open: false })
    }

    fn look(&mut self, seen: &Seen) -> Option<Event> {
        self.now += 10;
        let here = Here { route: "payments", spec: &self.spec, ceiling: self.ceiling, now: self.now };
        let event = here.look(&mut self.standing, seen);
        self.events.extend(event.clone());
        event
    }

    /// Until something happens, for so many intervals at most.
    fn until(&mut self, legacy: Service, modern: Service, most: u64) -> Option<(u64, Event)> {
        (1..=most).find_map(|after| Some((after, self.goes_on(legacy, modern)?)))
    }

    fn act(&mut self, act: Act) -> Result<Event, String> {
        let here = Here { route: "payments", spec: &self.spec, ceiling: self.ceiling, now: self.now };
        here.act(&mut self.standing, act, "operate", "because", self.lag)
    }

    /// Walks with healthy sides until it stands at this step.
    fn walk_to(&mut self, percent: f64) {
        for _ in 0..20 * HOUR {
            if self.standing.step == weight(percent) {
                return;
            }
            self.goes_on(HEALTHY, HEALTHY);
        }
        panic!("it never came to {percent} %: {:?}", self.events);
    }

    fn waits_for(&self) -> String {
        self.here().waits_for(&self.standing, self.lag)
    }
}

#[test]
fn a_healthy_service_is_walked_to_its_end_and_never_faster_than_the_file_says() {
    let mut test = Test::new(&serde_json::json!({}));
    let mut at = Vec::new();
    while test.standing.phase != Phase::Done {
        if let Some(event) = test.goes_on(HEALTHY, HEALTHY) {
            at.push((test.now / 60, event.what, event.to.percent()));
        }
        assert!(test.now < 4 * 3600, "{:?}", test.events);
    }
    use What::{Advanced, Done};
    assert_eq!(at, [(10, Advanced, 25.0), (20, Advanced, 50.0), (30, Advanced, 100.0), (90, Done, 100.0)]);
    let seen = &test.events[1].why;
    assert!(seen.contains("would most likely have been seen"), "{seen}");
}

#[test]
fn a_healthy_but_noisy_pair_is_never_rolled_back() {
    let gates = serde_json::json!({"gates": {
        "success_rate": {"min": 97, "below_legacy": 0.2},
        "latency_p99": {"max": "900ms", "above_legacy": "50ms"},
        "mismatch_rate": {"max": 1},
    }, "every": "1000h"});
    for seed in 0..20 {
        let mut test = Test::new(&gates);
        test.random = SmallRng::seed_from_u64(seed);
        test.requests = 400;
        test.standing.step = weight([5.0, 25.0, 50.0][seed as usize % 3]);
        for _ in 0..HOUR {
            // Both have their bad minutes, together.
            let fails = if test.random.random_bool(0.05) { 0.05 } else { 0.01 };
            let usual = Duration::from_millis(test.random.random_range(15..60));
            let side = Service { fails, usual, tail: 8.0, differs: 0.009 };
            let event = test.goes_on(side, side);
            assert_eq!(event, None, "seed {seed}");
        }
    }
}

#[test]
fn a_dead_service_is_rolled_back_within_one_interval() {
    for step in [5.0, 50.0] {
        let mut test = Test::new(&serde_json::json!({}));
        test.walk_to(step);
        for _ in 0..50 {
            test.goes_on(HEALTHY, HEALTHY);
        }
        let (after, event) = test.until(HEALTHY, Service { fails: 1.0, ..HEALTHY }, 10).unwrap();
        assert_eq!((after, event.what, event.gate), (1, What::RolledBack, Some(Gate::SuccessRate)));
        assert_eq!((event.from.percent(), event.to.percent(), test.effective()), (step, 0.0, 0.0));
        assert!(event.why.contains("modern 0 % < legacy "), "{}", event.why);
    }
}

#[test]
fn a_flaky_service_is_rolled_back_before_it_takes_a_step() {
    let mut test = Test::new(&serde_json::json!({}));
    // 100 requests an interval, of which three fail.
    let (after, event) = test.until(HEALTHY, Service { fails: 0.03, ..HEALTHY }, HOUR).unwrap();
    assert_eq!(event.gate, Some(Gate::SuccessRate), "{event:?}");
    assert!(after < 60, "{after}");
}

#[test]
fn a_service_that_becomes_worse_by_and_by_is_found() {
    let mut test = Test::new(&serde_json::json!({"every": "1000h"}));
    let mut fails = 0.002;
    let event = (0..3 * HOUR).find_map(|_| {
        fails += 0.0001;
        test.goes_on(HEALTHY, Service { fails, ..HEALTHY })
    });
    assert_eq!(event.unwrap().gate, Some(Gate::SuccessRate));
    assert!(fails < 0.04, "{fails}");
}

#[test]
fn a_slow_service_is_rolled_back_by_what_legacy_needs_and_by_a_limit() {
    let slow = Service { usual: Duration::from_millis(200), ..HEALTHY };
    for gate in [serde_json::json!({"above_legacy": "100ms"}), serde_json::json!({"max": "300ms"})] {
        let mut test = Test::new(&serde_json::json!({"gates": {"latency_p99": gate}}));
        let (after, event) = test.until(HEALTHY, slow, 60).unwrap();
        assert_eq!((event.what, event.gate), (What::RolledBack, Some(Gate::LatencyP99)), "{event:?}");
        assert!(after <= 30, "{after}");
    }
}

#[test]
fn one_wrong_field_in_a_thousand_stops_the_walk_and_many_roll_it_back() {
    let gates = serde_json::json!({"gates": {"mismatch_rate": {"max": 0.05}}});
    let mut test = Test::new(&gates);
    let event = test.until(HEALTHY, Service { differs: 0.001, ..HEALTHY }, 6 * HOUR).map(|found| found.1);
    assert!(event.as_ref().is_none_or(|event| event.gate == Some(Gate::MismatchRate)), "{event:?}");
    assert_ne!(test.standing.step, weight(25.0));

    let mut test = Test::new(&gates);
    let (after, event) = test.until(HEALTHY, Service { differs: 0.05, ..HEALTHY }, 60).unwrap();
    assert_eq!((after, event.gate), (1, Some(Gate::MismatchRate)));
}

#[test]
fn what_legacy_suffers_too_is_not_modern_s_fault() {
    let gates =
        serde_json::json!({"success_rate": {"min": 99.5, "below_legacy": 0.2}, "latency_p99": {"max": "300ms"}});
    let mut test = Test::new(&serde_json::json!({"gates": gates}));
    test.walk_to(50.0);
    // A database that both need.
    let ill = Service { fails: 0.4, usual: Duration::from_secs(1), ..HEALTHY };
    assert_eq!(test.until(ill, ill, HOUR), None, "nor does it lead forward");
    assert_eq!(test.standing.step, weight(50.0));
    assert!(test.waits_for().contains("success"), "{}", test.waits_for());
}

#[test]
fn without_requests_it_never_goes_forward_and_says_what_it_waits_for() {
    let mut test = Test::new(&serde_json::json!({"gates": {"mismatch_rate": {"max": 0.1}}}));
    test.requests = 0;
    assert_eq!(test.until(HEALTHY, HEALTHY, 24 * HOUR), None);
    let waits = test.waits_for();
    assert!(waits.starts_with("to 25 %: ≥ 500 requests, now 0"), "{waits}");
    assert!(waits.contains("≥ 500 comparisons, now 0") && waits.contains("nothing compared yet"), "{waits}");
}

#[test]
fn a_lag_that_is_unknown_holds_and_one_above_the_limit_rolls_back() {
    let gates = serde_json::json!({"gates": {"sync_lag": {"max": "5s"}}});
    let mut test = Test::new(&gates);
    test.lag = Lag::Unknown;
    assert_eq!(test.until(HEALTHY, HEALTHY, HOUR), None);
    assert!(test.waits_for().contains("now unknown"), "{}", test.waits_for());
    test.lag = Lag::Known { least: Duration::from_secs(1), last: Duration::from_secs(60) };
    assert_eq!(test.goes_on(HEALTHY, HEALTHY), None, "it was well for a moment");
    let long = Duration::from_secs(60);
    test.lag = Lag::Known { least: long, last: long };
    let event = test.goes_on(HEALTHY, HEALTHY).unwrap();
    assert_eq!((event.what, event.gate), (What::RolledBack, Some(Gate::SyncLag)));
}

#[test]
fn an_open_circuit_is_a_failure() {
    let mut test = Test::new(&serde_json::json!({}));
    let event = test.look(&Seen { took: INTERVAL, circuit_was_open: true, ..Seen::default() }).unwrap();
    assert_eq!((event.what, event.gate), (What::RolledBack, Some(Gate::Circuit)));
}

#[test]
fn the_file_s_weight_is_the_ceiling_and_raising_it_skips_no_gate() {
    let mut test = Test::new(&serde_json::json!({}));
    test.ceiling = weight(30.0);
    test.walk_to(25.0);
    assert_eq!(test.until(HEALTHY, HEALTHY, HOUR), None);
    assert_eq!((test.effective(), test.waits_for().as_str()), (25.0, "to 50 %: raise the file's weight of 30 %"));
    test.ceiling = weight(10.0);
    assert_eq!(test.effective(), 10.0, "at once");
    assert_eq!(test.goes_on(HEALTHY, HEALTHY), None);
    test.ceiling = Weight::FULL;
    assert_eq!(test.effective(), 25.0);
    let (after, event) = test.until(HEALTHY, HEALTHY, HOUR).unwrap();
    assert_eq!((after, event.to.percent()), (60, 50.0), "more users: what fewer saw does not count");
}

#[test]
fn a_step_to_be_confirmed_waits_and_a_promotion_skips_no_gate() {
    let mut test = Test::new(&serde_json::json!({"confirm": [25]}));
    let refused = test.act(Act::Promote).unwrap_err();
    assert!(refused.contains("≥ 500 requests, now 0"), "{refused}");
    let (_, event) = test.until(HEALTHY, HEALTHY, HOUR).unwrap();
    assert_eq!((event.what, event.to.percent()), (What::Waits, 5.0));
    assert_eq!(test.until(HEALTHY, HEALTHY, HOUR), None, "it is told once");
    assert!(test.waits_for().contains("banyan promote payments"));
    let event = test.act(Act::Promote).unwrap();
    assert_eq!((event.what, event.to.percent(), event.by.as_str()), (What::Advanced, 25.0, "operate"));
}

#[test]
fn a_promotion_needs_no_time() {
    let mut test = Test::new(&serde_json::json!({}));
    for _ in 0..10 {
        assert_eq!(test.goes_on(HEALTHY, HEALTHY), None);
    }
    let event = test.act(Act::Promote).unwrap();
    assert_eq!(event.to.percent(), 25.0);
    assert!(event.why.starts_with("because; failures of "), "{}", event.why);
    test.ceiling = weight(25.0);
    assert!(test.act(Act::Promote).unwrap_err().contains("raise it first"));
}

#[test]
fn rolled_back_it_stays_until_it_is_resumed_or_the_file_has_another_generation() {
    let mut test = Test::new(&serde_json::json!({}));
    test.walk_to(50.0);
    assert_eq!(test.act(Act::Rollback).unwrap().to.percent(), 0.0);
    assert_eq!(test.until(HEALTHY, HEALTHY, HOUR), None);
    assert_eq!((test.effective(), test.standing.phase), (0.0, Phase::RolledBack));
    assert!(test.act(Act::Pause).is_err() && test.act(Act::Promote).is_err() && test.act(Act::Rollback).is_err());
    assert_eq!(test.act(Act::Resume).unwrap().to.percent(), 5.0, "from the first step");

    test.walk_to(25.0);
    test.act(Act::Rollback).unwrap();
    let mut spec = test.spec.clone();
    let follow = |spec: &Rollout, standing: &mut Standing| {
        Here { route: "payments", spec, ceiling: Weight::FULL, now: 0 }.follow(standing)
    };
    assert_eq!(follow(&spec, &mut test.standing), None, "the same file changes nothing");
    spec.generation = 2;
    let event = follow(&spec, &mut test.standing).unwrap();
    assert_eq!((event.what, event.to.percent(), event.by.as_str()), (What::Resumed, 5.0, "file"));
}

#[test]
fn paused_it_stays_and_is_rolled_back_all_the_same() {
    let mut test = Test::new(&serde_json::json!({}));
    test.act(Act::Pause).unwrap();
    assert_eq!(test.until(HEALTHY, HEALTHY, HOUR), None);
    assert_eq!(test.effective(), 5.0);
    let event = test.goes_on(HEALTHY, Service { fails: 1.0, ..HEALTHY }).unwrap();
    assert_eq!(event.what, What::RolledBack);
}

#[test]
fn on_fail_pause_leaves_users_where_they_are_and_says_so_once() {
    let mut test = Test::new(&serde_json::json!({"on_fail": "pause"}));
    test.walk_to(25.0);
    let dead = Service { fails: 1.0, ..HEALTHY };
    let event = test.goes_on(HEALTHY, dead).unwrap();
    assert_eq!((event.what, event.gate, test.effective()), (What::Paused, Some(Gate::SuccessRate), 25.0));
    assert_eq!(test.until(HEALTHY, dead, 10), None);
    test.act(Act::Resume).unwrap();
    assert_eq!(test.goes_on(HEALTHY, HEALTHY), None, "what failed then does not count now");
}

#[test]
fn at_100_percent_it_is_held_against_what_legacy_did_last() {
    let mut test = Test::new(&serde_json::json!({}));
    test.walk_to(100.0);
    // Some requests of the step before are answered in this one.
    let late = Counts { legacy: Arm::of(2, 0, HEALTHY.usual), ..Counts::default() };
    assert_eq!(test.look(&Seen { took: INTERVAL, counts: late, ..Seen::default() }), None);
    assert!(!test.waits_for().contains("on legacy"), "{}", test.waits_for());
    assert_eq!(test.goes_on(HEALTHY, HEALTHY), None);
    let event = test.goes_on(HEALTHY, Service { fails: 0.1, ..HEALTHY }).unwrap();
    assert_eq!((event.what, event.gate), (What::RolledBack, Some(Gate::SuccessRate)));
    assert!(event.legacy.unwrap() > 0.99);
}

#[test]
fn a_holdback_keeps_some_on_legacy_until_it_is_done() {
    let mut test = Test::new(&serde_json::json!({"holdback": 1, "min_requests": 100, "bake": "20m"}));
    test.walk_to(100.0);
    assert_eq!(test.effective(), 99.0);
    let (_, event) = test.until(HEALTHY, HEALTHY, HOUR).unwrap();
    assert_eq!((event.what, event.to.percent()), (What::Done, 100.0));
}

#[test]
fn steps_that_change_lead_never_forward() {
    let mut test = Test::new(&serde_json::json!({}));
    test.walk_to(50.0);
    let mut spec = test.spec.clone();
    spec.steps = vec![weight(10.0), weight(40.0), weight(80.0)];
    let here = Here { route: "payments", spec: &spec, ceiling: Weight::FULL, now: 0 };
    assert_eq!(here.follow(&mut test.standing), None);
    assert_eq!(here.effective(&test.standing), weight(40.0));

    // Where all of them are above it, it stays until the gates let it go to the first.
    let mut test = Test::new(&serde_json::json!({}));
    test.goes_on(HEALTHY, HEALTHY);
    test.spec.steps = vec![weight(20.0), weight(80.0)];
    let here = Here { route: "payments", spec: &test.spec, ceiling: Weight::FULL, now: 0 };
    assert_eq!(here.follow(&mut test.standing), None);
    assert_eq!((here.effective(&test.standing), test.standing.counts.modern.all()), (weight(5.0), 100));
    test.walk_to(20.0);
    assert_eq!(test.now / 60, 10);
}

#[test]
fn a_promotion_right_behind_a_weight_that_was_raised_rests_on_what_more_users_saw() {
    let mut test = Test::new(&serde_json::json!({}));
    test.walk_to(25.0);
    test.ceiling = weight(5.0);
    for _ in 0..30 {
        test.goes_on(HEALTHY, HEALTHY);
    }
    test.ceiling = Weight::FULL;
    let refused = test.act(Act::Promote).unwrap_err();
    assert!(refused.contains("≥ 500 requests, now 0"), "{refused}");
}

#[test]
fn where_nobody_came_to_legacy_it_is_held_against_what_legacy_did_before() {
    let mut test = Test::new(&serde_json::json!({"holdback": 1, "bake": "24h", "min_requests": 20}));
    test.walk_to(100.0);
    // Ten requests an interval: of the one percent held back nobody comes for minutes.
    let of = |legacy: u64, ok: u64, failed: u64| Counts {
        legacy: Arm { ok: legacy, ..Arm::default() },
        modern: Arm { ok, failed, ..Arm::default() },
        ..Counts::default()
    };
    for interval in 0..300 {
        let counts = of(u64::from(interval % 10 == 0), 10, 0);
        assert_eq!(test.look(&Seen { took: INTERVAL, counts, ..Seen::default() }), None);
    }
    let dead = Seen { took: INTERVAL, counts: of(0, 0, 10), ..Seen::default() };
    let after = (1..=60).find(|_| test.look(&dead).is_some());
    assert!(after.is_some_and(|after| after <= 6), "{after:?}");
}

#[test]
fn lost_state_is_the_first_step_paused_and_says_so() {
    let test = Test::new(&serde_json::json!({}));
    let (standing, event) = test.here().begin(Found::Unknown("there is no `rollouts.json`"));
    assert_eq!((standing.phase, test.here().effective(&standing)), (Phase::Paused, weight(5.0)));
    assert_eq!(event.what, What::Paused);
    assert!(standing.why.contains("there is no `rollouts.json`") && standing.why.contains("banyan resume payments"));
}
