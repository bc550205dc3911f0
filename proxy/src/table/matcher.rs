//! Finds the route of a request: one index by host, under it a tree of path segments. Precedence as Gateway API has it: the most specific
//! host, an exact path before a prefix, the longest prefix, a match with methods, the most headers, then the file's order.
//!
//! A segment with parameters (`/payments;v=1/7`) also matches without them: servlet containers drop them before they route.

use http::{HeaderMap, Method};

/// What a request is matched by.
#[derive(Debug, Clone, Copy)]
pub struct Normal<'r> {
    /// The method.
    pub method: &'r Method,
    /// Without port; in any case.
    pub host: &'r str,
    /// In the normal form of [`normalise`](super::normalise).
    pub path: &'r str,
    /// All headers.
    pub headers: &'r HeaderMap,
}

/// One compiled match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) host: HostRule,
    pub(super) path: PathRule,
    /// Empty: any.
    pub(super) methods: Vec<Method>,
    pub(super) headers: Vec<(http::HeaderName, Box<[u8]>)>,
    /// Which route it belongs to.
    pub(super) route: usize,
    /// Which of the route's matches it is.
    pub(super) index: usize,
}

/// Hosts are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostRule {
    Exact(Box<str>),
    /// `*.shop.example`, kept as `.shop.example`.
    Below(Box<str>),
    Any,
}

/// Paths are in the normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathRule {
    Exact(Box<str>),
    /// Without a trailing slash; empty is every path.
    Prefix(Box<str>),
}

/// The index over all rules.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    rules: Vec<Rule>,
    /// Sorted by length, then text.
    exact: Vec<(Box<str>, Paths)>,
    /// The longest first.
    below: Vec<(Box<str>, Paths)>,
    any: Paths,
}

/// A rule that holds, and where the prefix that it named ends in the path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit<'m> {
    pub(super) rule: &'m Rule,
    pub(super) prefix_end: usize,
}

/// A tree over path segments; node 0 is the root.
#[derive(Debug)]
struct Paths {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    /// Sorted by length, then text.
    children: Vec<(Box<str>, usize)>,
    /// Rules whose prefix ends here, in order of precedence.
    prefix: Vec<usize>,
    /// Rules whose exact path ends here, in order of precedence.
    exact: Vec<usize>,
}

// === impl Normal ===

impl<'r> Normal<'r> {
    /// A request's head with its normalised path. The host is the target's (absolute form) or the `Host` header's.
    #[must_use]
    pub fn of(head: &'r http::request::Parts, path: &'r str) -> Self {
        let host = match head.uri.authority() {
            Some(authority) => authority.as_str(),
            None => head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        Self { method: &head.method, host: without_port(host), path, headers: &head.headers }
    }
}

/// `shop.example:8080` and `shop.example.` are both `shop.example`.
fn without_port(host: &str) -> &str {
    let host = match host.rfind(':') {
        Some(colon) if host[colon..].bytes().skip(1).all(|b| b.is_ascii_digit()) => &host[..colon],
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host)
}

// === impl PathRule ===

impl PathRule {
    /// As the file has it, and nothing of a request.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Exact(path) => path,
            Self::Prefix(prefix) if prefix.is_empty() => "/",
            Self::Prefix(prefix) => prefix,
        }
    }
}

// === impl Rule ===

impl Rule {
    fn holds(&self, request: &Normal<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self
                .headers
                .iter()
                .all(|(name, value)| request.headers.get_all(name).iter().any(|given| given.as_bytes() == &**value))
    }

    /// Sorts rules of one host and one path by precedence.
    fn precedence(&self) -> impl Ord + use<> {
        (self.methods.is_empty(), std::cmp::Reverse(self.headers.len()), self.route, self.index)
    }
}

// === impl Matcher ===

