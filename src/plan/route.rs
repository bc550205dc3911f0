//! Words for routes: who moves where, what is new, what is gone.

use std::cmp::Ordering;

use banyan_proxy::config::{self, Config, Match, OneOrMany, Route, Shadow, ShortOr, Side, Weight};

use super::{Change, plainly, share::Share};
use crate::config::{Difference, Differs, Of};

/// All changes of one route.
pub(super) fn changes(name: &str, differences: &[Difference], old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let find = |config: &'_ Config| config.routes.iter().find(|route| route.name == name).cloned();
    let of = Of::Route(name.to_owned());
    match (find(old), find(new)) {
        (None, Some(new)) => changes.push(added(&of, &new)),
        (Some(old), None) => changes.push(removed(&of, &old, new)),
        (Some(old), Some(new)) => Both { of, old: &old, new: &new }.changes(differences, changes),
        (None, None) => {}
    }
}

/// One route in both files.
struct Both<'r> {
    of: Of,
    old: &'r Route,
    new: &'r Route,
}

/// Told by words of their own, with all that stands below them.
const TOLD: [&str; 3] = ["weight", "group", "sync"];

// === impl Both ===

impl Both<'_> {
    fn changes(&self, differences: &[Difference], changes: &mut Vec<Change>) {
        let (old, new) = (self.old, self.new);
        let differs =
            |key: &str| differences.iter().any(|one| one.key == key || one.key.starts_with(&format!("{key}.")));
        let begin = changes.len();

        if differs("match") {
            let (before, after) = (matched(&old.matches), matched(&new.matches));
            let what = if before == after { "match changed".to_owned() } else { format!("match {before} → {after}") };
            changes.push(self.change("match", what));
        }
        for (key, before, after) in [("legacy", &old.legacy, &new.legacy), ("modern", &old.modern, &new.modern)] {
            if upstream(before) != upstream(after) {
                changes.push(self.side(key, before.as_ref(), after.as_ref()));
            }
        }
        if old.sync != new.sync {
            let quoted =
                |sync: &Option<String>| sync.as_ref().map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
            let change = self.change("sync", format!("sync {} → {}", quoted(&old.sync), quoted(&new.sync)));
            changes.push(change.effect(match new.sync {
                Some(_) => "writes follow its owner",
                None => "writes follow the weight",
            }));
        }
        if group(old) != group(new) {
            changes.push(self.change("group", format!("group `{}` → `{}`", group(old), group(new))));
        }
        let rest = differences.iter().filter(|one| !TOLD.contains(&one.key.as_str()) && !self.is_told(one));
        changes.extend(rest.map(|one| self.plain(one)));

        let is_drawn_anew = group(old) != group(new) || differs("sticky") || differs("keyless");
        if let Some(change) = self.weight(is_drawn_anew) {
            changes.insert(begin, change);
        }
    }

    /// Whether a side's or the match's own words say it.
    fn is_told(&self, one: &Difference) -> bool {
        let side = |key: &str, before, after| {
            one.key == key && upstream(before) != upstream(after) || one.key == format!("{key}.upstream")
        };
        one.key == "match"
            || one.key == "rollout" && self.old.rollout.is_none()
            || one.key.starts_with("match.")
            || side("legacy", &self.old.legacy, &self.new.legacy)
            || side("modern", &self.old.modern, &self.new.modern)
    }

    /// Who changes side, when the weight differs or the users are drawn anew.
    fn weight(&self, is_drawn_anew: bool) -> Option<Change> {
        let (before, after) = (effective(self.old), effective(self.new));
        if let (Some(rollout), None) = (&self.new.rollout, &self.old.rollout) {
            let first = rollout.steps.first().copied().unwrap_or_default().min(after);
            let change =
                self.change("rollout", format!("rollout begins: weight {before} % → {first} %, its first step"));
            return Some(change.effect(match first.cmp(&before) {
                Ordering::Less => format!("{first} % of users stay on modern, the others move back to legacy"),
                Ordering::Equal => "nobody moves now".to_owned(),
                Ordering::Greater => format!("{first} % of users on modern; nobody moves back"),
            }));
        }
        if self.new.rollout.is_some() && self.old.rollout.is_some() && before != after {
            let change = self.change("weight", format!("weight {before} % → {after} %, the ceiling of its rollout"));
            return Some(change.effect(match after > before {
                true => "nobody moves now: the rollout skips no gate".to_owned(),
                false => format!("at most {after} % of users stay on modern, at once"),
            }));
        }
        let (old, new) = (Share(u32::from(before.buckets())), Share(u32::from(after.buckets())));
        let is_split = |share: Share| share.0 > 0 && !share.is_one();
        let (forth, back) = if is_drawn_anew && (is_split(old) || is_split(new)) {
            (old.rest().of(new), old.of(new.rest()))
        } else {
            (Share(new.0.saturating_sub(old.0)), Share(old.0.saturating_sub(new.0)))
        };
        if before == after && !(is_drawn_anew && is_split(old)) {
            return None;
        }
        let what = match before == after {
            true => "users are drawn anew".to_owned(),
            false => format!("weight {before} % → {after} %"),
        };
        let reads = if self.new.sync.is_some() { "reads of " } else { "" };
        let moves = |share: Share, to: &str| {
            let who = share.in_words()?;
            let verb = if share.is_one() && reads.is_empty() { "moves" } else { "move" };
            Some(format!("{reads}{who} {verb} {to}"))
        };
        let effect = match (moves(forth, "to modern"), moves(back, "back to legacy")) {
            (Some(forth), Some(back)) => format!("{forth}; {back}"),
            (Some(forth), None) if forth.contains("everybody") => forth,
            (Some(forth), None) => format!("{forth}; nobody moves back"),
            (None, Some(back)) => back,
            (None, None) => "nobody moves".to_owned(),
        };
        Some(self.change("weight", what).effect(effect))
    }

    fn side(&self, key: &str, before: Option<&ShortOr<Side>>, after: Option<&ShortOr<Side>>) -> Change {
        let change = |what: String| self.change(key, what);
        match (before, after, key) {
            (Some(before), Some(after), _) => change(format!("{key} `{}` → `{}`", before.0.upstream, after.0.upstream)),
            (None, Some(after), "modern") => {
                change(format!("modern now `{}`", after.0.upstream)).effect("the move can begin")
            }
            (None, Some(after), _) => change(format!("{key} now `{}`", after.0.upstream)),
            (Some(before), None, "legacy") => {
                change(format!("legacy `{}` left out", before.0.upstream)).effect("retired: modern answers everything")
            }
            (Some(before), None, _) => {
                change(format!("{key} `{}` left out", before.0.upstream)).effect("legacy answers everything")
            }
            (None, None, _) => change(format!("{key} changed")),
        }
    }

    fn plain(&self, one: &Difference) -> Change {
        let key = one.key.as_str();
        let change = self.change(key, plainly(one));
        match (key, one.kind) {
            ("rollout.generation", _) => change.effect("begins anew: users above its first step move back to legacy"),
            ("shadow", Differs::Added) => match shadows(self.new) {
                Some(words) => self.change(key, "shadow begins").effect(words),
                None => change,
            },
            ("shadow", Differs::Removed) => self.change(key, "shadow ends"),
            ("shadow.percent", _) => match (&self.old.shadow, &self.new.shadow) {
                (Some(old), Some(new)) => self
                    .change(key, format!("shadow {} % → {} %", old.percent, new.percent))
                    .effect(format!("of {}", copied(new))),
                _ => change,
            },
            _ if key == "pin" || key.starts_with("pin.") => {
                change.effect("who is pinned stays on that side, whatever the weight")
            }
            _ => change,
        }
    }

    fn change(&self, key: &str, what: impl Into<String>) -> Change {
        Change::new(&self.of, key, what)
    }
}

