//! The replication origin of an applier's session, where the server permits one.
//!
//! Other readers of the target's log can tell by it what came from elsewhere. Banyan's own flows never rely on it: their loop mark needs
//! no privilege.

use tokio_postgres::error::SqlState;

use crate::{database::postgres::Session, error::FlowError};

/// Takes the origin `name` for `session`, and makes it when there is none. Without the privilege, or without room, the session goes on
/// without. One that another session holds is waited for.
pub(super) async fn take(session: &Session, name: &str) -> Result<(), FlowError> {
    let take = async || session.execute("SELECT pg_replication_origin_session_setup($1)", &[&name]).await;
    let mut taken = take().await;
    if state(&taken) == Some(&SqlState::UNDEFINED_OBJECT) {
        let made = session.execute("SELECT pg_replication_origin_create($1)", &[&name]).await;
        // Somebody else may have made it meanwhile: taking it tells.
        taken = if state(&made) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) { made } else { take().await };
    }
    let without = |reason| {
        tracing::info!(origin = name, reason, "applying without a replication origin");
        Ok(())
    };
    match (state(&taken), &taken) {
        (Some(&SqlState::INSUFFICIENT_PRIVILEGE), _) => without("no privilege"),
        (Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED | &SqlState::UNDEFINED_OBJECT), _) => {
            without("the server has no room for one more")
        }
        (Some(&SqlState::OBJECT_IN_USE), _) => Err(FlowError::Busy(format!(
            "another session of the target's server holds the replication origin `{name}`; two Banyans there need an `install` each"
        ))),
        (_, Err(error)) => Err(FlowError::sql("taking the replication origin", error)),
        (_, Ok(_)) => Ok(()),
    }
}

fn state(outcome: &Result<u64, tokio_postgres::Error>) -> Option<&SqlState> {
    outcome.as_ref().err().and_then(tokio_postgres::Error::code)
}
