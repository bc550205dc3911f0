//! What a config can get wrong although every value by itself is right: one function a family of rules.

use std::{collections::BTreeMap, time::Duration};

use secrecy::ExposeSecret;

use super::{DEFAULT, Problem, cookies, rollouts, users};
use crate::{
    config::{self, Config, Fallback, Keyless, Match, Of, Percent, Protocol, Sticky, Wanted, Weight},
    links::Owner,
    shadow::SHADOW_MEMORY,
    split::LEAST_SECRET,
};

/// Rules about one match by itself.
pub(super) fn one_match(at: &str, one: &Match, problems: &mut Vec<Problem>) {
    if *one == Match::default() {
        problems.push(
            Problem::error(at, "an empty match would take every request")
                .hint("say `path_prefix: /` if that is meant, or change `default:`"),
        );
    }
    let paths = [
        ("path", one.path.is_some()),
        ("path_prefix", one.path_prefix.is_some()),
        ("path_regex", one.path_regex.is_some()),
    ];
    let mut given = paths.into_iter().filter_map(|(key, is_given)| is_given.then_some(key));
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        problems.push(
            Problem::error(format!("{at}.{second}"), format!("a match has either `{first}` or `{second}`"))
                .hint("make it a list of two matches if either may hold"),
        );
    }
    if one.methods.as_ref().is_some_and(Vec::is_empty) {
        problems.push(
            Problem::error(format!("{at}.methods"), "an empty list of methods matches nothing")
                .hint("leave `methods` out to match all of them"),
        );
    }
    if one.client.as_ref().is_some_and(|client| client.get().is_empty()) {
        problems.push(
            Problem::error(format!("{at}.client"), "an empty list of networks matches nobody")
                .hint("leave `client` out to match everybody"),
        );
    }
    values(at, one, problems);
    if let Some(host) = &one.host {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
            problems.push(
                Problem::error(format!("{at}.host"), format!("`{host}` is no host name"))
                    .hint("expected a name without scheme, port and path, such as `shop.example` or `*.shop.example`"),
            );
        }
    }
}

/// Rules about what is wanted of headers and query parameters.
pub(super) fn values(at: &str, one: &Match, problems: &mut Vec<Problem>) {
    for (key, name, wanted) in wanted(one) {
        let ways = [wanted.exact.is_some(), wanted.regex.is_some(), wanted.present.is_some()];
        if ways.into_iter().filter(|is_given| *is_given).count() != 1 {
            problems.push(
                Problem::error(format!("{at}.{key}.{name}"), "this says not exactly one thing of the value")
                    .hint("expected one of a text, `{regex: …}` and `{present: …}`"),
            );
        }
    }
    if one.query.contains_key("") {
        problems.push(Problem::error(format!("{at}.query"), "a query parameter has a name"));
    }
}

/// What a match wants of headers and of query parameters, each with the key that it stands under and its name.
fn wanted(one: &Match) -> impl Iterator<Item = (&'static str, &str, &Wanted)> {
    let headers = one.headers.iter().map(|(name, wanted)| ("headers", name.as_str(), &wanted.0));
    headers.chain(one.query.iter().map(|(name, wanted)| ("query", name.as_str(), &wanted.0)))
}

/// Rules about routes.
pub(super) fn routes(config: &Config, problems: &mut Vec<Problem>) {
    let first = super::compile::first_seen(config.routes.iter().map(|route| route.name.as_str()));
    for (index, route) in config.routes.iter().enumerate() {
        let at = format!("routes[{index}]");
        if route.name == DEFAULT {
            problems.push(
                Problem::error(format!("{at}.name"), "the name `default` is taken by what no route matches")
                    .hint("its upstream is the top-level key `default:`"),
            );
        } else if first.get(route.name.as_str()).is_some_and(|known| *known < index) {
            problems.push(
                Problem::error(format!("{at}.name"), format!("there is already a route named `{}`", route.name)).hint(
                    format!("`routes[{}]` has that name; metrics need it to be unique", first[route.name.as_str()]),
                ),
            );
        }
        sides(&at, route, problems);
        rewrites(&at, route, problems);
        synced(&at, route, config, problems);
        shadow(&at, route, problems);
        sticky(&at, route, problems);
        rollouts::check(&at, route, problems);
        users::check(&at, route, problems);
        cookies::check(&at, route, problems);
    }
    cookies::together(config, problems);
    groups(config, problems);
    upstreams(config, problems);
    secret(config, problems);
    times(config, problems);
}

