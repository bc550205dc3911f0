//! MariaDB and MySQL as a source: a consistent snapshot, and the rows of the binlog that follow it.

pub(crate) mod charset;
mod event;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod outbox;
mod outboxes;
pub(crate) mod schema;
pub(crate) mod shape;
mod snapshot;
mod statement;
pub(crate) mod stored;
mod stream;
pub(crate) mod value;

pub(crate) use charset::is_unicode;

use crate::{
    database::mysql::MysqlUrl,
    error::FlowError,
    failpoint::{self, Point},
    kafka::produce::Outlet,
    plan::Plan,
    status::Board,
};

/// Copies the tables if that was not done, and reads the log until something ends it.
pub(crate) async fn capture(plan: &Plan, url: &MysqlUrl, outlet: &mut Outlet, board: &Board) -> Result<(), FlowError> {
    let mut opened = stored::open(plan, url, board).await?;
    if let Some(fresh) = opened.fresh.take() {
        snapshot::run(plan, &mut opened, fresh, outlet, board).await?;
        failpoint::reached(Point::StartDelivered);
        stored::complete(&mut opened, plan).await?;
        failpoint::reached(Point::StartNoted);
    }
    stream::run(plan, url, &mut opened, outlet, board).await
}

/// A moment as the server writes it, in UTC and to the microsecond.
pub(crate) fn moment(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut out = Vec::with_capacity(26);
    value::write_moment(&mut out, since.as_secs(), since.subsec_micros());
    String::from_utf8_lossy(&out).into_owned()
}
