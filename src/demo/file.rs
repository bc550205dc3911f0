//! `./banyan-demo/routes.yaml`: the example from the top of the repository with the addresses of the moment, and edits as a person makes them.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The file that Banyan watches.
pub(crate) struct RoutesFile {
    path: PathBuf,
}

const EXAMPLE: &str = include_str!("../../routes.yaml");

// === impl RoutesFile ===

impl RoutesFile {
    /// Writes it with `values` in place of the defaults of the same name: `${NAME:-default}` becomes `${NAME:-value}`.
    pub(crate) fn write(path: PathBuf, values: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut text = EXAMPLE.to_owned();
        for (name, value) in values {
            text =
                with_default(&text, name, value).with_context(|| format!("routes.yaml names no `${{{name}:-…}}`"))?;
        }
        let file = Self { path };
        file.replace(&text)?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the number behind `key` in a route, wherever the route's lines have it.
    pub(crate) fn set(&self, route: &str, key: &str, value: u32) -> anyhow::Result<()> {
        let text = fs::read_to_string(&self.path)?;
        let edited = with_number(&text, route, key, value)
            .with_context(|| format!("route `{route}` of {} has no `{key}: <number>`", self.path.display()))?;
        self.replace(&edited).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Replaces some words, which stand there once.
    pub(crate) fn rewrite(&self, old: &str, new: &str) -> anyhow::Result<()> {
        let text = fs::read_to_string(&self.path)?;
        if text.matches(old).count() != 1 {
            anyhow::bail!("`{old}` does not stand once in {}", self.path.display());
        }
        self.replace(&text.replace(old, new)).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// As editors do it: a new file in the place of the old one. It holds passwords.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("yaml.new");
        fs::write(&new, text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &self.path)
    }
}

fn with_default(text: &str, name: &str, value: &str) -> Option<String> {
    let opening = format!("${{{name}:-");
    let mut pieces = text.split(&opening);
    let mut out = pieces.next()?.to_owned();
    let mut found = false;
    for piece in pieces {
        let (_default, rest) = piece.split_once('}')?;
        out += &format!("{opening}{value}}}{rest}");
        found = true;
    }
    found.then_some(out)
}

fn with_number(text: &str, route: &str, key: &str, value: u32) -> Option<String> {
    let heading = format!("- name: {route}");
    let start = text.lines().scan(0, |at, line| {
        let here = *at;
        *at += line.len() + 1;
        Some((here, line))
    });
    let start = start.into_iter().find(|(_, line)| line.trim() == heading)?.0;
    let end = text[start + heading.len()..].find("- name: ").map_or(text.len(), |at| start + heading.len() + at);
    let key = format!("{key}: ");
    let number = start + text[start..end].find(&key)? + key.len();
    let digits = text[number..].bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    (digits > 0).then(|| format!("{}{value}{}", &text[..number], &text[number + digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_one_number_of_one_route_and_no_comment() {
        let edited = with_number(EXAMPLE, "payments", "weight", 5).unwrap();
        let changed: Vec<_> = EXAMPLE.lines().zip(edited.lines()).filter(|(old, new)| old != new).collect();
        assert_eq!(changed.len(), 1);
        assert!(
            changed[0].1.trim().starts_with("weight: 5 ") && changed[0].1.contains("# flip me"),
            "{}",
            changed[0].1
        );
        let edited = with_number(EXAMPLE, "payments", "percent", 100).unwrap();
        assert!(edited.contains("shadow: {percent: 100}"));
        assert_eq!(with_number(EXAMPLE, "accounts", "percent", 1), None, "another route's key is not taken");
    }

    #[test]
    fn every_place_of_a_name_gets_the_value() {
        let text = with_default(EXAMPLE, "LEGACY_DB_URL", "postgres://x").unwrap();
        assert_eq!(text.matches("${LEGACY_DB_URL:-postgres://x}").count(), 2);
        assert_eq!(with_default(EXAMPLE, "NO_SUCH", "x"), None);
    }
}
