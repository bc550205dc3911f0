//! Rollouts of two replicas that share their state through a real Kafka: one decides, and whatever happens to it or to Kafka, nobody goes forward
//! alone, and anybody may go back.

use serde_json::{Value, json};

use super::http_rollout::{Crowd, Mood, ok, quick, route, text, until, yaml};
use crate::harness::{Banyan, Kafka, Upstream, eventually, secs};

struct Pair {
    kafka: Kafka,
    mood: Mood,
    /// One mood a replica: what is ill for one replica alone.
    other: Mood,
    legacy: Upstream,
    modern: [Upstream; 2],
    rollout: Value,
}

impl Pair {
    fn new(rollout: Value) -> Self {
        let (mood, other) = (Mood::default(), Mood::default());
        let modern = [mood.service(), other.service()];
        Self { kafka: Kafka::dedicated(), mood, other, legacy: Upstream::named("legacy"), modern, rollout }
    }

    fn file(&self, replica: usize) -> String {
        let shared = format!("kafka: {{brokers: \"{}\"}}\n", self.kafka.brokers());
        yaml(&self.legacy, &self.modern[replica], &self.rollout, &shared)
    }

    /// Both, of which the first one decides.
    async fn start(&self) -> [Banyan; 2] {
        let first = Banyan::with(&self.file(0)).shared().start().await;
        until(&first, "the first start", |route| why(route).contains("this is the first start, or it was lost")).await;
        assert!(first.log().contains("this replica decides"), "{}", first.log());
        let second = Banyan::with(&self.file(1)).shared().start().await;
        until(&second, "what the first one said", |route| route["weight_effective"] == 20.0).await;
        [first, second]
    }
}

fn why(route: &Value) -> &str {
    route["why"].as_str().unwrap_or_default()
}

async fn both(replicas: &[Banyan; 2], what: &str, is_so: impl Fn(&Value) -> bool) {
    for replica in replicas {
        until(replica, what, &is_so).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_walk_together_also_when_the_one_that_decides_is_killed_in_the_middle_of_a_step() {
    let pair = Pair::new(quick(&json!({"every": "6s"})));
    let mut replicas = pair.start().await;
    // Whoever is asked, it is done everywhere.
    ok(&replicas[1].verb(&["resume", "payments", "--reason", "first start"]));
    both(&replicas, "the walk", |route| route["rollout"]["phase"] == "walking").await;
    let crowds = [Crowd::come(replicas[0].http()), Crowd::come(replicas[1].http())];
    both(&replicas, "the second step", |route| route["weight_effective"] == 50.0).await;
    // Sums of both: each alone sees about half of it.
    let requests = |route: &Value| route["rollout"]["requests_modern"].as_u64().unwrap();
    until(&replicas[1], "shared counts", |route| requests(route) > 0).await;

    replicas[0].kill();
    drop(crowds);
    let crowd = Crowd::come(replicas[1].http());
    eventually(secs(40), "another one that decides", async || replicas[1].log().contains("this replica decides")).await;
    let done = until(&replicas[1], "the end", |route| route["rollout"]["phase"] == "done").await;
    assert_eq!(done["weight_effective"], 100.0);
    let history = ok(&replicas[1].verb(&["history", "payments"]));
    for step in ["20 % → 50 %", "50 % → 100 %"] {
        assert_eq!(history.matches(step).count(), 1, "once and not twice: {history}");
    }
    assert_eq!(crowd.bad(), 0);

    // The killed one learns what happened while it was away.
    replicas[0].start_again().await;
    until(&replicas[0], "what it missed", |route| route["rollout"]["phase"] == "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_nothing_moves_forward_what_was_known_stands_and_anybody_may_go_back() {
    let pair = Pair::new(quick(&json!({})));
    let mut replicas = pair.start().await;
    ok(&replicas[0].verb(&["resume", "payments"]));
    both(&replicas, "the walk", |route| route["rollout"]["phase"] == "walking").await;
    pair.kafka.kill();
    let crowds = [Crowd::come(replicas[0].http()), Crowd::come(replicas[1].http())];
    // Many times what a step needs.
    eventually(secs(30), "more than enough requests", async || pair.modern[0].seen().len() > 300).await;
    for replica in &replicas {
        let stands = route(replica).await;
        assert_eq!((&stands["rollout"]["phase"], &stands["weight_effective"]), (&json!("walking"), &json!(20.0)));
    }
    let refused = replicas[0].verb(&["pause", "payments"]);
    assert!(text(&refused).contains("no replica decides"), "{}", text(&refused));

    // One replica alone sees an ill service: it goes back alone, at once.
    pair.other.is_ill(true);
    until(&replicas[1], "the way back", |route| route["weight_effective"] == 0.0).await;
    let alone = route(&replicas[1]).await;
    assert!(why(&alone).contains("rolled back here"), "{alone}");
    assert_eq!(route(&replicas[0]).await["weight_effective"], 20.0);
    drop(crowds);

    // It forgets nothing of that when it is killed now.
    replicas[1].kill();
    replicas[1].start_again().await;
    assert_eq!(route(&replicas[1]).await["weight_effective"], 0.0);

    pair.kafka.start();
    both(&replicas, "what one demanded", |route| {
        route["rollout"]["phase"] == "rolled_back" && why(route).contains("by gate success_rate")
    })
    .await;
    pair.other.is_ill(false);
    pair.mood.is_ill(false);
    ok(&replicas[1].verb(&["resume", "payments", "--reason", "mended"]));
    both(&replicas, "another try", |route| route["weight_effective"] == 20.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_was_wiped_is_the_first_step_paused_and_says_so() {
    let pair = Pair::new(quick(&json!({"every": "1h"})));
    let mut replicas = pair.start().await;
    ok(&replicas[0].verb(&["resume", "payments"]));
    ok(&replicas[0].verb(&["rollback", "payments", "--reason", "a drill"]));
    both(&replicas, "the rollback", |route| route["weight_effective"] == 0.0 && why(route).contains("a drill")).await;
    for replica in &mut replicas {
        replica.kill();
        std::fs::remove_file(replica.folder().join("state/rollouts.json")).unwrap();
    }
    pair.kafka.delete_topic("banyan.state").await;
    for replica in &mut replicas {
        replica.start_again().await;
    }
    both(&replicas, "the first step, paused", |route| {
        route["rollout"]["phase"] == "paused"
            && route["weight_effective"] == 20.0
            && why(route).contains("nothing stands in banyan.state")
    })
    .await;
}
