//! Where one side of a route is answered, what its requests look like there, and what its answers look like to the client.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use super::{Own, Public, Renames};

/// Where one side of a route is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Its place in the sorted names of the config's `upstreams`.
    pub index: usize,
    /// What stands there in place of the prefix that matched, without a trailing `/`.
    pub rewrite: Option<Box<str>>,
    /// What the upstream calls itself.
    pub own: Own,
    /// What is changed besides the path; `None` on most sides.
    pub shaping: Option<Box<Shaping>>,
}

/// What the file has changed for one side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shaping {
    /// The `Host` that the side is asked as.
    pub host: Option<HeaderValue>,
    /// Its cookies that clients know by other names.
    pub cookies: Renames,
    /// Of a request's headers.
    pub request: Changes,
    /// Of an answer's headers.
    pub response: Changes,
}

/// Changes of headers: first what is removed, then what is set, then what is added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// All lines of them.
    pub remove: Box<[HeaderName]>,
    /// In place of all lines of the same name.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// One more line.
    pub add: Box<[(HeaderName, HeaderValue)]>,
}

// === impl Target ===

impl Target {
    /// What is asked of this side: the raw path and query as they came, or, with a rewrite, the rest of the normalised path behind the
    /// side's own prefix. `None` says "as it came", without a copy.
    #[must_use]
    pub fn path_and_query(&self, normalised: &str, prefix_end: usize, query: Option<&str>) -> Option<String> {
        let prefix = self.rewrite.as_deref()?;
        let rest = normalised.get(prefix_end..).unwrap_or_default();
        let mut path = String::with_capacity(prefix.len() + rest.len() + query.map_or(0, str::len) + 2);
        path.push_str(prefix);
        path.push_str(rest);
        if path.is_empty() {
            path.push('/');
        }
        if let Some(query) = query {
            path.push('?');
            path.push_str(query);
        }
        Some(path)
    }

    /// Makes a request's headers this side's. Not twice: what is added would be there twice.
    pub fn shape_request(&self, headers: &mut HeaderMap) {
        let Some(shaping) = &self.shaping else { return };
        if let Some(host) = &shaping.host {
            headers.insert(HOST, host.clone());
        }
        shaping.cookies.in_request(headers);
        shaping.request.make(headers);
    }

    /// Names the host of a request whose client named none: the side's own, else the upstream's address.
    #[cold]
    pub fn name_host(&self, headers: &mut HeaderMap, authority: &str) {
        let has_own = self.shaping.as_ref().is_some_and(|shaping| shaping.host.is_some());
        if !has_own && let Ok(host) = HeaderValue::from_str(authority) {
            headers.insert(HOST, host);
        }
    }

    /// Makes an answer's headers the client's. `names_itself`: there is a header that may carry the upstream's own address, or
    /// a cookie.
    pub fn shape_answer<'p>(&self, headers: &mut HeaderMap, names_itself: bool, public: impl FnOnce() -> Public<'p>) {
        if names_itself {
            self.own.make_public(headers, self.rewrite.as_deref(), &public());
        }
        if let Some(shaping) = &self.shaping {
            if names_itself {
                shaping.cookies.in_answer(headers);
            }
            shaping.response.make(headers);
        }
    }
}

// === impl Changes ===

impl Changes {
    fn make(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
