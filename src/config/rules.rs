//! What must hold between keys of both halves, or of the file as a whole, and what no struct can say about itself.

use std::{collections::BTreeMap, net::SocketAddr};

use banyan_connectors::{
    UrlError,
    config::{ApplyAs, KafkaSasl, Mechanism, OnError, Order, Side, Slot, Table, Tls},
};
use secrecy::ExposeSecret;

use super::file::File;
use crate::{admin::Admin, webhook::wrong_with};

/// What is wrong, where, and what would be right.
pub(super) struct Breach {
    /// As the structs count: `listeners[1].bind`.
    pub(super) path: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// All breaches of a file whose values are right one by one.
pub(super) fn breaches(file: &File) -> Vec<Breach> {
    let mut found = Vec::new();
    names("upstreams", file.upstreams.keys(), &mut found);
    names("syncs", file.syncs.keys(), &mut found);
    binds(file, &mut found);
    admin(&file.admin, &mut found);
    if let Some(name) = file.syncs.keys().next()
        && file.kafka.is_none()
    {
        found.push(Breach {
            path: format!("syncs.{name}"),
            message: "a sync needs `kafka`".to_owned(),
            hint: Some("add `kafka: {brokers: \"127.0.0.1:9092\"}` at the top level".to_owned()),
        });
    }
    databases(file, &mut found);
    columns(file, &mut found);
    functions(file, &mut found);
    outboxes(file, &mut found);
    orders(file, &mut found);
    kafka(file, &mut found);
    halves(file, &mut found);
    rollouts(file, &mut found);
    webhook(file, &mut found);
    shared(file, &mut found);
    if cfg!(not(feature = "otlp")) && file.tracing.as_ref().is_some_and(|tracing| tracing.export.is_some()) {
        found.push(Breach {
            path: "tracing.export".to_owned(),
            message: "this Banyan was built without the feature `otlp`".to_owned(),
            hint: Some("leave the key out, or build with `--features otlp`".to_owned()),
        });
    }
    found
}

/// What single keys of `kafka` cannot say.
fn kafka(file: &File, found: &mut Vec<Breach>) {
    let Some(kafka) = &file.kafka else { return };
    let secured = [("tls", kafka.tls.is_some()), ("sasl", kafka.sasl.as_ref().is_some_and(KafkaSasl::is_scram))];
    for (key, _) in secured.into_iter().filter(|(_, asked)| *asked && cfg!(not(feature = "kafka-tls"))) {
        found.push(Breach {
            path: format!("kafka.{key}"),
            message: "this Banyan was built without the feature `kafka-tls`: it speaks neither TLS nor SCRAM to Kafka"
                .to_owned(),
            hint: Some("build with `--features kafka-tls`".to_owned()),
        });
    }
    let topics = &kafka.topics;
    if let (Some(replicas), Some(least)) = (topics.replication, topics.min_insync_replicas)
        && least > replicas
    {
        found.push(Breach {
            path: "kafka.topics.min_insync_replicas".to_owned(),
            message: format!(
                "{least} replicas cannot be in sync where there are {replicas}: Kafka would take no record"
            ),
            hint: Some(format!("write {replicas} or less; one less lets a broker be away")),
        });
    }
}

/// Where the file says whom to trust, by path.
fn trusts(file: &File) -> impl Iterator<Item = (String, &Tls)> {
    let of_kafka = file.kafka.iter().map(|kafka| ("kafka.tls".to_owned(), &kafka.tls));
    let of_databases = file.syncs.iter().flat_map(|(name, sync)| {
        [("legacy", &sync.legacy), ("modern", &sync.modern)]
            .map(|(side, database)| (format!("syncs.{name}.{side}.tls"), &database.tls))
    });
    of_kafka.chain(of_databases).filter_map(|(path, tls)| Some((path, tls.as_ref()?)))
}

/// A certificate without its key, or the other way round.
fn halves(file: &File, found: &mut Vec<Breach>) {
    for (path, tls) in trusts(file) {
        let Some((here, missing)) = tls.half() else { continue };
        found.push(Breach {
            path: format!("{path}.{here}"),
            message: format!("`{here}` without `{missing}`: Banyan shows both or neither"),
            hint: Some(format!("add `{missing}`, or leave `{here}` out")),
        });
    }
}

/// What `order: key` cannot do, and what only it can.
fn orders(file: &File, found: &mut Vec<Breach>) {
    for (name, sync) in &file.syncs {
        let mut breach = |key: &str, message: &str, hint: &str| {
            let path = format!("syncs.{name}.{key}");
            found.push(Breach { path, message: message.to_owned(), hint: Some(hint.to_owned()) });
        };
        if sync.order != Order::Key {
            if sync.partitions.is_some() {
                let message = "`partitions` without `order: key`: with `order: transaction` a flow has exactly one";
                breach("partitions", message, "leave it out, or add `order: key`");
            }
            continue;
        }
        let transaction = "write `order: transaction`, which can";
        if [&sync.legacy, &sync.modern].into_iter().any(|database| database.mysql.is_some()) {
            let message = "`order: key` is for two PostgreSQL databases: with MariaDB or MySQL it is not available in this version";
            breach("order", message, transaction);
        }
        if sync.on_error == OnError::Park {
            let message =
                "`order: key` cannot park transactions in this version: it stops before what the target refuses";
            breach("order", message, "add `on_error: stop`, or write `order: transaction`");
        }
        if sync.apply_as == ApplyAs::Origin {
            let message = "`order: key` gives foreign keys and triggers of the target no order between rows to rely on";
            breach("apply_as", message, "leave it out, so that they do not fire, or write `order: transaction`");
        }
        if let Some(at) = sync.tables.iter().position(|table| table.apply.is_some()) {
            let message = "`order: key` cannot call functions: their calls would have no order";
            breach(&format!("tables[{at}].apply"), message, transaction);
        }
    }
}

/// What deserves a second look.
pub(super) fn doubts(file: &File) -> Vec<Breach> {
    let mut found = Vec::new();
    for (name, sync) in &file.syncs {
        let has_slots = [&sync.legacy, &sync.modern].into_iter().any(|database| database.postgres.is_some());
        if sync.slot != Slot::default() && !has_slots {
            found.push(Breach {
                path: format!("syncs.{name}.slot"),
                message: "neither database is PostgreSQL: MariaDB and MySQL have no slots, and keep no log for a sync"
                    .to_owned(),
                hint: Some(
                    "leave the key out; `binlog_expire_logs_seconds` of the server is what bounds its log".to_owned(),
                ),
            });
        }
    }
    for (trust, tls) in trusts(file) {
        for (key, path) in tls.files() {
            if let Err(error) = std::fs::File::open(path) {
                found.push(Breach {
                    path: format!("{trust}.{key}"),
                    message: format!("`{}` cannot be read here: {error}", path.display()),
                    hint: Some("the syncs wait until it can be".to_owned()),
                });
            }
        }
    }
    let Some(kafka) = &file.kafka else { return found };
    let in_the_clear = kafka.tls.is_none() && !kafka.is_loopback();
    if in_the_clear && kafka.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain) {
        found.push(Breach {
            path: "kafka.sasl.mechanism".to_owned(),
            message: "`plain` without `tls` sends the password over the network in the clear".to_owned(),
            hint: Some("add `tls: {}` to `kafka`, or use `scram_sha_512`".to_owned()),
        });
    }
    found
}

