//! Finds the route of a request: one index by host, under it a tree of path segments. Precedence as Gateway API has it: the most specific
//! host, an exact path, then patterns, then the longest prefix, and of those what [`Rule::precedence`] says.
//!
//! A segment with parameters (`/payments;v=1/7`) also matches without them: servlet containers drop them before they route.
//!
//! Hosts and segments are found by binary search; only patterns are tried one by one.

use super::{
    path::without_parameters,
    rule::{HostRule, Normal, PathRule, Rule},
};

/// The index over all rules.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    rules: Vec<Rule>,
    /// Sorted by length, then text.
    exact: Vec<(Box<str>, Paths)>,
    /// `.shop.example`; sorted by length, then text.
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
    /// Rules whose path is a pattern, in order of precedence.
    patterns: Vec<usize>,
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
        matcher.below.sort_by(|(a, _), (b, _)| by_length(a, b));
        matcher
    }

    /// In the file's order.
    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
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
        let host = request.host;
        if let Some(paths) = place(&self.exact, host)
            && !paths.visit(&self.rules, request, visitor)
        {
            return;
        }
        if !self.below.is_empty() {
            // From the first dot on: the longest is met first.
            for dot in memchr::memchr_iter(b'.', host.as_bytes()).filter(|dot| *dot > 0) {
                if let Some(paths) = place(&self.below, &host[dot..])
                    && !paths.visit(&self.rules, request, visitor)
                {
                    return;
                }
            }
        }
        self.any.visit(&self.rules, request, visitor);
    }
}

fn place<'m>(hosts: &'m [(Box<str>, Paths)], host: &str) -> Option<&'m Paths> {
    if hosts.is_empty() {
        return None;
    }
    let at = hosts.binary_search_by(|(known, _)| by_length_in_any_case(known, host)).ok()?;
    Some(&hosts[at].1)
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

// === impl Paths ===

impl Default for Paths {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], patterns: Vec::new() }
    }
}

impl Paths {
    /// Rules come in order of precedence.
    fn insert(&mut self, path: &PathRule, rule: usize) {
        let (text, is_exact) = match path {
            PathRule::Exact(text) => (text, true),
            PathRule::Prefix(text) => (text, false),
            PathRule::Regex(_) => {
                self.patterns.push(rule);
                return;
            }
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
        if !self.patterns.is_empty() && !self.visit_patterns(rules, request, visitor) {
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

impl Paths {
    fn visit_patterns<'m>(
        &self,
        rules: &'m [Rule],
        request: &Normal<'_>,
        visitor: &mut dyn FnMut(Hit<'m>) -> bool,
    ) -> bool {
        let path = request.path;
        let bare = memchr::memchr(b';', path.as_bytes()).map(|_| without_parameters(path));
        self.patterns.iter().all(|at| {
            let rule = &rules[*at];
            let PathRule::Regex(pattern) = &rule.path else { return true };
            let fits = pattern.fits(path.as_bytes()) || bare.as_ref().is_some_and(|bare| pattern.fits(bare.as_bytes()));
            !(fits && rule.holds(request)) || visitor(Hit { rule, prefix_end: path.len() })
        })
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
