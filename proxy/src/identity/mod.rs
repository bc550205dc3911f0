//! Who a request comes from. One upstream knows it by cookies or `Authorization`, and is asked; what it says stands in headers from then on,
//! for both sides, and for whatever on the way tells users apart. What it said is remembered for a while, by a keyed hash of the credentials.

mod ask;
mod credentials;
mod memory;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response, uri::PathAndQuery};

use crate::{config, split::Signer};

pub(crate) use ask::{Question, ask};
pub(crate) use credentials::Credentials;
use memory::Memory;
pub(crate) use memory::{Asking, Found};

/// Compiled `identity:`.
#[derive(Debug)]
pub struct Identity {
    /// As the file says it: a reload that leaves it as it is keeps what is known.
    settings: config::Identity,
    upstream: usize,
    path: PathAndQuery,
    copy: Copied,
    /// Shared by all workers and, over reloads, by all tables.
    memory: Arc<Memory>,
}

/// The names of the copied headers.
#[derive(Debug, Clone)]
pub(crate) struct Copied(Arc<Vec<HeaderName>>);

/// Somebody: the copied headers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Who(Box<[(HeaderName, HeaderValue)]>);

/// What the asked upstream says of some credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Somebody(Arc<Who>),
    Nobody,
    /// There was no answer: nobody, for now.
    Failed,
}

/// Bytes of all values of an answer; more is no identity.
const LARGEST: usize = 1024;
/// How long a failure is remembered at most: so long nobody waits for an upstream that has just not answered.
const FAILED_FOR: Duration = Duration::from_secs(1);

// === impl Identity ===

impl Identity {
    /// `upstream` is the place of `ask` among the upstreams, in the order of their names.
    pub(crate) fn new(settings: &config::Identity, upstream: usize, path: PathAndQuery, signer: Signer) -> Self {
        let copy = settings.copy.iter().filter_map(|name| HeaderName::from_bytes(name.as_str().as_bytes()).ok());
        let memory = Arc::new(Memory::new(signer));
        Self { settings: settings.clone(), upstream, path, copy: Copied(Arc::new(copy.collect())), memory }
    }

    /// Takes over what is known, if the same is asked.
    pub(crate) fn follow(&mut self, before: &Self) {
        if self.settings == before.settings {
            self.memory = Arc::clone(&before.memory);
        }
    }

    /// As the file says it.
    #[must_use]
    pub fn settings(&self) -> &config::Identity {
        &self.settings
    }

    /// The place of the asked upstream.
    pub(crate) fn upstream(&self) -> usize {
        self.upstream
    }

    pub(crate) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// The headers that no client may say.
    pub(crate) fn copied(&self) -> &Copied {
        &self.copy
    }

    /// What a request shows of who it comes from; `None` when that is nothing.
    pub(crate) fn credentials(&self, headers: &HeaderMap) -> Option<Credentials> {
        Credentials::of(headers, self.settings.cookies.as_deref())
    }

    /// What is known of them at this place. Who finds nothing has to ask.
    pub(crate) fn find(&self, credentials: &Credentials, place: &[u8]) -> Found {
        self.memory.find(self.memory.key(credentials, place), std::time::Instant::now())
    }

    /// What the head of an answer says, and for how long that holds.
    fn read(&self, head: Option<&response::Parts>) -> (Answer, Duration) {
        let answer = head.map_or(Answer::Failed, |head| match head.status {
            StatusCode::OK | StatusCode::NO_CONTENT => self.who(&head.headers),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Answer::Nobody,
            // To the log-in page.
            status if status.is_redirection() => Answer::Nobody,
            _ => Answer::Failed,
        });
        let cache = self.settings.cache;
        let holds = if answer == Answer::Failed { cache.min(FAILED_FOR) } else { cache };
        (answer, holds)
    }

