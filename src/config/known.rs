//! What is known of routes.yaml beyond its structs: keys of later versions, which are refused by name; examples; plain words.

use super::{node::Step, stand_in::Form};

/// Where a key stands: the keys above it, list indices left out, `*` for any name.
type Above = &'static [&'static str];

const KEYS: &[(Above, &[&str])] = &[
    (&["routes", "compare"], &["latency"]),
    (&["syncs", "*"], &["format", "schemas", "apply"]),
    (&["syncs", "*", "tables"], &["columns"]),
];

const SASL: &str = "sasl: {mechanism: scram_sha_512, username: banyan, password: \"${KAFKA_PASSWORD}\"}";

/// Whether the last step of a path is a key of a later version.
pub(super) fn later_key(path: &[Step]) -> bool {
    let mut keys = keys(path);
    let Some(key) = keys.pop() else { return false };
    has(KEYS, &keys, key)
}

/// An example of what stands at a path.
pub(super) fn example(path: &[Step]) -> Option<String> {
    const EXAMPLES: &[(Above, &str)] = &[
        (&["version"], "version: 1"),
        (&["workers"], "workers: 2"),
        (&["listeners"], "listeners: [{bind: \"0.0.0.0:8080\"}]"),
        (&["listeners", "bind"], "bind: \"0.0.0.0:8080\""),
        (&["listeners", "tls"], "tls: {certificates: [{cert: tls.crt, key: tls.key}]}"),
        (&["listeners", "tls", "certificates"], "certificates: [{cert: tls.crt, key: tls.key}]"),
        (&["listeners", "tls", "certificates", "cert"], "cert: tls.crt"),
        (&["listeners", "tls", "certificates", "key"], "key: tls.key"),
        (&["listeners", "proxy_protocol"], "proxy_protocol: {from: [10.0.0.0/8]}"),
        (&["listeners", "proxy_protocol", "from"], "from: [10.0.0.0/8]"),
        (&["admin", "bind"], "bind: \"127.0.0.1:9901\""),
        (&["admin", "probes"], "probes: \"0.0.0.0:9902\""),
        (&["admin", "tls"], "tls: {certificates: [{cert: tls.crt, key: tls.key}]}"),
        (&["admin", "tls", "certificates"], "certificates: [{cert: tls.crt, key: tls.key}]"),
        (&["admin", "tls", "certificates", "cert"], "cert: tls.crt"),
        (&["admin", "tls", "certificates", "key"], "key: tls.key"),
        (&["admin", "tokens"], "tokens: {view: \"${VIEW_TOKEN}\", operate: \"${OPERATE_TOKEN}\"}"),
        (&["admin", "hosts"], "hosts: [banyan.internal]"),
        (&["state", "dir"], "dir: ./banyan-state"),
        (&["memory"], "memory: 64MiB"),
        (&["webhook"], "webhook: {url: \"https://hooks.example/banyan\", secret: \"${WEBHOOK_SECRET}\"}"),
        (&["webhook", "url"], "url: \"https://hooks.example/banyan\""),
        (&["webhook", "secret"], "secret: \"${WEBHOOK_SECRET}\""),
        (&["access_log"], "access_log: {to: stdout, sample: 10}"),
        (&["access_log", "to"], "to: stdout"),
        (&["tracing"], "tracing: {sample: 10}"),
        (&["tracing", "export"], "export: {otlp: \"http://127.0.0.1:4318\"}"),
        (&["trusted_proxies"], "trusted_proxies: [10.0.0.0/8]"),
        (&["upstreams"], "upstreams: {monolith: {endpoints: [\"http://127.0.0.1:7001\"]}}"),
        (&["upstreams", "*"], "{endpoints: [\"http://127.0.0.1:7001\"]}"),
        (&["upstreams", "*", "endpoints"], "endpoints: [\"http://127.0.0.1:7001\"]"),
        (&["upstreams", "*", "tls"], "tls: {ca: /etc/banyan/ca.pem}"),
        (&["identity"], "identity: {ask: monolith, path: /whoami, copy: [x-user-id]}"),
        (&["identity", "ask"], "ask: monolith"),
        (&["identity", "path"], "path: /whoami"),
        (&["identity", "copy"], "copy: [x-user-id]"),
        (&["identity", "cookies"], "cookies: [sid]"),
        (&["default"], "default: monolith"),
        (&["routes"], "routes: [{name: payments, match: {path_prefix: /payments}, legacy: monolith}]"),
        (&["routes", "name"], "name: payments"),
        (&["routes", "match"], "match: {path_prefix: /payments}"),
        (&["routes", "match", "path_regex"], "path_regex: \"/payments/[0-9]+\""),
        (&["routes", "match", "headers"], "headers: {x-tenant: acme}"),
        (&["routes", "match", "headers", "*"], "headers: {x-tenant: acme, x-beta: {present: true}}"),
        (&["routes", "match", "query"], "query: {version: \"2\"}"),
        (&["routes", "match", "query", "*"], "query: {version: \"2\", debug: {present: false}}"),
        (&["routes", "match", "client"], "client: [10.0.0.0/8, 192.0.2.7]"),
        (&["routes", "match", "methods"], "methods: [GET, HEAD]"),
        (&["routes", "legacy"], "legacy: monolith"),
        (&["routes", "modern"], "modern: payments"),
        (&["routes", "legacy", "headers"], "headers: {request: {set: {x-tenant: acme}, remove: [x-debug]}}"),
        (&["routes", "modern", "headers"], "headers: {request: {set: {x-tenant: acme}, remove: [x-debug]}}"),
        (&["routes", "redirect"], "redirect: {status: 308, scheme: https}"),
        (&["routes", "respond"], "respond: {status: 410, body: gone}"),
        (&["routes", "cookies"], "cookies: {modern: {rename: {sid: m_sid}}}"),
        (&["routes", "cookies", "legacy"], "legacy: {rename: {sid: l_sid}}"),
        (&["routes", "cookies", "modern"], "modern: {rename: {sid: m_sid}}"),
        (&["routes", "cookies", "modern", "rename"], "rename: {sid: m_sid}"),
        (&["routes", "reads"], "reads: {also: [{path: /graphql}], never: [/logout]}"),
        (&["routes", "reads", "also"], "also: [{path: /graphql}, {grpc: \"shop.Orders/List*\"}]"),
        (&["routes", "weight"], "weight: 5"),
        (&["routes", "sticky"], "sticky: [{header: x-user-id}, {cookie: banyan_id}]"),
        (&["routes", "pin"], "pin: {modern: [{header: {x-tenant: [acme]}}]}"),
        (&["routes", "pin", "modern"], "modern: [{header: {x-tenant: [acme]}}]"),
        (&["routes", "pin", "modern", "header"], "header: {x-tenant: [acme]}"),
        (&["routes", "pin", "legacy"], "legacy: [{header: {x-tenant: [acme]}}]"),
        (&["routes", "pin", "legacy", "header"], "header: {x-tenant: [acme]}"),
        (&["routes", "rate_limit"], "rate_limit: {requests: 10, every: 1s}"),
        (&["routes", "rate_limit", "requests"], "requests: 10"),
        (&["routes", "rate_limit", "key"], "key: [{header: x-api-key}, client_address]"),
        (&["routes", "force"], "force: {allow: [10.0.0.0/8]}"),
        (&["routes", "force", "allow"], "allow: [10.0.0.0/8]"),
        (&["routes", "shadow"], "shadow: {percent: 100}"),
        (&["routes", "shadow", "percent"], "percent: 100"),
        (&["routes", "compare", "ignore"], "ignore: [/generated_at]"),
        (&["routes", "rollout"], "rollout: {steps: [5, 25, 50, 100], every: 15m}"),
        (&["routes", "rollout", "steps"], "steps: [5, 25, 50, 100]"),
        (&["routes", "rollout", "gates"], "gates: {success_rate: {below_legacy: 0.2}, mismatch_rate: {max: 0.1}}"),
        (&["routes", "rollout", "gates", "mismatch_rate", "max"], "max: 0.1"),
        (&["routes", "rollout", "gates", "sync_lag", "max"], "max: 5s"),
        (&["kafka"], "kafka: {brokers: \"127.0.0.1:9092\"}"),
        (&["kafka", "brokers"], "brokers: \"127.0.0.1:9092\""),
        (&["kafka", "tls"], "tls: {ca: /etc/banyan/kafka-ca.pem}"),
        (&["kafka", "sasl"], SASL),
        (&["kafka", "sasl", "mechanism"], "mechanism: scram_sha_512"),
        (&["kafka", "sasl", "username"], "username: banyan"),
        (&["kafka", "sasl", "password"], "password: \"${KAFKA_PASSWORD}\""),
        (&["kafka", "topics"], "topics: {replication: 3, min_insync_replicas: 2, retention: 7d, compression: zstd}"),
        (&["kafka", "topics", "compression"], "compression: zstd"),
        (&["kafka", "topics", "max_record"], "max_record: 10MiB"),
        (&["kafka", "topics", "retention"], "retention: 7d"),
        (&["kafka", "topics", "outbox"], "outbox: {partitions: 3, retention: 365d}"),
        (&["kafka", "topics", "outbox", "partitions"], "partitions: 3"),
        (&["kafka", "topics", "outbox", "retention"], "retention: 365d"),
        (&["syncs", "*", "outbox"], "outbox: {legacy: public.outbox, modern: public.outbox}"),
        (&["syncs", "*", "owner"], "owner: legacy"),
        (&["syncs", "*", "legacy"], "legacy: {postgres: \"${LEGACY_DB_URL}\"}"),
        (&["syncs", "*", "modern"], "modern: {postgres: \"${MODERN_DB_URL}\"}"),
        (&["syncs", "*", "legacy", "mysql"], "mysql: \"${LEGACY_DB_URL}\""),
        (&["syncs", "*", "modern", "mysql"], "mysql: \"${MODERN_DB_URL}\""),
        (&["syncs", "*", "legacy", "postgres"], "postgres: \"${LEGACY_DB_URL}\""),
        (&["syncs", "*", "modern", "postgres"], "postgres: \"${MODERN_DB_URL}\""),
        (&["syncs", "*", "tables"], "tables: [public.payments]"),
        (&["syncs", "*", "tables", "legacy"], "legacy: public.customers"),
        (&["syncs", "*", "tables", "modern"], "modern: crm.people"),
        (&["syncs", "*", "tables", "apply"], "apply: {function: crm.customer_changed}"),
        (&["syncs", "*", "tables", "apply", "function"], "function: crm.customer_changed"),
    ];
    let keys = keys(path);
    let found = EXAMPLES.iter().find(|(pattern, _)| fits(pattern, &keys));
    found.map(|(_, example)| format!("for example `{example}`"))
}

