//! routes.yaml: text in, both halves' configuration out, or everything that is wrong with it at once.
//!
//! text → tree (`parse`) → `${NAME}` (`env`) → structs (`collect`, by `de`) → limits of single values (garde) → what must hold between
//! them (`rules`) → the compiled table's own problems. Every phase tells where in the text its finding stands.

mod collect;
mod de;
mod env;
mod file;
mod known;
mod node;
mod parse;
mod redact;
mod report;
mod restart;
mod rules;
mod span;
mod stand_in;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use banyan_proxy::{
    config::{State, SyncRules},
    links::Owner,
    table::{self, RouteTable},
};
use garde::Validate as _;

pub(crate) use env::Env;
pub(crate) use file::{File, Loaded, owner};
pub(crate) use redact::redacted;
pub(crate) use report::{Diagnostic, Report, Severity};
pub(crate) use restart::RestartKeys;
pub(crate) use span::Text;
pub(crate) use tree::{Difference, Differs, Of, Tree};

use crate::link::FileLinks;
use collect::{as_written, collect};
use node::{Kind, Node, Pruned, Step, View};
use span::Span;

/// A larger file is refused before it is parsed.
const LARGEST: usize = 1 << 20;

/// A file that may be used, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) loaded: Loaded,
    /// Warnings only.
    pub(crate) report: Report,
}

/// What a file is compared with when it takes the place of another.
#[derive(Debug, Default)]
pub(crate) struct Against {
    /// The owner that the file in force names, and the one that is known; by the sync's name.
    pub(crate) owners: BTreeMap<String, (Owner, Owner)>,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    message: String,
    hint: Option<String>,
}

/// Reads and checks a file with this process's environment.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn load(path: &Path) -> Result<Accepted, Box<Report>> {
    load_against(path, &Against::default())
}

/// The same for a file that would take the place of another.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn load_against(path: &Path, against: &Against) -> Result<Accepted, Box<Report>> {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => check(&name, &bytes, &|variable| std::env::var(variable).ok(), against),
        Err(unreadable) => Err(Box::new(unreadable.report(&name))),
    }
}

/// How the Banyan of a file is asked.
#[derive(Debug)]
pub(crate) struct AdminPlace {
    /// Where its admin listener is, when the file says so.
    pub(crate) bind: Option<SocketAddr>,
    /// The files of its certificates, where it speaks TLS.
    pub(crate) certificates: Option<Vec<PathBuf>>,
    /// Its `state.dir`.
    pub(crate) state: PathBuf,
}

/// How the Banyan of a file is asked, even if the file is wrong elsewhere.
pub(crate) fn admin_of(path: &Path) -> AdminPlace {
    let root = read(path).ok().and_then(|bytes| {
        let text = Text::new(decode(&bytes).ok()?.to_owned());
        let (mut root, _) = parse::parse(&text).ok()?;
        env::expand(&mut root, &|variable| std::env::var(variable).ok(), &mut Vec::new());
        Some(root)
    });
    let value = |map: &str, key: &str| match &root.as_ref()?.get(map)?.get(key)?.kind {
        Kind::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    };
    let certificates = root.as_ref().and_then(|root| {
        let tls = root.get("admin")?.get("tls")?;
        let Kind::List(certificates) = &tls.get("certificates")?.kind else { return None };
        let files = certificates.iter().filter_map(|one| match &one.get("cert")?.kind {
            Kind::Scalar(scalar) => Some(PathBuf::from(&scalar.text)),
            _ => None,
        });
        Some(files.collect())
    });
    AdminPlace {
        certificates,
        bind: value("admin", "bind").and_then(|bind| bind.parse().ok()),
        state: value("state", "dir").map_or_else(|| State::default().dir, PathBuf::from),
    }
}