fn added(of: &Of, route: &Route) -> Change {
    let weight = effective(route);
    let answers = match (&route.legacy, &route.modern) {
        _ if route.redirect.is_some() => "sends clients elsewhere".to_owned(),
        _ if route.respond.is_some() => "Banyan answers by itself".to_owned(),
        (Some(_), Some(_)) if weight == Weight::FULL => "modern answers".to_owned(),
        (Some(_), Some(_)) if weight > Weight::ZERO => format!("{weight} % of users on modern"),
        (None, _) => "modern answers".to_owned(),
        _ => "legacy answers".to_owned(),
    };
    let shadows = shadows(route).map(|words| format!("; {words}")).unwrap_or_default();
    let writes =
        route.sync.as_ref().map(|sync| format!("; writes follow the owner of sync `{sync}`")).unwrap_or_default();
    Change::new(of, "", format!("new route {}", matched(&route.matches))).effect(format!("{answers}{shadows}{writes}"))
}

fn removed(of: &Of, route: &Route, new: &Config) -> Change {
    let weight = Share(u32::from(effective(route).buckets()));
    let back = weight
        .in_words()
        .map(|who| format!("; {who} {} back to legacy", if weight.is_one() { "moves" } else { "move" }));
    let effect = format!(
        "its requests go to the next route that matches, else to `{}`{}",
        new.default,
        back.unwrap_or_default()
    );
    Change::new(of, "", format!("route {} gone", matched(&route.matches))).effect(effect)
}

/// `shadows 10 % of reads to `orders``.
fn shadows(route: &Route) -> Option<String> {
    let (shadow, legacy, modern) = (route.shadow.as_ref()?, route.legacy.as_ref()?, route.modern.as_ref()?);
    let to = match effective(route) {
        Weight::ZERO => format!("`{}`", modern.0.upstream),
        Weight::FULL => format!("`{}`", legacy.0.upstream),
        _ => "the other side".to_owned(),
    };
    Some(format!("shadows {} % of {} to {to}", shadow.percent, copied(shadow)))
}

/// `reads`, `GET and POST`, or `the users' reads`.
fn copied(shadow: &Shadow) -> String {
    let what = match &shadow.methods {
        None => "reads".to_owned(),
        Some(methods) => methods.iter().map(|method| method.get().as_str()).collect::<Vec<_>>().join(" and "),
    };
    match shadow.of {
        config::Of::Requests => what,
        config::Of::Users => format!("the users' {what}"),
    }
}

/// A route with one side stands at that side's end.
fn effective(route: &Route) -> Weight {
    match (&route.legacy, &route.modern) {
        (None, None) => Weight::ZERO,
        (None, _) => Weight::FULL,
        (_, None) => Weight::ZERO,
        _ => route.weight.unwrap_or_default(),
    }
}

fn group(route: &Route) -> &str {
    route.group.as_ref().or(route.sync.as_ref()).unwrap_or(&route.name)
}

fn upstream(side: &Option<ShortOr<Side>>) -> Option<&str> {
    side.as_ref().map(|side| side.0.upstream.as_str())
}

/// The first match by its path, and how many more there are.
fn matched(matches: &OneOrMany<Match>) -> String {
    let Some(first) = matches.0.first() else { return "nothing".to_owned() };
    let path =
        first.path.as_ref().or(first.path_prefix.as_ref()).or(first.path_regex.as_ref()).map_or("/", String::as_str);
    let host = first.host.as_deref().unwrap_or_default();
    match matches.0.len() - 1 {
        0 => format!("{host}{path}"),
        more => format!("{host}{path} and {more} more"),
    }
}
