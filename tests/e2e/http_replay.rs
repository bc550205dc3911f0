//! Recording a route's reads from a running Banyan, and sending them again to a build of modern that is wrong now and then.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Banyan, Raw, Script, Upstream, eventually, front::request, secs};

const SECRETS: [&str; 6] = ["hunter-bearer", "hunter-cookie", "hunter-key", "hunter-query", "hunter-set", "hunter-pin"];

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(monolith: &Upstream, service: &Upstream, compare: &str) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  payments: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  - name: pay\n    \
         match: {{path_prefix: /pay}}\n    legacy: monolith\n    modern: {{upstream: payments, rewrite: {{path_prefix: /v2}}}}\n    \
         sticky: [{{header: x-user-id}}]\n    pin: {{modern: [{{header: {{x-partner: [nobody]}}}}]}}\n    \
         shadow: {{percent: 100, timeout: 2s}}\n    compare: {compare}\n  - {{name: plain, match: {{path_prefix: /plain}}, legacy: monolith}}\n",
        monolith.url(),
        service.url()
    )
}

fn payment(path: &str, amount: &str) -> Value {
    let id: u64 = path.rsplit('/').next().and_then(|id| id.split('?').next()?.parse().ok()).unwrap_or_default();
    json!({"id": id, "amount": amount, "lines": [{"at": 1}, {"at": 2}]})
}

/// A Banyan in front of a monolith; the shadow is not there at all.
async fn recorded(compare: &str) -> (Banyan, Upstream, Upstream) {
    let legacy = Upstream::scripted(|seen| {
        let answer = payment(seen.path(), "19.90").to_string();
        Script::answer(200, &[("Content-Type", "application/json"), ("Set-Cookie", "sid=hunter-set")], &answer)
    });
    let modern = Upstream::scripted(|_| Script::hang_up());
    let banyan = Banyan::with(&file(&legacy, &modern, compare)).start().await;
    (banyan, legacy, modern)
}

