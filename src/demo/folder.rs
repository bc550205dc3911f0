//! `./banyan-demo`: the routes.yaml to play with, Banyan's state, and the logs. Gone when the demo ends well.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// A folder that this demo, and no other, uses.
pub(crate) struct Folder {
    path: PathBuf,
    keep: bool,
    /// Held as long as the demo lives, so that another demo sees that it does.
    _lock: File,
}

/// Marks a folder as a demo's; locked while the demo lives.
const LOCK: &str = ".demo.lock";

// === impl Folder ===

impl Folder {
    /// `banyan-demo` in `parent`; if that is another demo's or somebody else's, `banyan-demo-2` and so on. What a demo that died has left
    /// there is removed first.
    pub(crate) fn claim(parent: &Path) -> anyhow::Result<Self> {
        for n in 1..100 {
            let path = parent.join(if n == 1 { "banyan-demo".to_owned() } else { format!("banyan-demo-{n}") });
            if let Some(lock) = Self::try_claim(&path).with_context(|| format!("cannot make {}", path.display()))? {
                return Ok(Self { path, keep: false, _lock: lock });
            }
        }
        anyhow::bail!("there are 99 folders `banyan-demo…` in {}; remove some", parent.display())
    }

    fn try_claim(path: &Path) -> io::Result<Option<File>> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                let lock = File::create(path.join(LOCK))?;
                lock.try_lock()?;
                Ok(Some(lock))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let Ok(lock) = File::options().write(true).open(path.join(LOCK)) else { return Ok(None) };
                match lock.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) => return Err(error),
                }
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    if entry.file_name() == LOCK {
                        continue;
                    }
                    if entry.file_type()?.is_dir() {
                        fs::remove_dir_all(entry.path())?;
                    } else {
                        fs::remove_file(entry.path())?;
                    }
                }
                Ok(Some(lock))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves it behind, for the logs in it.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A new folder in the system's temporary one that only its owner enters.
pub(crate) fn temporary() -> anyhow::Result<PathBuf> {
    let mut random = [0; 6];
    getrandom::fill(&mut random)?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // PostgreSQL runs as another user when root starts it, and must get there by an absolute path.
    let path = std::env::temp_dir().canonicalize()?.join(format!("banyan-demo-{name}"));
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_demo_keeps_its_folder_and_a_dead_one_leaves_it_to_the_next() {
        let parent = temporary().unwrap();
        let first = Folder::claim(&parent).unwrap();
        let second = Folder::claim(&parent).unwrap();
        assert_eq!((first.path(), second.path()), (&*parent.join("banyan-demo"), &*parent.join("banyan-demo-2")));
        fs::write(first.file("old.log"), "").unwrap();
        let mut dead = first;
        dead.keep();
        drop(dead);
        assert!(parent.join("banyan-demo/old.log").exists(), "a demo that failed leaves its logs");
        let third = Folder::claim(&parent).unwrap();
        assert_eq!(third.path(), parent.join("banyan-demo"));
        assert!(!third.file("old.log").exists());
        drop((second, third));
        fs::remove_dir(parent).unwrap();
    }

    #[test]
    fn a_folder_that_is_no_demos_is_left_alone() {
        let parent = temporary().unwrap();
        fs::create_dir(parent.join("banyan-demo")).unwrap();
        fs::write(parent.join("banyan-demo/mine"), "").unwrap();
        let folder = Folder::claim(&parent).unwrap();
        assert_eq!(folder.path(), parent.join("banyan-demo-2"));
        drop(folder);
        assert!(parent.join("banyan-demo/mine").exists());
        fs::remove_dir_all(parent).unwrap();
    }
}
