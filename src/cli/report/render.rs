//! A report as text and as Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::output;

/// What is shown of a trend.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// For people.
pub(super) fn text(route: &str, report: &Value) -> String {
    let mut out = format!("{route}   {}", summary(report));
    let lines = differences(report);
    let width = |of: fn(&Line) -> &String| lines.iter().map(|line| of(line).chars().count()).max().unwrap_or_default();
    let (place, often) = (width(|line| &line.place), width(|line| &line.often));
    for line in &lines {
        let noise = if line.is_noise { "   noise" } else { "" };
        let _ =
            write!(out, "\n  {:place$}   {:>often$}   {}   {}{noise}", line.place, line.often, line.what, line.example);
    }
    if let Some(latency) = latency(report) {
        let _ = write!(out, "\n  latency   {latency}");
    }
    if let Some(noise) = noise(report) {
        let _ = write!(out, "\n  noise     {noise}");
    }
    if let Some(trend) = trend(report) {
        let _ = write!(out, "\n  trend     {trend}");
    }
    out
}

/// One line a route.
pub(super) fn lines(reports: &[(&str, &Value)]) -> String {
    let width = reports.iter().map(|(route, _)| route.chars().count()).max().unwrap_or_default();
    reports.iter().map(|(route, report)| format!("{route:width$}   {}\n", summary(report))).collect()
}

/// One row a route, for a merge request.
pub(super) fn rows(reports: &[(&str, &Value)]) -> String {
    let row = |(route, report): &(&str, &Value)| {
        let (compared, mismatch) = (count(report, "compared"), count(report, "mismatch"));
        let share = percent(mismatch, compared);
        let commonest =
            report["differences"][0]["place"].as_str().map(|place| format!("`{}`", place.replace('|', "\\|")));
        format!("| {route} | {} | {share} | {} |\n", grouped(compared), commonest.unwrap_or_default())
    };
    let rows: String = reports.iter().map(row).collect();
    format!("| route | compared | mismatch | most in |\n| --- | ---: | ---: | --- |\n{rows}")
}

/// For a merge request.
pub(super) fn markdown(route: &str, report: &Value) -> String {
    let mut out = format!("### {route}\n\n{}\n", summary(report));
    let lines = differences(report);
    if !lines.is_empty() {
        out.push_str("\n| where | how often | control against candidate | an example |\n| --- | ---: | --- | --- |\n");
        for line in &lines {
            // A bar would end the cell, and `*` is a pointer's.
            let place = line.place.replace('|', "\\|");
            let noise = if line.is_noise { ", noise" } else { "" };
            let _ = writeln!(out, "| `{place}` | {}{noise} | {} | {} |", line.often, line.what, line.example);
        }
    }
    for (name, what) in [("Latency", latency(report)), ("Noise", noise(report)), ("Trend", trend(report))] {
        if let Some(what) = what {
            let _ = write!(out, "\n{name}: {what}\n");
        }
    }
    out
}

/// So much of so many; what is not nothing is never shown as `0 %`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "–".to_owned(),
        (0, _) => "0 %".to_owned(),
        (part, whole) if part == whole => "100 %".to_owned(),
        (part, whole) => match part as f64 / whole as f64 * 100.0 {
            share if share < 0.01 => "< 0.01 %".to_owned(),
            share if share < 1.0 => format!("{share:.2} %"),
            share if share > 99.9 => "> 99.9 %".to_owned(),
            share => format!("{share:.1} %"),
        },
    }
}

struct Line {
    place: String,
    often: String,
    is_noise: bool,
    what: String,
    example: String,
}

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_default()
}

fn summary(report: &Value) -> String {
    let compared = count(report, "compared");
    let seconds = count(report, "until").saturating_sub(count(report, "since"));
    if compared == 0 {
        let unsaid = unsaid(report);
        return format!(
            "nothing compared yet{}",
            if unsaid.is_empty() { String::new() } else { format!("; {unsaid}") }
        );
    }
    let mut parts = vec![
        format!("last {}", minutes(seconds)),
        format!("{} compared", grouped(compared)),
        format!("match {}", percent(count(report, "match"), compared)),
        format!("mismatch {}", percent(count(report, "mismatch"), compared)),
    ];
    if let Some(noise) = report["noise"]["mismatch"].as_u64() {
        let net = count(report, "mismatch").saturating_sub(noise);
        parts.push(format!("net of noise {}", percent(net, compared)));
    }
    if count(report, "ignored") > 0 {
        parts.push(format!("only in what is ignored {}", percent(count(report, "ignored"), compared)));
    }
    let unsaid = unsaid(report);
    if !unsaid.is_empty() {
        parts.push(unsaid);
    }
    parts.join("   ")
}

