//! `reads:` to what says whether a request is a read.

use http::Method;

use super::Compiler;
use crate::{
    config::{self, Match},
    table::{
        Problem, checks,
        reads::{Also, Place, Reads},
        rule::PathRule,
    },
};

impl Compiler<'_> {
    pub(super) fn reads(&mut self, at: &str, reads: &config::Reads) -> Reads {
        let methods = match &reads.methods {
            Some(methods) => methods.iter().map(|method| method.get().clone()).collect(),
            None => vec![Method::GET, Method::HEAD, Method::OPTIONS],
        };
        let never = reads.never.iter().enumerate();
        let never = never.map(|(number, path)| self.place(&format!("{at}.never[{number}]"), path)).collect();
        let also = reads.also.iter().enumerate();
        let also = also.map(|(number, one)| self.also(&format!("{at}.also[{number}]"), one)).collect();
        Reads { methods, also, never }
    }

    pub(super) fn also(&mut self, at: &str, one: &config::AlsoRead) -> Also {
        if one.path.is_none() && one.grpc.is_none() && one.headers.is_empty() && one.query.is_empty() {
            self.problems.push(
                Problem::error(at, "this would make reads of all the route's requests with these methods")
                    .hint("say which: `path`, `grpc`, `headers` or `query`; or list the method in `reads.methods`"),
            );
        }
        if one.path.is_some() && one.grpc.is_some() {
            self.problems.push(Problem::error(format!("{at}.grpc"), "a read has either `path` or `grpc`"));
        }
        let path = one.path.as_ref().map(|path| self.place(&format!("{at}.path"), path));
        let grpc = one.grpc.as_ref().map(|method| self.grpc(&format!("{at}.grpc"), method));
        let as_match = Match {
            methods: one.methods.clone(),
            headers: one.headers.clone(),
            query: one.query.clone(),
            ..Match::default()
        };
        checks::values(at, &as_match, &mut self.problems);
        let mut rule = self.rule_of(at, &as_match, PathRule::Prefix("".into()));
        if one.methods.is_none() {
            rule.methods.push(Method::POST);
        }
        Also { is_grpc: grpc.is_some(), place: path.or(grpc), rule }
    }

    /// `/logout`, or `/download/*`.
    pub(super) fn place(&mut self, at: &str, text: &str) -> Place {
        let start = text.strip_suffix('*').unwrap_or(text);
        if !text.starts_with('/') {
            self.problems.push(Problem::error(at, "a path must begin with `/`"));
        } else if start.contains('*') || (start.len() < text.len() && !start.ends_with('/')) {
            self.problems.push(
                Problem::error(at, format!("`*` stands only for a whole end of a path, and not as in `{text}`"))
                    .hint("for example `/download/*`"),
            );
        } else {
            self.normal_form(at, start);
        }
        Place::new(text)
    }

    /// `shop.Orders/Get`, or `shop.Orders/List*`.
    pub(super) fn grpc(&mut self, at: &str, text: &str) -> Place {
        let (service, method) = text.split_once('/').unwrap_or((text, ""));
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let start = method.strip_suffix('*').unwrap_or(method);
        let is_method = is_name(start) || (start.is_empty() && method == "*");
        if !is_method || !service.split('.').all(is_name) {
            self.problems.push(
                Problem::error(at, format!("`{text}` names no gRPC method"))
                    .hint("expected `package.Service/Method`; `*` may stand for the end of the method"),
            );
        }
        Place::new(&format!("/{text}"))
    }
}
