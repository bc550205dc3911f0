//! `identity:` to whom to ask, and what.

use http::uri::PathAndQuery;

use super::Compiler;
use crate::{
    config,
    identity::Identity,
    split::{ID_COOKIE, Signer, WRITES_COOKIE},
    table::{Problem, checks},
};

impl Compiler<'_> {
    pub(super) fn identity(&mut self) -> Option<Identity> {
        let settings = self.config.identity.as_ref()?;
        let upstream = self.upstream("identity.ask", &settings.ask);
        // Another first letter is refused before.
        let path = settings.path.parse::<PathAndQuery>().ok().filter(|_| !settings.path.contains('#'));
        if path.is_none() {
            let problem = Problem::error("identity.path", format!("`{}` cannot be asked for", settings.path));
            self.problems.push(problem.hint("expected a path, perhaps with a query: `/whoami`"));
        }
        for (number, name) in settings.copy.iter().enumerate() {
            let at = format!("identity.copy[{number}]");
            if settings.copy[..number].contains(name) {
                self.problems.push(Problem::error(at, format!("`{}` is copied twice", name.as_str())));
            } else if self.changeable(&at, name).is_some() {
                self.copyable(&at, name);
            }
        }
        for (number, name) in settings.cookies.iter().flatten().enumerate() {
            let at = format!("identity.cookies[{number}]");
            if [ID_COOKIE, WRITES_COOKIE].contains(&name.as_str()) {
                let problem = Problem::error(at, format!("`{name}` is Banyan's own, and no upstream knows it"));
                self.problems.push(problem.hint("name the cookies of the asked upstream's sessions"));
            } else {
                checks::cookie_name(&at, name, &mut self.problems);
            }
        }
        self.beforehand(settings);
        let (_, upstream) = upstream?;
        match Signer::drawn() {
            Ok(signer) => Some(Identity::new(settings, upstream, path?, signer)),
            Err(error) => {
                let message = format!("the system has no randomness to give: {error}");
                self.problems.push(Problem::error("identity", message));
                None
            }
        }
    }

    /// Not what says how a message is read, who sends it, or which way it has come.
    fn copyable(&mut self, at: &str, name: &config::HeaderName) {
        let (why, hint) = match name.as_str() {
            "cookie" | "set-cookie" | "authorization" | "proxy-authorization" | "proxy-authenticate" => {
                ("holds credentials", "they are passed on as the client sent them")
            }
            "forwarded" | "traceparent" | "tracestate" => ("is said by Banyan itself", "copy a header of your own"),
            name if name.starts_with("x-forwarded-") => ("is said by Banyan itself", "copy a header of your own"),
            name if name.starts_with("content-") || name.starts_with("accept") || name == "range" => {
                ("says how a message is read", "copy a header of your own")
            }
            _ => return,
        };
        self.problems.push(Problem::error(at, format!("`{}` {why}", name.as_str())).hint(hint));
    }

    /// A route is found, and a tester makes a wish, before anybody is asked.
    fn beforehand(&mut self, settings: &config::Identity) {
        for (index, route) in self.config.routes.iter().enumerate() {
            let matches = &route.matches.0;
            for (number, one) in matches.iter().enumerate() {
                let at = if matches.len() == 1 { "match".to_owned() } else { format!("match[{number}]") };
                for name in settings.copy.iter().filter(|name| one.headers.contains_key(*name)) {
                    let at = format!("routes[{index}].{at}.headers.{}", name.as_str());
                    let message = format!("`identity` copies `{}` only once the route is known", name.as_str());
                    let hint = "choose by it inside the route, with `sticky` or `pin`, or match something else";
                    self.problems.push(Problem::error(at, message).hint(hint));
                }
            }
            if let Some(force) = route.force.as_ref().filter(|force| settings.copy.contains(&force.header)) {
                let message = format!("`identity` copies `{}`: a tester cannot say it", force.header.as_str());
                let problem = Problem::error(format!("routes[{index}].force.header"), message);
                self.problems.push(problem.hint("take another header, such as the default `x-banyan-side`"));
            }
        }
    }
}