/// `not comparable 41 (sync behind)`.
fn unsaid(report: &Value) -> String {
    let why = report["not_comparable"].as_object().into_iter().flatten();
    let why: Vec<(String, u64)> =
        why.map(|(why, count)| (why.replace('_', " "), count.as_u64().unwrap_or_default())).collect();
    match why.as_slice() {
        [] => String::new(),
        [(why, count)] => format!("not comparable {} ({why})", grouped(*count)),
        many => {
            let all = many.iter().map(|(_, count)| count).sum();
            let each: Vec<String> = many.iter().map(|(why, count)| format!("{why} {}", grouped(*count))).collect();
            format!("not comparable {} ({})", grouped(all), each.join(", "))
        }
    }
}

fn differences(report: &Value) -> Vec<Line> {
    let compared = count(report, "compared");
    let line = |one: &Value| {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let example = &one["example"];
        let or_more = if one["may_be_more"].as_bool() == Some(true) { " or more" } else { "" };
        let length = |key: &str| example[key].as_u64().unwrap_or_default();
        let side = |word: &str, which: &str| match (word, example["values"][which].as_str()) {
            (_, Some(value)) => value.replace('|', "\\|"),
            ("string" | "number" | "array" | "object" | "bytes", None) => {
                format!("{word} of {}", length(&format!("{which}_length")))
            }
            (other, None) => other.to_owned(),
        };
        Line {
            place: text("place").to_owned(),
            often: format!("{} of {}{or_more}", grouped(count(one, "count")), grouped(compared)),
            is_noise: one["is_noise"].as_bool() == Some(true),
            what: format!("{} against {}", text("control"), text("candidate")),
            example: format!(
                "{} {} against {}",
                example["method"].as_str().unwrap_or_default(),
                side(text("control"), "control"),
                side(text("candidate"), "candidate")
            ),
        }
    };
    report["differences"].as_array().into_iter().flatten().map(line).collect()
}

fn latency(report: &Value) -> Option<String> {
    let (legacy, modern) = (&report["latency"]["legacy"], &report["latency"]["modern"]);
    let of = |key: &str| Some(format!("{} against {}", millis(legacy[key].as_f64()?), millis(modern[key].as_f64()?)));
    Some(format!("legacy against modern: p50 {}, p99 {}", of("p50_ms")?, of("p99_ms")?))
}

/// Which places differ by themselves, and what the file would say of them.
fn noise(report: &Value) -> Option<String> {
    let noise = report["noise"].as_object()?;
    let places: Vec<&str> = noise["places"].as_array()?.iter().filter_map(|place| place["place"].as_str()).collect();
    let of = format!("{} reads sent twice", grouped(noise["resent"].as_u64()?));
    if places.is_empty() {
        return Some(format!("nothing that differs by itself is known of {of}"));
    }
    // A status, a header and a whole body are no places in a document.
    let pointers: Vec<String> =
        places.iter().filter(|place| place.starts_with('/')).map(|place| Value::from(*place).to_string()).collect();
    Some(match pointers.as_slice() {
        [] => format!("{} differs by itself, by {of}", places.join(", ")),
        _ => format!("the answering side differs from itself, by {of}; to paste:  ignore: [{}]", pointers.join(", ")),
    })
}

/// The share that differs, piece by piece.
fn trend(report: &Value) -> Option<String> {
    let pieces: Vec<(u64, u64)> = report["trend"]
        .as_array()?
        .iter()
        .map(|piece| (count(piece, "mismatch"), count(piece, "compared")))
        .filter(|(_, compared)| *compared > 0)
        .collect();
    let [first, .., last] = pieces.as_slice() else { return None };
    let shares: Vec<f64> = pieces.iter().map(|(mismatch, compared)| *mismatch as f64 / *compared as f64).collect();
    let most = shares.iter().copied().fold(0.0, f64::max);
    let bar = |share: &f64| {
        let step = if most > 0.0 { share / most * (BARS.len() - 1) as f64 } else { 0.0 };
        // Between 0 and the last bar.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        BARS[step.round() as usize]
    };
    let bars: String = shares.iter().map(bar).collect();
    Some(format!("{bars}   mismatch {} at first, {} at last", percent(first.0, first.1), percent(last.0, last.1)))
}

