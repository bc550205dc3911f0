//! Tends every upstream from the background runtime: what is decided once a process and not once a worker is decided here, every 100 ms, from
//! what the workers count.
//!
//! One task an upstream; one that panics is started again after a second and hurts no other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{UpstreamSpec, UpstreamState, resolve::resolve};
use crate::listen::Shared;

/// Dropping it ends what it does.
pub(crate) struct Warden {
    _ends: DropGuard,
}

/// An upstream under its eye.
struct Ward {
    spec: Arc<UpstreamSpec>,
    task: AbortHandle,
}

/// How often everything is decided.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// After a panic.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Warden ===

impl Warden {
    pub(crate) fn start(background: &Handle, shared: Arc<Shared>) -> Self {
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(watch(shared)));
        Self { _ends: token.drop_guard() }
    }
}

/// Keeps one task for each upstream of the present config.
async fn watch(shared: Arc<Shared>) {
    let (mut tasks, mut wards) = (JoinSet::new(), BTreeMap::<String, Ward>::new());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let current = shared.current.load_full();
        wards.retain(|name, ward| {
            let is_kept = current.upstreams.iter().any(|spec| spec.name == *name && *spec == ward.spec);
            if !is_kept {
                ward.task.abort();
            }
            is_kept
        });
        for spec in &current.upstreams {
            if !wards.contains_key(&spec.name) {
                let state = shared.upstream_state(&spec.name);
                let task = tasks.spawn(tend(Arc::clone(spec), state));
                wards.insert(spec.name.clone(), Ward { spec: Arc::clone(spec), task });
            }
        }
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("what tends an upstream panicked; it goes on in a second");
                tokio::time::sleep(PAUSE).await;
            }
        }
        wards.retain(|_, ward| !ward.task.is_finished());
    }
}

/// Everything about one upstream, until it is aborted.
async fn tend(spec: Arc<UpstreamSpec>, state: Arc<UpstreamState>) {
    tokio::join!(resolve(Arc::clone(&spec), Arc::clone(&state)), decide(&spec, &state));
}

async fn decide(spec: &UpstreamSpec, state: &UpstreamState) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        state.warm_up(spec);
    }
}
