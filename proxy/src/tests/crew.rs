//! Listeners and workers come and go by a reload, and no connection is refused, reset or forgotten.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{net::TcpStream, task::JoinHandle};

use super::{Bench, Client, Setup, Upstream, eventually, http2};
use crate::config::Listener;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Clients that connect anew for every request, and clients that keep their connection until they are told not to.
struct Storm {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

// === impl Storm ===

impl Storm {
    fn begin(to: SocketAddr, each: usize) -> Self {
        let mut storm = Self { stop: Arc::default(), answered: Arc::default(), clients: Vec::new() };
        for keeps in [false, true] {
            for _ in 0..each {
                let (stop, answered) = (Arc::clone(&storm.stop), Arc::clone(&storm.answered));
                storm.clients.push(tokio::spawn(async move {
                    let mut client = Client::connect(to).await;
                    while !stop.load(Ordering::Relaxed) {
                        client.send(GET).await;
                        let answer = client.answer().await;
                        assert_eq!(answer.status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if !keeps || answer.header("connection") == Some("close") {
                            client = Client::connect(to).await;
                        }
                    }
                }));
            }
        }
        storm
    }

    /// Waits until so many more were answered.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("the storm goes on", || self.answered.load(Ordering::Relaxed) > before + 300).await;
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

fn at(last: u8) -> Listener {
    Listener::new(([127, 0, 0, last], 0).into())
}

fn setup(upstream: &Upstream, listeners: &[u8], workers: usize) -> Setup {
    let mut setup = Setup::new(upstream.address).workers(workers);
    setup.config.listeners = listeners.iter().map(|last| at(*last)).collect();
    setup
}

fn reload(bench: &Bench, setup: &Setup) {
    let warnings = bench.proxy.reload(&setup.config, &setup.links).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_come_and_go_in_a_connect_storm_and_every_request_is_counted() {
    let upstream = Upstream::named("ok").await;
    let bench = setup(&upstream, &[1], 2).start();
    let storm = Storm::begin(bench.proxy.local_addrs()[0], 8);
    let counted = || bench.metric("banyan_http_requests_total", &[("route", "default")]);
    let mut before = 0.0;
    for workers in [4, 1, 3, 2, 1] {
        storm.goes_on().await;
        reload(&bench, &setup(&upstream, &[1], workers));
        let now = counted();
        assert!(now >= before, "{now} after {before}");
        before = now;
    }
    storm.goes_on().await;
    let answered = storm.end().await;
    assert_eq!(counted(), f64::from(u32::try_from(answered).unwrap()));
    assert!(bench.proxy.is_whole());
    eventually("nothing is left", || bench.proxy.status().connections == 0).await;
    assert_eq!(bench.proxy.status().upstreams[0].in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_is_added_and_another_closed_in_a_connect_storm() {
    let upstream = Upstream::named("ok").await;
    let bench = setup(&upstream, &[1, 2], 2).start();
    let first = bench.proxy.local_addrs()[0];
    let storm = Storm::begin(first, 8);
    for listeners in [&[1, 2, 3][..], &[3, 1], &[1], &[4, 3, 1]] {
        storm.goes_on().await;
        reload(&bench, &setup(&upstream, listeners, 2));
        let addresses = bench.proxy.local_addrs();
        assert_eq!(addresses.len(), listeners.len());
        assert!(addresses.contains(&first));
        for (address, last) in addresses.into_iter().zip(listeners) {
            assert_eq!(address.ip(), at(*last).bind.ip());
            let mut client = Client::connect(address).await;
            client.send(GET).await;
            assert_eq!(client.answer().await.text(), "ok");
        }
    }
    storm.goes_on().await;
    assert!(storm.end().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_answers_who_is_about_to_ask_and_closes_who_is_not() {
    let upstream = Upstream::named("ok").await;
    let bench = setup(&upstream, &[1], 2).start();
    let at = bench.proxy.local_addrs()[0];
    let mut idle = Client::connect(at).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let mut client = Client::connect(at).await;
                loop {
                    client.send(GET).await;
                    let answer = client.answer().await;
                    assert_eq!(answer.text(), "ok");
                    asked.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        return assert!(client.is_closed().await);
                    }
                }
            })
        })
        .collect();
    eventually("they ask", || asked.load(Ordering::Relaxed) > 500).await;
    let drain = tokio::time::timeout(Duration::from_secs(15), bench.proxy.drain(Duration::from_secs(20)));
    drain.await.expect("nobody is waited for in vain");
    assert!(idle.is_closed().await);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn who_came_through_a_listener_that_is_gone_is_answered_once_more_by_what_held_there() {
    let upstream = Upstream::named("ok").await;
    let mut first = setup(&upstream, &[1, 2], 2);
    first.config.listeners[0].limits.headers = 20;
    let bench = first.start();
    let [gone, _] = bench.proxy.local_addrs()[..] else { panic!() };
    let (mut client, mut other) = (Client::connect(gone).await, Client::connect(gone).await);
    client.send(GET).await;
    assert_eq!(client.answer().await.header("connection"), None);
    let mut next = setup(&upstream, &[2], 2);
    next.config.listeners[0].limits.headers = 50;
    reload(&bench, &next);
    eventually("it takes nobody any more", || std::net::TcpStream::connect(gone).is_err()).await;
    assert_eq!(bench.proxy.status().connections, 2);
    assert_eq!(bench.proxy.status().listeners.len(), 1);
    client.send(GET).await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("ok", Some("close")));
    assert!(client.is_closed().await);
    // Its own limit, not that of the one which stays.
    other.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(30))).await;
    assert_eq!(other.answer().await.status, 431);
    drop(other);
    eventually("nothing is left", || bench.proxy.status().connections == 0).await;
}

#[tokio::test]
async fn an_http2_client_of_a_listener_that_is_gone_is_answered_and_told_to_go() {
    let upstream = Upstream::named("ok").await;
    let bench = setup(&upstream, &[1, 2], 2).start();
    let (sender, connection) = http2::connect(&bench).await;
    assert_eq!(http2::ask(&sender, http2::request("GET", "/")).await.unwrap().1, "ok");
    reload(&bench, &setup(&upstream, &[2], 2));
    assert_eq!(http2::ask(&sender, http2::request("GET", "/")).await.unwrap().1, "ok");
    tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_rejects_the_whole_reload() {
    let (upstream, modern) = (Upstream::named("ok").await, Upstream::named("modern").await);
    let bench = setup(&upstream, &[1], 1).start();
    let before = bench.proxy.local_addrs();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wrong = setup(&modern, &[2], 3);
    wrong.config.listeners.push(Listener::new(taken.local_addr().unwrap()));
    let problems = bench.proxy.reload(&wrong.config, &wrong.links).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, "listeners[1].bind");
    assert!(problems[0].message.contains("in use"), "{}", problems[0].message);
    assert_eq!(bench.proxy.local_addrs(), before);
    assert_eq!(bench.ask(GET).await.text(), "ok");
    drop(taken);
    reload(&bench, &wrong);
    assert_eq!(bench.ask(GET).await.text(), "modern");
}

#[tokio::test]
async fn connections_that_wait_in_the_queue_of_a_listener_that_is_closed_are_answered() {
    let upstream = Upstream::named("ok").await;
    let bench = setup(&upstream, &[1, 2], 1).start();
    let gone = bench.proxy.local_addrs()[0];
    for _ in 0..20 {
        // On this thread nothing else runs meanwhile; the worker may or may not have accepted some.
        let clients: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(gone).unwrap()).collect();
        reload(&bench, &setup(&upstream, &[2], 1));
        for client in clients {
            client.set_nonblocking(true).unwrap();
            let mut client = Client::over(TcpStream::from_std(client).unwrap());
            client.send(GET).await;
            assert_eq!(client.answer().await.text(), "ok");
        }
        eventually("it is closed", || std::net::TcpStream::connect(gone).is_err()).await;
        let mut again = setup(&upstream, &[1, 2], 1);
        again.config.listeners[0].bind = gone;
        reload(&bench, &again);
    }
}

#[tokio::test]
async fn the_idle_connections_of_a_worker_that_ended_are_in_nobodys_way() {
    let upstream = Upstream::named("ok").await;
    let capped = |workers| {
        setup(&upstream, &[1], workers).upstream("legacy", upstream.address, &json!({ "limits": { "connections": 2 } }))
    };
    let bench = capped(4).start();
    for _ in 0..50 {
        assert_eq!(bench.ask(GET).await.text(), "ok");
    }
    for workers in [1, 4, 1, 2] {
        reload(&bench, &capped(workers));
        for _ in 0..20 {
            let answer = tokio::time::timeout(Duration::from_secs(5), bench.ask(GET)).await.unwrap();
            assert_eq!(answer.text(), "ok", "{}", answer.head);
        }
    }
    assert!(bench.proxy.status().upstreams[0].connections <= 2);
}