/// A route that Banyan answers by itself has no sides, and nothing that is said of sides.
fn itself(at: &str, key: &'static str, route: &config::Route, problems: &mut Vec<Problem>) {
    let given = [
        ("legacy", route.legacy.is_some()),
        ("modern", route.modern.is_some()),
        ("respond", key == "redirect" && route.respond.is_some()),
        ("weight", route.weight.is_some()),
        ("group", route.group.is_some()),
        ("sticky", !route.sticky.is_empty()),
        ("sync", route.sync.is_some()),
        ("pin", route.pin.is_some()),
        ("force", route.force.is_some()),
        ("rate_limit", route.rate_limit.is_some()),
        ("timeout", route.timeout.is_some()),
        ("deadline", route.deadline.is_some()),
        ("fallback", route.fallback.is_some()),
        ("fallback_on", !route.fallback_on.is_empty()),
        ("expose", route.expose),
        ("cookies", route.cookies.is_some()),
        ("reads", route.reads.is_some()),
        ("shadow", route.shadow.is_some()),
        ("rollout", route.rollout.is_some()),
    ];
    for (other, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        problems.push(
            Problem::error(
                format!("{at}.{other}"),
                format!("`{key}` answers all of the route's requests, so that `{other}` has nothing to do"),
            )
            .hint(format!("leave `{other}` out, or make two routes of it")),
        );
    }
    let Some(redirect) = &route.redirect else { return };
    if *redirect == (config::Redirect { status: redirect.status, ..config::Redirect::default() }) {
        problems.push(
            Problem::error(format!("{at}.redirect"), "this sends the client to where it is")
                .hint("say what changes: `scheme`, `host`, `port`, `path` or `path_prefix`"),
        );
    }
    if redirect.port == Some(0) {
        problems.push(
            Problem::error(format!("{at}.redirect.port"), "nobody listens on port 0").hint("expected 1 to 65535"),
        );
    }
    if redirect.path.is_some() && redirect.path_prefix.is_some() {
        problems.push(Problem::error(
            format!("{at}.redirect.path_prefix"),
            "a redirect has either `path` or `path_prefix`",
        ));
    }
    if redirect.path_prefix.is_some() && !route.matches.0.iter().all(|one| one.path_prefix.is_some()) {
        problems.push(
            Problem::error(
                format!("{at}.redirect.path_prefix"),
                "a prefix can only be replaced where every match of the route has a `path_prefix`",
            )
            .hint("give each `match` a `path_prefix`, or take `path`"),
        );
    }
}

fn sides(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    let key = [("redirect", route.redirect.is_some()), ("respond", route.respond.is_some())];
    if let Some((key, _)) = key.into_iter().find(|(_, is_given)| *is_given) {
        return itself(at, key, route, problems);
    }
    match (&route.legacy, &route.modern, route.weight) {
        (None, None, _) => problems.push(
            Problem::error(at, format!("route `{}` has neither `legacy` nor `modern`", route.name))
                .hint("name the upstream that answers it"),
        ),
        (None, Some(_), Some(weight)) if weight != Weight::FULL => problems.push(
            Problem::error(
                format!("{at}.weight"),
                format!("`weight` is {weight}, but there is no `legacy` for the rest"),
            )
            .hint("leave `weight` out: without `legacy`, modern answers everything"),
        ),
        (Some(_), None, Some(weight)) if weight > Weight::ZERO => problems.push(
            Problem::error(format!("{at}.weight"), format!("`weight` is {weight}, but there is no `modern` to answer"))
                .hint("name an upstream in `modern`, or leave `weight` out"),
        ),
        _ => {}
    }
}

