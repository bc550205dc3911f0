//! Rollouts of several replicas: one log that all of them read in the same order, and one of them decides.
//!
//! A standing is in force when it was read back from the log, and only if its revision is the next one: of two replicas that both believe to
//! decide, the first one in the log counts, and the other sees so. What is seen is shared as sums since each replica's start, so that a record
//! that is lost costs nothing. While the log is away, nobody reads anything back, and so nothing moves forward. A rollback needs no log: whoever
//! demands it is at 0 at once, and stays there until the log has taken it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Act, Counts, Event, Inner, Phase, Refusal, Standing, Walk, Walks,
    gates::Failed,
    metrics::Metrics,
    unix_now,
    walk::{Found, Here, Seen},
};
use crate::config::OnFail;

/// The log that replicas share. It keeps the newest record of each key.
pub trait Replicas: Send + Sync {
    /// Appends a record, sooner or later; `None` takes the key's record away.
    fn append(&self, key: String, value: Option<Vec<u8>>);

    /// Whether this replica decides, and has read all that was there before it did.
    fn decides(&self) -> bool;

    /// What it is called, for messages.
    fn name(&self) -> &str;
}

/// What a replica asks the one that decides for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Demand {
    pub(super) id: String,
    route: String,
    act: Act,
    by: String,
    why: String,
    /// It was no person who asked, but a gate that failed.
    failed: Option<Failed>,
}

/// A standing on its way.
#[derive(Serialize, Deserialize)]
struct Shared<S> {
    writer: String,
    standing: S,
}

/// What one replica has seen of one route since its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sight {
    counts: Counts,
    circuit_was_open: bool,
}

/// What a process knows of its replicas.
pub(super) struct Others {
    /// This process, as the log knows it.
    me: String,
    /// What each of the others has seen, by its name; and when it was heard.
    sights: BTreeMap<String, (Instant, BTreeMap<String, Sight>)>,
    /// What was asked for and is not done, in the order of the log.
    demands: Vec<Demand>,
    /// Demands of this process that were taken away, done or not.
    ended_demands: BTreeSet<String>,
    /// The log was read to its end once.
    pub(super) is_current: bool,
    /// ... and nothing stood in it.
    was_empty: bool,
}

/// Of one route, in a process with replicas.
pub(super) struct Among {
    /// A standing of it stands in the log.
    is_heard: bool,
    /// The newest one there is not the one that is in force: Kafka may keep it alone.
    is_outdated: bool,
    /// It stood in the file that this process was started with.
    is_from_start: bool,
    /// What this process alone has seen at this step.
    own: Standing,
    /// Written, and not read back.
    pending: Option<(Instant, Standing)>,
    /// A rollback that holds here whatever the log says.
    pub(super) demand: Option<Demand>,
    /// What the last look of the one that decides was made of, by replica.
    looked: BTreeMap<String, Counts>,
}

/// A replica that was not heard for so many seconds is gone.
const GONE: u64 = 60;
/// What was written so many seconds ago and not read back will never be.
const LOST: u64 = 330;

// === impl Among ===

impl Among {
    pub(super) fn new(standing: &Standing, demand: Option<Demand>, is_from_start: bool, is_heard: bool) -> Self {
        let own = Standing::at(standing.step, standing.generation, standing.since);
        let looked = BTreeMap::new();
        Self { is_heard, is_outdated: false, is_from_start, own, pending: None, demand, looked }
    }
}

// === impl Others ===

impl Others {
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            sights: BTreeMap::new(),
            demands: Vec::new(),
            ended_demands: BTreeSet::new(),
            is_current: false,
            was_empty: true,
        }
    }

    /// Remembers for whoever waits; a few are enough.
    fn ended(&mut self, id: &str) {
        if self.ended_demands.len() > 100 {
            self.ended_demands.clear();
        }
        self.ended_demands.insert(id.to_owned());
    }
}

// === impl Inner ===

