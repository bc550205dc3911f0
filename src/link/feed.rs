//! Reads owner, lag and watermark of every sync from both databases, and tells the links: once a second, and every few milliseconds while
//! somebody waits to see a write of theirs.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use banyan_connectors::{
    SyncReader, SyncReading,
    config::{Database, Sync},
};
use banyan_proxy::links::Moment;
use secrecy::ExposeSecret as _;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Known, Link, Links, Source, UNKNOWN, shown::Shown};
use crate::config;

/// How often a sync is read; also how old a lag may be.
const PERIOD: Duration = Duration::from_secs(1);
/// How often while a write that was answered is not shown; longer where that takes longer.
const SOON: Duration = Duration::from_millis(20);
/// What a first write waits for: by then it may have been applied, and others have been answered.
const GATHER: Duration = Duration::from_millis(5);
/// A reading that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whoever stops reading a sync leaves its lag unknown: an old number would look like health.
struct Feeding(Arc<Link>);

/// A reader at work.
struct Running {
    asks: Asks,
    tells: Arc<Link>,
    task: AbortHandle,
}

/// Whom a reader asks; a reload that changes it needs another reader.
#[derive(PartialEq, Eq)]
struct Asks {
    install: String,
    legacy: String,
    modern: String,
}

// === impl Links ===

impl Links {
    /// Reads all syncs of the file in force until it is dropped.
    ///
    /// # Errors
    /// When a reader panicked.
    pub(crate) async fn feed(self: Arc<Self>) -> anyhow::Result<()> {
        let mut wanted = self.wanted.subscribe();
        let mut readers = JoinSet::new();
        let mut running = BTreeMap::<String, Running>::new();
        loop {
            let config = Arc::clone(&wanted.borrow_and_update());
            // A reader that the new file does not touch goes on: while nobody reads, the lag is unknown, and all users are moved to the owner.
            running.retain(|name, reader| {
                let same = config.syncs.get(name).is_some_and(|sync| reader.asks == Asks::of(&config.install, sync));
                let stays = same && self.link(name).is_some_and(|link| Arc::ptr_eq(&link, &reader.tells));
                if !stays {
                    reader.task.abort();
                }
                stays
            });
            for (name, sync) in &config.syncs {
                let Some(link) = self.link(name).filter(|_| !running.contains_key(name)) else { continue };
                match SyncReader::new(name, sync, &config.install) {
                    Ok(reader) => {
                        let read = Arc::clone(&self).read(name.clone(), reader, Feeding(Arc::clone(&link)));
                        let asks = Asks::of(&config.install, sync);
                        running.insert(name.clone(), Running { asks, tells: link, task: readers.spawn(read) });
                    }
                    Err(error) => warn!(sync = name, "the sync cannot be read, its lag stays unknown: {error}"),
                }
            }
            tokio::select! {
                changed = wanted.changed() => changed?,
                Some(ended) = readers.join_next() => match ended {
                    Err(aborted) if aborted.is_cancelled() => {}
                    ended => ended.context("a reader ended")?,
                },
            }
        }
    }

    async fn read(self: Arc<Self>, name: String, mut reader: SyncReader, link: Feeding) {
        let link = &link.0;
        let mut shown = Shown::default();
        // Since when a write waits and the watermark has not moved.
        let mut waiting = None;
        loop {
            let began = Moment::now();
            let reading = timeout(PATIENCE, reader.read()).await.unwrap_or_default();
            let before = link.known();
            self.take(&name, link, reading);
            let known = link.known();
            let is_theirs = |(side, epoch): (_, i64)| {
                config::owner(side) == known.owner && u64::try_from(epoch).is_ok_and(|epoch| epoch == known.epoch)
            };
            if (before.owner, before.epoch) != (known.owner, known.epoch) {
                shown.forget();
            }
            if !reading.owner.is_some_and(is_theirs) {
                // Nobody answered, or one who knows less.
                shown.forget();
            } else if let Some(moment) = shown.read(began, reading.written, reading.applied) {
                link.watermark.fetch_max(moment.get(), Ordering::AcqRel);
                waiting = None;
            }
            if link.is_awaited() {
                let since = *waiting.get_or_insert(began);
                sleep((Moment::now().since(since) / 2).clamp(SOON, PERIOD)).await;
            } else {
                waiting = None;
                if timeout(PERIOD, link.is_written()).await.is_ok() {
                    sleep(GATHER).await;
                }
            }
        }
    }