/// Records while so many reads come, each with secrets in every place that clients put them.
fn record(banyan: &Banyan, name: &str, reads: usize, more: &[&str]) -> Output {
    let (file, http) = (banyan.folder().join(name), banyan.http());
    let arguments = [&["record", "pay", "--for", "4s", "-o", file.to_str().unwrap()], more].concat();
    std::thread::scope(|scope| {
        let recording = scope.spawn(|| banyan.verb(&arguments));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let file = file.clone();
        scope.spawn(move || {
            runtime.block_on(async {
                eventually(secs(10), "it is being recorded", async || file.exists()).await;
                let mut raw = Raw::connect(http).await;
                let headers = [
                    ("Authorization", "Bearer hunter-bearer"),
                    ("Cookie", "sid=hunter-cookie"),
                    ("X-Api-Key", "hunter-key"),
                    ("X-Partner", "hunter-pin"),
                    ("X-User-Id", "ann"),
                    ("Accept", "application/json"),
                ];
                for read in 0..reads {
                    raw.send(request(&format!("GET /pay/{read}?full=1"), &headers, "")).await;
                    assert_eq!(raw.answer().await.unwrap().status, 200);
                }
                for line in ["GET /pay/7?token=hunter-query", "DELETE /pay/7"] {
                    raw.send(request(line, &headers, "")).await;
                    raw.answer().await.unwrap();
                }
                raw.send(request("GET /pay/8", &headers, "hunter-query")).await;
                raw.answer().await.unwrap();
            });
        });
        recording.join().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_is_replayed_against_a_build_that_is_wrong_in_one_of_ten() {
    let (banyan, legacy, _modern) = recorded("{record: true, headers: [content-type, set-cookie]}").await;
    let done = record(&banyan, "reads.jsonl", 40, &[]);
    assert_eq!(code(&done), 0, "{}", err(&done));
    assert!(
        err(&done).contains("40 reads in ")
            && err(&done).contains("left out 1 with what looks like a secret in their query, 1 with a body"),
        "{}",
        err(&done)
    );

    let path = banyan.folder().join("reads.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} is in the file");
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["head"]["version"], &lines[0]["head"]["route"]), (&json!(1), &json!("pay")));
    assert_eq!((lines.len(), &lines[41]["end"]["why"]), (42, &json!("time")));
    let read = &lines[1]["read"];
    assert_eq!(
        (&read["method"], &read["target"], &read["side"]),
        (&json!("GET"), &json!("/pay/0?full=1"), &json!("legacy"))
    );
    assert!(read["headers"].as_array().unwrap().contains(&json!(["x-user-id", "ann"])), "{read}");
    assert_eq!(read["body"]["text"], payment("/pay/0", "19.90").to_string());

    // A new build: the same but for one of ten.
    let build = Upstream::scripted(|seen| {
        let amount = if seen.path().contains("7?") { "19.91" } else { "19.90" };
        Script::json(&payment(seen.path(), amount))
    });
    let asked = legacy.seen().len();
    let file = path.to_str().unwrap();
    let against = build.url();
    let all = ["replay", file, "--against", &against, "--rate", "400/s"];
    let text = banyan.verb(&all);
    assert_eq!(code(&text), 0, "{}", err(&text));
    assert!(out(&text).contains("40 compared   match 90.0 %   mismatch 10.0 %"), "{}", out(&text));
    assert!(out(&text).contains("/amount   4 of 40   string against string"), "{}", out(&text));
    assert!(err(&text).contains("40 reads sent in "), "{}", err(&text));
    let told: Value = serde_json::from_str(&out(&banyan.verb(&[&all[..], &["-o", "json"]].concat()))).unwrap();
    assert_eq!(
        (&told["compared"], &told["mismatch"], &told["differences"][0]["count"]),
        (&json!(40), &json!(4), &json!(4))
    );
    assert!(out(&banyan.verb(&[&all[..], &["-o", "markdown"]].concat())).contains("| `/amount` | 4 of 40 |"));
    let stopped = banyan.verb(&[&all[..], &["--fail-over", "5%", "-H", "authorization: Bearer test"]].concat());
    assert_eq!(code(&stopped), 1);
    assert!(err(&stopped).contains("4 of 40 differ"), "{}", err(&stopped));
    assert_eq!(code(&banyan.verb(&[&all[..], &["--fail-over", "10%"]].concat())), 0);
    assert_eq!(legacy.seen().len(), asked, "nobody else is asked");

    let seen = build.seen();
    assert_eq!(seen.len(), 200);
    assert!(
        seen[0].line().starts_with("GET /v2/") && seen[0].line().ends_with("?full=1 HTTP/1.1"),
        "{}",
        seen[0].line()
    );
    assert_eq!((seen[0].header("x-banyan-shadow"), seen[0].header("x-user-id")), (Some("1"), Some("ann")));
    assert_eq!(seen.iter().filter(|seen| seen.header("authorization") == Some("Bearer test")).count(), 40);

    // The side that the file names; it answers nobody.
    let failed = banyan.verb(&["replay", file, "--against", "modern", "--rate", "400", "--fail-over", "100%"]);
    assert_eq!(code(&failed), 1);
    assert!(err(&failed).contains("40 reads had no whole answer"), "{}", err(&failed));
    let again = banyan.verb(&["replay", file, "--against", "legacy", "--rate", "400", "--fail-over", "0%"]);
    assert_eq!(code(&again), 0, "{}", err(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_recorded_that_the_file_does_not_allow_and_no_more_than_was_asked_for() {
    let (banyan, legacy, modern) = recorded("{record: true}").await;
    let small = record(&banyan, "small.jsonl", 40, &["--max-size", "3KB"]);
    assert_eq!(code(&small), 0, "{}", err(&small));
    assert!(err(&small).contains("then it was as large as it may be"), "{}", err(&small));
    let length = fs::metadata(banyan.folder().join("small.jsonl")).unwrap().len();
    // The first line and the last one come on top.
    assert!((2_000..3_500).contains(&length), "{length}");

    let there = banyan.verb(&["record", "pay", "--for", "1s", "-o", "small.jsonl"]);
    assert_eq!(code(&there), 1);
    assert!(err(&there).contains("`small.jsonl` is there already"), "{}", err(&there));

    std::thread::scope(|scope| {
        let first = scope.spawn(|| banyan.verb(&["record", "pay", "--for", "60s", "-o", "first.jsonl"]));
        let (yaml, first_file) = (file(&legacy, &modern, "{}"), banyan.folder().join("first.jsonl"));
        let end = Instant::now() + secs(30);
        while !first_file.exists() {
            assert!(Instant::now() < end, "it is not being recorded");
            std::thread::sleep(Duration::from_millis(20));
        }
        let second = banyan.verb(&["record", "pay", "--for", "1s", "-o", "second.jsonl"]);
        banyan.rewrite(&yaml);
        assert_eq!(code(&second), 1);
        assert!(err(&second).contains("this route is being recorded already"), "{}", err(&second));
        // A reload takes the permission back.
        let first = first.join().unwrap();
        assert!(err(&first).contains("0 reads in first.jsonl, then Banyan stopped it"), "{}", err(&first));
    });
    assert!(!banyan.folder().join("second.jsonl").exists());
    for (route, why) in [("pay", "no `record: true`"), ("plain", "no `record: true`"), ("gone", "no such route")] {
        let refused = banyan.verb(&["record", route, "--for", "1s", "-o", "third.jsonl"]);
        assert_eq!(code(&refused), 1);
        assert!(err(&refused).contains(why), "{route}: {}", err(&refused));
    }
    assert!(banyan.log().contains("a recording begins route=\"pay\""), "{}", banyan.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_outlives_a_connections_lifetime_and_what_is_no_recording_is_refused() {
    let (banyan, ..) = recorded("{record: true}").await;
    for (text, why) in [
        ("", "does not begin as a recording does"),
        ("{\"read\": 1}\n", "line 1: this is no line of a recording"),
        ("{\"head\":{\"version\":9,\"route\":\"pay\",\"began\":0}}\n", "version 9"),
        ("{\"head\":{\"version\":1,\"route\":\"gone\",\"began\":0}}\n", "no route of that name"),
        ("{\"head\":{\"version\":1,\"route\":\"plain\",\"began\":0}}\n", "no `shadow` with `compare`"),
    ] {
        fs::write(banyan.folder().join("bad.jsonl"), text).unwrap();
        let refused = banyan.verb(&["replay", "bad.jsonl", "--against", "modern"]);
        assert_eq!(code(&refused), 1);
        assert!(err(&refused).contains(why), "{text}: {}", err(&refused));
    }
    let began = Instant::now();
    let long = banyan.verb(&["record", "pay", "--for", "80s", "-o", "long.jsonl"]);
    assert!(
        err(&long).contains("0 reads in long.jsonl") && began.elapsed() >= Duration::from_secs(80),
        "{}",
        err(&long)
    );
}