fn rewrites(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    let by_prefix = route.matches.0.iter().all(|one| one.path_prefix.is_some());
    for (name, side) in [("legacy", &route.legacy), ("modern", &route.modern)] {
        if side.as_ref().is_some_and(|side| side.0.rewrite.is_some()) && !by_prefix {
            problems.push(
                Problem::error(
                    format!("{at}.{name}.rewrite"),
                    "a prefix can only be rewritten where every match of the route has a `path_prefix`",
                )
                .hint("give each `match` a `path_prefix`, or split the route in two"),
            );
        }
    }
}

fn synced(at: &str, route: &config::Route, config: &Config, problems: &mut Vec<Problem>) {
    let Some(name) = &route.sync else { return };
    if route.fallback == Some(Fallback::Unsent) {
        problems.push(
            Problem::error(
                format!("{at}.fallback"),
                format!("`unsent` would let writes change side, and sync `{name}` allows them on its owner only"),
            )
            .hint("expected `reads` or `none`"),
        );
    }
    let owner = config.syncs.get(name).map(|sync| sync.owner);
    let missing = match owner {
        Some(Owner::Legacy) if route.legacy.is_none() => "legacy",
        Some(Owner::Modern) if route.modern.is_none() => "modern",
        _ => return,
    };
    if route.legacy.is_some() || route.modern.is_some() {
        problems.push(
            Problem::error(
                at,
                format!("{missing} owns sync `{name}`, but the route has no `{missing}` to answer writes"),
            )
            .hint(format!("name an upstream in `{missing}`, or leave `sync` out")),
        );
    }
}

fn shadow(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    if route.shadow.is_some() && (route.legacy.is_none() || route.modern.is_none()) {
        problems.push(
            Problem::error(format!("{at}.shadow"), "a shadow needs both sides: one answers, the other gets the copy")
                .hint("name both `legacy` and `modern`, or leave `shadow` out"),
        );
    }
    if let Some(shadow) = &route.shadow
        && shadow.max_body.as_u64() > SHADOW_MEMORY as u64
    {
        problems.push(
            Problem::error(format!("{at}.shadow.max_body"), "all shadows together hold at most 32 MiB of answers")
                .hint("expected at most `32MiB`, and better much less"),
        );
    }
    if let Some(shadow) = &route.shadow {
        let has_keys = !route.sticky.is_empty() || route.keyless != Keyless::Legacy;
        if shadow.of == Of::Users && shadow.percent < Percent::FULL && !has_keys {
            problems.push(
                Problem::warning(
                    format!("{at}.shadow.of"),
                    "only who has the cookie `banyan_id` is copied: the route names nothing else that tells users apart",
                )
                .hint("for example `sticky: [{header: x-user-id}]`, or `keyless: client_address`"),
            );
        }
        shadowed_methods(at, route, shadow, problems);
    }
    if route.compare.is_some() && route.shadow.is_none() {
        problems.push(
            Problem::error(format!("{at}.compare"), "there is nothing to compare without `shadow`")
                .hint("for example `shadow: {percent: 100}`"),
        );
    }
}

fn shadowed_methods(at: &str, route: &config::Route, shadow: &config::Shadow, problems: &mut Vec<Problem>) {
    let methods = shadow.methods.as_deref();
    if methods.is_some_and(<[_]>::is_empty) {
        problems.push(
            Problem::error(format!("{at}.shadow.methods"), "an empty list of methods copies nothing")
                .hint("leave `methods` out to copy reads"),
        );
    }
    let reads = route.reads.as_ref().and_then(|reads| reads.methods.as_ref());
    let is_read = |method: &&config::Method| {
        method.get().is_safe() || reads.is_some_and(|reads| reads.iter().any(|read| read == *method))
    };
    let writes: Vec<&str> = methods
        .unwrap_or_default()
        .iter()
        .filter(|method| !is_read(method))
        .map(|write| write.get().as_str())
        .collect();
    if let (Some(sync), Some(write), false) = (&route.sync, writes.first(), shadow.discards_writes) {
        problems.push(
            Problem::error(
                format!("{at}.shadow.methods"),
                format!("a copied {write} would be done twice: what it writes comes to the other side by sync `{sync}` too"),
            )
            .hint(format!(
                "leave {} out, or say `discards_writes: true` if both sides throw away what `X-Banyan-Shadow: 1` would write",
                writes.join(" and ")
            )),
        );
    }
    if shadow.discards_writes && writes.is_empty() {
        problems.push(
            Problem::warning(format!("{at}.shadow.discards_writes"), "no write is copied that could be discarded")
                .hint("name the methods, for example `methods: [GET, POST]`, or leave `discards_writes` out"),
        );
    }
}

