//! Idle connections give their buffers back, and nobody can tell from the answers: whatever the bytes and wherever they are cut.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::{Bench, Client, Setup, Upstream, eventually};

/// Pipelined requests; bodies spell requests, so that a lost boundary shows.
const STREAM: [&str; 6] = [
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\n",
    "HEAD /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n27\r\nGET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\nx\r\n0\r\n\r\n",
    "PUT /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "DELETE /6 HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Answers with the method, the path and the length of the body.
async fn mirror() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        loop {
            let (head, body) = wire.request().await?;
            let line = head.split(" HTTP").next().unwrap().to_owned();
            // A chunked body may come in as many chunks as there were pieces.
            let length = if head.to_ascii_lowercase().contains("chunked") { unchunked(&body) } else { body.len() };
            let text = format!("{line} {length}");
            let (length, text) = (text.len(), if line.starts_with("HEAD") { String::new() } else { text });
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}")).await?;
        }
    })
    .await
}

fn unchunked(mut body: &[u8]) -> usize {
    let mut length = 0;
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return length;
        }
        length += size;
        body = &body[end + 2 + size + 2..];
    }
}

fn expected(request: usize) -> &'static str {
    ["GET /1 0", "POST /2 38", "", "POST /4 39", "PUT /5 0", "DELETE /6 0"][request]
}

/// Sends the stream in pieces, and reads the answers that are due before each next piece, so that the connection is between two messages, or
/// in the middle of one, at the cut.
async fn send_in_pieces(bench: &Bench, cuts: &[usize]) {
    let stream = STREAM.concat();
    let mut client = bench.client().await;
    let (mut sent, mut answered, mut whole) = (0, 0, 0);
    for cut in cuts.iter().copied().chain([stream.len()]) {
        client.send(&stream[sent..cut]).await;
        sent = cut;
        while answered < STREAM.len() && whole + STREAM[answered].len() <= sent {
            whole += STREAM[answered].len();
            let answer = match answered {
                2 => client.head_answer().await,
                _ => client.answer().await,
            };
            assert_eq!((answer.status, answer.text()), (200, expected(answered)), "cut at {cuts:?}");
            answered += 1;
        }
        // So that what is left of the piece is read before the next one comes.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(answered, STREAM.len());
}

#[tokio::test]
async fn a_pipelined_stream_can_be_cut_at_every_byte() {
    for park in [true, false] {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address).workers(1).park_at_once(park).start();
        let length = STREAM.concat().len();
        for cut in 1..length {
            send_in_pieces(&bench, &[cut]).await;
        }
        let seen = upstream.bytes();
        assert_eq!(seen.matches("X-Forwarded-Host: a\r\n").count(), (length - 1) * STREAM.len());
        assert!(!seen.contains("X-Forwarded-Host: hidden"));
    }
}

#[tokio::test]
async fn a_pipelined_stream_can_come_byte_by_byte() {
    for park in [true, false] {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address).workers(1).park_at_once(park).start();
        let cuts: Vec<usize> = (1..STREAM.concat().len()).collect();
        send_in_pieces(&bench, &cuts).await;
        assert_eq!(upstream.bytes().matches("X-Forwarded-Host: a\r\n").count(), STREAM.len());
    }
}

#[test]
fn a_pipelined_stream_can_be_cut_anywhere() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (upstream, bench) = runtime.block_on(async {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address).workers(1).park_at_once(true).start();
        (upstream, bench)
    });
    let cuts = prop::collection::btree_set(1..STREAM.concat().len(), 0..12);
    proptest!(ProptestConfig::with_cases(128), |(cuts in cuts)| {
        let cuts: Vec<usize> = cuts.into_iter().collect();
        runtime.block_on(send_in_pieces(&bench, &cuts));
    });
    assert!(!upstream.bytes().contains("X-Forwarded-Host: hidden"));
}

#[tokio::test]
async fn a_head_in_two_segments_with_a_park_between_the_requests() {
    let upstream = mirror().await;
    let bench = Setup::new(upstream.address).workers(1).park_at_once(true).start();
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send("GET /1 HTTP/1.1\r\nHo").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send("st: a\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "GET /1 0");
        eventually("it is parked", || bench.proxy.status().idle_connections == 1).await;
    }
}

#[tokio::test]
async fn half_a_request_behind_a_whole_one_is_not_lost() {
    for park in [true, false] {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address).workers(1).park_at_once(park).start();
        let mut client = bench.client().await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HT").await;
        assert_eq!(client.answer().await.text(), "GET /1 0");
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "GET /1 0");
    }
}

#[tokio::test]
async fn half_a_request_behind_a_whole_one_has_the_time_of_a_head_and_no_more() {
    for park in [true, false] {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address)
            .limits(|limits| limits.head_time = Duration::from_millis(200))
            .workers(1)
            .park_at_once(park)
            .start();
        let mut client = bench.client().await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HT").await;
        assert_eq!(client.answer().await.text(), "GET /1 0");
        assert_eq!(client.answer().await.status, 408);
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn many_pipelined_requests_are_all_answered() {
    for park in [true, false] {
        let upstream = mirror().await;
        let bench = Setup::new(upstream.address).workers(1).park_at_once(park).start();
        let mut client = bench.client().await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100)).await;
        for _ in 0..100 {
            assert_eq!(client.answer().await.text(), "GET /1 0");
        }
    }
}

#[tokio::test]
async fn a_connection_that_idles_for_a_second_is_parked_and_answers_again() {
    let upstream = mirror().await;
    let bench = Setup::new(upstream.address).workers(1).start();
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "GET /1 0");
        assert_eq!(bench.proxy.status().idle_connections, 0);
        eventually("it is parked", || bench.proxy.status().idle_connections == 1).await;
    }
    drop(client);
    eventually("it is gone", || bench.proxy.status().connections == 0).await;
}

#[tokio::test]
async fn a_slow_answer_is_not_parked() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl").await?;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        wire.send("ow").await?;
        std::future::pending().await
    })
    .await;
    for park in [true, false] {
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let mut client = bench.client().await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "slow");
    }
}

#[tokio::test]
async fn an_answer_that_the_client_is_slow_to_read_arrives_whole() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            wire.request().await?;
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 8 << 20)).await?;
            wire.send(vec![b'x'; 8 << 20]).await?;
        }
    })
    .await;
    for park in [true, false] {
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let mut client = bench.client().await;
        for _ in 0..2 {
            client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut left = 8 << 20;
            while left > 0 {
                let piece = left.min(1 << 16);
                assert!(client.take(piece).await.is_some());
                left -= piece;
            }
        }
    }
}

#[tokio::test]
async fn a_parked_connection_sees_a_reload() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let bench = Setup::new(old.address).park_at_once(true).start();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..4 {
        let mut client = bench.client().await;
        client.send(STREAM[0]).await;
        assert_eq!(client.answer().await.text(), "old");
        clients.push(client);
    }
    let next = Setup::new(new.address).upstream("unused", old.address, &json!({}));
    bench.proxy.reload(&next.config, &next.links).unwrap();
    for client in &mut clients {
        client.send(STREAM[0]).await;
        assert_eq!(client.answer().await.text(), "new");
    }
}