impl Inner {
    /// Takes a record of the log.
    pub(super) fn heard(&self, key: &str, value: Option<&[u8]>) {
        let (mut told, mut is_done) = (Vec::new(), false);
        {
            let mut walks = self.walks();
            let walks = &mut *walks;
            let Some(others) = &mut walks.others else { return };
            others.was_empty &= value.is_none() || !key.starts_with("rollout/");
            match (key.split_once('/'), value) {
                (Some(("rollout", route)), Some(value)) => {
                    if let Ok(Shared { writer, standing }) = serde_json::from_slice::<Shared<Standing>>(value) {
                        let is_mine = writer == others.me;
                        told = walks.adopt_shared(route, standing, is_mine);
                    }
                }
                (Some(("seen", replica)), value) if replica != others.me => {
                    let sights = value.and_then(|value| serde_json::from_slice(value).ok());
                    match sights {
                        Some(sights) => drop(others.sights.insert(replica.to_owned(), (Instant::now(), sights))),
                        None => drop(others.sights.remove(replica)),
                    }
                }
                (Some(("demand", id)), Some(value)) => {
                    if let Ok(demand) = serde_json::from_slice::<Demand>(value)
                        && demand.id == id
                        && !others.demands.contains(&demand)
                    {
                        others.demands.push(demand);
                    }
                }
                (Some(("demand", id)), None) => {
                    others.demands.retain(|demand| demand.id != id);
                    others.ended(id);
                    is_done = true;
                    for (name, walk) in &mut walks.routes {
                        if let Some(among) = &mut walk.among
                            && among.demand.as_ref().is_some_and(|demand| demand.id == id)
                        {
                            among.demand = None;
                        }
                        walk.cap.set(walk.effective(name));
                    }
                }
                _ => {}
            }
        }
        let decides = self.replicas.as_ref().is_some_and(|replicas| replicas.decides());
        for event in &told {
            event.tell(&self.metrics);
            if decides {
                let _ = self.events.send(event.clone());
            }
        }
        self.show();
        if is_done || !told.is_empty() {
            self.done.notify_waiters();
            self.begins_anew.notify_one();
            self.is_changed.store(true, std::sync::atomic::Ordering::Release);
        }
    }

    /// All that stood in the log when it was opened has been heard.
    pub(super) fn is_current(&self) {
        if let Some(others) = &mut self.walks().others {
            others.is_current = true;
        }
    }

    /// Asks the one that decides, and waits until it has done it. A rollback holds here at once.
    pub(super) async fn demand(&self, route: &str, act: Act, by: &str, why: &str) -> Result<(Event, bool), Refusal> {
        let demand = self.walks().demand(route, act, by, why)?;
        let Some(replicas) = &self.replicas else { return Err(Refusal::NoRollout) };
        append(&**replicas, &demand);
        let id = demand.id.clone();
        let waiting = async {
            loop {
                let notified = self.done.notified();
                if let Some(event) = self.walks().done(route, &id) {
                    return event;
                }
                notified.await;
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(8), waiting).await {
            Ok(Some(event)) => Ok((event, true)),
            Ok(None) => Err(Refusal::NotNow("it stands elsewhere by now; see `banyan status`".to_owned())),
            Err(_) if act == Act::Rollback => self.walks().held(route, &demand).map(|event| (event, false)),
            Err(_) => {
                append_gone(&**replicas, &demand.id);
                let name = replicas.name();
                Err(Refusal::NotNow(format!("no replica decides: {name} cannot be reached, or nobody has read it yet")))
            }
        }
    }
}

fn append(replicas: &dyn Replicas, demand: &Demand) {
    replicas.append(format!("demand/{}", demand.id), serde_json::to_vec(demand).ok());
}

fn append_gone(replicas: &dyn Replicas, demand: &str) {
    replicas.append(format!("demand/{demand}"), None);
}

// === impl Walks ===

impl Walks {
    /// A standing that was read back.
    fn adopt_shared(&mut self, route: &str, mut standing: Standing, is_mine: bool) -> Vec<Event> {
        let is_current = self.others.as_ref().is_some_and(|others| others.is_current);
        let Some((name, walk)) = self.routes.iter_mut().find(|(name, _)| &***name == route) else {
            let is_newer = self.rest.get(route).is_none_or(|known| standing.revision > known.revision);
            if is_newer {
                self.rest.insert(route.to_owned(), standing);
            }
            return Vec::new();
        };
        let Some(among) = &mut walk.among else { return Vec::new() };
        if among.is_heard && standing.revision <= walk.standing.revision {
            // Heard twice, or from one that was stopped while another one decided.
            standing.recent.clone_from(&walk.standing.recent);
            among.is_outdated = standing != walk.standing;
            return Vec::new();
        }
        // What happened before this replica came was told by others.
        let is_old = !walk.is_known && !is_current;
        (among.is_heard, among.is_outdated) = (true, false);
        if let Some((_, pending)) = among.pending.take_if(|(_, pending)| pending.revision <= standing.revision)
            && is_mine
            && pending.revision == standing.revision
        {
            standing.recent = pending.recent;
        }
        let last = walk.standing.history.back();
        let mut new: Vec<Event> =
            standing.history.iter().rev().take_while(|event| Some(*event) != last).cloned().collect();
        new.reverse();
        let is_other = (walk.standing.step, walk.standing.phase, walk.standing.since)
            != (standing.step, standing.phase, standing.since);
        if is_other {
            among.own.begin_step(standing.step, standing.since);
            among.own.phase = standing.phase;
        }
        // Somebody's act, in the middle of an interval.
        let is_act = is_other && new.last().is_some_and(|event| event.id.is_some());
        among.own.before.clone_from(&standing.before);
        walk.standing = standing;
        walk.is_known = true;
        walk.cap.set(walk.effective(name));
        if is_act {
            walk.begin_anew();
        }
        if is_old { Vec::new() } else { new }
    }

