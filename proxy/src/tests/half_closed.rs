//! One end says that it will send no more, at every place of a request and of its answer (RFC 9112, 9.6): whoever has asked whole still gets the
//! answer, whoever has not gets none that looks whole, and nothing hangs.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{Bench, Setup, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends, ends its half, and gives the statuses of all answers, and whether the last was whole.
async fn after(bench: &Bench, bytes: &str) -> Vec<u16> {
    let mut client = bench.client().await;
    client.send(bytes).await;
    client.stream.shutdown().await.unwrap();
    let mut statuses = Vec::new();
    while let Some(answer) = client.try_answer(false).await {
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test]
async fn a_client_that_ends_its_half_gets_the_answers_to_what_it_asked_whole() {
    for park in [false, true] {
        let upstream = Upstream::named("ok").await;
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
        for (bytes, statuses) in [
            ("", &[][..]),
            ("G", &[]),
            ("GET / HTTP/1.1\r\nHos", &[]),
            ("GET / HTTP/1.1\r\nHost: a\r\n", &[]),
            (GET, &[200]),
            (&format!("{GET}{GET}"), &[200, 200]),
            (&format!("{GET}{post}body"), &[200, 200]),
            (&format!("{GET}GET / HT"), &[200]),
        ] {
            assert_eq!(after(&bench, bytes).await, statuses, "{bytes:?}, parked: {park}");
        }
        // Half a body is no request: an error at most.
        for body in ["", "bo"] {
            let came = after(&bench, &format!("{post}{body}")).await;
            assert!(came.iter().all(|status| *status == 400), "{body:?} {came:?}");
        }
        eventually("nothing is left open", || bench.proxy.status().connections == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_ends_its_half_while_it_waits_or_reads_gets_the_rest() {
    let (tell, told) = tokio::sync::watch::channel(0);
    let upstream = Upstream::scripted(move |mut wire| {
        let mut told = told.clone();
        async move {
            wire.request().await?;
            drop(told.wait_for(|step| *step >= 1).await);
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await?;
            drop(told.wait_for(|step| *step >= 2).await);
            wire.send("4\r\nrest\r\n0\r\n\r\n").await
        }
    })
    .await;
    // Before the head of the answer, and in the middle of its body.
    for ends_at in [0, 1] {
        tell.send(0).unwrap();
        let bench = Setup::new(upstream.address).start();
        let mut client = bench.client().await;
        client.send(GET).await;
        eventually("the upstream is asked", || bench.proxy.status().upstreams[0].in_flight == 1).await;
        if ends_at == 0 {
            client.stream.shutdown().await.unwrap();
        }
        tell.send(1).unwrap();
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(client.take(9).await.unwrap(), b"4\r\nhalf\r\n");
        if ends_at == 1 {
            client.stream.shutdown().await.unwrap();
        }
        tell.send(2).unwrap();
        assert_eq!(client.take(14).await.unwrap(), b"4\r\nrest\r\n0\r\n\r\n");
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn an_idle_client_that_ends_its_half_is_closed() {
    for park in [false, true] {
        let upstream = Upstream::named("ok").await;
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let mut client = bench.client().await;
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "ok");
        client.stream.shutdown().await.unwrap();
        assert!(client.is_closed().await);
        eventually("it is gone", || bench.proxy.status().connections == 0).await;
    }
}

#[tokio::test]
async fn an_upstream_that_ends_its_half_has_answered_only_what_it_answered_whole() {
    for (answer, status) in [
        ("", Some(502)),
        ("HTTP/1.1 200 OK\r\ncontent-le", Some(502)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull", Some(200)),
        // Without a length the end of the connection is the end of the answer.
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nfull", Some(200)),
    ] {
        let upstream = Upstream::scripted(move |mut wire| async move {
            wire.request().await?;
            wire.send(answer).await?;
            wire.stream.shutdown().await?;
            // Open on the other half until Banyan closes it.
            wire.take(usize::MAX).await.map(drop)
        })
        .await;
        let bench = Setup::new(upstream.address).start();
        let mut client = bench.client().await;
        // A write: nothing goes again.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let came = client.try_answer(false).await.map(|answer| answer.status);
        assert_eq!(came, status, "{answer:?}");
        eventually("the upstream's connection is given up", || bench.proxy.status().upstreams[0].connections == 0)
            .await;
    }
}

#[tokio::test]
async fn an_upstream_that_ends_its_half_before_the_request_is_there_is_not_waited_for() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.stream.shutdown().await?;
        wire.take(usize::MAX).await.map(drop)
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = tokio::time::timeout(Duration::from_secs(10), client.answer()).await.expect("it is answered");
    assert_eq!(answer.status, 502);
}