/// What a rollout has come to must not be lost by chance: where it is kept is said on purpose.
fn rollouts(file: &File, found: &mut Vec<Breach>) {
    let first = file.routes.iter().position(|route| route.rollout.is_some());
    if let Some(index) = first.filter(|_| file.state.is_none()) {
        found.push(Breach {
            path: format!("routes[{index}].rollout"),
            message: "a rollout needs `state`: without it, a rollback would be forgotten".to_owned(),
            hint: Some(
                "add `state: {dir: /var/lib/banyan}` at the top level, a directory that survives restarts".to_owned(),
            ),
        });
    }
}

/// What is shared is shared through Kafka.
fn shared(file: &File, found: &mut Vec<Breach>) {
    if file.state.as_ref().is_some_and(|state| state.shared) && file.kafka.is_none() {
        found.push(Breach {
            path: "state.shared".to_owned(),
            message: "replicas share their state through `kafka`, and there is none".to_owned(),
            hint: Some("add `kafka: {brokers: \"127.0.0.1:9092\"}` at the top level".to_owned()),
        });
    }
}

/// A call that could not be made, or that anybody could have made.
fn webhook(file: &File, found: &mut Vec<Breach>) {
    let Some(webhook) = &file.webhook else { return };
    if let Some(wrong) = wrong_with(&webhook.url) {
        found.push(Breach {
            path: "webhook.url".to_owned(),
            message: format!("this {wrong}"),
            hint: Some("expected something like `https://hooks.example/banyan`".to_owned()),
        });
    }
    let length = webhook.secret.expose_secret().len();
    if length < 32 {
        found.push(Breach {
            path: "webhook.secret".to_owned(),
            message: format!("the secret has {length} bytes; it has 32 or more"),
            hint: Some("make one with `openssl rand -hex 32`".to_owned()),
        });
    }
}