    /// What a person asks for, if it would be done as things are known here.
    pub(super) fn demand(&mut self, route: &str, act: Act, by: &str, why: &str) -> Result<Demand, Refusal> {
        let (name, walk) = self.routes.iter_mut().find(|(name, _)| &***name == route).ok_or(Refusal::NoRollout)?;
        let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
        here.act(&mut walk.standing.clone(), act, by, why, walk.last_lag).map_err(Refusal::NotNow)?;
        let demand = Demand::new(route, act, by, why, None);
        if act == Act::Rollback
            && let Some(among) = &mut walk.among
        {
            among.demand = Some(demand.clone());
        }
        walk.cap.set(walk.effective(name));
        Ok(demand)
    }

    /// Whether a demand was dealt with: `Some(None)` when it was refused.
    fn done(&self, route: &str, id: &str) -> Option<Option<Event>> {
        let walk = self.routes.get(route)?;
        let event = walk.standing.history.iter().find(|event| event.id.as_deref() == Some(id));
        let is_open = self.others.as_ref().is_some_and(|others| !others.ended_demands.contains(id));
        if event.is_none() && is_open { None } else { Some(event.cloned()) }
    }

    /// A rollback that the log has not taken yet.
    fn held(&self, route: &str, demand: &Demand) -> Result<Event, Refusal> {
        let (name, walk) = self.routes.get_key_value(route).ok_or(Refusal::NoRollout)?;
        let here = walk.here(name);
        let mut standing = walk.standing.clone();
        here.act(&mut standing, Act::Rollback, &demand.by, &demand.why, walk.last_lag).map_err(Refusal::NotNow)
    }

    /// After an interval: what this replica alone has seen, and what it has to do because of it.
    pub(super) fn watch_own(&mut self, replicas: &dyn Replicas, name: &str, seen: &Seen) {
        let Some((name, walk)) = self.routes.iter_mut().find(|(known, _)| &***known == name) else { return };
        let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
        let is_idle = matches!(walk.standing.phase, Phase::RolledBack | Phase::Done)
            || here.effective(&walk.standing) == crate::config::Weight::ZERO;
        let Some(among) = &mut walk.among else { return };
        if is_idle || among.demand.is_some() {
            among.own.forget();
            return;
        }
        among.own.phase = walk.standing.phase;
        let failed = here.watch(&mut among.own, seen);
        if let Some(failed) = failed.filter(|_| here.spec.on_fail == OnFail::Rollback) {
            let demand = Demand::new(name, Act::Rollback, "gates", "", Some(failed));
            append(replicas, &demand);
            tracing::warn!(route = %name, "a gate failed here: at 0 at once, the replicas are asked to follow");
            among.demand = Some(demand);
            walk.cap.set(walk.effective(name));
        }
    }

    /// Tells the others what this replica has seen.
    pub(super) fn publish(&mut self, replicas: &dyn Replicas) {
        let sights: BTreeMap<&str, Sight> = self
            .routes
            .iter()
            .filter_map(|(name, walk)| {
                let sight = Sight { counts: walk.counted.clone()?, circuit_was_open: walk.had_open_circuit };
                Some((&**name, sight))
            })
            .collect();
        if let Some(others) = &mut self.others {
            replicas.append(format!("seen/{}", others.me), serde_json::to_vec(&sights).ok());
            // Asked for again until it is done: the log may have lost it. Whether it was done while this process was away is known when it is read.
            for demand in self.routes.values().filter_map(|walk| walk.among.as_ref()?.demand.as_ref()) {
                if others.is_current {
                    append(replicas, demand);
                }
            }
        }
    }

