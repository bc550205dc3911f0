//! What `status` tells of a route's last seconds, and of its past.

use std::{net::TcpListener, time::SystemTime};

use serde_json::json;

use super::{Setup, Upstream, eventually};
use crate::RouteStatus;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn the_last_seconds_are_told_by_side_with_what_failed_there() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let route = |name: &str, modern: &str, weight: u32| json!({"name": name, "match": {"path_prefix": format!("/{name}"), "methods": ["GET"]}, "legacy": "legacy", "modern": modern, "weight": weight});
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .upstream("dead", nobody, &json!({}))
        .route(route("moved", "modern", 100))
        .route(route("broken", "dead", 100))
        .start();
    for _ in 0..4 {
        assert_eq!(bench.ask(&get("/moved")).await.status, 200);
        assert_eq!(bench.ask(&get("/broken")).await.status, 502);
    }
    let told = |name: &str| -> RouteStatus {
        bench.proxy.status().routes.into_iter().find(|route| route.name == name).unwrap()
    };
    let answered = |name: &str| {
        let answers = told(name).answers;
        answers.legacy + answers.modern + answers.banyan
    };
    eventually("all are counted", || answered("moved") == 4 && answered("broken") == 4).await;

    let moved = told("moved");
    let recent = moved.recent.unwrap();
    assert_eq!((recent.modern.attempts, recent.modern.failed, recent.legacy.attempts), (4, 0, 0));
    assert_eq!((recent.modern_percent, recent.modern.error_percent), (Some(100.0), Some(0.0)));
    assert!(recent.modern.p99_ms.unwrap() > 0.0 && recent.legacy.p99_ms.is_none());
    assert!((recent.requests_per_second * recent.seconds - 4.0).abs() < 1e-6);
    assert_eq!(
        (moved.matched, moved.legacy, moved.modern),
        (vec!["GET /moved".into()], Some("legacy".into()), Some("modern".into()))
    );
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let last = moved.last_request_unix.unwrap();
    assert!((now.saturating_sub(60)..=now).contains(&last), "{last} is not just before {now}");

    // A side that answers nobody fails, though it has no answers to count.
    let broken = told("broken").recent.unwrap();
    assert_eq!((broken.modern.attempts, broken.modern.error_percent, broken.modern_percent), (4, Some(100.0), None));

    let default = told("default");
    assert_eq!((default.last_request_unix, default.recent.unwrap().requests_per_second), (None, 0.0));
    assert!(bench.proxy.history("moved").is_some() && bench.proxy.history("none").is_none());
}