/// An address from which tokens could be overheard, tokens that can be guessed, and hosts that are more than a name.
fn admin(admin: &Admin, found: &mut Vec<Breach>) {
    const LEAST: usize = 32;
    if !admin.bind.ip().is_loopback() && admin.tls.is_none() {
        found.push(Breach {
            path: "admin.bind".to_owned(),
            message: format!("`{}` is not loopback: tokens would go over the network in the clear", admin.bind),
            hint: Some(
                "add `tls: {certificates: [{cert: tls.crt, key: tls.key}]}`, or write `127.0.0.1:9901`; `probes: \"0.0.0.0:9902\"` answers \
                 `/livez` and `/readyz` alone, without TLS"
                    .to_owned(),
            ),
        });
    }
    let tokens = [("view", &admin.tokens.view), ("operate", &admin.tokens.operate)];
    for (name, token) in tokens {
        let length = token.as_ref().map_or(LEAST, |token| token.expose_secret().len());
        if length < LEAST {
            found.push(Breach {
                path: format!("admin.tokens.{name}"),
                message: format!("the token has {length} bytes; a token has {LEAST} or more"),
                hint: Some("make one with `openssl rand -hex 32`".to_owned()),
            });
        }
    }
    if let (Some(view), Some(operate)) = (&admin.tokens.view, &admin.tokens.operate)
        && view.expose_secret() == operate.expose_secret()
    {
        found.push(Breach {
            path: "admin.tokens.view".to_owned(),
            message: "`view` and `operate` are the same token".to_owned(),
            hint: Some("whoever may view could change everything; make two".to_owned()),
        });
    }
    for (at, host) in admin.hosts.iter().enumerate() {
        if host.contains(['/', ':', '*', ' ', '@']) {
            found.push(Breach {
                path: format!("admin.hosts[{at}]"),
                message: format!("`{host}` is no host's name"),
                hint: Some("write the name alone, without scheme and port: `banyan.internal`".to_owned()),
            });
        }
    }
}

/// Columns of which a table of a sync says two things.
fn columns(file: &File, found: &mut Vec<Breach>) {
    for (name, sync) in &file.syncs {
        for (at, table) in sync.tables.iter().enumerate() {
            if let Some((key, message)) = table.contradiction() {
                let hint = if key.starts_with("rows.") {
                    "write the values that rows of the sync have, of a column that both sides have: `rows: {country: [de, at]}`"
                } else {
                    "a column has one place on the other side (`rename`), or none (`leave_out`, `set`)"
                }
                .to_owned();
                found.push(Breach { path: format!("syncs.{name}.tables[{at}].{key}"), message, hint: Some(hint) });
            }
        }
    }
}

/// Functions that stand for a table of one side.
fn functions(file: &File, found: &mut Vec<Breach>) {
    for (name, sync) in &file.syncs {
        for (at, table) in sync.tables.iter().enumerate() {
            let Some(apply) = &table.apply else { continue };
            let path = |key: &str| format!("syncs.{name}.tables[{at}].{key}");
            if let Some((key, message)) = table.beside_apply() {
                let hint = if key == "apply" {
                    "name the table of the side whose changes it takes, `legacy` or `modern`; for the other direction write an entry of its own"
                } else {
                    "leave it out: what becomes of a row is the function's to say"
                };
                found.push(Breach { path: path(key), message, hint: Some(hint.to_owned()) });
            }
            let Some(side) = table.function_on() else { continue };
            let database = if side == Side::Legacy { &sync.legacy } else { &sync.modern };
            if database.kind() == "mysql" {
                let (function, side) = (&apply.function, side.as_str());
                found.push(Breach {
                    path: path("apply.function"),
                    message: format!(
                        "`{function}` would be a function in the {side} database, which is MariaDB or MySQL"
                    ),
                    hint: Some("functions are called in PostgreSQL alone; name a table there".to_owned()),
                });
            }
            let own = side.other();
            let is_same = |other: &(usize, &Table)| other.0 != at && other.1.on(own) == table.on(own);
            if sync.tables.iter().enumerate().any(|other| is_same(&other)) {
                found.push(Breach {
                    path: path(own.as_str()),
                    message: format!("`{}` stands in `tables` twice", table.on(own).unwrap_or_default()),
                    hint: Some("its changes go to one table, or to one function".to_owned()),
                });
            }
        }
    }
}

