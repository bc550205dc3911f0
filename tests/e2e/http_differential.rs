//! The same bytes through NGINX, HAProxy, Envoy where it is found, and Banyan to the same recording upstream: what the client and the upstream saw is compared. A
//! difference is mended, or stands with its reason in the tables of `docs/reference/http-behaviour.md`; one that does not stand there, and a
//! row that no longer holds, fail the test.
//!
//! `BANYAN_BLESS=1 cargo test --test e2e differential` writes the tables anew, keeps the reasons, and leaves those of new rows empty, which
//! fails the next run: a reason is written by a person.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::SocketAddr};

use crate::harness::{
    Banyan, Raw, Upstream,
    client::Cut,
    peers::{Kind, Peer, Speaks},
    upstream::Seen,
};

mod cases;
mod http2;

use cases::{CASES, Case};

/// What one proxy made of one case, in the words of the table: by facet.
type Outcome = BTreeMap<&'static str, String>;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/http-behaviour.md");
/// Sent behind each case on its connection: an answer to it shows that the connection was kept.
const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
/// What stands for requests where there was none.
const NOTHING: &str = "nothing";
/// Headers that every proxy adds in its own way; what they say is tested elsewhere.
const OWN: &[&str] = &[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-upstream-service-time",
    "date",
    "server",
    "cache-control",
];

#[tokio::test]
async fn differential_every_difference_from_nginx_and_haproxy_is_listed_with_its_reason() {
    beside_nginx_and_haproxy(Speaks::Http1, "differences").await;
}

#[tokio::test]
async fn differential_every_difference_over_http2_is_listed_with_its_reason() {
    beside_nginx_and_haproxy(Speaks::Http2, "differences over HTTP/2").await;
}

/// Envoy is nowhere packaged: where it is not found, its table stands as it was last seen to hold.
#[tokio::test]
async fn differential_every_difference_from_envoy_is_listed_with_its_reason_where_it_is_found() {
    if Kind::Envoy.found().is_none() {
        eprintln!("no Envoy found: set ENVOY to its path to hold the table of differences against it");
        return;
    }
    let upstream = Upstream::scripted(cases::answer);
    let banyan = banyan(&upstream).await;
    let envoy = Peer::start(Kind::Envoy, Speaks::Http1, upstream.addr()).await;
    let mut rows = http1_rows(&[banyan.http(), envoy.http()], &upstream).await;
    let envoy = Peer::start(Kind::Envoy, Speaks::Http2, upstream.addr()).await;
    let over_http2 = http2_rows(&[banyan.http(), envoy.http()], &upstream).await;
    rows.extend(over_http2.iter().map(|row| row.replacen("| ", "| HTTP/2: ", 1)));
    Table { name: "differences from Envoy", proxies: "Banyan | Envoy" }.holds(&rows);
}

async fn beside_nginx_and_haproxy(speaks: Speaks, name: &'static str) {
    let upstream = Upstream::scripted(cases::answer);
    let banyan = banyan(&upstream).await;
    let nginx = Peer::start(Kind::Nginx, speaks, upstream.addr()).await;
    let haproxy = Peer::start(Kind::Haproxy, speaks, upstream.addr()).await;
    let proxies = [banyan.http(), nginx.http(), haproxy.http()];
    let rows = match speaks {
        Speaks::Http1 => http1_rows(&proxies, &upstream).await,
        Speaks::Http2 => http2_rows(&proxies, &upstream).await,
    };
    Table { name, proxies: "Banyan | NGINX | HAProxy" }.holds(&rows);
}

async fn banyan(upstream: &Upstream) -> Banyan {
    let file = format!("upstreams: {{one: {{endpoints: [\"{}\"]}}}}\ndefault: one\n", upstream.url());
    Banyan::with(&file).start().await
}

async fn http1_rows(proxies: &[SocketAddr], upstream: &Upstream) -> Vec<String> {
    let mut rows = Vec::new();
    for case in CASES {
        let mut outcomes = Vec::new();
        for http in proxies {
            let before = upstream.seen().len();
            let (client, answer) = exchange(case, *http).await;
            outcomes.push(outcome(client, answer, upstream, before));
        }
        assert!(case.pipelines || !is_smuggled(&outcomes[0]), "{}: a body was taken for a request", case.name);
        rows.extend(differences(case.name, &mut outcomes));
    }
    rows
}

