//! The owner's row in MariaDB and MySQL.

use super::{OwnerRow, mark, parse};
use crate::{
    config::Side,
    database::mysql::{MysqlSession, cell, text},
    error::FlowError,
};

/// Reads the row of `side` in its own database. A missing table is a missing row.
pub(crate) async fn read(
    session: &mut MysqlSession,
    install: &str,
    sync: &str,
    side: Side,
) -> Result<Option<OwnerRow>, FlowError> {
    let sql = format!(
        "SELECT owner, epoch, state FROM banyan.owner WHERE install = {} AND sync = {} AND side = '{}'",
        text(install),
        text(sync),
        side.as_str()
    );
    match session.first("reading the owner", &sql).await {
        Ok(row) => row
            .map(|row| {
                let (owner, state): (Option<String>, Option<String>) = (cell(&row, 0), cell(&row, 2));
                parse(&owner.unwrap_or_default(), cell(&row, 1).unwrap_or(0), &state.unwrap_or_default())
            })
            .transpose(),
        // No such table; no such database; no privilege on a database that is not there yet.
        Err(FlowError::Mysql { code: 1146 | 1049 | 1142 | 1044, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the row of `side`, and the word `open` in the same transaction when it is the owner's.
pub(super) async fn insert(
    session: &mut MysqlSession,
    install: &str,
    sync: &str,
    side: Side,
    owner: Side,
    epoch: i64,
) -> Result<(), FlowError> {
    let doing = "writing the owner";
    let open = side == owner;
    let (install_text, sync_text) = (text(install), text(sync));
    session.run(doing, "BEGIN").await?;
    let made = session
        .run(
            doing,
            &format!(
                "INSERT IGNORE INTO banyan.owner (install, sync, side, owner, epoch, state) VALUES ({install_text}, {sync_text}, '{}', '{}', {epoch}, '{}')",
                side.as_str(),
                owner.as_str(),
                if open { "open" } else { "closed" },
            ),
        )
        .await?;
    if open && made == 1 {
        session.run(doing, &say(install, sync, "", "open", &mark(install, sync, epoch))).await?;
    }
    session.run(doing, "COMMIT").await.map(drop)
}

/// The statement that says `word` to whoever reads the log. It always changes the row: a row that stays as it is leaves no trace.
pub(crate) fn say(install: &str, sync: &str, flow: &str, word: &str, content: &str) -> String {
    format!(
        "INSERT INTO banyan.mark (install, sync, flow, word, content, n) VALUES ({}, {}, {}, {}, {}, 1) \
         ON DUPLICATE KEY UPDATE content = VALUES(content), n = n + 1",
        text(install),
        text(sync),
        text(flow),
        text(word),
        text(content)
    )
}
