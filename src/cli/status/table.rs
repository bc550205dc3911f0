//! Status as people read it: one sentence that says whether it is well, a line a route, a line a sync.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::output;

use super::numbers::{Arm, Numbers};

/// The whole text. Without `numbers`, which are of all the time since the start, those of the last seconds are shown, as on the page.
pub(super) fn render(status: &Value, numbers: Option<&Numbers>) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", sentence(status));
    routes(status, numbers, &mut out);
    upstreams(status, &mut out);
    syncs(status, &mut out);
    cookies(status, &mut out);
    out
}

/// "Is it well?"
fn sentence(status: &Value) -> String {
    let mut parts = Vec::new();
    if status["ready"] == false {
        parts.push("stopping".to_owned());
    }
    let file = &status["file"];
    if file["in_force"] == false {
        let errors = file["errors"].as_u64().unwrap_or(1);
        let first = file["first_error"].as_str().unwrap_or("it cannot be read");
        let plural = if errors == 1 { "" } else { "s" };
        parts.push(format!("the file on disk is refused, the old one is in force: {errors} error{plural}, {first}"));
    }
    let waiting: Vec<&str> = list(&file["restart_needed"]).iter().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        parts.push(format!("waiting for a restart: {}", waiting.join(", ")));
    }
    let routes = list(&status["proxy"]["routes"]).len();
    let stands = |route: &&Value| ["rolled_back", "paused"].iter().any(|phase| route["rollout"]["phase"] == *phase);
    let standing = list(&status["proxy"]["routes"]).iter().filter(stands).count();
    if parts.is_empty() && routes > 0 {
        parts.push(match standing {
            0 => format!("All {routes} routes as wanted"),
            _ => format!("{} of {routes} routes as wanted", routes - standing),
        });
    }
    for (phase, words) in [("rolled_back", "rolled back"), ("paused", "paused")] {
        let routes = list(&status["proxy"]["routes"]).iter();
        let names: Vec<&str> =
            routes.filter(|route| route["rollout"]["phase"] == phase).map(|route| text(&route["name"])).collect();
        if !names.is_empty() {
            parts.push(format!("{words}: {}", names.join(", ")));
        }
    }
    for upstream in list(&status["proxy"]["upstreams"]).iter().filter(|upstream| upstream["is_down"] == true) {
        parts.push(format!("upstream {} is down", text(&upstream["name"])));
    }
    match list(&status["proxy"]["cookie_clashes"]) {
        [] => {}
        [one] => parts.push(format!("both sides set cookie {}", text(&one["cookie"]))),
        many => parts.push(format!("both sides set {} cookies of the same names", many.len())),
    }
    for link in list(&status["links"]) {
        let at_owner = list(&status["proxy"]["routes"])
            .iter()
            .any(|route| route["sync"] == link["name"] && route["reads_at_owner"] == true);
        let lag = match link["lag_seconds"].as_f64() {
            Some(lag) if at_owner => format!("{} behind, its reads go to the owner", time(lag)),
            Some(lag) => format!("{} behind", time(lag)),
            None => "lag unknown, its reads go to the owner".to_owned(),
        };
        let held = match (&link["writes"]["is_held"], link["writes"]["held"].as_u64()) {
            (Value::Bool(true), Some(held)) => format!(", its writes are held: {held} wait"),
            _ => String::new(),
        };
        let own = list(&status["syncs"]).iter().find(|sync| sync["name"] == link["name"]);
        let parked = match own.and_then(|sync| sync["parked"].as_u64()) {
            None | Some(0) => String::new(),
            Some(1) => ", 1 transaction is parked".to_owned(),
            Some(parked) => format!(", {parked} transactions are parked"),
        };
        parts.push(format!("sync {} {lag}{held}{parked}", text(&link["name"])));
    }
    parts.join(" · ")
}

