//! PostgreSQL as a source: a slot, the snapshot that its creation exports, and the stream that follows it.

pub(crate) mod pgoutput;
pub(crate) mod retained;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod stream;

use crate::{database::postgres::PostgresUrl, error::FlowError, kafka::produce::Outlet, plan::Plan, status::Board};

/// Copies the tables if that was not done, and reads the slot until something ends it.
pub(crate) async fn capture(
    plan: &Plan,
    url: &PostgresUrl,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<(), FlowError> {
    let mut opened = slot::open(plan, url, board).await?;
    if let Some(fresh) = opened.fresh.take() {
        snapshot::run(plan, url, &opened, &fresh, outlet, board).await?;
        slot::complete(&opened, plan).await?;
    }
    let from = slot::start(&mut opened, plan).await?;
    stream::run(plan, &mut opened, from, outlet, board).await
}