async fn http2_rows(proxies: &[SocketAddr], upstream: &Upstream) -> Vec<String> {
    let mut rows = Vec::new();
    for case in http2::CASES {
        let mut outcomes = Vec::new();
        for http in proxies {
            let before = upstream.seen().len();
            let client = http2::client(case, *http).await;
            outcomes.push(outcome(client, String::new(), upstream, before));
        }
        assert!(!is_smuggled(&outcomes[0]), "{}: a body was taken for a request", case.name);
        if !case.races {
            rows.extend(differences(case.name, &mut outcomes));
        }
    }
    rows
}

/// One row for each facet of a case in which not all proxies agree.
fn differences(case: &str, outcomes: &mut [Outcome]) -> Vec<String> {
    without_what_all_say(outcomes);
    let mut rows = Vec::new();
    for facet in ["client", "answer", "upstream", "headers", "body"] {
        // Who refused a request says nothing of how it would have passed it on.
        let counts = |outcome: &&Outcome| facet == "client" || is_passed(outcome);
        let mut said = outcomes.iter().filter(counts).map(|outcome| outcome[facet].as_str());
        let first = said.next();
        if said.any(|one| Some(one) != first) {
            let cell = |outcome: &Outcome| if counts(&outcome) { outcome[facet].clone() } else { "–".to_owned() };
            let cells: Vec<String> = outcomes.iter().map(cell).collect();
            rows.push(format!("| {case} | {facet} | {} |", cells.join(" | ")));
        }
    }
    rows
}

/// A table of the page: between two comments that name it.
struct Table {
    name: &'static str,
    proxies: &'static str,
}

impl Table {
    /// Every row stands there with a reason, and no other does; or the table is written anew.
    fn holds(&self, rows: &[String]) {
        let page = fs::read_to_string(PAGE).unwrap();
        let (begin, end) = (format!("<!-- {}: begin -->\n", self.name), format!("<!-- {}: end -->\n", self.name));
        let (before, rest) = page.split_once(&begin).expect("the page has the table");
        let (table, after) = rest.split_once(&end).expect("the table has an end");
        let listed: Vec<(&str, &str)> =
            table.lines().skip(2).filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | ")).collect();
        let why = |row: &str| {
            let key = |row: &str| row.split(" | ").take(2).map(str::to_owned).collect::<Vec<_>>();
            listed.iter().find(|(listed, _)| key(listed) == key(row)).map_or("", |(_, why)| why).to_owned()
        };
        if std::env::var_os("BANYAN_BLESS").is_some() {
            let columns = self.proxies.split(" | ").count() + 3;
            let rule = "| --- ".repeat(columns);
            let mut fresh = format!("{before}{begin}| case | what | {} | why |\n{rule}|\n", self.proxies);
            rows.iter().for_each(|row| writeln!(fresh, "{row} {} |", why(row)).unwrap());
            fs::write(PAGE, format!("{fresh}{end}{after}")).unwrap();
            return;
        }
        let found: Vec<&str> = rows.iter().map(|row| row.trim_end_matches(" |")).collect();
        let unlisted: Vec<&&str> =
            found.iter().filter(|row| !listed.iter().any(|(listed, _)| listed == *row)).collect();
        let stale: Vec<&str> = listed.iter().map(|(row, _)| *row).filter(|row| !found.contains(row)).collect();
        assert!(
            unlisted.is_empty() && stale.is_empty(),
            "{} that are not listed:\n{unlisted:#?}\nlisted, and not so:\n{stale:#?}",
            self.name
        );
        let bare: Vec<&str> = listed.iter().filter(|(_, why)| why.trim().is_empty()).map(|(row, _)| *row).collect();
        assert!(bare.is_empty(), "{} without a reason:\n{bare:#?}", self.name);
    }
}

