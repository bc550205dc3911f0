//! What is said of a change, each rule by its name.

use std::fmt::Write as _;

use super::*;
use crate::config::{self, Against};

/// A file with these routes and, at its end, these lines.
fn file(routes: &[&str], more: &str) -> String {
    let mut text = "version: 1\nlisteners: [{bind: \"127.0.0.1:8080\"}]\nupstreams:\n  monolith: {endpoints: [\"http://127.0.0.1:7001\"]}\n  \
                    payments: {endpoints: [\"http://127.0.0.1:7002\"], timeout: 30s}\ndefault: monolith\nstate: {dir: s}\nroutes:\n"
        .to_owned();
    for route in routes {
        let _ = writeln!(text, "  - {{{route}}}");
    }
    text + more
}

fn loaded(text: &str) -> Loaded {
    let env = |name: &str| Some(format!("hunter-{name}"));
    match config::check("routes.yaml", text.as_bytes(), &env, &Against::default()) {
        Ok(accepted) => accepted.loaded,
        Err(report) => panic!("{}", report.render(false)),
    }
}

fn plan(old: &str, new: &str) -> Plan {
    Plan::new(&loaded(old), &loaded(new))
}

/// What is said when one route takes the place of another.
fn told(old: &str, new: &str) -> Vec<String> {
    let plan = plan(&file(&[old], ""), &file(&[new], ""));
    plan.changes.iter().map(|change| format!("{} | {}", change.what, change.meaning().unwrap_or_default())).collect()
}

fn route(rest: &str) -> String {
    format!("name: payments, match: {{path_prefix: /payments}}, legacy: monolith, modern: payments{rest}")
}

#[test]
fn a_raised_weight_moves_users_to_modern_and_nobody_back() {
    let told = |old: &str, new: &str| told(&route(&format!(", weight: {old}")), &route(&format!(", weight: {new}")));
    assert_eq!(told("5", "25"), ["weight 5 % → 25 % | about 1 in 5 users move to modern; nobody moves back"]);
    assert_eq!(told("25", "5"), ["weight 25 % → 5 % | about 1 in 5 users move back to legacy"]);
    assert_eq!(told("0", "100"), ["weight 0 % → 100 % | everybody moves to modern"]);
    assert_eq!(told("100", "0"), ["weight 100 % → 0 % | everybody moves back to legacy"]);
    assert_eq!(told("5", "5.0"), [""; 0]);
}

#[test]
fn a_rollout_begins_at_its_first_step_whatever_the_weight_was() {
    let with = |weight: &str, generation: u32| {
        route(&format!(", weight: {weight}, rollout: {{steps: [5, 50], generation: {generation}}}"))
    };
    let begins = told(&route(", weight: 50"), &with("50", 1));
    assert_eq!(
        begins,
        [
            "rollout begins: weight 50 % → 5 %, its first step | 5 % of users stay on modern, the others move back to legacy"
        ]
    );
    let begins = told(&route(", weight: 0"), &with("50", 1));
    assert_eq!(
        begins,
        ["rollout begins: weight 0 % → 5 %, its first step | 5 % of users on modern; nobody moves back"]
    );
    let raised = told(&with("50", 1), &with("100", 1));
    assert_eq!(
        raised,
        ["weight 50 % → 100 %, the ceiling of its rollout | nobody moves now: the rollout skips no gate"]
    );
    let again = told(&with("50", 1), &with("50", 2));
    assert_eq!(again, ["rollout.generation 1 → 2 | begins anew: users above its first step move back to legacy"]);
}

#[test]
fn another_group_or_sticky_list_draws_the_users_anew() {
    let expected = "users are drawn anew | about 1 in 4 users move to modern; about 1 in 4 users move back to legacy";
    let old = route(", weight: 50");
    assert_eq!(told(&old, &route(", weight: 50, group: g")), [expected, "group `payments` → `g` | "]);
    assert_eq!(told(&old, &route(", weight: 50, sticky: [{header: x-user-id}]")), [expected, "sticky now set | "]);
    assert_eq!(told(&route(""), &route(", group: g")), ["group `payments` → `g` | "]);
}

#[test]
fn forms_that_mean_the_same_change_nothing() {
    let old = "name: r, match: {path: /r}, legacy: monolith, modern: payments, timeout: 60s, weight: null";
    let new = "name: r, weight: 0, timeout: 1m, match: [{path: /r}], legacy: {upstream: monolith}, modern: {upstream: payments}";
    // `weight: 0` is the default.
    assert_eq!(told(old, new), [""; 0]);
}

