//! Rules about a route's rollout.

use std::time::Duration;

use super::Problem;
use crate::config::{Gates, LatencyP99, Rollout, Route, SuccessRate, Weight};

/// Below it, a rate of successes is more likely a share that was meant as percent.
const HALF: Weight = Weight::hundredths(5_000);
/// The gates cannot be looked at more often.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn check(at: &str, route: &Route, problems: &mut Vec<Problem>) {
    let Some(rollout) = &route.rollout else { return };
    let at = format!("{at}.rollout");
    if route.legacy.is_none() || route.modern.is_none() {
        problems.push(
            Problem::error(&at, "a rollout needs both sides: users walk from one to the other")
                .hint("name both `legacy` and `modern`, or leave `rollout` out"),
        );
    }
    match route.weight {
        Some(weight) if weight > Weight::ZERO => {}
        _ => problems.push(
            Problem::warning(&at, "the rollout waits: `weight` is its ceiling, and it is 0")
                .hint("write `weight: 100` to let it walk to its end"),
        ),
    }
    steps(&at, rollout, problems);
    nobody_to_compare_with(&at, rollout, problems);
    times(&at, rollout, problems);
    gates(&at, route, &rollout.gates, problems);
}

fn steps(at: &str, rollout: &Rollout, problems: &mut Vec<Problem>) {
    let mut before = Weight::ZERO;
    for (number, step) in rollout.steps.iter().copied().enumerate() {
        if step <= before {
            let message = match number {
                0 => "the first step is 0, where nobody walks".to_owned(),
                _ => format!("step {step} does not come after {before}"),
            };
            problems.push(
                Problem::error(format!("{at}.steps[{number}]"), message)
                    .hint("expected weights above 0, each above the one before: `[5, 25, 50, 100]`"),
            );
        }
        before = before.max(step);
    }
    for (number, step) in rollout.confirm.iter().enumerate() {
        let path = format!("{at}.confirm[{number}]");
        if !rollout.steps.contains(step) {
            problems.push(Problem::error(path, format!("{step} is none of the steps")).hint("expected one of `steps`"));
        } else if rollout.steps.first() == Some(step) {
            problems.push(
                Problem::error(path, format!("the first step, {step}, is taken at the start"))
                    .hint("begin with a smaller step, or leave it out of `confirm`"),
            );
        }
    }
    if rollout.holdback > Weight::ZERO && rollout.steps.last() != Some(&Weight::FULL) {
        problems.push(
            Problem::error(format!("{at}.holdback"), "there is nobody to hold back: the last step is below 100")
                .hint("leave `holdback` out, or add the step 100"),
        );
    }
    if rollout.holdback == Weight::FULL {
        problems.push(Problem::error(format!("{at}.holdback"), "this holds everybody back").hint("for example `1`"));
    }
}

/// At 100 % without a step before it there is no legacy, and never was.
fn nobody_to_compare_with(at: &str, rollout: &Rollout, problems: &mut Vec<Problem>) {
    let gates = &rollout.gates;
    let has_limit = gates.success_rate.is_some_and(|gate| gate.min.is_some());
    if rollout.steps.first() == Some(&Weight::FULL) && rollout.holdback == Weight::ZERO && !has_limit {
        problems.push(
            Problem::warning(
                format!("{at}.steps[0]"),
                "from 0 to 100 % at once there is no legacy to compare failures with",
            )
            .hint("begin with a smaller step, add `holdback: 1`, or write `gates: {success_rate: {min: 99}}`"),
        );
    }
}

fn times(at: &str, rollout: &Rollout, problems: &mut Vec<Problem>) {
    if rollout.interval < SHORTEST {
        problems.push(
            Problem::error(format!("{at}.interval"), "the gates are looked at once a second at most")
                .hint("expected `1s` or more"),
        );
    }
    for (key, time) in [("every", rollout.every), ("bake", rollout.bake)] {
        if time < rollout.interval {
            problems.push(
                Problem::error(format!("{at}.{key}"), "this is over before the gates are looked at")
                    .hint(format!("expected at least `interval`, {}", humantime::format_duration(rollout.interval))),
            );
        }
    }
}

fn gates(at: &str, route: &Route, gates: &Gates, problems: &mut Vec<Problem>) {
    let at = format!("{at}.gates");
    if gates.success_rate == Some(SuccessRate::default()) {
        problems.push(
            Problem::error(format!("{at}.success_rate"), "this gate has no limit")
                .hint("expected `min`, `below_legacy` or both: `{min: 99.5, below_legacy: 0.2}`"),
        );
    }
    if gates.latency_p99 == Some(LatencyP99::default()) {
        problems.push(
            Problem::error(format!("{at}.latency_p99"), "this gate has no limit")
                .hint("expected `max`, `above_legacy` or both: `{max: 300ms, above_legacy: 50ms}`"),
        );
    }
    if let Some(min) = gates.success_rate.and_then(|gate| gate.min)
        && min < HALF
    {
        problems.push(
            Problem::warning(format!("{at}.success_rate.min"), format!("{min} % of the requests is hardly a limit"))
                .hint("numbers are percent: `99.5` and not `0.995`"),
        );
    }
    let is_shadowed = route.shadow.as_ref().is_some_and(|shadow| shadow.percent > Weight::ZERO);
    if gates.mismatch_rate.is_some() && route.compare.is_some() && !is_shadowed {
        problems.push(
            Problem::warning(
                format!("{at}.mismatch_rate"),
                "nothing is shadowed, so that this gate never lets it go on",
            )
            .hint("raise `percent` of `shadow`"),
        );
    }
    if gates.mismatch_rate.is_some() && route.compare.is_none() {
        problems.push(
            Problem::error(
                format!("{at}.mismatch_rate"),
                "nothing is compared on this route, so that this gate never lets it go on",
            )
            .hint("add `shadow: {percent: 100}` and `compare: {}`"),
        );
    }
    if gates.sync_lag.is_some() && route.sync.is_none() {
        problems.push(
            Problem::error(format!("{at}.sync_lag"), "this route names no sync that could lag")
                .hint("add `sync`, or leave the gate out"),
        );
    }
}