    /// What a database says wins at once; silence leaves the last known owner, and no lag.
    pub(super) fn take(&self, name: &str, link: &Link, reading: SyncReading) {
        if let Some((side, epoch)) = reading.owner {
            let (owner, epoch) = (config::owner(side), u64::try_from(epoch).unwrap_or(0));
            let before = link.known();
            let now = Known { owner, epoch, source: Source::Database };
            // Two databases speak: while the one that knows better is away, the other does not bring a former owner back.
            if before.source == Source::Database && epoch < before.epoch {
                link.lag.store(UNKNOWN, Ordering::Relaxed);
                return;
            }
            if before != now {
                link.owner.store(now.pack(), Ordering::Release);
                link.hold.changed();
                told(name, before, now);
                if let Err(error) = self.kept.put(name, owner, epoch) {
                    warn!(sync = name, "the owner cannot be kept for the next start: {error}");
                }
            }
        }
        let lag = reading.lag.map_or(UNKNOWN, |lag| u64::try_from(lag.as_micros()).unwrap_or(UNKNOWN));
        link.lag.store(lag, Ordering::Relaxed);
    }
}

fn told(name: &str, before: Known, now: Known) {
    if before.owner == now.owner {
        info!(sync = name, owner = now.owner.as_str(), epoch = now.epoch, "the databases say who owns the sync");
    } else {
        warn!(
            sync = name,
            owner = now.owner.as_str(),
            before = before.owner.as_str(),
            epoch = now.epoch,
            "the databases name another owner than was known: writes go there from now on"
        );
    }
}

// === impl Asks ===

impl Asks {
    fn of(install: &str, sync: &Sync) -> Self {
        let url = |database: &Database| {
            let url = database.postgres.as_ref().or(database.mysql.as_ref());
            url.map(|url| url.expose_secret().to_owned()).unwrap_or_default()
        };
        Self { install: install.to_owned(), legacy: url(&sync.legacy), modern: url(&sync.modern) }
    }
}

// === impl Feeding ===

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.lag.store(UNKNOWN, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use banyan_connectors::config::Side;
    use banyan_proxy::links::{DataLinks as _, Owner};

    use super::*;
    use crate::config::{Against, check};

    fn links(dir: &std::path::Path) -> Links {
        let yaml = format!(
            "version: 1\nlisteners: [{{bind: \"127.0.0.1:0\"}}]\nstate: {{dir: \"{}\"}}\nupstreams: {{m: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\n\
             default: m\nkafka: {{brokers: \"127.0.0.1:1\"}}\nsyncs:\n  payments:\n    owner: legacy\n    \
             legacy: {{postgres: \"postgres://a@127.0.0.1:1/a\"}}\n    modern: {{postgres: \"postgres://a@127.0.0.1:1/b\"}}\n    tables: [public.payments]\n",
            dir.display()
        );
        let accepted = check("test.yaml", yaml.as_bytes(), &|_| None, &Against::default());
        Links::new(&accepted.unwrap_or_else(|report| panic!("{}", report.render(false))).loaded)
    }

    fn says(owner: Option<(Side, i64)>, lag_ms: Option<u64>) -> SyncReading {
        SyncReading { owner, lag: lag_ms.map(Duration::from_millis), ..SyncReading::default() }
    }

    #[test]
    fn a_database_wins_over_the_file_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let links = links(dir.path());
        let link = links.sync("payments").unwrap();
        assert_eq!((link.owner(), link.lag()), (Owner::Legacy, None));
        links.take("payments", &links.link("payments").unwrap(), says(Some((Side::Modern, 4)), Some(20)));
        assert_eq!((link.owner(), link.lag()), (Owner::Modern, Some(Duration::from_millis(20))));
        let again = self::links(dir.path());
        assert_eq!(again.known("payments").unwrap(), Known { owner: Owner::Modern, epoch: 4, source: Source::Kept });
    }

    #[test]
    fn silence_keeps_the_owner_and_makes_the_lag_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let links = links(dir.path());
        let link = links.link("payments").unwrap();
        links.take("payments", &link, says(Some((Side::Modern, 4)), Some(20)));
        links.take("payments", &link, says(None, None));
        assert_eq!(links.status()[0].lag_seconds, None);
        assert_eq!(links.known("payments").unwrap().owner, Owner::Modern);
    }

    #[test]
    fn an_older_epoch_brings_no_former_owner_back() {
        let dir = tempfile::tempdir().unwrap();
        let links = links(dir.path());
        let link = links.link("payments").unwrap();
        links.take("payments", &link, says(Some((Side::Modern, 4)), Some(20)));
        links.take("payments", &link, says(Some((Side::Legacy, 3)), Some(1)));
        assert_eq!(links.known("payments").unwrap().owner, Owner::Modern);
        assert_eq!(links.status()[0].lag_seconds, None);
    }

    #[test]
    fn who_stops_reading_leaves_no_lag_behind() {
        let dir = tempfile::tempdir().unwrap();
        let links = links(dir.path());
        let link = links.link("payments").unwrap();
        links.take("payments", &link, says(Some((Side::Legacy, 1)), Some(20)));
        drop(Feeding(Arc::clone(&link)));
        assert_eq!(links.status()[0].lag_seconds, None);
    }
}
