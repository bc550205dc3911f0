//! The compiled routes: immutable, shared by all workers, swapped whole at a reload.
//!
//! Not here: how a side is chosen (`split/`), and anything that waits.

mod checks;
mod compile;
mod cookies;
mod explain;
mod itself;
mod matcher;
mod own;
pub(crate) mod path;
mod pattern;
mod problem;
pub(crate) mod query;
mod reads;
pub(crate) mod renames;
mod rollouts;
mod route;
mod rule;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod trusts;
mod unreachable;
mod users;

use std::sync::Arc;

pub use explain::{Explanation, Miss, MissedBy};
pub use itself::{Asked, Itself, Said};
use matcher::Matcher;
pub use own::{Own, Public};
pub use path::{BadPath, normalise};
pub use problem::{Problem, Severity, nearest};
pub use reads::{ReadBy, Reads};
pub use renames::Renames;
pub use route::{DEFAULT, Group, KeySource, Route, Stage, SyncRoute};
pub use rule::Normal;
pub use target::{Changes, Shaping, Target};
pub(crate) use trusts::Trusts;

use crate::{config::Config, identity::Identity, links::DataLinks, rollout::Cap, split::Lowered};

/// All routes and the index that finds them.
#[derive(Debug)]
pub struct RouteTable {
    /// In the file's order; `default` is the last.
    routes: Vec<Arc<Route>>,
    matcher: Matcher,
    trusts: Trusts,
    identity: Option<Identity>,
}

/// The route of a request.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// Which route.
    pub route: &'t Arc<Route>,
    /// Where the prefix that matched ends in the normalised path; what a rewrite replaces.
    pub prefix_end: usize,
    /// The path that the file's match names; `/` where it names none. Empty for `default`.
    pub matched: &'t str,
}

// === impl RouteTable ===

impl RouteTable {
    /// Compiles the whole config, with what deserves a second look.
    ///
    /// # Errors
    /// Everything that is wrong, at once; warnings among it.
    pub fn compile(config: &Config, links: &dyn DataLinks) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        compile::compile(config, links)
    }

    /// Tells a table that is not used yet which one it comes after, so that users whom a lower weight moves back can be counted.
    pub fn follow(&mut self, before: &Self) {
        self.trusts.follow(&before.trusts);
        if let (Some(identity), Some(before)) = (&mut self.identity, &before.identity) {
            identity.follow(before);
        }
        for route in &mut self.routes {
            let old = before.routes.iter().find(|old| old.name == route.name && old.group == route.group);
            if let (Some(old), Some(route)) = (old, Arc::get_mut(route))
                && route.legacy.is_some()
            {
                route.lowered = Lowered::at_reload(old.lowered.as_ref(), old.effective(), route.effective());
            }
        }
        for route in &mut self.routes {
            let old = before.routes.iter().find(|old| old.name == route.name);
            if let Some(route) = Arc::get_mut(route)
                && let (Some(limit), Some(old)) = (&mut route.rate_limit, old.and_then(|old| old.rate_limit.as_ref()))
            {
                limit.follow(old);
            }
        }
    }

    /// Gives the routes of a table that is not used yet the caps that they had before.
    pub(crate) fn cap(&mut self, known: impl Fn(&str) -> Option<Arc<Cap>>) {
        for route in self.routes.iter_mut().filter_map(Arc::get_mut).filter(|route| route.cap.is_some()) {
            if let Some(cap) = known(&route.name) {
                route.cap = Some(cap);
            }
        }
    }

    /// As if every rollout had come to the file's weight: for whoever looks at the file alone.
    pub fn uncap(&mut self) {
        for route in self.routes.iter_mut().filter_map(Arc::get_mut) {
            route.cap = None;
        }
    }

    /// The route that answers; `default` when no other matches. No allocation, no lock.
    #[must_use]
    pub fn find<'t>(&'t self, request: &Normal<'_>) -> Found<'t> {
        match self.matcher.find(request) {
            Some(hit) => {
                let matched = hit.rule.path.text();
                Found { route: &self.routes[hit.rule.route], prefix_end: hit.prefix_end, matched }
            }
            None => Found { route: self.default_route(), prefix_end: 0, matched: "" },
        }
    }

    /// All routes in the file's order; `default` is the last.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Who is asked who a request comes from.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    pub(crate) fn trusts(&self) -> &Trusts {
        &self.trusts
    }

    /// Why a request is answered by the route that [`find`](Self::find) finds.
    #[must_use]
    pub fn explain(&self, request: &Normal<'_>) -> Explanation {
        explain::explain(self, request)
    }

    fn default_route(&self) -> &Arc<Route> {
        &self.routes[self.routes.len() - 1]
    }
}