/// A table is copied, or its rows are events: never both. And one flow publishes them.
fn outboxes(file: &File, found: &mut Vec<Breach>) {
    let mut seen: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for (name, sync) in &file.syncs {
        for (side, database) in [(Side::Legacy, &sync.legacy), (Side::Modern, &sync.modern)] {
            let Some(outbox) = sync.outbox.on(side) else { continue };
            let path = format!("syncs.{name}.outbox.{}", side.as_str());
            if sync.tables.iter().any(|table| table.on(side) == Some(outbox)) {
                found.push(Breach {
                    path: path.clone(),
                    message: format!("`{outbox}` stands in `tables`, too: the rows of an outbox are not copied"),
                    hint: Some("take it out of `tables`".to_owned()),
                });
            }
            let Some(url) = database.postgres.as_ref().or(database.mysql.as_ref()) else { continue };
            match seen.get(&(url.expose_secret(), outbox)) {
                Some(first) => found.push(Breach {
                    message: format!("`{first}` names this table already: each of its events would be published twice"),
                    hint: Some("name it in one of the two; the events reach everybody".to_owned()),
                    path,
                }),
                None => drop(seen.insert((url.expose_secret(), outbox), path)),
            }
        }
    }
}

/// What can be said of a database's URL without asking the database.
fn databases(file: &File, found: &mut Vec<Breach>) {
    for (name, sync) in &file.syncs {
        for (side, database) in [("legacy", &sync.legacy), ("modern", &sync.modern)] {
            if let Err(error) = database.check() {
                let (key, hint) = match (&error, database.kind()) {
                    (UrlError::Neither, _) => (
                        String::new(),
                        "write `postgres: \"${NAME}\"`, or `mysql: \"${NAME}\"` for MariaDB and MySQL".to_owned(),
                    ),
                    (UrlError::Tls, kind) => (
                        format!(".{kind}"),
                        "leave the parameter out and write `tls: {}` beside the URL, or `tls: {ca: FILE}` for an authority of your own"
                            .to_owned(),
                    ),
                    (UrlError::Socket, _) => (".tls".to_owned(), "leave `tls` out".to_owned()),
                    (UrlError::Both, _) => (".mysql".to_owned(), "keep the one that the database is".to_owned()),
                    (_, "mysql") => (
                        ".mysql".to_owned(),
                        "write it as `mysql://user:password@host:port/database`, `%40` for an `@` in the password"
                            .to_owned(),
                    ),
                    _ => (
                        ".postgres".to_owned(),
                        "write it as `postgres://user:password@host:port/database`, `%40` for an `@` in the password"
                            .to_owned(),
                    ),
                };
                let message = match error {
                    UrlError::Host => "the URL names no host, or more than one".to_owned(),
                    UrlError::NoDatabase => "the URL names no database".to_owned(),
                    UrlError::Socket => "the URL leads to a socket of this machine, where no TLS is spoken".to_owned(),
                    error => error.to_string(),
                };
                found.push(Breach { path: format!("syncs.{name}.{side}{key}"), message, hint: Some(hint) });
            }
        }
    }
}

fn names<'n>(map: &str, names: impl Iterator<Item = &'n String>, found: &mut Vec<Breach>) {
    const LONGEST: usize = 64;
    for name in names {
        let first = name.chars().next().is_some_and(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit());
        let rest = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_-".contains(letter);
        if !first || !name.chars().all(rest) || name.len() > LONGEST {
            found.push(Breach {
                path: format!("{map}.{name}"),
                message: format!("`{name}` is no name here"),
                hint: Some(
                    "a name has 1 to 64 of `a`–`z`, `0`–`9`, `_` and `-`, and begins with a letter or digit".to_owned(),
                ),
            });
        }
    }
}

fn binds(file: &File, found: &mut Vec<Breach>) {
    let mut seen: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let listeners = file.listeners.iter().enumerate().map(|(at, one)| (one.bind, format!("listeners[{at}].bind")));
    let probes = file.admin.probes.map(|bind| (bind, "admin.probes".to_owned()));
    for (bind, path) in listeners.chain([(file.admin.bind, "admin.bind".to_owned())]).chain(probes) {
        // The system gives every port 0 one of its own.
        if bind.port() == 0 {
            continue;
        }
        match seen.get(&bind) {
            Some(first) => found.push(Breach {
                path,
                message: format!("`{bind}` is bound twice"),
                hint: Some(format!("`{first}` has it already; choose another port")),
            }),
            None => {
                seen.insert(bind, path);
            }
        }
    }
}
