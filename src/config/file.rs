//! The whole of routes.yaml as one struct, and its two halves. Shapes only: what must hold between keys stands in `rules.rs`.

use std::{collections::BTreeMap, sync::Arc};

use banyan_connectors::config as data;
use banyan_proxy::{config as http, links::Owner};
use bytesize::ByteSize;
use garde::Validate;
use ipnet::IpNet;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::{admin::Admin, webhook::Webhook};

use super::{restart::RestartKeys, tree::Tree};

/// Banyan's file: which requests go to which side, and which tables are kept in step.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The version of this format: 1.
    #[garde(range(min = 1, max = 1))]
    pub(crate) version: u32,
    /// Data-plane threads. Left out: one a core, counted at the start. With fewer, those that go finish what they have.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = 1024)))]
    pub(crate) workers: Option<usize>,
    /// The sockets that clients connect to, at least one.
    #[garde(length(min = 1), dive)]
    pub(crate) listeners: Vec<http::Listener>,
    /// The listener for people and for Prometheus.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) admin: Admin,
    /// Where running state is kept between restarts.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) state: Option<http::State>,
    /// Prefix of every slot, origin, lock, topic and application name that Banyan makes. Default `banyan`. A change needs a restart.
    #[serde(default = "install")]
    #[garde(pattern(r"^[a-z0-9_]{1,16}$"))]
    pub(crate) install: String,
    /// The key of signed cookies, 32 bytes or more; the same on every replica. Left out: made once in `state.dir/secret`.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub(crate) secret: Option<SecretString>,
    /// Networks whose `X-Forwarded-*` headers are believed. Default: none.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Vec<String>")]
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Bytes that all syncs of this process may hold between source and target. Default 64 MiB. A change needs a restart.
    #[serde(default = "memory")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub(crate) memory: ByteSize,
    /// Named sets of endpoints.
    #[garde(dive)]
    pub(crate) upstreams: BTreeMap<String, http::Upstream>,
    /// The upstream that answers what no route matches: the monolith.
    #[garde(skip)]
    pub(crate) default: String,
    /// The routes. Which one matches is decided by the match, not by their order.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) routes: Vec<http::Route>,
    /// Told of everything that happens to a rollout. Left out: nobody is told.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) webhook: Option<Webhook>,
    /// The upstream that knows who a request comes from. Left out: nobody is asked.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) identity: Option<http::Identity>,
    /// The Kafka between the databases; required as soon as there is a sync. A change needs a restart.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) kafka: Option<data::Kafka>,
    /// Sets of tables kept in step between a legacy and a modern database. A change needs a restart. Not so one of
    /// `max_lag` or `read_your_writes`.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) syncs: BTreeMap<String, data::Sync>,
    /// One line of JSON a request. Left out: none.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) access_log: Option<http::AccessLog>,
    /// Makes Banyan a hop of its own in traces. Left out: a trace that comes is passed on as it is, and none is begun.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) tracing: Option<http::Tracing>,
}

/// A file that holds, in the shapes that the halves take.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The answering path's half.
    pub(crate) proxy: http::Config,
    /// The data path's half.
    pub(crate) connectors: data::Config,
    /// The admin listener.
    pub(crate) admin: Admin,
    /// Who is told what happens.
    pub(crate) webhook: Option<Webhook>,
    /// The text it was read from, so that a watcher can tell a change from a touch.
    pub(crate) text: Arc<str>,
    /// What a reload cannot change.
    pub(crate) restart: RestartKeys,
    /// Every key and value, for telling what another file would change.
    pub(crate) tree: Tree,
}

// === impl Loaded ===

impl Loaded {
    /// Files of certificates that cannot be read here, which is a warning to whoever only looks at the file; of the listeners too where they
    /// are opened.
    pub(crate) fn unreadable(&self, opens_listeners: bool) -> Vec<String> {
        let listeners = opens_listeners.then(|| banyan_proxy::check_files(&self.proxy)).into_iter().flatten();
        let admin = self.admin.tls.as_ref().and_then(|tls| banyan_proxy::check_tls("admin.tls", tls));
        listeners.chain(admin).map(|problem| format!("`{}`: {}", problem.path, problem.message)).collect()
    }
}

// === impl File ===

impl File {
    /// The proxy's half.
    pub(crate) fn proxy(&self) -> http::Config {
        let rules = |sync: &data::Sync| http::SyncRules {
            owner: owner(sync.owner),
            read_your_writes: sync.read_your_writes,
            max_lag: sync.max_lag,
        };
        http::Config {
            workers: self.workers,
            listeners: self.listeners.clone(),
            state: self.state.clone().unwrap_or_default(),
            secret: self.secret.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            upstreams: self.upstreams.clone(),
            default: self.default.clone(),
            routes: self.routes.clone(),
            identity: self.identity.clone(),
            syncs: self.syncs.iter().map(|(name, sync)| (name.clone(), rules(sync))).collect(),
            observe: http::Observe { access_log: self.access_log.clone(), tracing: self.tracing.clone() },
        }
    }

    /// The connectors' half.
    pub(crate) fn connectors(&self) -> data::Config {
        data::Config {
            install: self.install.clone(),
            memory: self.memory,
            kafka: self.kafka.clone(),
            syncs: self.syncs.clone(),
        }
    }
}

/// The same side in the proxy's words.
pub(crate) fn owner(side: data::Side) -> Owner {
    match side {
        data::Side::Legacy => Owner::Legacy,
        data::Side::Modern => Owner::Modern,
    }
}

fn install() -> String {
    "banyan".to_owned()
}

fn memory() -> ByteSize {
    ByteSize::mib(64)
}