/// Sends a case and a probe behind it; the statuses that the client saw, and the first answer.
async fn exchange(case: &Case, http: SocketAddr) -> (String, String) {
    let mut raw = Raw::connect(http).await;
    raw.send(case.bytes).await;
    let (mut statuses, mut answer) = (Vec::new(), String::new());
    let mut is_kept = false;
    let mut is_probed = false;
    let method = case.bytes.split(|byte| *byte == b' ').next().and_then(|method| std::str::from_utf8(method).ok());
    loop {
        let method = if statuses.is_empty() { method.unwrap_or("GET") } else { "GET" };
        match raw.answer_to(method).await {
            Ok(came) if came.text() == "probed" => is_kept = true,
            Ok(came) => {
                if came.status >= 200 && answer.is_empty() {
                    answer = lines(&came.head, &["connection", "keep-alive"]);
                    if came.status < 300 {
                        let body = came.text();
                        write!(answer, "; body `{}`", if body.len() > 40 { "…" } else { &body }).unwrap();
                    } else {
                        // Each has pages of its own for its own errors.
                        answer.clear();
                    }
                    if !came.trailers.is_empty() {
                        write!(
                            answer,
                            "; trailers `{}`",
                            String::from_utf8_lossy(&came.trailers).trim().to_lowercase()
                        )
                        .unwrap();
                    }
                }
                statuses.push(came.status.to_string());
                if came.status >= 200 && !is_probed {
                    is_probed = true;
                    raw.send(PROBE).await;
                }
            }
            Err(Cut::Silence) => {
                statuses.push("silence".to_owned());
                break;
            }
            Err(Cut::Before) => break,
            Err(_) => {
                statuses.push("cut off".to_owned());
                break;
            }
        }
    }
    let kept = if is_kept { "kept" } else { "closed" };
    (format!("{}, {kept}", if statuses.is_empty() { "no answer".to_owned() } else { statuses.join(", ") }), answer)
}

/// What came of a case on both ends.
fn outcome(client: String, answer: String, upstream: &Upstream, before: usize) -> Outcome {
    let seen: Vec<Seen> = upstream.seen().split_off(before).into_iter().filter(|one| one.path() != "/probe").collect();
    let each = |what: fn(&Seen) -> String| seen.iter().map(what).collect::<Vec<_>>().join(" then ");
    // Its port is another one each time.
    let own = upstream.addr().to_string();
    Outcome::from([
        ("client", client),
        ("answer", answer),
        ("upstream", if seen.is_empty() { NOTHING.to_owned() } else { each(|one| shown(one.line())) }),
        ("headers", each(|one| lines(&one.head, &[])).replace(&own, "the-upstream")),
        ("body", each(|one| shown(&String::from_utf8_lossy(&one.body)))),
    ])
}

/// Header lines, lower-cased and sorted, without the proxies' own.
fn lines(head: &[u8], without: &[&str]) -> String {
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines: Vec<String> = head
        .split("\r\n")
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| match line.split_once(':') {
            Some((name, value)) => format!("{}: {}", name.to_lowercase(), value.trim()),
            None => line.to_owned(),
        })
        .filter(|line| !OWN.iter().chain(without).any(|own| line.split(':').next() == Some(own)))
        .map(|line| if line.len() > 80 { format!("{}…", &line[..20]) } else { line })
        .collect();
    lines.sort();
    lines.into_iter().map(|line| shown(&line)).collect::<Vec<_>>().join("; ")
}

/// Fits a table's cell.
fn shown(text: &str) -> String {
    let text = if text.len() > 120 { format!("{}… ({} bytes)", &text[..20], text.len()) } else { text.to_owned() };
    if text.is_empty() {
        String::new()
    } else {
        format!("`{}`", text.escape_debug().to_string().replace('|', "\\|").replace("\\\"", "\""))
    }
}

/// The upstream got what stands in the bodies and fields of cases as a request of its own.
fn is_smuggled(outcome: &Outcome) -> bool {
    outcome["upstream"].contains("GET /hidden")
}

fn is_passed(outcome: &Outcome) -> bool {
    outcome["upstream"] != NOTHING
}

/// Of the header lines of one case, only those are shown that not all have who passed it on.
fn without_what_all_say(outcomes: &mut [Outcome]) {
    for facet in ["headers", "answer"] {
        let mut outcomes: Vec<&mut Outcome> = outcomes.iter_mut().filter(|outcome| is_passed(outcome)).collect();
        let split = |outcome: &&mut Outcome| outcome[facet].split("; ").map(str::to_owned).collect::<Vec<_>>();
        let all: Vec<Vec<String>> = outcomes.iter().map(split).collect();
        for (at, outcome) in outcomes.iter_mut().enumerate() {
            let rest = all[at].iter().filter(|line| !all.iter().all(|one| one.contains(line))).cloned();
            outcome.insert(facet, rest.collect::<Vec<_>>().join("; "));
        }
    }
}
