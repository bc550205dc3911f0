//! The admin listener as the command line asks it: where it is, and with which token.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret, SecretString};
use ureq::{Agent, Body, http::Response};

use crate::{admin, config};

/// Where a Banyan listens that was not told otherwise.
const DEFAULT: &str = "http://127.0.0.1:9901";
const PATIENCE: Duration = Duration::from_secs(15);
/// Wins over the token that the file's `state.dir` holds.
const VARIABLE: &str = "BANYAN_ADMIN_TOKEN";

/// Which Banyan.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Where the admin listener is. Default: what the file says, else `http://127.0.0.1:9901`. The token is `BANYAN_ADMIN_TOKEN`, else the
    /// one in the file's `state.dir`.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

/// One running Banyan.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: Option<SecretString>,
}

// === impl Client ===

impl Client {
    /// By the command line, else by the file. What else is wrong with the file does not matter: a running Banyan may have refused it a moment
    /// ago.
    pub(super) fn new(path: &Path, place: &Place) -> Self {
        let told = config::admin_of(path);
        let base = match &place.admin {
            Some(admin) if admin.contains("://") => admin.trim_end_matches('/').to_owned(),
            Some(admin) => format!("http://{}", admin.trim_end_matches('/')),
            None => told.bind.map_or_else(
                || DEFAULT.to_owned(),
                |mut bind| {
                    if bind.ip().is_unspecified() {
                        bind.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                    }
                    format!("http://{bind}")
                },
            ),
        };
        let agent = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().into();
        let token = std::env::var(VARIABLE).ok().filter(|token| !token.is_empty());
        // The token of this machine's Banyan is no other machine's business.
        let kept = || std::fs::read_to_string(admin::token_path(&told.state)).ok().filter(|_| is_near(&base));
        let token = token.or_else(kept).map(|token| token.trim().to_owned().into());
        Self { agent, base, token }
    }

    /// `http://127.0.0.1:9901`
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The answer of a path that must be 200.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose_secret()));
        }
        let mut answer = request.call().with_context(|| self.nobody())?;
        self.refused(path, &answer)?;
        if answer.status() != 200 {
            bail!("{}{path} was answered {}", self.base, answer.status());
        }
        Ok(answer.body_mut().read_to_string()?)
    }

    /// A call that changes something; its status and its answer.
    pub(super) fn post(&self, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let Some(token) = &self.token else {
            bail!(
                "this takes a token: set `{VARIABLE}`, or run it as whoever may read `admin.token` in the file's `state.dir`"
            );
        };
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", token.expose_secret()))
            .header("content-type", "application/json")
            .header("x-banyan-request", "1");
        let mut answer = request.send(body).with_context(|| self.nobody())?;
        self.refused(path, &answer)?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    fn nobody(&self) -> String {
        format!("no Banyan answers at {}; name another with `--admin URL`", self.base)
    }

    fn refused(&self, path: &str, answer: &Response<Body>) -> anyhow::Result<()> {
        match answer.status().as_u16() {
            401 => bail!("{}{path} takes a token that it knows: set `{VARIABLE}`", self.base),
            403 => bail!("{}{path} takes a token that may operate", self.base),
            421 => bail!("{} is no name that this Banyan knows; add it to `admin.hosts`", self.base),
            _ => Ok(()),
        }
    }
}

/// Whether a URL leads to this machine.
fn is_near(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[test]
fn the_kept_token_goes_to_this_machine_alone() {
    for near in ["http://127.0.0.1:9901", "http://localhost:9901/", "http://[::1]:9901"] {
        assert!(is_near(near), "{near}");
    }
    for far in [
        "http://10.0.0.1:9901",
        "http://127.0.0.1.evil.example:9901",
        "http://localhost@evil.example:80",
        "http://banyan:9901",
    ] {
        assert!(!is_near(far), "{far}");
    }
}