/// Checks the bytes of a file.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn check(name: &str, bytes: &[u8], env: Env<'_>, against: &Against) -> Result<Accepted, Box<Report>> {
    let text = match decode(bytes) {
        Ok(text) => Text::new(text.to_owned()),
        Err((message, hint, text)) => {
            let mut report = Report::new(name, Text::new(text));
            let end = report.text.as_str().len();
            let mut diagnostic = Diagnostic::error(message).hint(hint);
            if end > 0 {
                diagnostic = diagnostic.at("", Span::new(end, 1));
            }
            report.push(diagnostic);
            return Err(Box::new(report));
        }
    };
    let mut report = Report::new(name, text);
    let examined = examine(&mut report, env, against);
    report.sort();
    match examined {
        Some((file, restart, tree)) if report.errors() == 0 => {
            let loaded = Loaded {
                proxy: file.proxy(),
                connectors: file.connectors(),
                admin: file.admin.clone(),
                webhook: file.webhook.clone(),
                text: Arc::from(report.text.as_str()),
                restart,
                tree,
            };
            Ok(Accepted { loaded, report })
        }
        _ => Err(Box::new(report)),
    }
}

/// The bytes of a file; one byte more than [`LARGEST`] at most.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Unreadable> {
    use std::io::{ErrorKind, Read as _};
    let wrong = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Unreadable {
            message: "there is no such file".to_owned(),
            hint: Some("name another with `-c FILE`; the default is `routes.yaml`".to_owned()),
        },
        _ => Unreadable { message: format!("the file cannot be read: {error}"), hint: None },
    };
    let mut bytes = Vec::new();
    let bound = LARGEST as u64 + 1;
    std::fs::File::open(path).map_err(wrong)?.take(bound).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<&str, (String, &'static str, String)> {
    if bytes.len() > LARGEST {
        return Err((
            "the file is larger than 1 MiB".to_owned(),
            "a file of this size is a mistake or an attack; split what it serves between two installations",
            String::new(),
        ));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        (
            "the file is not UTF-8".to_owned(),
            "save it as UTF-8; the bytes before this place are",
            String::from_utf8_lossy(good).into_owned(),
        )
    })?;
    let blank = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if blank {
        return Err((
            "the file is empty".to_owned(),
            "it needs at least `version`, `listeners`, `upstreams` and `default`",
            String::new(),
        ));
    }
    Ok(text)
}

/// Runs all phases and puts what they find into the report. The file is what could be read of it.
fn examine(report: &mut Report, env: Env<'_>, against: &Against) -> Option<(File, RestartKeys, Tree)> {
    let (mut root, errors) = match parse::parse(&report.text) {
        Ok(parsed) => parsed,
        Err(error) => {
            report.secrets = secrets_of_lines(&report.text);
            report.push(*error);
            return None;
        }
    };
    report.secrets = Vec::new();
    secrets(&root, None, &mut report.secrets);
    errors.into_iter().for_each(|error| report.push(error));
    if !matches!(root.kind, Kind::Map(_)) {
        let error = Diagnostic::error("the file is no map of keys and values").at("", root.span);
        report.push(error.hint("it needs at least `version`, `listeners`, `upstreams` and `default`"));
        return None;
    }
    let mut errors = Vec::new();
    env::expand(&mut root, env, &mut errors);
    let mut pruned = Pruned::default();
    for error in errors {
        // What could not be expanded is left out, so that nothing else is said about it.
        if let Some((node, _)) = root.at(&Step::parse(&error.path)) {
            pruned.add(node.id);
        }
        report.push(error);
    }

    let found = collect::<File>(&root, pruned);
    report.cut = found.cut;
    found.diagnostics.into_iter().for_each(|error| report.push(error));
    let file = found.value?;
    let judge = Judge { root: &root, view: &found.view };
    judge.limits(&file, report);
    judge.rules(&file, report);
    judge.table(&file, report);
    judge.owners(&file, against, report);
    let restart = RestartKeys::of(&root);
    Some((file, restart, Tree::new(root)))
}

/// What the phases after the structs need to place their findings, and to keep quiet about what is only a consequence.
struct Judge<'t> {
    root: &'t Node,
    view: &'t View,
}

// === impl Unreadable ===