fn millis(millis: f64) -> String {
    match millis {
        small if small < 10.0 => format!("{small:.1} ms"),
        large => format!("{large:.0} ms"),
    }
}

fn minutes(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        minutes if minutes >= 120 => format!("{} h", minutes.div_ceil(60)),
        minutes => format!("{} min", minutes.max(1)),
    }
}

fn grouped(number: u64) -> String {
    output::grouped(number as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "since": 1000, "until": 4600, "compared": 12410, "match": 12063, "mismatch": 347, "ignored": 0,
            "not_comparable": {"sync_behind": 41},
            "differences": [
                {"place": "/amount", "control": "string", "candidate": "number", "count": 322, "may_be_more": false,
                 "example": {"at": 4000, "method": "GET", "control_length": 5, "candidate_length": 4}},
                {"place": "status", "control": "404", "candidate": "200", "count": 4, "may_be_more": true,
                 "example": {"at": 4000, "method": "GET", "control_length": 3, "candidate_length": 3}},
            ],
            "latency": {"legacy": {"p50_ms": 12.0, "p99_ms": 80.4}, "modern": {"p50_ms": 4.25, "p99_ms": 31.0}},
            "trend": [
                {"since": 1000, "compared": 6000, "mismatch": 0}, {"since": 2800, "compared": 6410, "mismatch": 347},
            ],
        })
    }

    #[test]
    fn a_report_says_where_how_often_and_of_which_kind() {
        assert_eq!(
            text("payments", &report()),
            "payments   last 60 min   12,410 compared   match 97.2 %   mismatch 2.8 %   not comparable 41 (sync behind)\n\
             \x20 /amount         322 of 12,410   string against number   GET string of 5 against number of 4\n\
             \x20 status    4 of 12,410 or more   404 against 200   GET 404 against 200\n\
             \x20 latency   legacy against modern: p50 12 ms against 4.2 ms, p99 80 ms against 31 ms\n\
             \x20 trend     ▁█   mismatch 0 % at first, 5.4 % at last"
        );
    }

    #[test]
    fn noise_is_told_apart_with_the_rule_to_paste() {
        let mut with_noise = report();
        with_noise["noise"] =
            json!({"resent": 120, "mismatch": 340, "places": [{"place": "/amount", "differed": 119}]});
        with_noise["differences"][0]["is_noise"] = true.into();
        let text = text("payments", &with_noise);
        assert!(text.contains("mismatch 2.8 %   net of noise 0.06 %"), "{text}");
        assert!(text.contains("number of 4   noise\n"), "{text}");
        assert!(text.contains("by 120 reads sent twice; to paste:  ignore: [\"/amount\"]"), "{text}");
        with_noise["noise"]["places"] = json!([]);
        assert!(super::text("a", &with_noise).contains("nothing that differs by itself is known of 120 reads"));
    }

    #[test]
    fn in_markdown_it_is_a_table() {
        let markdown = markdown("payments", &report());
        assert!(
            markdown.contains(
                "\n| `/amount` | 322 of 12,410 | string against number | GET string of 5 against number of 4 |\n"
            ),
            "{markdown}"
        );
        assert!(markdown.starts_with("### payments\n\nlast 60 min"), "{markdown}");
    }

    #[test]
    fn without_a_comparison_it_says_so() {
        let empty = json!({"compared": 0, "not_comparable": {}, "differences": [], "latency": {}, "trend": []});
        assert_eq!(text("a", &empty), "a   nothing compared yet");
        let behind = json!({"compared": 0, "not_comparable": {"sync_behind": 1200, "too_long": 3}});
        assert_eq!(
            text("a", &behind),
            "a   nothing compared yet; not comparable 1,203 (sync behind 1,200, too long 3)"
        );
    }

    #[test]
    fn what_is_not_nothing_is_never_shown_as_nothing() {
        assert_eq!(percent(1, 1_000_000), "< 0.01 %");
        assert_eq!(
            (percent(999_999, 1_000_000), percent(0, 9), percent(9, 9)),
            ("> 99.9 %".into(), "0 %".into(), "100 %".into())
        );
    }
}
