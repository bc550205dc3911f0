//! A flow that the target's tables stop goes on by itself when one of them is altered.

use std::time::{Duration, Instant};

use crate::{
    database::DatabaseUrl,
    error::{FlowError, Verdict},
    plan::Plan,
    status::{Board, Task},
    target::{mysql, postgres},
};

const LOOK: Duration = Duration::from_secs(1);
/// What a function uses is not known here: where there is one it is tried anew after so long.
const ANEW: Duration = Duration::from_secs(15);

/// After `error`, which another table would not have: waits until one is altered. `sum` is of the tables that it was met with.
pub(super) async fn altered(plan: &Plan, board: &Board, sum: &str, error: FlowError) -> FlowError {
    let mut is_told = false;
    let (began, has_functions) = (Instant::now(), plan.tables.iter().any(|table| table.is_function));
    loop {
        // A database that is away is asked again.
        match now(plan).await {
            Ok(now) if now != sum => {
                return FlowError::Busy("a table or function of the target was altered: it is read anew".into());
            }
            Ok(_) if !std::mem::replace(&mut is_told, true) => {
                let (sync, flow, error) = (&plan.names.sync, plan.names.flow.as_str(), error.to_string());
                tracing::error!(
                    sync,
                    flow,
                    error,
                    "the flow stopped until a table or function of the target is altered"
                );
                board.ended(Task::Apply(plan.lane), Verdict::Stop, &error);
            }
            _ if has_functions && began.elapsed() > ANEW => {
                return FlowError::Busy("what a function uses may have been altered: it is called anew".into());
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn now(plan: &Plan) -> Result<String, FlowError> {
    let application = plan.names.application("altered");
    match &plan.target {
        DatabaseUrl::Postgres(url) => postgres::catalogue::read(&url.connect(&application).await?, &plan.tables).await,
        DatabaseUrl::Mysql(url) => mysql::catalogue::read(&mut url.connect(&application).await?, &plan.tables).await,
    }
}
