//! `apply_as: replica` sets `session_replication_role`, which not every server lets every role do.

use crate::{config::ApplyAs, error::FlowError, names::quote};

use super::{Check, Findings, facts::Subject, flow_into};

pub(super) async fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    if subject.sync.apply_as != ApplyAs::Replica {
        return Ok(());
    }
    for place in subject.places() {
        let Some(own) = place.postgres() else { continue };
        // Tried, and taken back at once: which roles may do it differs from one managed server to the next.
        let tried = own.session.batch_execute("BEGIN; SET LOCAL session_replication_role = replica").await;
        let back = own.session.batch_execute("ROLLBACK").await;
        back.map_err(|error| FlowError::sql("trying session_replication_role", &error))?;
        let Err(error) = tried else { continue };
        if error.code().map(tokio_postgres::error::SqlState::code) != Some("42501") {
            return Err(FlowError::sql("trying session_replication_role", &error));
        }
        let role = quote(&own.server.role);
        let allow = if own.server.version >= 150_000 {
            format!("as superuser run `GRANT SET ON PARAMETER session_replication_role TO {role}`")
        } else {
            format!("make {role} a superuser, which is what PostgreSQL before 15 asks for")
        };
        findings.error(
            Check::ReplicationRole,
            Some(flow_into(place.side)),
            place.name(),
            format!(
                "the role `{}` may not set `session_replication_role`, which `apply_as: replica` does",
                own.server.role
            ),
            format!(
                "either {allow}; or write `apply_as: origin` in the sync `{}`, and triggers and foreign keys fire for \
                 applied rows as for any others",
                subject.name
            ),
        );
    }
    Ok(())
}