    /// Decides, if that is this replica's part: what people asked for, what the file says, and, for routes that are due, what all have seen.
    pub(super) fn decide(&mut self, replicas: &dyn Replicas, due: &[(String, Seen)], metrics: &Metrics) {
        let Some(others) = &mut self.others else { return };
        if !others.is_current || !replicas.decides() {
            return;
        }
        let gone: Vec<String> = others
            .sights
            .iter()
            .filter(|(_, (heard, _))| heard.elapsed().as_secs() > GONE)
            .map(|(replica, _)| replica.clone())
            .collect();
        for replica in gone {
            others.sights.remove(&replica);
            replicas.append(format!("seen/{replica}"), None);
        }
        for (name, walk) in &mut self.routes {
            let Some(among) = &mut walk.among else { continue };
            if among.pending.take_if(|(since, _)| since.elapsed().as_secs() > LOST).is_some() || among.pending.is_some()
            {
                continue;
            }
            let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
            let mut standing = walk.standing.clone();
            let mut is_new = among.is_outdated;
            // Whoever was taken back stays there, whatever became of the log.
            let is_back = walk.is_known && standing.phase == Phase::RolledBack;
            if !among.is_heard {
                let why = format!("nothing stands in {}: this is the first start, or it was lost", replicas.name());
                let is_lost = others.was_empty && among.is_from_start;
                if !is_back {
                    standing = here.begin(if is_lost { Found::Unknown(&why) } else { Found::New }).0;
                }
                is_new = true;
            }
            is_new |= here.follow(&mut standing).is_some() || standing != walk.standing;
            let asked: Vec<Demand> = others.demands.iter().filter(|demand| demand.route == **name).cloned().collect();
            for demand in asked {
                let is_done = standing.history.iter().any(|event| event.id.as_ref() == Some(&demand.id));
                if !is_done && demand.apply(here, &mut standing, walk.last_lag) {
                    is_new = true;
                    // What is under way belongs to what held before.
                    among.looked.clear();
                    break;
                }
                // Done, or it does not fit any more.
                others.demands.retain(|open| open.id != demand.id);
                append_gone(replicas, &demand.id);
            }
            if !is_new && let Some((_, own)) = due.iter().find(|(due, _)| *due == **name) {
                let mut seen = Seen { counts: Counts::default(), ..own.clone() };
                let counted = walk.counted.clone().unwrap_or_default();
                let before = among.looked.insert(others.me.clone(), counted.clone());
                seen.counts.add(&counted.since(before.as_ref().unwrap_or(&counted)));
                for (replica, (heard, sights)) in &others.sights {
                    let Some(sight) = sights.get(&**name) else { continue };
                    // Of one that was not known before, only what comes from now on.
                    let before = among.looked.insert(replica.clone(), sight.counts.clone());
                    seen.counts.add(&sight.counts.since(before.as_ref().unwrap_or(&sight.counts)));
                    // What it said in this interval; one that is gone goes on saying its last word for a while.
                    let is_news = before.is_some() && heard.elapsed() <= own.took;
                    seen.circuit_was_open |= sight.circuit_was_open && is_news;
                }
                among.looked.retain(|replica, _| *replica == others.me || others.sights.contains_key(replica));
                let event = here.look(&mut standing, &seen);
                metrics.judged(here, &standing, event.as_ref(), seen.lag);
                is_new = standing != walk.standing;
            }
            if is_new {
                standing.revision = walk.standing.revision + 1;
                let shared = Shared { writer: others.me.clone(), standing: &standing };
                replicas.append(format!("rollout/{name}"), serde_json::to_vec(&shared).ok());
                let went_back = standing.phase == Phase::RolledBack && walk.standing.phase != Phase::RolledBack;
                if went_back && among.demand.is_none() {
                    // Before it is read back, which may take a while.
                    walk.cap.set(crate::config::Weight::ZERO);
                }
                among.pending = Some((Instant::now(), standing));
            }
        }
    }
}

// === impl Demand ===

impl Demand {
    fn new(route: &str, act: Act, by: &str, why: &str, failed: Option<Failed>) -> Self {
        let id = format!("{:016x}", getrandom::u64().unwrap_or_else(|_| unix_now()));
        Self { id, route: route.to_owned(), act, by: by.to_owned(), why: why.to_owned(), failed }
    }

    /// Says whether anything was done.
    fn apply(&self, here: Here<'_>, standing: &mut Standing, lag: super::gates::Lag) -> bool {
        let event = match &self.failed {
            Some(_) if matches!(standing.phase, Phase::RolledBack | Phase::Done) => None,
            Some(failed) => here.fail(standing, failed),
            None => here.act(standing, self.act, &self.by, &self.why, lag).ok(),
        };
        if event.is_none() {
            return false;
        }
        if let Some(last) = standing.history.back_mut() {
            last.id = Some(self.id.clone());
        }
        true
    }
}

/// What holds of a route's weight here.
pub(super) fn effective(walk: &Walk, here: Here<'_>) -> crate::config::Weight {
    let is_held = walk.among.as_ref().is_some_and(|among| among.demand.is_some());
    if is_held || !walk.is_known { crate::config::Weight::ZERO } else { here.effective(&walk.standing) }
}

/// A name for this process in the log.
pub(super) fn own_name() -> String {
    format!("{:016x}", getrandom::u64().unwrap_or_else(|_| unix_now()))
}
