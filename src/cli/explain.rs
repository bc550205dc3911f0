//! `banyan explain METHOD PATH`: what would happen to a request, and why. Asks only the file.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use banyan_proxy::{
    config::{Config, Fallback, Keyless},
    links::Owner,
    split::{BUCKETS, Choice, Now, Reason, RecentWrites, Signer, Split, find_key},
    table::{
        Asked, Changes, DEFAULT, Explanation, Miss, MissedBy, Normal, Public, ReadBy, Route, RouteTable, Target,
        normalise,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use serde::Serialize;

use super::{FAILED, Format, output};
use crate::{config, link::FileLinks};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The request's method.
    method: Method,
    /// Its path, with or without a query.
    path: String,
    /// A header of it: `-H 'x-user-id: ann'`. As often as needed.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The client's address, for routes that match or draw by it.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The answer for programs; for people it is put into sentences.
#[derive(Serialize)]
struct Answer {
    route: String,
    matched: String,
    /// Other routes that match, in order of precedence.
    others: Vec<String>,
    /// The routes that do not match, the nearest first.
    misses: Vec<Missed>,
    /// The path that was matched.
    path: String,
    /// What Banyan answers by itself: `308 to https://shop.example/pay`. No side is asked then, whatever stands in `side`.
    itself: Option<String>,
    /// Who would be asked whom the request comes from; what `-H` gives counts instead.
    identity: Option<Identity>,
    /// The route has a rollout: its weight is only as far as that may go.
    weight_is_ceiling: bool,
    side: Owner,
    upstream: Option<String>,
    reason: &'static str,
    is_write: bool,
    /// Which part of the route's `reads` says so; `None` where it has none.
    reads: Option<ReadBy>,
    weight: f64,
    bucket: Option<u16>,
    /// Where the user's key was found; never the key.
    key: Option<String>,
    /// By what the user is pinned to a side; never the value.
    pin: Option<String>,
    group: String,
    sync: Option<String>,
    /// Who the file says owns the sync; the databases' word counts where Banyan runs.
    owner: Option<Owner>,
    /// What the answering side is asked for, where that is not what the client asked for.
    rewritten: Option<String>,
    /// What else is changed for the answering side; names only.
    changes: Vec<String>,
    fallback: &'static str,
}

/// Who is asked, and which headers of the answer both sides get.
#[derive(Serialize)]
struct Identity {
    ask: String,
    path: String,
    copy: Vec<String>,
}

/// A route that does not match.
#[derive(Serialize)]
struct Missed {
    route: String,
    /// What did not hold.
    by: MissedBy,
    why: String,
}

/// People are shown so many of the routes that do not match.
const MOST_MISSES: usize = 30;

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let accepted = match config::load(path) {
        Ok(accepted) => accepted,
        Err(report) => {
            output::report(&report, "");
            return Ok(ExitCode::from(FAILED));
        }
    };
    let config = accepted.loaded.proxy;
    let Ok((mut table, _)) = RouteTable::compile(&config, &FileLinks::in_step(&config)) else {
        bail!("the routes do not compile; `banyan check` says why");
    };
    table.uncap();
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let (raw, query) =
        args.path.split_once('?').map_or((args.path.as_str(), None), |(path, query)| (path, Some(query)));
    let path = normalise(raw).with_context(|| format!("`{raw}` is no path; Banyan answers it with 400"))?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let client = args.client.to_canonical();
    let request = Normal { method: &args.method, host, path: &path, query, headers: &headers, client };
    let explanation = table.explain(&request);
    let prefix_end = table.find(&request).prefix_end;

    let mut parts = Request::new(()).into_parts().0;
    parts.method = args.method.clone();
    parts.uri = args.path.parse().with_context(|| format!("`{}` is no path", args.path))?;
    parts.headers = headers;
    // Nothing that is signed leaves this process.
    let split = Split::new(Signer::try_new(&[0; 32])?, Arc::new(RecentWrites::default()));
    let route = &explanation.route;
    // Explain strips nothing: what a client says under Banyan's names stands where the others are.
    let wish = route.force.as_ref().and_then(|force| force.wish(&parts.headers, &parts.headers, args.client));
    let choice = split.choose_for(route, &parts, args.client, Now::read(), wish);

    let authority = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("HOST");
    let public = Public { scheme: "http", authority, prefix: "" };
    let asked = Asked { raw_path: raw, path: &path, prefix_end, query, public };
    let target = route.target(choice.side);
    let answer = Answer {
        route: route.name.to_string(),
        matched: explanation.matched.clone(),
        others: explanation.others.iter().map(|(other, _)| other.name.to_string()).collect(),
        misses: explanation.misses.iter().map(Missed::of).collect(),
        path: explanation.path.clone(),
        itself: route.itself.as_ref().map(|itself| itself.in_words(&asked)),
        identity: config.identity.as_ref().filter(|_| route.itself.is_none()).map(Identity::of),
        weight_is_ceiling: config.routes.iter().any(|known| known.name == *route.name && known.rollout.is_some()),
        side: choice.side,
        upstream: target.map(|target| target.upstream.to_string()),
        reason: choice.reason.as_str(),
        is_write: choice.is_write,
        reads: route.reads.as_ref().map(|reads| reads.is_read(&parts).1),
        weight: route.weight.percent(),
        bucket: choice.bucket,
        key: key(route, &parts.headers, &choice),
        pin: route
            .pins
            .as_ref()
            .and_then(|pins| pins.find(&parts.headers, args.client))
            .map(|pinned| pinned.to_string()),
        group: route.group.name.to_string(),
        sync: route.sync.as_ref().map(|sync| sync.name.to_string()),
        owner: route.sync.as_ref().map(|sync| sync.link.owner()),
        rewritten: target.and_then(|target| target.path_and_query(&path, prefix_end, query)),
        changes: target.map(changes).unwrap_or_default(),
        fallback: match route.fallback() {
            Fallback::None => "none",
            Fallback::Reads => "reads",
            Fallback::Unsent => "unsent",
        },
    };
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => output::data(&sentences(&answer, &explanation, &choice, raw, &config))?,
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Identity ===

impl Identity {
    fn of(settings: &banyan_proxy::config::Identity) -> Self {
        let copy = settings.copy.iter().map(|name| name.as_str().to_owned()).collect();
        Self { ask: settings.ask.clone(), path: settings.path.clone(), copy }
    }
}

// === impl Missed ===

impl Missed {
    fn of(miss: &Miss) -> Self {
        Self { route: miss.route.name.to_string(), by: miss.by, why: miss.why.clone() }
    }
}

pub(super) fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `name: value`")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("`{name}` is no header name"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "the value holds control characters".to_owned())?;
    Ok((name, value))
}