fn routes(status: &Value, numbers: Option<&Numbers>, out: &mut String) {
    let routes = list(&status["proxy"]["routes"]);
    if routes.is_empty() {
        return;
    }
    let count = if numbers.is_some() { "REQUESTS" } else { "REQ/S" };
    let heads = ["ROUTE", "STAGE", "WANT", "NOW", "SEEN", count, "LEGACY err p99", "MODERN err p99", "MISMATCH", "WHY"];
    let mut rows = vec![heads.map(str::to_owned)];
    for route in routes {
        let name = text(&route["name"]);
        let recent = &route["recent"];
        let side = |of: &str| match numbers {
            Some(numbers) => side(&numbers.arm(name, of)),
            None => recent_side(&recent[of]),
        };
        let (answers, seen) = match numbers {
            Some(numbers) => (output::grouped(numbers.answers(name)), &route["weight_seen"]),
            None => (rate(&recent["requests_per_second"]), &recent["modern_percent"]),
        };
        rows.push([
            name.to_owned(),
            text(&route["stage"]).to_owned(),
            percent(&route["weight_wanted"], 2),
            percent(&route["weight_effective"], 2),
            percent(seen, 1),
            answers,
            side("legacy"),
            side("modern"),
            mismatch(&route["compare"]),
            route["why"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    columns(&rows, &[2, 3, 4, 5, 6, 7, 8], out);
}

/// Those that have something to tell: limits, a circuit, several endpoints, or no life.
fn upstreams(status: &Value, out: &mut String) {
    let heads = ["UPSTREAM", "ENDPOINTS", "IN FLIGHT", "LIMIT", "QUEUED", "CONNECTIONS", "CIRCUIT"];
    let mut rows = vec![heads.map(str::to_owned)];
    for upstream in list(&status["proxy"]["upstreams"]) {
        let endpoints = list(&upstream["endpoints"]);
        let is_plain = upstream["limit"].is_null() && upstream["circuit"].is_null() && upstream["queued"] == 0;
        if is_plain && endpoints.len() < 2 && upstream["is_down"] == false {
            continue;
        }
        let states = ["up", "unhealthy", "ejected"].map(|state| {
            let count = endpoints.iter().filter(|endpoint| endpoint["state"] == state).count();
            (count > 0).then(|| format!("{count} {state}"))
        });
        let states = if upstream["is_down"] == true {
            "down".to_owned()
        } else {
            states.into_iter().flatten().collect::<Vec<_>>().join(", ")
        };
        let number = |key: &str| upstream[key].as_u64().map_or("–".to_owned(), |number| number.to_string());
        rows.push([
            text(&upstream["name"]).to_owned(),
            states,
            number("in_flight"),
            number("limit"),
            number("queued"),
            number("connections"),
            upstream["circuit"].as_str().map_or("–".to_owned(), |state| state.replace('_', " ")),
        ]);
    }
    if rows.len() > 1 {
        out.push('\n');
        columns(&rows, &[2, 3, 4, 5], out);
    }
}

fn syncs(status: &Value, out: &mut String) {
    let (links, flows) = (list(&status["links"]), list(&status["syncs"]));
    if links.is_empty() {
        return;
    }
    let heads = ["SYNC", "OWNER", "LEGACY → MODERN", "MODERN → LEGACY", "PARKED", "VIOLATIONS", "WAL KEPT"];
    let mut rows = vec![heads.map(str::to_owned)];
    let (mut copies, mut errors) = (Vec::new(), Vec::new());
    for link in links {
        let name = text(&link["name"]);
        let own = flows.iter().find(|sync| sync["name"] == name);
        let flow =
            |direction: &str| own.and_then(|sync| list(&sync["flows"]).iter().find(|flow| flow["flow"] == direction));
        let both = [flow("legacy_to_modern"), flow("modern_to_legacy")];
        let sum = |key: &str| both.iter().flatten().filter_map(|flow| flow[key].as_u64()).sum::<u64>();
        let known = both.iter().flatten().any(|flow| flow["retained_wal_bytes"].is_u64());
        rows.push([
            name.to_owned(),
            owner(link),
            both[0].map_or("not here".to_owned(), state),
            both[1].map_or("not here".to_owned(), state),
            own.and_then(|sync| sync["parked"].as_u64()).map_or("–".to_owned(), |parked| parked.to_string()),
            if own.is_some() { sum("violations").to_string() } else { "–".to_owned() },
            if known { bytes(sum("retained_wal_bytes")) } else { "–".to_owned() },
        ]);
        for flow in both.iter().flatten() {
            copies.extend(list(&flow["copies"]).iter().map(|copy| copy_bar(name, copy)));
            for table in list(&flow["needs_verify"]) {
                errors.push(format!(
                    "{name} {}: rows of {} may have changed without an event: see `banyan sync verify {name} --table {}`",
                    text(&flow["flow"]).replace('_', " "),
                    text(table),
                    text(table)
                ));
            }
            for key in ["last_error", "waiting_for"] {
                if let Some(why) = flow[key].as_str() {
                    let word = if key == "last_error" { "" } else { "waits for " };
                    errors.push(format!("{name} {}: {word}{why}", text(&flow["flow"]).replace('_', " ")));
                }
            }
        }
    }
    out.push('\n');
    columns(&rows, &[4, 5, 6], out);
    for copy in copies {
        let _ = writeln!(out, "  {copy}");
    }
    for error in errors {
        let _ = writeln!(out, "  {error}");
    }
}

/// `payments public.accounts  [######--------------]  30%  3,000,000 of about 10,000,000 rows, 512 MB, 4 min left`
fn copy_bar(sync: &str, copy: &Value) -> String {
    const WIDTH: u64 = 20;
    let number = |key: &str| copy[key].as_u64().unwrap_or_default();
    let (rows, total) = (number("rows"), number("rows_total"));
    // The total is a guess: a copy that is under way is never shown as complete.
    let percent = if total == 0 { 0 } else { (u128::from(rows) * 100 / u128::from(total)).min(99) as u64 };
    let full = usize::try_from(percent * WIDTH / 100).unwrap_or(0);
    let left = copy["eta_seconds"].as_f64().map_or(String::new(), |eta| format!(", {} left", time(eta)));
    format!(
        "{sync} {}  [{}{}]  {percent:>2}%  {} of about {} rows, {}{left}",
        text(&copy["table"]),
        "#".repeat(full),
        "-".repeat(WIDTH as usize - full),
        output::grouped(rows as f64),
        output::grouped(total as f64),
        bytes(number("bytes"))
    )
}

/// Names that browsers keep but one cookie of.
fn cookies(status: &Value, out: &mut String) {
    let clashes = list(&status["proxy"]["cookie_clashes"]);
    if clashes.is_empty() {
        return;
    }
    let heads = ["COOKIE", "SET BY LEGACY ON", "BY MODERN ON"];
    let mut rows = vec![heads.map(str::to_owned)];
    let row = |clash: &Value| ["cookie", "legacy_route", "modern_route"].map(|key| text(&clash[key]).to_owned());
    rows.extend(clashes.iter().map(row));
    out.push('\n');
    columns(&rows, &[], out);
    let _ = writeln!(
        out,
        "  in the browser the later one wins: rename it, or say that it is `shared` (`cookies` of the route)"
    );
}

/// `legacy`, or with how it is known when no database has said so.
fn owner(link: &Value) -> String {
    let owner = text(&link["owner"]);
    match link["known_from"].as_str() {
        Some("database") | None => owner.to_owned(),
        Some("kept") => format!("{owner} (before)"),
        Some(other) => format!("{owner} ({other})"),
    }
}

/// `applying, 11 ms behind`.
fn state(flow: &Value) -> String {
    let state = text(&flow["state"]).replace('_', " ");
    match (state.as_str(), flow["lag_seconds"].as_f64()) {
        ("applying", Some(lag)) => format!("applying, {} behind", time(lag)),
        _ => state,
    }
}

fn side(arm: &Arm) -> String {
    if arm.attempts < 1.0 {
        return "–".to_owned();
    }
    let errors = format!("{:.1}%", arm.failed / arm.attempts * 100.0);
    format!("{errors} {:>7}", arm.p99().map_or("–".to_owned(), time))
}

/// The same of the last seconds.
fn recent_side(side: &Value) -> String {
    let Some(errors) = side["error_percent"].as_f64() else { return "–".to_owned() };
    let p99 = side["p99_ms"].as_f64().map_or("–".to_owned(), |millis| time(millis / 1e3));
    format!("{errors:.1}% {p99:>7}")
}

/// `1,204`, `0.4`: what is not nothing is never shown as `0`.
fn rate(a_second: &Value) -> String {
    match a_second.as_f64() {
        None => "–".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{:.1}", rate.max(0.1)),
        Some(rate) => output::grouped(rate),
    }
}

/// Net of noise.
fn mismatch(compare: &Value) -> String {
    let noise = compare["noise"].as_f64().unwrap_or_default();
    match (compare["mismatch"].as_f64(), compare["compared"].as_f64()) {
        (Some(mismatch), Some(compared)) if compared > 0.0 => format!("{:.1}%", (mismatch - noise) / compared * 100.0),
        _ => "–".to_owned(),
    }
}

/// Left-aligned columns, but for those in `right`.
fn columns<const N: usize>(rows: &[[String; N]], right: &[usize], out: &mut String) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ =
                if right.contains(&column) { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
            line.push_str("  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// `50%`, `12.34%`, `–`.
fn percent(value: &Value, decimals: usize) -> String {
    let Some(value) = value.as_f64() else { return "–".to_owned() };
    let text = format!("{value:.decimals$}");
    if decimals > 1 { format!("{}%", text.trim_end_matches('0').trim_end_matches('.')) } else { format!("{text}%") }
}

/// `11 ms`, `2.5 s`, `3 min`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.995 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// `2 MB`.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_reads_as_a_person_expects() {
        let status = json!({
            "ready": true,
            "file": {"in_force": true, "restart_needed": []},
            "proxy": {"routes": [
                {"name": "payments", "stage": "canary", "weight_wanted": 12.5, "weight_effective": 12.5, "weight_seen": 12.4,
                 "compare": {"compared": 200, "mismatch": 3}, "why": "circuit open: 12 of 20 failed"},
                {"name": "default", "stage": "legacy", "weight_wanted": 0.0, "weight_effective": 0.0, "weight_seen": null, "compare": null},
            ], "upstreams": [
                {"name": "monolith", "in_flight": 0, "connections": 1, "queued": 0, "limit": null, "is_down": false, "circuit": null,
                 "endpoints": [{"state": "up"}]},
                {"name": "payments", "in_flight": 3, "connections": 8, "queued": 2, "limit": 20, "is_down": false, "circuit": "open",
                 "endpoints": [{"state": "up"}, {"state": "ejected"}]},
            ]},
            "links": [{"name": "payments", "owner": "legacy", "epoch": 1, "known_from": "database", "lag_seconds": 0.011}],
            "syncs": [{"name": "payments", "parked": 2, "flows": [
                {"flow": "legacy_to_modern", "state": "applying", "lag_seconds": 0.011, "violations": 0, "retained_wal_bytes": 2_100_000, "copies": [
                    {"table": "public.accounts", "rows": 3_000_000, "bytes": 512_000_000, "rows_total": 10_000_000, "eta_seconds": 240.0},
                    {"table": "public.new", "rows": 7, "bytes": 70, "rows_total": 7, "eta_seconds": null},
                ]},
                {"flow": "modern_to_legacy", "state": "watching", "lag_seconds": null, "violations": 0, "retained_wal_bytes": null},
            ]}],
        });
        let text = render(&status, Some(&Numbers::default()));
        let expected = "\
All 2 routes as wanted · sync payments 11 ms behind, 2 transactions are parked

ROUTE     STAGE    WANT    NOW   SEEN  REQUESTS  LEGACY err p99  MODERN err p99  MISMATCH  WHY
payments  canary  12.5%  12.5%  12.4%         0               –               –      1.5%  circuit open: 12 of 20 failed
default   legacy     0%     0%      –         0               –               –         –

UPSTREAM  ENDPOINTS        IN FLIGHT  LIMIT  QUEUED  CONNECTIONS  CIRCUIT
payments  1 up, 1 ejected          3     20       2            8  open

SYNC      OWNER   LEGACY → MODERN         MODERN → LEGACY  PARKED  VIOLATIONS  WAL KEPT
payments  legacy  applying, 11 ms behind  watching              2           0      2 MB
  payments public.accounts  [######--------------]  30%  3,000,000 of about 10,000,000 rows, 512 MB, 4 min left
  payments public.new  [###################-]  99%  7 of about 7 rows, 70 B
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn while_it_is_watched_the_last_seconds_are_shown() {
        let side = |errors: Value, p99: Value| json!({"error_percent": errors, "p99_ms": p99});
        let recent = json!({"requests_per_second": 1_204.4, "modern_percent": 24.8, "legacy": side(json!(0.0), json!(81.0)), "modern": side(json!(2.94), json!(1_250.0))});
        let routes = json!([
            {"name": "payments", "stage": "canary", "weight_wanted": 25.0, "weight_effective": 25.0, "weight_seen": 50.0, "recent": recent,
             "compare": {"compared": 1000, "mismatch": 28, "noise": 25}},
            {"name": "new", "stage": "legacy", "weight_wanted": 0.0, "weight_effective": 0.0, "weight_seen": null, "recent": null, "compare": null},
        ]);
        let status = json!({"ready": true, "file": {}, "proxy": {"routes": routes}, "links": []});
        let text = render(&status, None);
        let expected = "\
All 2 routes as wanted

ROUTE     STAGE   WANT  NOW   SEEN  REQ/S  LEGACY err p99  MODERN err p99  MISMATCH  WHY
payments  canary   25%  25%  24.8%  1,204    0.0%   81 ms    2.9%   1.2 s      0.3%
new       legacy    0%   0%      –      –               –               –         –
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_refused_file_is_the_first_thing_said() {
        let file = json!({"in_force": false, "errors": 2, "first_error": "routes.yaml:3:1: unknown key `x`", "restart_needed": ["workers"]});
        let said = sentence(&json!({"ready": true, "file": file, "proxy": null, "links": []}));
        assert!(
            said.starts_with("the file on disk is refused, the old one is in force: 2 errors, routes.yaml:3:1"),
            "{said}"
        );
        assert!(said.ends_with("waiting for a restart: workers"), "{said}");
    }

    #[test]
    fn writes_that_are_held_are_said() {
        let link =
            json!({"name": "money", "lag_seconds": 0.002, "writes": {"is_held": true, "held": 3, "under_way": 1}});
        let said = sentence(&json!({"ready": true, "file": {}, "proxy": null, "links": [link]}));
        assert_eq!(said, "sync money 2 ms behind, its writes are held: 3 wait");
    }

    #[test]
    fn cookies_that_both_sides_set_are_told() {
        let clash = json!({"cookie": "sid", "legacy_route": "default", "modern_route": "payments"});
        let status = json!({"ready": true, "file": {}, "proxy": {"cookie_clashes": [clash]}, "links": []});
        let expected = "\
both sides set cookie sid


COOKIE  SET BY LEGACY ON  BY MODERN ON
sid     default           payments
  in the browser the later one wins: rename it, or say that it is `shared` (`cookies` of the route)
";
        assert_eq!(render(&status, Some(&Numbers::default())), expected);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            (output::grouped(1_204.0), output::grouped(12.0), output::grouped(1_234_567.0)),
            ("1,204".into(), "12".into(), "1,234,567".into())
        );
        assert_eq!(
            (time(0.0), time(0.011), time(2.51), time(600.0)),
            ("0.0 ms".into(), "11 ms".into(), "2.5 s".into(), "10 min".into())
        );
    }
}
