//! Where standings are kept over restarts: one file in `state.dir`, written whole and renamed into its place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Standing, shared::Demand};

/// The standings by route.
pub(super) type Standings = BTreeMap<String, Standing>;

/// Rollbacks that hold here, and that the replicas have not agreed on yet, by route.
pub(super) type Demands = BTreeMap<String, Demand>;

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
}

/// Its contents.
#[derive(Serialize, Deserialize)]
struct Kept<S, D> {
    version: u32,
    routes: S,
    /// Rollbacks that the replicas have not agreed on yet, by route.
    #[serde(default)]
    demands: D,
}

const VERSION: u32 = 1;

// === impl Store ===

impl Store {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("rollouts.json") }
    }

    /// What is kept.
    ///
    /// # Errors
    /// Why nobody knows, in words.
    pub(super) fn load(&self) -> Result<(Standings, Demands), String> {
        let shown = self.path.display();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("there is no `{shown}`: this is the first start, or it was lost"));
            }
            Err(error) => return Err(self.put_aside(&format!("cannot be read ({error})"))),
        };
        match serde_json::from_slice::<Kept<Standings, Demands>>(&text) {
            Ok(kept) if kept.version == VERSION => Ok((kept.routes, kept.demands)),
            Ok(kept) => {
                Err(self.put_aside(&format!("is of version {}, which this Banyan does not know", kept.version)))
            }
            Err(error) => Err(self.put_aside(&format!("holds no rollouts ({error})"))),
        }
    }

    pub(super) fn save(&self, routes: &Standings, demands: &Demands) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&Kept { version: VERSION, routes, demands })?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        // The rename itself; not every file system knows how.
        drop(File::open(dir).and_then(|dir| dir.sync_all()));
        Ok(())
    }

    /// What cannot be read is not overwritten.
    fn put_aside(&self, what: &str) -> String {
        let aside = self.path.with_extension("json.broken");
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("it is kept as `{}`", aside.display()),
            Err(error) => format!("it could not be put aside ({error})"),
        };
        format!("`{}` {what}; {kept}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Weight;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert!(store.load().unwrap_err().contains("first start"));
        let mut standing = Standing::at(Weight::try_new(5.0).unwrap(), 3, 1_700_000_000);
        standing.counts.modern.saw(std::time::Duration::from_millis(3), 7);
        let standings = Standings::from([("payments".to_owned(), standing)]);
        store.save(&standings, &Demands::new()).unwrap();
        assert_eq!(store.load().unwrap(), (standings, Demands::new()));
        fs::write(dir.path().join("rollouts.json"), "{").unwrap();
        assert!(store.load().unwrap_err().contains("rollouts.json.broken"));
        assert!(dir.path().join("rollouts.json.broken").exists());
    }

    #[test]
    fn what_cannot_even_be_read_is_put_aside_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // No test may take away its own rights as root; a folder cannot be read either.
        fs::create_dir(dir.path().join("rollouts.json")).unwrap();
        let why = store.load().unwrap_err();
        assert!(why.contains("cannot be read") && why.contains("rollouts.json.broken"), "{why}");
        store.save(&Standings::new(), &Demands::new()).unwrap();
        assert!(dir.path().join("rollouts.json.broken").is_dir());
    }
}
