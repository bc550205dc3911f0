//! What must be so before a sync can begin, looked at without changing anything: one file a check.
//!
//! `banyan check --connect` shows the findings of the whole file; a flow asks the same before it makes anything.

mod columns;
mod existing;
mod facts;
mod fitting;
mod functions;
mod gate;
mod identity;
mod kafka;
mod lanes;
mod log;
mod mysql;
mod outbox;
mod privileges;
mod replication_role;
mod slots;
mod triggers;
mod types;

use serde::Serialize;

use crate::{
    config::{Config, Kafka, Side, Sync},
    error::FlowError,
    names::Flow,
};
use facts::Subject;

pub(crate) use fitting::{Source, is_null_throughout, misfits, takes_no_default};
pub(crate) use gate::Gate;

/// Something that stands in a sync's way, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The sync's name in the file.
    pub sync: String,
    /// The flow it concerns; `None` when it concerns both.
    pub flow: Option<Flow>,
    /// Which check found it.
    pub check: Check,
    /// Whether the sync can begin all the same.
    pub severity: Severity,
    /// What is wrong, in one sentence, without any value of a row.
    pub what: String,
    /// The server, database, table or topic.
    #[serde(rename = "where")]
    pub where_: String,
    /// What to do about it; a statement to run where there is one.
    pub fix: String,
}

/// The checks, one a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The database can be reached and logged in to.
    Connect,
    /// What the server writes into its log, and the server's version.
    Log,
    /// Free replication slots and WAL senders.
    Slots,
    /// What Banyan's role may do.
    Privileges,
    /// `session_replication_role` may be set, for `apply_as: replica`.
    ReplicationRole,
    /// Every table is there, can be published, and its rows can be told apart.
    Identity,
    /// Every column has its place on the other side, and its type fits.
    Columns,
    /// The target tables are empty before the first copy.
    Existing,
    /// What fires when rows are applied.
    Triggers,
    /// Every function that takes a table's changes is there, takes what it is given, and may be called.
    Functions,
    /// Every outbox is there, can be published, and has the columns of an event.
    Outbox,
    /// Kafka can be reached; the topic's settings and sizes.
    Kafka,
    /// What others have to give in Kafka: topics that Banyan does not make, and the right to use them.
    Access,
}

/// Whether the sync can begin all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can; somebody should know.
    Warning,
}

/// Collects what the checks of one sync find.
struct Findings<'s> {
    sync: &'s str,
    list: Vec<Finding>,
}

/// Checks all syncs of the file, on real connections. Nothing is changed anywhere.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut list = Vec::new();
    let mut subjects = Vec::new();
    for (name, sync) in &config.syncs {
        let mut findings = Findings { sync: name, list: Vec::new() };
        if let Some(subject) = inspect(&config.install, name, sync, config.kafka.as_ref(), &mut findings).await {
            subjects.push(subject);
        }
        list.append(&mut findings.list);
    }
    // Slots are the server's: what all syncs of the file still need counts together.
    list.append(&mut slots::check(&subjects).await);
    list
}

/// Checks one sync, as its flows do before they make anything.
async fn check_sync(install: &str, name: &str, sync: &Sync, kafka: Option<&Kafka>) -> Vec<Finding> {
    let mut findings = Findings { sync: name, list: Vec::new() };
    let subject = inspect(install, name, sync, kafka, &mut findings).await;
    let mut list = findings.list;
    if let Some(subject) = subject {
        list.append(&mut slots::check(&[subject]).await);
    }
    list
}

/// All checks but that of the slots; the subject when both databases could be read.
async fn inspect<'c>(
    install: &str,
    name: &'c str,
    sync: &'c Sync,
    kafka: Option<&Kafka>,
    findings: &mut Findings<'_>,
) -> Option<Subject<'c>> {
    kafka::check(install, name, sync, kafka, findings).await;
    let subject = Subject::open(install, name, sync, findings).await?;
    log::check(&subject, findings);
    privileges::check(&subject, findings);
    mysql::check(&subject, findings);
    identity::check(&subject, findings);
    columns::check(&subject, findings);
    outbox::check(&subject, findings);
    let outcomes = [
        (Check::ReplicationRole, replication_role::check(&subject, findings).await),
        (Check::Existing, existing::check(&subject, findings).await),
        (Check::Triggers, triggers::check(&subject, findings).await),
        (Check::Functions, functions::check(&subject, findings).await),
        (Check::Identity, lanes::check(&subject, findings).await),
    ];
    for (check, outcome) in outcomes {
        if let Err(error) = outcome {
            findings.unfinished(check, &error);
        }
    }
    Some(subject)
}

// === impl Finding ===

impl Finding {
    /// Whether the sync cannot begin.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Whether it may be gone by itself a little later: a server that was away, a topic that others make.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self.check, Check::Connect | Check::Access)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.where_, self.what, self.fix)
    }
}

// === impl Findings ===

impl Findings<'_> {
    fn error(
        &mut self,
        check: Check,
        flow: Option<Flow>,
        where_: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(Severity::Error, check, flow, where_, what, fix);
    }

    fn warning(
        &mut self,
        check: Check,
        flow: Option<Flow>,
        where_: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(Severity::Warning, check, flow, where_, what, fix);
    }

    fn add(
        &mut self,
        severity: Severity,
        check: Check,
        flow: Option<Flow>,
        where_: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.list.push(Finding {
            sync: self.sync.to_owned(),
            flow,
            check,
            severity,
            what: what.into(),
            where_: where_.into(),
            fix: fix.into(),
        });
    }

    /// A check that could not be carried out says so; it is never taken for passed.
    fn unfinished(&mut self, check: Check, error: &FlowError) {
        let (check, fix) = match error {
            FlowError::Lost { .. } => (Check::Connect, "try again when the database can be reached"),
            _ => (check, "let Banyan's role read the catalog, or look the SQLSTATE up"),
        };
        self.error(check, None, format!("sync `{}`", self.sync), format!("could not be checked: {error}"), fix);
    }
}

/// The flow that writes `side`.
fn flow_into(side: Side) -> Flow {
    match side {
        Side::Legacy => Flow::ModernToLegacy,
        Side::Modern => Flow::LegacyToModern,
    }
}