/// What stands in for a required key; none where its map is better left out whole.
pub(super) fn stand_in(path: &[Step]) -> Option<Form> {
    const FORMS: &[(Above, Form)] = &[
        (&["version"], Form::Text("1")),
        (&["listeners"], Form::OneMap("bind", "127.0.0.1:0")),
        (&["listeners", "bind"], Form::Text("127.0.0.1:0")),
        (&["listeners", "tls", "certificates"], Form::EmptyList),
        (&["listeners", "tls", "certificates", "cert"], Form::Text("")),
        (&["listeners", "tls", "certificates", "key"], Form::Text("")),
        (&["listeners", "proxy_protocol", "from"], Form::Text("127.0.0.1")),
        (&["admin", "tls", "certificates"], Form::EmptyList),
        (&["admin", "tls", "certificates", "cert"], Form::Text("")),
        (&["admin", "tls", "certificates", "key"], Form::Text("")),
        (&["upstreams"], Form::EmptyMap),
        (&["upstreams", "*", "endpoints"], Form::One("http://127.0.0.1:1")),
        (&["default"], Form::Text("")),
        (&["routes", "name"], Form::Unique("stand-in-")),
        (&["routes", "match"], Form::UniqueMap("path", "/stand-in-")),
        (&["routes", "shadow", "percent"], Form::Text("100")),
        (&["kafka", "brokers"], Form::Text("127.0.0.1:1")),
        (&["kafka", "sasl", "mechanism"], Form::Text("scram_sha_512")),
        (&["kafka", "sasl", "username"], Form::Text("stand-in")),
        (&["kafka", "sasl", "password"], Form::Text("")),
        (&["syncs", "*", "owner"], Form::Text("legacy")),
        (&["syncs", "*", "legacy"], Form::Map("postgres", "postgres://stand-in/")),
        (&["syncs", "*", "modern"], Form::Map("postgres", "postgres://stand-in/")),
        (&["syncs", "*", "legacy", "postgres"], Form::Text("postgres://stand-in/")),
        (&["syncs", "*", "modern", "postgres"], Form::Text("postgres://stand-in/")),
        (&["syncs", "*", "tables"], Form::EmptyList),
        (&["syncs", "*", "tables", "legacy"], Form::Text("stand.in")),
        (&["syncs", "*", "tables", "modern"], Form::Text("stand.in")),
        (&["syncs", "*", "tables", "apply", "function"], Form::Text("stand.in")),
    ];
    let keys = keys(path);
    FORMS.iter().find(|(pattern, _)| fits(pattern, &keys)).map(|(_, form)| *form)
}