impl Matcher {
    /// Indexes the rules, which are in the file's order.
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let mut matcher = Self { rules, ..Self::default() };
        let mut order: Vec<usize> = (0..matcher.rules.len()).collect();
        order.sort_by_key(|at| matcher.rules[*at].precedence());
        for at in order {
            let rule = &matcher.rules[at];
            let paths = match &rule.host {
                HostRule::Any => &mut matcher.any,
                HostRule::Exact(host) => of_host(&mut matcher.exact, host),
                HostRule::Below(suffix) => of_host(&mut matcher.below, suffix),
            };
            paths.insert(&rule.path, at);
        }
        matcher.exact.sort_by(|(a, _), (b, _)| by_length(a, b));
        matcher.below.sort_by(|(a, _), (b, _)| by_length(b, a));
        matcher
    }

    /// The first rule in order of precedence that holds.
    pub(super) fn find(&self, request: &Normal<'_>) -> Option<Hit<'_>> {
        let mut found = None;
        self.visit(request, &mut |hit| {
            found = Some(hit);
            false
        });
        found
    }

    /// All rules that hold, in order of precedence, until the visitor has enough.
    pub(super) fn visit<'m>(&'m self, request: &Normal<'_>, visitor: &mut dyn FnMut(Hit<'m>) -> bool) {
        if !self.exact.is_empty()
            && let Ok(at) = self.exact.binary_search_by(|(host, _)| by_length_in_any_case(host, request.host))
            && !self.exact[at].1.visit(&self.rules, request, visitor)
        {
            return;
        }
        for (suffix, paths) in &self.below {
            if ends_below(request.host, suffix) && !paths.visit(&self.rules, request, visitor) {
                return;
            }
        }
        self.any.visit(&self.rules, request, visitor);
    }
}

fn of_host<'v>(hosts: &'v mut Vec<(Box<str>, Paths)>, host: &str) -> &'v mut Paths {
    let at = hosts.iter().position(|(known, _)| **known == *host).unwrap_or_else(|| {
        hosts.push((host.into(), Paths::default()));
        hosts.len() - 1
    });
    &mut hosts[at].1
}

fn by_length(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// `lower` is in lower case.
fn by_length_in_any_case(lower: &str, given: &str) -> std::cmp::Ordering {
    lower.len().cmp(&given.len()).then_with(|| lower.bytes().cmp(given.bytes().map(|b| b.to_ascii_lowercase())))
}

fn ends_below(host: &str, suffix: &str) -> bool {
    let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
    host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
}

// === impl Paths ===

impl Default for Paths {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Paths {
    /// Rules come in order of precedence.
    fn insert(&mut self, path: &PathRule, rule: usize) {
        let (text, is_exact) = match path {
            PathRule::Exact(text) => (text, true),
            PathRule::Prefix(text) => (text, false),
        };
        let mut node = 0;
        for segment in text.split('/').skip(1) {
            node = self.child_or_new(node, segment);
        }
        let node = &mut self.nodes[node];
        if is_exact { node.exact.push(rule) } else { node.prefix.push(rule) }
    }

    fn child_or_new(&mut self, parent: usize, segment: &str) -> usize {
        let next = self.nodes.len();
        match self.nodes[parent].place(segment) {
            Ok(at) => self.nodes[parent].children[at].1,
            Err(at) => {
                self.nodes[parent].children.insert(at, (segment.into(), next));
                self.nodes.push(Node { parent, ..Node::default() });
                next
            }
        }
    }

    /// Walks down as far as the tree knows the path, then up again: the longest prefix is met first. Says whether to go on.
    fn visit<'m>(&self, rules: &'m [Rule], request: &Normal<'_>, visitor: &mut dyn FnMut(Hit<'m>) -> bool) -> bool {
        let path = request.path;
        // `end` is where the segments of `node` end in the path.
        let (mut node, mut end) = (0, 0);
        while path.as_bytes().get(end) == Some(&b'/') {
            let rest = &path[end + 1..];
            let segment = memchr::memchr(b'/', rest.as_bytes()).map_or(rest, |slash| &rest[..slash]);
            let Some(child) = self.nodes[node].child(segment) else { break };
            node = child;
            end += 1 + segment.len();
        }
        let offer = |candidates: &[usize], prefix_end: usize, visitor: &mut dyn FnMut(Hit<'m>) -> bool| {
            candidates.iter().all(|at| {
                let rule = &rules[*at];
                !rule.holds(request) || visitor(Hit { rule, prefix_end })
            })
        };
        if end == path.len() && !offer(&self.nodes[node].exact, end, visitor) {
            return false;
        }
        loop {
            if !offer(&self.nodes[node].prefix, end, visitor) {
                return false;
            }
            if node == 0 {
                return true;
            }
            node = self.nodes[node].parent;
            end = memchr::memrchr(b'/', &path.as_bytes()[..end]).unwrap_or(0);
        }
    }
}

// === impl Node ===

impl Node {
    fn place(&self, segment: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(known, _)| by_length(known, segment))
    }

    fn child(&self, segment: &str) -> Option<usize> {
        let at = self.place(segment).or_else(|none| match memchr::memchr(b';', segment.as_bytes()) {
            Some(parameters) => self.place(&segment[..parameters]),
            None => Err(none),
        });
        at.ok().map(|at| self.children[at].1)
    }
}