fn sticky(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    for (number, source) in route.sticky.iter().enumerate() {
        let (kind, name) = match source {
            Sticky::Header(name) => ("header", name.as_str()),
            Sticky::Cookie(name) => ("cookie", name.as_str()),
        };
        if kind == "cookie" && !is_token(name) {
            cookie_name(&format!("{at}.sticky[{number}].cookie"), name, problems);
        } else if changes_at_login(name) {
            problems.push(
                Problem::warning(
                    format!("{at}.sticky[{number}].{kind}"),
                    format!("`{name}` looks like a session's, and those change at log-in or with time: the user may change side"),
                )
                .hint(
                    "take something that stays with the user: an id, which `identity` can ask an upstream for, or Banyan's own cookie \
                     `banyan_id`",
                ),
            );
        }
    }
}

/// A cookie's name that is none.
pub(super) fn cookie_name(at: &str, name: &str, problems: &mut Vec<Problem>) {
    if !is_token(name) {
        problems.push(
            Problem::error(at, format!("`{name}` is no cookie name"))
                .hint("expected letters, digits, `-`, `_` and `.`"),
        );
    }
}

/// RFC 6265: a cookie's name is a token.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b))
}

fn changes_at_login(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = ["sess", "token", "jwt", "csrf", "xsrf"];
    parts.iter().any(|part| name.contains(part))
        || name == "sid"
        || name.ends_with(".sid")
        || name.ends_with("_sid")
        || name == "authorization"
}

fn groups(config: &Config, problems: &mut Vec<Problem>) {
    let mut first: BTreeMap<&str, (&config::Route, Weight)> = BTreeMap::new();
    for (index, route) in config.routes.iter().enumerate() {
        if route.legacy.is_none() || route.modern.is_none() {
            continue;
        }
        let group = route.group.as_ref().or(route.sync.as_ref()).unwrap_or(&route.name);
        let weight = route.weight.unwrap_or_default();
        let (other, expected) = *first.entry(group).or_insert((route, weight));
        if (&route.sticky, route.keyless) != (&other.sticky, other.keyless) {
            problems.push(
                Problem::warning(
                    format!("routes[{index}]"),
                    format!(
                        "group `{group}` looks for its users' keys in one place on route `{}` and in another on `{}`: a user may be \
                         on both sides",
                        other.name, route.name
                    ),
                )
                .hint("give all routes of a group the same `sticky` and `keyless`"),
            );
        }
        if weight != expected {
            problems.push(
                Problem::warning(
                    format!("routes[{index}].weight"),
                    format!(
                        "group `{group}` has weight {expected} on route `{}` and {weight} on `{}`: some of its users stand \
                         between both sides",
                        other.name, route.name
                    ),
                )
                .hint("give all routes of a group one weight"),
            );
        }
    }
}