/// What a side's shaping does, in words.
fn changes(target: &Target) -> Vec<String> {
    let Some(shaping) = &target.shaping else { return Vec::new() };
    let host = shaping.host.iter().filter_map(|host| host.to_str().ok()).map(|host| format!("asked as {host}"));
    let of = |what: &'static str, changes: &Changes| {
        let removed = changes.remove.iter().map(move |name| format!("{what} loses {name}"));
        let set = changes.set.iter().map(move |(name, _)| format!("{what} has {name} set"));
        let added = changes.add.iter().map(move |(name, _)| format!("{what} has {name} added"));
        removed.chain(set).chain(added).collect::<Vec<_>>()
    };
    let renamed = shaping.cookies.iter().map(|(own, public)| format!("clients know its cookie {own} as {public}"));
    host.chain(renamed).chain(of("the request", &shaping.request)).chain(of("the answer", &shaping.response)).collect()
}

/// Where the key that decides was found.
fn key(route: &Route, headers: &HeaderMap, choice: &Choice) -> Option<String> {
    if choice.new_id.is_some() {
        return Some("the cookie `banyan_id` that this answer would set".to_owned());
    }
    match find_key(route, headers) {
        Some(key) => Some(match key.source.and_then(|at| route.sticky.get(at)) {
            Some(source) => source.to_string(),
            None => "cookie `banyan_id`".to_owned(),
        }),
        None if route.keyless == Keyless::ClientAddress => Some("the client's address".to_owned()),
        None => None,
    }
}

