//! The owners that were last known, kept in `state.dir/owners.json`: what counts after a restart until a database has answered.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use banyan_proxy::links::Owner;
use serde::{Deserialize, Serialize};

use super::{Known, Source};

/// The file and what stands in it.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    owners: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    owner: Owner,
    epoch: u64,
}

// === impl Kept ===

impl Kept {
    /// Reads what was kept; a missing file knows nothing, a broken one is told and knows nothing.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join("owners.json");
        let owners = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), "the kept owners are not readable, the databases will say: {error}");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, owners: Mutex::new(owners) }
    }

    pub(super) fn get(&self, sync: &str) -> Option<Known> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.get(sync).map(|entry| Known { owner: entry.owner, epoch: entry.epoch, source: Source::Kept })
    }

    /// Writes an owner down, if it is another one: whole or not at all, and on the disk when it returns.
    pub(super) fn put(&self, sync: &str, owner: Owner, epoch: u64) -> io::Result<()> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry { owner, epoch };
        if owners.get(sync) == Some(&entry) {
            return Ok(());
        }
        let mut new = owners.clone();
        new.insert(sync.to_owned(), entry);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let draft = self.path.with_extension("json.new");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&new)?)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(dir)?.sync_all()?;
        *owners = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        assert_eq!(Kept::open(&dir).get("payments"), None);
        Kept::open(&dir).put("payments", Owner::Modern, 3).unwrap();
        let known = Kept::open(&dir).get("payments").unwrap();
        assert_eq!(known, Known { owner: Owner::Modern, epoch: 3, source: Source::Kept });
    }

    #[test]
    fn a_broken_file_knows_nothing_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("owners.json"), "{half").unwrap();
        let kept = Kept::open(dir.path());
        assert_eq!(kept.get("payments"), None);
        kept.put("payments", Owner::Legacy, 1).unwrap();
        assert!(Kept::open(dir.path()).get("payments").is_some());
    }
}