/// Rules of upstreams that go together with something else.
fn upstreams(config: &Config, problems: &mut Vec<Problem>) {
    for (name, upstream) in &config.upstreams {
        let is_modern = |route: &config::Route| route.modern.as_ref().is_some_and(|side| side.0.upstream == *name);
        if upstream.circuit.is_some() && !config.routes.iter().any(is_modern) {
            problems.push(
                Problem::warning(format!("upstreams.{name}.circuit"), format!("no route has `{name}` as its `modern`"))
                    .hint("a circuit keeps requests from a modern side alone: legacy is asked whatever happens"),
            );
        }
        if upstream.limits.as_ref().is_some_and(|limits| limits.connections.is_some())
            && upstream.protocol != Protocol::Http1
        {
            let at = format!("upstreams.{name}.limits.connections");
            let message = "a cap on connections goes with `protocol: http1`, where each carries one request at a time";
            problems.push(Problem::error(at, message).hint("bound the requests with `in_flight`"));
        }
        if let Some(limits) = &upstream.limits
            && let Some(adaptive) = limits.adaptive()
            && adaptive.min > limits.in_flight.unwrap_or(adaptive.max).min(adaptive.max)
        {
            problems.push(
                Problem::error(format!("upstreams.{name}.limits.adaptive"), "`min` is more than may ever be in flight")
                    .hint("expected `min` up to `max`, and up to `in_flight`"),
            );
        }
    }
}

fn secret(config: &Config, problems: &mut Vec<Problem>) {
    let synced = config.routes.iter().find(|route| route.sync.is_some());
    match (&config.secret, synced) {
        (Some(secret), _) if secret.expose_secret().len() < LEAST_SECRET => {
            let length = secret.expose_secret().len();
            problems.push(
                Problem::error("secret", format!("the secret has {length} bytes, and {LEAST_SECRET} are needed"))
                    .hint("for example the output of `openssl rand -hex 32`"),
            );
        }
        (None, Some(route)) => problems.push(
            Problem::warning(
                "secret",
                format!(
                    "no `secret`: one is made in `state.dir/secret` for the signed cookies of route `{}`",
                    route.name
                ),
            )
            .hint("several replicas need the same one: `secret: ${BANYAN_SECRET}` with 32 bytes or more"),
        ),
        _ => {}
    }
}

/// A time of nothing is over before anything can happen.
fn times(config: &Config, problems: &mut Vec<Problem>) {
    let mut times: Vec<(String, Duration)> = Vec::new();
    for (name, upstream) in &config.upstreams {
        times.push((format!("upstreams.{name}.connect_timeout"), upstream.connect_timeout));
        times.push((format!("upstreams.{name}.timeout"), upstream.timeout));
        times.push((format!("upstreams.{name}.body_idle"), upstream.body_idle));
        times.push((format!("upstreams.{name}.resolve_every"), upstream.resolve_every));
        if let Some(health) = &upstream.health {
            times.push((format!("upstreams.{name}.health.every"), health.every));
            times.push((format!("upstreams.{name}.health.timeout"), health.timeout));
        }
        if let Some(circuit) = &upstream.circuit {
            times.push((format!("upstreams.{name}.circuit.window"), circuit.window));
            times.push((format!("upstreams.{name}.circuit.open_for"), circuit.open_for));
            times.extend(circuit.slower_than.map(|time| (format!("upstreams.{name}.circuit.slower_than"), time)));
        }
        if let Some(ejection) = &upstream.ejection {
            times.push((format!("upstreams.{name}.ejection.for"), ejection.time));
        }
    }
    times.extend(config.identity.as_ref().map(|identity| ("identity.timeout".to_owned(), identity.timeout)));
    for (index, route) in config.routes.iter().enumerate() {
        times.extend(route.timeout.map(|timeout| (format!("routes[{index}].timeout"), timeout)));
        times.extend(route.deadline.map(|time| (format!("routes[{index}].deadline"), time)));
        times.extend(route.shadow.as_ref().map(|shadow| (format!("routes[{index}].shadow.timeout"), shadow.timeout)));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        times.push((format!("listeners[{index}].limits.head_time"), listener.limits.head_time));
        times.push((format!("listeners[{index}].limits.idle_time"), listener.limits.idle_time));
        times.push((format!("listeners[{index}].limits.take_time"), listener.limits.take_time));
    }
    let zero = times.into_iter().filter(|(_, time)| time.is_zero());
    problems.extend(
        zero.map(|(at, _)| Problem::error(at, "nothing can happen in no time").hint("expected more than `0s`")),
    );
}