fn sentences(answer: &Answer, explanation: &Explanation, choice: &Choice, raw: &str, config: &Config) -> String {
    let mut out = String::new();
    let mut line = |word: &str, value: &str, text: &str| {
        let text = if text.is_empty() { String::new() } else { format!(" {text}") };
        let _ = writeln!(out, "{word:<9} {value:<12}{text}");
    };
    line("route", &answer.route, &route_sentence(answer, explanation));
    if answer.path != raw {
        line("path", &answer.path, &format!("the normal form of {raw}"));
    }
    if let Some(itself) = &answer.itself {
        line("answer", itself, "Banyan's own; no upstream is asked");
        others(&mut line, answer, explanation);
        return out;
    }
    if let Some(by) = answer.reads {
        let by = match by {
            ReadBy::Method => "by its method",
            ReadBy::Also => "as `reads.also` says",
            ReadBy::Never => "as `reads.never` says",
        };
        line("kind", if answer.is_write { "write" } else { "read" }, by);
    }
    if let Some(identity) = &answer.identity {
        let copied: Vec<String> = identity.copy.iter().map(|name| format!("`{name}`")).collect();
        let text = format!("would be asked who it is; here what -H gives counts: {}", copied.join(", "));
        line("identity", &identity.ask, &text);
    }
    line("side", answer.side.as_str(), &side_sentence(answer, &explanation.route, choice));
    if answer.weight_is_ceiling {
        line("rollout", "", "the weight is its ceiling: `banyan status` says what holds now");
    }
    if let Some(limit) = &explanation.route.rate_limit {
        let settings = limit.settings();
        let mut keys: Vec<String> = limit.sources().map(ToString::to_string).collect();
        keys.push("the client's address".to_owned());
        let burst = settings.burst.unwrap_or(settings.requests);
        let text = format!("requests every {:?}, {burst} at once; counted by {}", settings.every, keys.join(", else "));
        line("limit", &settings.requests.to_string(), &text);
    }
    match &answer.upstream {
        Some(upstream) => {
            let endpoints = config.upstreams.get(upstream).map_or(0, |upstream| upstream.endpoints.len());
            let mut text = format!("{endpoints} endpoint{}", if endpoints == 1 { "" } else { "s" });
            if let Some(rewritten) = &answer.rewritten {
                let _ = write!(text, "; asked for {rewritten}");
            }
            line("upstream", upstream, &text);
            for change in &answer.changes {
                line("", "", change);
            }
        }
        None => line("upstream", "–", "the route has no such side; the answer is 503"),
    }
    if let (Some(sync), Some(owner), false) = (&answer.sync, answer.owner, answer.is_write) {
        line("writes", "", &format!("would go to {}: it owns sync `{sync}` as the file says", owner.as_str()));
    }
    if let Some(sync) = &answer.sync
        && !answer.is_write
        && answer.owner != Some(answer.side)
    {
        line(
            "but",
            "",
            &format!(
                "reads follow the owner while sync `{sync}` is behind, and for a while after the user's own write"
            ),
        );
    }
    others(&mut line, answer, explanation);
    out
}

/// Why each other route does not answer.
fn others(line: &mut impl FnMut(&str, &str, &str), answer: &Answer, explanation: &Explanation) {
    for (other, why) in &explanation.others {
        line("behind", &other.name, &format!("matches too: {why}"));
    }
    for (at, miss) in answer.misses.iter().take(MOST_MISSES).enumerate() {
        line(if at == 0 { "not" } else { "" }, &miss.route, &miss.why);
    }
    if let Some(more) = answer.misses.len().checked_sub(MOST_MISSES).filter(|more| *more > 0) {
        line("", "…", &format!("and {more} more; `-o json` lists them all"));
    }
}

fn route_sentence(answer: &Answer, explanation: &Explanation) -> String {
    let names: Vec<String> = answer.others.iter().map(|name| format!("`{name}`")).collect();
    if &*explanation.route.name == DEFAULT {
        return explanation.matched.clone();
    }
    match names.as_slice() {
        [] => format!("{}; no other route matches", explanation.matched),
        names => format!(
            "{}; the most specific of {} that match ({} {} the other{})",
            explanation.matched,
            names.len() + 1,
            names.join(", "),
            if names.len() == 1 { "was" } else { "were" },
            if names.len() == 1 { "" } else { "s" },
        ),
    }
}

fn side_sentence(answer: &Answer, route: &Route, choice: &Choice) -> String {
    let weight = route.weight;
    match choice.reason {
        Reason::Weight => match (choice.bucket, &answer.key) {
            (Some(bucket), Some(key)) => format!(
                "bucket {bucket} of {BUCKETS} is {} {} (weight {weight} %); key: {key}, group `{}`",
                if choice.side == Owner::Modern { "under" } else { "not under" },
                weight.buckets(),
                answer.group,
            ),
            _ => format!("weight {weight} %"),
        },
        Reason::Keyless => format!("no key was found (looked for {}); weight {weight} %", looked_for(route)),
        Reason::Force => "a tester asked for it, and may (`force`)".to_owned(),
        Reason::Pin => format!("pinned by {}; the weight is {weight} %", answer.pin.as_deref().unwrap_or_default()),
        Reason::Owner => {
            let sync = answer.sync.as_deref().unwrap_or_default();
            format!("a write, and {} owns sync `{sync}` as the file says", answer.side.as_str())
        }
        Reason::Lag => "the other side is behind, or nobody knows how far".to_owned(),
        Reason::OwnWrites => "the user wrote a moment ago".to_owned(),
        Reason::NotBegun => "the route has no `modern` yet".to_owned(),
        Reason::Retired => "the route has no `legacy` any more".to_owned(),
    }
}

fn looked_for(route: &Route) -> String {
    let mut places: Vec<String> = route.sticky.iter().map(ToString::to_string).collect();
    let own = "cookie `banyan_id`".to_owned();
    if !places.contains(&own) {
        places.push(own);
    }
    places.join(", ")
}