/// What a deserializer says it expected, in words that a person who writes YAML knows, and a hint that goes with it.
pub(super) fn plain_words(expected: &str) -> (String, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match expected {
        "a string" => ("text".to_owned(), None),
        "a boolean" => ("`true` or `false`".to_owned(), None),
        "a sequence" => ("a list".to_owned(), None),
        "usize" | "u64" | "u32" | "u16" | "u8" => ("a whole number, not negative".to_owned(), None),
        "a duration" => ("a duration".to_owned(), hint("write a number and its unit: `150ms`, `2s`, `15m`")),
        "an integer or string" | "parsable string" | "integer overflow" => {
            ("a size".to_owned(), hint("write a number and its unit: `64KiB`, `10MB`"))
        }
        "socket address" => ("an address and a port".to_owned(), None),
        _ if expected.starts_with("struct ") => ("a map".to_owned(), None),
        _ => (expected.to_owned(), None),
    }
}

/// A message of the form `what is wrong; what would be right` as both.
pub(super) fn split_hint(message: &str) -> (String, Option<String>) {
    if let Some(value) = message
        .strip_suffix(" is not between 0 and 100; expected a number between 0 and 100, with at most two decimals")
    {
        return (format!("must be between 0 and 100, not {value}"), None);
    }
    match message {
        "invalid socket address syntax" => return ("must be an address and a port".to_owned(), None),
        "invalid IP address syntax" => return ("must be networks or addresses".to_owned(), None),
        _ => {}
    }
    match message.split_once("; ") {
        Some((what, right)) => (what.to_owned(), Some(right.to_owned())),
        None => (message.to_owned(), None),
    }
}

