//! A customer of the shop, as far as HTTP goes: who they say they are, and the cookies they were given.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;
use ureq::{Agent, Body, http};

/// One customer. Keeps connections and cookies.
pub(crate) struct Customer {
    agent: Agent,
    base: String,
    cookies: RefCell<BTreeMap<String, String>>,
}

/// What the customer got.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `x-banyan-side`, where the route exposes it.
    pub(crate) side: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

/// An HTTP client without opinions.
pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).max_redirects_will_error(false);
    config.timeout_global(Some(Duration::from_secs(20))).build().into()
}

// === impl Customer ===

impl Customer {
    /// Somebody with a browser.
    pub(crate) fn new(agent: &Agent, base: &str) -> Self {
        Self { agent: agent.clone(), base: base.to_owned(), cookies: RefCell::default() }
    }

    /// Somebody who has been here before, and kept Banyan's own cookie.
    pub(crate) fn named(agent: &Agent, base: &str, user: impl Into<String>) -> Self {
        let cookies = BTreeMap::from([("banyan_id".to_owned(), user.into())]);
        Self { cookies: RefCell::new(cookies), ..Self::new(agent, base) }
    }

    /// For JSON.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send("GET", path, "application/json", None)
    }

    /// For HTML.
    pub(crate) fn page(&self, path: &str) -> anyhow::Result<Reply> {
        self.send("GET", path, "text/html", None)
    }

    /// As a program does.
    pub(crate) fn post_json(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send("POST", path, "application/json", Some(("application/json", body.to_string())))
    }

    /// As a browser does. The values need no escaping: names, numbers and tokens.
    pub(crate) fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.send("POST", path, "text/html", Some(("application/x-www-form-urlencoded", body.join("&"))))
    }

    fn send(&self, method: &str, path: &str, accept: &str, body: Option<(&str, String)>) -> anyhow::Result<Reply> {
        let mut request =
            http::Request::builder().method(method).uri(format!("{}{path}", self.base)).header("accept", accept);
        let cookies: Vec<_> = self.cookies.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        let answer = match body {
            Some((kind, body)) => self.agent.run(request.header("content-type", kind).body(body)?),
            None => self.agent.run(request.body(())?),
        };
        self.read(answer.with_context(|| format!("{method} {path} got no answer"))?)
    }

    fn read(&self, mut answer: http::Response<Body>) -> anyhow::Result<Reply> {
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        for line in answer.headers().get_all("set-cookie").iter().filter_map(|line| line.to_str().ok()) {
            let pair = line.split(';').next().and_then(|pair| pair.split_once('='));
            let Some((name, value)) = pair else { continue };
            let mut cookies = self.cookies.borrow_mut();
            if value.is_empty() || line.contains("Max-Age=0") {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let (side, location) = (text("x-banyan-side"), text("location"));
        let body = answer.body_mut().read_to_string()?;
        Ok(Reply { status: answer.status().as_u16(), side, location, body })
    }

    /// Signs in by the form, with everybody's password.
    pub(crate) fn sign_in(&self, name: &str) -> anyhow::Result<()> {
        let reply = self.post_form("/login", &[("name", name), ("password", "banyan")])?;
        if reply.status != 303 || !self.cookies.borrow().contains_key("shop_session") {
            bail!("signing in as {name} was answered {}", reply.status);
        }
        Ok(())
    }

    /// Keeps the session cookie for later, as a thief would.
    pub(crate) fn cookies(&self) -> BTreeMap<String, String> {
        self.cookies.borrow().clone()
    }

    /// Comes with these cookies from now on.
    pub(crate) fn with_cookies(self, cookies: BTreeMap<String, String>) -> Self {
        self.cookies.replace(cookies);
        self
    }
}

// === impl Reply ===

impl Reply {
    /// Answered, and not with an error of the server's or Banyan's.
    pub(crate) fn is_fine(&self) -> bool {
        self.status < 400
    }

    pub(crate) fn is_from(&self, side: &str) -> bool {
        self.side.as_deref() == Some(side)
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("an answer {} is no JSON", self.status))
    }

    /// The hidden field that a form carries from one side to the other.
    pub(crate) fn form_token(&self) -> anyhow::Result<String> {
        let rest = self.body.split_once("name=form_token value=\"").context("the page has no form of the shop")?.1;
        Ok(rest.split('"').next().unwrap_or_default().to_owned())
    }
}
