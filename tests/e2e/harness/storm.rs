//! A connect storm: clients that connect anew for every request as fast as they can, and clients that keep their connection until they are told
//! not to. Nothing may be refused, reset or left without its answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::task::JoinHandle;

use super::{Raw, backstage, client::Answer, eventually, secs};

/// Runs until it is ended.
pub(crate) struct Storm {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Requests on connections of their own, and on kept ones.
    pub(crate) answered: [usize; 2],
    /// How often a kept connection was asked to be the last one's.
    pub(crate) told_to_go: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: [AtomicUsize; 2],
    told_to_go: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// So many of either kind come between two acts.
const BETWEEN: usize = 300;
/// A storm that fails stops by itself.
const MOST_FAILURES: usize = 20;

// === impl Storm ===

impl Storm {
    /// So many clients of either kind.
    pub(crate) fn begin(to: SocketAddr, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let each = (0..2 * clients).map(|at| backstage(client(to, at % 2 == 1, Arc::clone(&shared))));
        Self { clients: each.collect(), shared }
    }

    /// Waits until it has gone on for a while.
    pub(crate) async fn goes_on(&self) {
        let count = || self.shared.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = count();
        eventually(secs(60), "the storm goes on", async || {
            let failed = self.shared.failed.lock().unwrap().clone();
            assert!(failed.is_empty(), "{failed:#?}");
            count().iter().zip(before).all(|(now, before)| now - before >= BETWEEN)
        })
        .await;
    }

    /// Ends it; fails when any request did.
    pub(crate) async fn end(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no client panics");
        }
        let failed = self.shared.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "{failed:#?}");
        Tally {
            answered: self.shared.answered.each_ref().map(|count| count.load(Ordering::Relaxed)),
            told_to_go: self.shared.told_to_go.load(Ordering::Relaxed),
        }
    }
}

async fn client(to: SocketAddr, keeps: bool, shared: Arc<Shared>) {
    let mut kept = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let asked = ask(to, kept.take()).await;
        match asked {
            Ok((answer, raw)) => {
                shared.answered[usize::from(keeps)].fetch_add(1, Ordering::Relaxed);
                let goes = answer.header("connection") == Some("close");
                shared.told_to_go.fetch_add(usize::from(keeps && goes), Ordering::Relaxed);
                kept = Some(raw).filter(|_| keeps && !goes);
            }
            Err(why) => {
                let mut failed = shared.failed.lock().unwrap();
                failed.push(why);
                if failed.len() >= MOST_FAILURES {
                    return;
                }
            }
        }
    }
}

async fn ask(to: SocketAddr, kept: Option<Raw>) -> Result<(Answer, Raw), String> {
    let is_kept = kept.is_some();
    let mut raw = match kept {
        Some(kept) => kept,
        None => Raw::try_connect(to).await.map_err(|error| format!("connecting: {error}"))?,
    };
    raw.send("GET /storm HTTP/1.1\r\nHost: storm\r\n\r\n").await;
    let answer = raw.answer().await.map_err(|cut| format!("on a kept connection: {is_kept}: {cut:?}"))?;
    if answer.status == 200 { Ok((answer, raw)) } else { Err(format!("{}: {}", answer.status, answer.text())) }
}