    fn who(&self, headers: &HeaderMap) -> Answer {
        let lines = |name: &HeaderName| {
            let lines = headers.get_all(name).iter().filter(|value| !value.is_empty());
            lines.map(|value| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        let lines: Vec<_> = self.copy.0.iter().flat_map(lines).collect();
        if lines.is_empty() {
            return Answer::Nobody;
        }
        if lines.iter().map(|(_, value)| value.len()).sum::<usize>() > LARGEST {
            return Answer::Failed;
        }
        Answer::Somebody(Arc::new(Who(lines.into())))
    }
}

// === impl Copied ===

impl Copied {
    /// Takes them from a client that said them itself. CGI and its kin read `x_user_id` as the same.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        for name in &*self.0 {
            headers.remove(name);
        }
        if headers.keys().any(|name| name.as_str().contains('_')) {
            let with_dashes = |name: &HeaderName| name.as_str().replace('_', "-");
            let is_said = |name: &&HeaderName| self.0.iter().any(|copied| with_dashes(copied) == with_dashes(name));
            let said: Vec<HeaderName> = headers.keys().filter(is_said).cloned().collect();
            for name in said {
                headers.remove(name);
            }
        }
    }
}

// === impl Who ===

impl Who {
    /// Says it in a request's headers, in place of what stands there.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        for (name, _) in &self.0 {
            headers.remove(name);
        }
        for (name, value) in &self.0 {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::headers;

    fn identity(more: &serde_json::Value) -> Identity {
        let mut form = serde_json::json!({"ask": "monolith", "path": "/whoami", "copy": ["x-user-id", "x-tenant"]});
        form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings = serde_json::from_value(form).unwrap();
        Identity::new(&settings, 0, PathAndQuery::from_static("/whoami"), Signer::try_new(&[7; 32]).unwrap())
    }

    fn answer(status: u16, lines: &[(&'static str, &str)]) -> (Answer, Duration) {
        let mut head = http::Response::new(()).into_parts().0;
        head.status = StatusCode::from_u16(status).unwrap();
        head.headers = headers(lines);
        identity(&serde_json::json!({})).read(Some(&head))
    }

    #[test]
    fn somebody_is_an_answer_with_one_of_the_headers_and_nobody_one_without_or_a_refusal() {
        let (known, holds) = answer(204, &[("x-tenant", "acme"), ("x-other", "1"), ("x-tenant", "b")]);
        let Answer::Somebody(who) = known else { panic!("{known:?}") };
        let mut request = headers(&[("x-user-id", "mine"), ("x-tenant", "mine")]);
        who.put(&mut request);
        assert_eq!(request, headers(&[("x-user-id", "mine"), ("x-tenant", "acme"), ("x-tenant", "b")]));
        assert_eq!(holds, Duration::from_secs(30));
        for (status, lines) in [
            (200, &[][..]),
            (200, &[("x-user-id", "")]),
            (302, &[("x-user-id", "1")]),
            (401, &[("x-user-id", "1")]),
            (403, &[]),
            (404, &[]),
        ] {
            assert_eq!(answer(status, lines), (Answer::Nobody, Duration::from_secs(30)), "{status} {lines:?}");
        }
    }

    #[test]
    fn what_is_no_answer_holds_for_a_second_at_most() {
        let long = "x".repeat(LARGEST + 1);
        for (status, lines) in
            [(500, &[][..]), (429, &[]), (201, &[("x-user-id", "1")]), (200, &[("x-user-id", &*long)])]
        {
            assert_eq!(answer(status, lines), (Answer::Failed, Duration::from_secs(1)), "{status}");
        }
        assert_eq!(identity(&serde_json::json!({})).read(None).0, Answer::Failed);
        let never = identity(&serde_json::json!({"cache": "0s"}));
        assert_eq!(never.read(None), (Answer::Failed, Duration::ZERO));
    }

    #[test]
    fn no_client_says_the_headers_itself_however_it_spells_them() {
        let mut said =
            headers(&[("x-user-id", "1"), ("X_User-ID", "2"), ("x_tenant", "3"), ("x_other", "4"), ("host", "a")]);
        identity(&serde_json::json!({})).copied().strip(&mut said);
        assert_eq!(said, headers(&[("x_other", "4"), ("host", "a")]));
    }
}
