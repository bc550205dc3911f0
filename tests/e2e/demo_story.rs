//! `banyan demo`, as a stranger runs it: the story is true, a taken port is no obstacle, and nothing is left behind.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::harness::{
    secs,
    watchdog::{self, Signal, Watched},
};

/// A demo in a folder of its own, in which everything that it makes lies.
struct Demo {
    process: Watched,
    folder: PathBuf,
}

/// The longest that the whole story may take on two busy cores.
const STORY: Duration = Duration::from_secs(240);
/// The longest that a demo may take to be gone, with all its processes and folders.
const CURTAIN: Duration = Duration::from_secs(20);
const STEPS: usize = 14;

#[test]
fn the_story_is_true_and_ends_with_nothing_left() {
    let mut demo = Demo::start(&["--once"]);
    let status = demo.wait(STORY);
    let told = demo.told();
    assert!(status.success(), "{status}\n{told}");
    for step in 1..=STEPS {
        assert!(told.lines().any(|line| line.starts_with(&format!("{step:>2}  "))), "no step {step} in\n{told}");
    }
    assert!(told.contains("all at /amount: string against number"), "{told}");
    demo.assert_nothing_is_left();
}

#[test]
fn taken_ports_give_the_next_free_ones_and_ctrl_c_leaves_nothing() {
    // Somebody may hold them already; either way they are taken.
    let _taken = [7001, 7002, 7003, 8080, 9901].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let mut demo = Demo::start(&[]);
    demo.until_told("routes.yaml: ", secs(90));
    let told = demo.told();
    for (name, taken) in
        [("legacy-app", 7001), ("payments-service", 7002), ("accounts-service", 7003), ("banyan ", 8080)]
    {
        let line = told.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{told}"));
        let port =
            line.split_once("http://127.0.0.1:").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        assert!(port.is_some_and(|port: u16| port > taken), "{line}");
    }
    demo.process.signal(Signal::Int);
    demo.wait(CURTAIN);
    demo.assert_nothing_is_left();
}

#[test]
fn nothing_outlives_a_demo_that_was_killed() {
    let mut demo = Demo::start(&[]);
    demo.until_told("routes.yaml: ", secs(90));
    demo.process.signal(Signal::Kill);
    demo.wait(CURTAIN);
    let end = Instant::now() + CURTAIN;
    while !demo.processes().is_empty() || !demo.temporary().is_empty() {
        assert!(Instant::now() < end, "left after kill -9: {:?} {:?}", demo.processes(), demo.temporary());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_step_that_is_not_true_fails_with_its_name_and_the_logs() {
    let mut demo = Demo::start(&["--once", "--kafka", "127.0.0.1:9"]);
    let status = demo.wait(STORY);
    assert_eq!(status.code(), Some(1), "{}", demo.told());
    let said = fs::read_to_string(demo.folder.join("stderr")).unwrap();
    assert!(said.contains("step 2, \"") && said.contains("banyan-demo/*.log"), "{said}");
    assert!(demo.folder.join("banyan-demo/banyan.log").exists(), "the logs it names are there");
}

// === impl Demo ===

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = watchdog::folder("demo");
        // PostgreSQL's data directories go below it too, so that everything of this demo can be found.
        let temporary = folder.join("tmp");
        fs::create_dir(&temporary).unwrap();
        let file = |name| fs::File::create(folder.join(name)).unwrap();
        let process = Watched::spawn(
            Command::new(env!("CARGO_BIN_EXE_banyan"))
                .arg("demo")
                .args(arguments)
                .current_dir(&folder)
                .env("TMPDIR", &temporary)
                .stdin(Stdio::null())
                .stdout(file("stdout"))
                .stderr(file("stderr")),
            Signal::Kill,
        );
        Self { process, folder }
    }

    fn told(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        format!("{}\n--- stderr\n{}", read("stdout"), read("stderr"))
    }

    fn until_told(&mut self, text: &str, at_most: Duration) {
        let end = Instant::now() + at_most;
        while !self.told().contains(text) {
            assert!(self.process.exited().is_none(), "it ended:\n{}", self.told());
            assert!(Instant::now() < end, "`{text}` was not told within {at_most:?}:\n{}", self.told());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let ended = self.process.wait(at_most);
        ended.unwrap_or_else(|| panic!("it still runs after {at_most:?}:\n{}", self.told()))
    }

    /// Processes that run in its folder or were given a path in it.
    fn processes(&self) -> Vec<String> {
        let ours = |path: &Path| path.starts_with(&self.folder);
        let names = self.folder.display().to_string();
        let all = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
        all.filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok().filter(|line| !line.is_empty())?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| ours(&folder));
            (works_there || line.contains(&names)).then_some(line)
        })
        .collect()
    }

    /// What lies in its temporary folder.
    fn temporary(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        assert_eq!(self.temporary(), Vec::<PathBuf>::new(), "data directories are left");
        assert!(!self.folder.join("banyan-demo").exists(), "its folder is left");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.signal(Signal::Kill);
        self.process.wait(CURTAIN);
        fs::remove_dir_all(&self.folder).ok();
    }
}