#[test]
fn a_side_that_comes_or_goes_says_who_answers() {
    let none = "name: payments, match: {path_prefix: /payments}, legacy: monolith";
    assert_eq!(told(none, &route("")), ["modern now `payments` | the move can begin"]);
    let retired = "name: payments, match: {path_prefix: /payments}, modern: payments";
    let expected = [
        "weight 90 % → 100 % | about 1 in 10 users move to modern; nobody moves back",
        "legacy `monolith` left out | retired: modern answers everything",
    ];
    assert_eq!(told(&route(", weight: 90"), retired), expected);
}

#[test]
fn keys_that_nobody_wrote_words_for_are_told_by_their_names() {
    assert_eq!(told(&route(""), &route(", timeout: 3s, expose: true")), ["timeout now 3s | ", "expose now true | "]);
    assert_eq!(told(&route(", timeout: 10s"), &route(", timeout: 30s")), ["timeout 10s → 30s | "]);
    assert_eq!(told(&route(", fallback: none"), &route("")), ["fallback none left out | "]);
    let match_changed = told(&route(""), &route("").replace("{path_prefix", "{methods: [GET], path_prefix"));
    assert_eq!(match_changed, ["match changed | "]);
}

#[test]
fn new_routes_and_gone_ones_say_what_becomes_of_their_requests() {
    let orders =
        "name: orders, match: {path_prefix: /orders}, legacy: monolith, modern: payments, shadow: {percent: 10}";
    let (few, more) = (file(&[&route(", weight: 50")], ""), file(&[&route(", weight: 50"), orders], ""));
    assert_eq!(
        plan(&few, &more).render(),
        "orders   new route /orders   legacy answers; shadows 10 % of reads to `payments`\n1 route unchanged\n"
    );
    let none = file(&[orders], "");
    assert_eq!(
        plan(&more, &none).render(),
        "payments   route /payments gone   its requests go to the next route that matches, else to `monolith`; about 1 in 2 users \
         move back to legacy\n1 route unchanged\n"
    );
}

#[test]
fn nothing_that_could_be_a_secret_is_shown() {
    let more = |n: u32| {
        format!(
            "secret: \"hunter-{n}-with-thirty-two-bytes-or-more\"\nwebhook: {{url: \"https://hooks.example/hunter{n}\", \
             secret: hunter-hook-with-thirty-two-bytes-or-more}}\nkafka: {{brokers: \"127.0.0.1:9092\"}}\nsyncs:\n  payments:\n    owner: legacy\n    \
             max_lag: {n}s\n    legacy: {{postgres: \"postgres://a:hunter{n}@h/d\"}}\n    modern: {{postgres: \"postgres://${{A}}:b@h{n}/d\"}}\n    \
             tables: [public.payments]\n"
        )
    };
    let with = |n: u32| {
        let one = format!(
            "name: r, match: {{path: /r, headers: {{x-key: hunter-{n}}}}}, legacy: monolith, modern: payments, sync: payments"
        );
        file(&[&one], &more(n))
    };
    let plan = plan(&with(1), &with(2));
    let all = plan.render() + &serde_json::to_string(&plan).unwrap();
    assert!(!all.contains("hunter"), "{all}");
    let lines: Vec<_> = plan.changes.iter().map(|one| (one.subject(), one.what.as_str(), one.restart)).collect();
    assert_eq!(
        lines,
        [
            ("secret".to_owned(), "changed", false),
            ("webhook".to_owned(), "url changed", false),
            ("r".to_owned(), "match changed", false),
            ("sync payments".to_owned(), "max_lag 1s → 2s", false),
            ("sync payments".to_owned(), "legacy.postgres changed", true),
            ("sync payments".to_owned(), "modern.postgres changed", true),
        ]
    );
}

#[test]
fn what_waits_for_a_restart_says_so() {
    let old = file(&[], "");
    let new = file(&[], "workers: 3\ninstall: other\n")
        .replace("timeout: 30s", "timeout: 9s")
        .replace("default: monolith", "default: payments");
    assert_eq!(
        plan(&old, &new).render(),
        "default             `monolith` → `payments`   answers what no route matches\n\
         workers             now 3\n\
         install             now other                 waits for a restart\n\
         upstream payments   timeout 30s → 9s\n\
         0 routes unchanged\n"
    );
}

#[test]
fn the_order_of_routes_counts_only_between_equal_matches() {
    let (a, b) = ("name: a, match: {path: /a}, legacy: monolith", "name: b, match: {path: /b}, legacy: monolith");
    assert_eq!(plan(&file(&[a, b], ""), &file(&[a, b], "")).render(), "nothing changes: 2 routes unchanged\n");
    assert_eq!(
        plan(&file(&[a, b], ""), &file(&[b, a], "")).render(),
        "routes   in another order   decides only between equal matches\n2 routes unchanged\n"
    );
}
