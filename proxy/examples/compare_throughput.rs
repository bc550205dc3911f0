//! How fast two JSON answers are compared, on one core: what `bench/shadow/compare.py` runs. Reads pairs of files, prints a line each.
//!
//! `compare_throughput SECONDS CONTROL CANDIDATE [CONTROL CANDIDATE]…`

use std::{
    env, fs,
    hint::black_box,
    time::{Duration, Instant},
};

use banyan_proxy::{
    compare::{Answer, Body, Rules},
    config,
};
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;

#[expect(clippy::print_stdout, reason = "the measuring script reads it")]
fn main() {
    let mut arguments = env::args().skip(1);
    let seconds: f64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let files: Vec<String> = arguments.collect();
    let headers: HeaderMap = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect();
    let rules = Rules::new(&config::Compare::default());
    for pair in files.chunks_exact(2) {
        let (left, right) = (fs::read(&pair[0]).expect("a file"), fs::read(&pair[1]).expect("a file"));
        let ours = rate(seconds, &left, &right, |left, right| {
            let [left, right] = [left, right].map(Body::Whole);
            let control = Answer { status: StatusCode::OK, headers: &headers, body: left };
            black_box(rules.compare(&control, &Answer { body: right, ..control }));
        });
        let theirs = rate(seconds, &left, &right, |left, right| {
            let value = |bytes| serde_json::from_slice::<Value>(bytes).expect("JSON");
            black_box(value(left) == value(right));
        });
        println!("{} {} {ours:.1} {theirs:.1}", pair[0], pair[1]);
    }
}

/// MB of JSON a second, both sides counted; the best of five, since others run beside it.
fn rate(seconds: f64, left: &[u8], right: &[u8], mut once: impl FnMut(&[u8], &[u8])) -> f64 {
    let bytes = (left.len() + right.len()) as f64;
    let each = Duration::from_secs_f64(seconds / 5.0);
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let (began, mut rounds) = (Instant::now(), 0_u32);
        while began.elapsed() < each {
            for _ in 0..10 {
                once(black_box(left), black_box(right));
            }
            rounds += 10;
        }
        best = best.max(f64::from(rounds) * bytes / began.elapsed().as_secs_f64() / 1e6);
    }
    best
}