impl Unreadable {
    /// As a report of its own.
    pub(crate) fn report(&self, name: &str) -> Report {
        let mut report = Report::new(name, Text::new(String::new()));
        let mut diagnostic = Diagnostic::error(&self.message);
        diagnostic.hint.clone_from(&self.hint);
        report.push(diagnostic);
        report
    }
}

// === impl Judge ===

impl Judge<'_> {
    fn limits(&self, file: &File, report: &mut Report) {
        let Err(found) = file.validate() else { return };
        for (path, error) in found.iter() {
            // The struct's field has another name than its key.
            let steps: Vec<Step> = Step::parse(&path.to_string())
                .into_iter()
                .map(|step| if step == Step::Key("matches".to_owned()) { Step::Key("match".to_owned()) } else { step })
                .collect();
            let place = self.root.follow(&steps, self.view);
            let key = steps.iter().rev().find_map(|step| match step {
                Step::Key(key) => Some(key.as_str()).filter(|key| place.path.ends_with(key)),
                Step::Index(_) => None,
            });
            let (message, hint) = known::limit(&steps, key, error.message());
            self.tell(Severity::Error, &steps, &message, hint, report);
        }
    }

    fn rules(&self, file: &File, report: &mut Report) {
        for breach in rules::breaches(file) {
            self.tell(Severity::Error, &Step::parse(&breach.path), &breach.message, breach.hint, report);
        }
        for doubt in rules::doubts(file) {
            self.tell(Severity::Warning, &Step::parse(&doubt.path), &doubt.message, doubt.hint, report);
        }
    }

    /// What the compiled table has to say.
    fn table(&self, file: &File, report: &mut Report) {
        let mut config = file.proxy();
        self.stand_in(&mut config);
        let links = FileLinks::new(&config);
        let (Ok((_, problems)) | Err(problems)) = RouteTable::compile(&config, &links);
        let admin = file.admin.tls.as_ref().and_then(|tls| banyan_proxy::check_tls("admin.tls", tls));
        let names_are_whole = |key: &str| {
            !self.view.stands_in(self.root.id, key)
                && self.root.get(key).is_none_or(|node| !self.view.pruned.has(node.id))
        };
        let (upstreams, syncs) = (names_are_whole("upstreams"), names_are_whole("syncs"));
        let routes_are_whole = self.root.get("routes").is_none_or(|routes| !routes.has_pruned(&self.view.pruned));
        for problem in problems.into_iter().chain(banyan_proxy::check_files(&config)).chain(admin) {
            let steps = Step::parse(&problem.path);
            let unknown = problem.message.starts_with("unknown ");
            let consequence = (problem.message.starts_with("unknown upstream") && !upstreams)
                || (problem.message.starts_with("unknown sync") && !syncs)
                || (problem.severity == table::Severity::Warning && !routes_are_whole)
                || (!unknown && self.lacks_a_side(&steps));
            if !consequence {
                let severity = match problem.severity {
                    table::Severity::Error => Severity::Error,
                    table::Severity::Warning => Severity::Warning,
                };
                self.tell(severity, &steps, &without_stand_ins(&problem.message), problem.hint, report);
            }
        }
    }

    /// A sync's owner moves with its data, not with a line of text.
    fn owners(&self, file: &File, against: &Against, report: &mut Report) {
        for (name, sync) in &file.syncs {
            let wanted = file::owner(sync.owner);
            let Some((accepted, known)) = against.owners.get(name) else { continue };
            if wanted != *accepted && wanted != *known {
                let known = known.as_str();
                let steps = ["syncs", name, "owner"].map(|key| Step::Key(key.to_owned()));
                let message = format!("the owner of sync `{name}` cannot be changed in this version: {known} owns it");
                self.tell(Severity::Error, &steps, &message, Some(format!("put `owner: {known}` back")), report);
            }
        }
    }

    /// Upstreams and syncs that were left out are still known by their names.
    fn stand_in(&self, config: &mut banyan_proxy::config::Config) {
        let names = |key| self.root.get(key).map_or(&[][..], Node::entries).iter().map(|entry| entry.key.clone());
        for name in names("upstreams") {
            let form = serde_json::json!({ "endpoints": ["http://127.0.0.1:1"] });
            if let Ok(upstream) = serde_json::from_value(form) {
                config.upstreams.entry(name).or_insert(upstream);
            }
        }
        for name in names("syncs") {
            config.syncs.entry(name).or_insert(SyncRules {
                owner: Owner::Legacy,
                read_your_writes: Duration::ZERO,
                max_lag: Duration::ZERO,
            });
        }
    }

    /// Whether a key was left out of this route that the rules between its keys lean on.
    fn lacks_a_side(&self, steps: &[Step]) -> bool {
        let Some(route) = steps.get(..2) else { return false };
        let leans_on: &[&str] = match steps.get(2) {
            Some(Step::Key(key)) if matches!(key.as_str(), "match" | "name" | "sticky") => return false,
            Some(Step::Key(key)) if key == "compare" => &["shadow"],
            _ => &["legacy", "modern", "match", "sync", "shadow"],
        };
        let route = self.root.follow(route, self.view).node;
        route
            .entries()
            .iter()
            .any(|entry| leans_on.contains(&entry.key.as_str()) && entry.value.has_pruned(&self.view.pruned))
    }

    fn tell(&self, severity: Severity, steps: &[Step], message: &str, hint: Option<String>, report: &mut Report) {
        let place = self.root.follow(steps, self.view);
        let consequence = place.node.id != self.root.id && place.node.has_pruned(&self.view.pruned);
        if place.stand_in || consequence {
            return;
        }
        let scalar = match &place.node.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        };
        let shown = |text: &str| scalar.map_or_else(|| text.to_owned(), |scalar| as_written(text, scalar));
        let mut diagnostic = Diagnostic::error(shown(message));
        if place.node.id != self.root.id {
            diagnostic = diagnostic.at(place.path, place.span);
        }
        diagnostic.severity = severity;
        diagnostic.hint = hint.map(|hint| shown(&hint));
        report.push(diagnostic);
    }
}

