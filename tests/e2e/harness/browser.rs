//! The page in Chromium: `tests/page/page.mjs` does with it what a person would, by playwright.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::watchdog::{self, Signal, Watched};

/// A scene may take so long on two busy cores.
const SCENE: Duration = Duration::from_secs(180);

/// One scene, under way.
pub(crate) struct Scene {
    name: &'static str,
    folder: PathBuf,
    process: Watched,
}

// === impl Scene ===

impl Scene {
    /// Begins a scene of `tests/page/scenes.mjs` with what it is told; see there.
    pub(crate) fn begin(name: &'static str, told: &Value) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = watchdog::folder("page");
        let mut given = told.clone();
        let all = given.as_object_mut().expect("a scene is told a map");
        all.insert("modules".to_owned(), json!(modules(root)));
        all.insert("chromium".to_owned(), json!(program("BANYAN_TEST_CHROMIUM", &["chromium", "chromium-browser"])));
        all.insert("shots".to_owned(), json!(Path::new(env!("CARGO_TARGET_TMPDIR")).join("page")));
        all.insert("signals".to_owned(), json!(folder));
        let log = File::create(folder.join("log")).unwrap();
        let mut node = std::process::Command::new(program("BANYAN_TEST_NODE", &["node", "nodejs"]));
        node.arg(root.join("tests/page/page.mjs"))
            .args([name, &given.to_string()])
            // Chromium keeps its profile below it.
            .env("TMPDIR", &folder)
            .env("HOME", &folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Self { name, process: Watched::spawn(&mut node, Signal::Kill), folder }
    }

    /// Waits until the scene says that it came so far.
    pub(crate) async fn reaches(&mut self, point: &str) {
        let end = Instant::now() + SCENE;
        while !self.folder.join(point).exists() {
            assert!(self.process.exited().is_none(), "scene `{}` ended:\n{}", self.name, self.log());
            assert!(Instant::now() < end, "scene `{}` did not reach `{point}`:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end, and has it be as expected.
    pub(crate) async fn ends(mut self) {
        let end = Instant::now() + SCENE;
        let status = loop {
            if let Some(status) = self.process.exited() {
                break status;
            }
            assert!(Instant::now() < end, "scene `{}` takes longer than {SCENE:?}:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "scene `{}`:\n{}", self.name, self.log());
        fs::remove_dir_all(&self.folder).ok();
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}

/// The folder that playwright was installed in.
fn modules(root: &Path) -> PathBuf {
    let said = std::env::var_os("BANYAN_TEST_PAGE_MODULES").map(PathBuf::from);
    let folder = said.unwrap_or_else(|| root.join("target/test-cache/page"));
    assert!(
        folder.join("node_modules/playwright-core").is_dir(),
        "no playwright-core below {}; ./tests/run installs it",
        folder.display()
    );
    folder
}

fn program(variable: &str, names: &[&str]) -> PathBuf {
    if let Some(said) = std::env::var_os(variable) {
        return said.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let found = places.find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("no `{}` found; ./tests/run installs it, or: apt-get install {0}", names[0]))
}
