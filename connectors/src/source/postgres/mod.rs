//! PostgreSQL as a source: a slot, the stream that it gives, and the copies of tables that go into that stream in chunks.

mod chunks;
mod failover;
pub(crate) mod key;
pub(crate) mod lanes;
mod line;
mod outbox;
pub(crate) mod pgoutput;
pub(crate) mod retained;
pub(crate) mod schema;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod stream;

use chunks::Chunks;

use crate::{
    database::postgres::PostgresUrl,
    error::FlowError,
    failpoint::{self, Point},
    kafka::produce::Outlet,
    plan::Plan,
    preflight::Gate,
    status::Board,
};

/// Begins a generation if there is none, and reads the slot until something ends it.
pub(crate) async fn capture(
    plan: &Plan,
    url: &PostgresUrl,
    gate: &Gate,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<(), FlowError> {
    let mut opened = slot::open(plan, url, gate, board).await?;
    if let Some(fresh) = opened.fresh.take() {
        let loads = snapshot::run(plan, url, &opened, &fresh, outlet, board).await?;
        failpoint::reached(Point::StartDelivered);
        slot::complete(&opened, plan, &loads).await?;
        failpoint::reached(Point::StartNoted);
    }
    let chunks = Chunks::open(&opened.session, plan, &opened.keys).await?;
    let from = slot::start(&mut opened, plan).await?;
    stream::run(plan, url, &mut opened, from, &chunks, outlet, board).await
}
