//! What the end-to-end tests stand on: real servers, scripted faults, Banyan as a child process.
//!
//! Everything is started on ports that are free, below one temporary folder, and goes with the test process whatever
//! way that ends (`watchdog`). A server that cannot be had fails the test and says what is missing; nothing is skipped.
//!
//! ```ignore
//! let shop = Shop::fresh().await;                                  // two databases on the shared servers
//! shop.legacy.batch("INSERT INTO payments …").await;
//! let banyan = Banyan::with(&shop.file(Owner::Legacy)).start().await;
//! eventually(secs(10), "the payment is in modern", async || shop.modern.count("payments").await == 1).await;
//! ```

pub(crate) mod banyan;
pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod eventually;
pub(crate) mod front;
pub(crate) mod kafka;
pub(crate) mod kafka_cluster;
pub(crate) mod kafka_secured;
pub(crate) mod mariadb;
pub(crate) mod metrics;
pub(crate) mod peers;
pub(crate) mod pen;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod prometheus;
pub(crate) mod shop;
pub(crate) mod storm;
pub(crate) mod tls;
pub(crate) mod twin;
pub(crate) mod upstream;
pub(crate) mod watchdog;
pub(crate) mod wire;

pub(crate) use self::{
    banyan::Banyan,
    browser::Scene,
    client::Raw,
    eventually::{eventually, secs},
    front::Front,
    kafka::{Kafka, Record},
    kafka_cluster::Cluster,
    kafka_secured::Secured,
    mariadb::{MariaDb, Schema},
    postgres::{Database, Postgres},
    shop::Shop,
    storm::Storm,
    tls::Authority,
    twin::{Half, Twin},
    upstream::{Script, Upstream},
    wire::Wire,
};

use std::{future::Future, sync::LazyLock};

/// Runs scripted upstreams and wires, so that a test that blocks its own runtime does not stall the far end too.
static BACKSTAGE: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the harness")
});

fn backstage<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    BACKSTAGE.spawn(future)
}

/// Blocks on backstage work (binding a socket) from a sync or an async test alike.
fn backstage_now<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tx, rx) = std::sync::mpsc::channel();
    BACKSTAGE.spawn(async move { tx.send(future.await).ok() });
    rx.recv().expect("the backstage runtime lives as long as the process")
}