/// What garde says about a value, in words of the file.
///
/// `key` is the last key of the path where the file writes it, and not only the struct.
pub(super) fn limit(path: &[Step], key: Option<&str>, message: &str) -> (String, Option<String>) {
    const RIGHT: &[(Above, &str, &str)] = &[
        (&["version"], "this Banyan reads version 1", "version: 1"),
        (&["install"], "`install` must be 1 to 16 of `a`–`z`, `0`–`9` and `_`", "install: banyan"),
        (
            &["routes", "name"],
            "a route's name must be 1 to 64 of `a`–`z`, `0`–`9`, `_`, `.` and `-`, and begin with a letter or digit",
            "name: payments",
        ),
        (&["routes", "match", "path"], "a path must begin with `/`", "path: /payments"),
        (&["routes", "match", "path_prefix"], "a path must begin with `/`", "path_prefix: /payments"),
        (&["routes", "legacy", "rewrite", "path_prefix"], "a path must begin with `/`", "path_prefix: /v2"),
        (&["routes", "modern", "rewrite", "path_prefix"], "a path must begin with `/`", "path_prefix: /v2"),
        (&["routes", "compare", "ignore"], "a JSON pointer must begin with `/`", "ignore: [/generated_at]"),
        (
            &["kafka", "brokers"],
            "brokers must be `host:port`, several divided by commas",
            "brokers: \"kafka-1:9092,kafka-2:9092\"",
        ),
        (&["kafka", "sasl", "username"], "`username` must not be empty", "username: banyan"),
        (&["syncs", "*", "tables", "legacy"], "a table must be named with its schema", "public.payments"),
        (&["syncs", "*", "tables", "modern"], "a table must be named with its schema", "public.payments"),
        (
            &["syncs", "*", "tables", "apply", "function"],
            "a function must be named with its schema",
            "crm.customer_changed",
        ),
        (&["syncs", "*", "outbox", "legacy"], "a table must be named with its schema", "public.outbox"),
        (&["syncs", "*", "outbox", "modern"], "a table must be named with its schema", "public.outbox"),
        (&["syncs", "*", "tables"], "a sync must name at least one table", "tables: [public.payments]"),
        (
            &["upstreams", "*", "endpoints"],
            "an upstream must have at least one endpoint",
            "endpoints: [\"http://127.0.0.1:7001\"]",
        ),
        (&["identity", "path"], "a path must begin with `/`", "path: /whoami"),
        (&["upstreams", "*", "health", "path"], "a path must begin with `/`", "path: /livez"),
        (&["listeners"], "there must be at least one listener", "listeners: [{bind: \"0.0.0.0:8080\"}]"),
        (
            &["admin", "tls", "certificates"],
            "there must be at least one certificate",
            "certificates: [{cert: tls.crt, key: tls.key}]",
        ),
        (
            &["listeners", "tls", "certificates"],
            "there must be at least one certificate",
            "certificates: [{cert: tls.crt, key: tls.key}]",
        ),
    ];
    let keys = keys(path);
    if let Some((_, right, example)) = RIGHT.iter().find(|(pattern, ..)| fits(pattern, &keys)) {
        return ((*right).to_owned(), Some(format!("for example `{example}`")));
    }
    let (message, hint) = split_hint(message);
    let message = match (message.strip_prefix("lower than "), message.strip_prefix("greater than ")) {
        (Some(least), _) => format!("must be {least} or more"),
        (_, Some(most)) => format!("must be {most} or less"),
        _ => message,
    };
    match key {
        Some(key) if message.starts_with("must ") => (format!("`{key}` {message}"), hint),
        Some(key) if !message.contains(key) => (format!("`{key}`: {message}"), hint),
        _ => (message, hint),
    }
}

fn keys(path: &[Step]) -> Vec<&str> {
    path.iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect()
}

fn has(table: &[(Above, &[&str])], above: &[&str], wanted: &str) -> bool {
    table.iter().any(|(pattern, names)| fits(pattern, above) && names.contains(&wanted))
}

fn fits(pattern: &[&str], keys: &[&str]) -> bool {
    pattern.len() == keys.len() && pattern.iter().zip(keys).all(|(pattern, key)| *pattern == "*" || pattern == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_later_only_where_it_will_stand() {
        assert!(later_key(&Step::parse("routes[3].compare.latency")));
        assert!(later_key(&Step::parse("syncs.payments.format")));
        assert!(later_key(&Step::parse("routes[0].compare.latency")));
        assert!(!later_key(&Step::parse("rollout")));
        assert!(!later_key(&Step::parse("routes[0].rolout")));
    }
}