/// A route without a name is "the route".
fn without_stand_ins(message: &str) -> String {
    match message.split_once("route `stand-in-").and_then(|(before, rest)| Some((before, rest.split_once('`')?.1))) {
        Some((before, behind)) => format!("{before}the route{behind}"),
        None => message.to_owned(),
    }
}

/// Where values stand that no message may show: by their key, and addresses with a password in them.
fn secrets(node: &Node, key: Option<&str>, found: &mut Vec<Span>) {
    match &node.kind {
        Kind::Null => {}
        Kind::Scalar(scalar) => {
            let text = scalar.written.as_ref().unwrap_or(&scalar.text);
            let credentials = text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
            // `${NAME}` is no secret, and helps to see what is meant.
            let only_a_name = text.starts_with("${") && text.ends_with('}') && !text.contains(":-");
            if (key.is_some_and(is_secret) || credentials) && !only_a_name {
                found.push(node.span);
            }
        }
        Kind::List(items) => items.iter().for_each(|item| secrets(item, key, found)),
        Kind::Map(entries) => {
            for entry in entries {
                let key = if is_secret(&entry.key) { Some(entry.key.as_str()) } else { key };
                secrets(&entry.value, key, found);
            }
        }
    }
}

/// The same for a text that could not be parsed: what stands behind such a key in its line, and lines with credentials.
fn secrets_of_lines(text: &Text) -> Vec<Span> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.as_str().split_inclusive('\n') {
        let key = ["secret", "postgres", "mysql", "password", "token", "view:", "operate:", "webhook", "url:"]
            .iter()
            .find_map(|key| line.find(key));
        let credentials = line.find("://").filter(|at| line[*at..].contains('@'));
        if let Some(at) = key.and_then(|key| line[key..].find(':').map(|colon| key + colon + 1)).or(credentials) {
            found.push(Span { start: start + at, end: start + line.trim_end().len() });
        }
        start += line.len();
    }
    found
}

fn is_secret(key: &str) -> bool {
    // Whoever knows the URL of a chat room's hook may write there.
    matches!(key, "secret" | "postgres" | "mysql" | "password" | "token" | "tokens" | "webhook")
}
