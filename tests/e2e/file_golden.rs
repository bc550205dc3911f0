//! Every broken file in `tests/broken` is told as its `.expected` says. `BANYAN_BLESS=1` writes those anew; read the difference then.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");

/// What a person sees, and the exit code.
fn told(file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_banyan"))
        .args(["check", "-c"])
        .arg(file.file_name().unwrap())
        .current_dir(FOLDER)
        .env_remove("BANYAN_TEST_NOT_SET")
        .env("BANYAN_TEST_SECRET", "hunter2-from-the-environment")
        .env("BANYAN_TEST_YAML", "{a: [b, c]}")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    format!("{stderr}exit {}\n", output.status.code().expect("no signal ended it"))
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_broken_file_is_told_as_expected() {
    let files = files();
    assert!(files.len() >= 60, "{} broken files", files.len());
    let bless = std::env::var_os("BANYAN_BLESS").is_some();
    let mut wrong = Vec::new();
    for file in &files {
        let told = told(file);
        let expected = file.with_extension("expected");
        if bless {
            fs::write(&expected, &told).unwrap();
        }
        let name = file.file_stem().unwrap().to_string_lossy();
        let is_warning = name.contains("-warning-");
        assert!(told.ends_with(if is_warning { "exit 0\n" } else { "exit 1\n" }), "{name}:\n{told}");
        if fs::read_to_string(&expected).unwrap_or_default() != told {
            wrong.push(format!("--- {name}\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "told otherwise than expected:\n{}", wrong.join("\n"));
}

#[test]
fn no_message_shows_a_secret() {
    for file in files() {
        let told = told(&file);
        assert!(!told.contains("hunter"), "{}:\n{told}", file.display());
    }
}

#[test]
fn each_expectation_has_its_file() {
    let stems = |extension: &str| -> BTreeSet<String> {
        fs::read_dir(FOLDER)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(stems("expected"), stems("yaml"));
}
