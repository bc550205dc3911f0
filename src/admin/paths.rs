//! Every path of the admin listener, and what it takes to ask it. `docs/reference/admin-api.md` lists the same ones.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode},
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    gate::{self, Gate, problem},
    handlers, live, page, parked, record, resume, rollout, running, session, snapshot,
};
use crate::app::App;

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Anybody may: it tells nothing but yes or no, and is asked by address.
    Nothing,
    /// Anybody may, who knows this listener by its name: it holds no data.
    Page,
    /// A role that may view; none while the file names no token for it.
    View,
    /// No role yet, but what keeps other sites' pages out.
    SignIn,
    /// A role that may operate, and what keeps other sites' pages out.
    Operate,
}

/// Method, path and what it takes.
pub(super) const PATHS: [(Method, &str, Takes); 27] = [
    (Method::GET, "/livez", Takes::Nothing),
    (Method::GET, "/readyz", Takes::Nothing),
    (Method::GET, "/", Takes::Page),
    (Method::GET, "/page/{*file}", Takes::Page),
    (Method::GET, "/metrics", Takes::View),
    (Method::GET, "/api/v1/status", Takes::View),
    (Method::GET, "/api/v1/stream", Takes::View),
    (Method::GET, "/api/v1/chart", Takes::View),
    (Method::GET, "/api/v1/report", Takes::View),
    (Method::GET, "/api/v1/config", Takes::View),
    (Method::POST, "/api/v1/record", Takes::Operate),
    (Method::GET, "/api/v1/session", Takes::View),
    (Method::POST, "/api/v1/session", Takes::SignIn),
    (Method::DELETE, "/api/v1/session", Takes::SignIn),
    (Method::POST, "/api/v1/reload", Takes::Operate),
    (Method::GET, "/api/v1/routes/{route}/history", Takes::View),
    (Method::POST, "/api/v1/routes/{route}/promote", Takes::Operate),
    (Method::POST, "/api/v1/routes/{route}/pause", Takes::Operate),
    (Method::POST, "/api/v1/routes/{route}/resume", Takes::Operate),
    (Method::POST, "/api/v1/routes/{route}/rollback", Takes::Operate),
    (Method::GET, "/api/v1/syncs/{sync}/parked", Takes::View),
    (Method::POST, "/api/v1/syncs/{sync}/parked/retry", Takes::Operate),
    (Method::POST, "/api/v1/syncs/{sync}/parked/{id}/show", Takes::Operate),
    (Method::POST, "/api/v1/syncs/{sync}/parked/{id}/retry", Takes::Operate),
    (Method::POST, "/api/v1/syncs/{sync}/parked/{id}/skip", Takes::Operate),
    (Method::POST, "/api/v1/syncs/{sync}/snapshot", Takes::Operate),
    (Method::POST, "/api/v1/syncs/{sync}/resume", Takes::Operate),
];

/// All of them.
pub(super) fn router(app: &Arc<App>) -> Router {
    of(app, |_| true)
}

/// Those that tell nothing but yes or no.
pub(super) fn probes(app: &Arc<App>) -> Router {
    of(app, |takes| takes == Takes::Nothing)
}

fn of(app: &Arc<App>, wanted: fn(Takes) -> bool) -> Router {
    let mut router = Router::new();
    for (method, path, takes) in PATHS.into_iter().filter(|(.., takes)| wanted(*takes)) {
        let Some(handler) = handler(&method, path) else { continue };
        let gate = Gate { app: Arc::clone(app), takes };
        router = router.route(path, handler.layer(from_fn_with_state(gate, gate::pass)));
    }
    let none = || async { problem(StatusCode::NOT_FOUND, "not_found", "there is no such path here") };
    let other = || async { problem(StatusCode::METHOD_NOT_ALLOWED, "method", "this path is asked by another method") };
    router.fallback(none).method_not_allowed_fallback(other).with_state(Arc::clone(app))
}

fn handler(method: &Method, path: &str) -> Option<MethodRouter<Arc<App>>> {
    let filter = MethodFilter::try_from(method.clone()).ok()?;
    Some(match (method.as_str(), path) {
        (_, "/livez") => on(filter, handlers::livez),
        (_, "/readyz") => on(filter, handlers::readyz),
        (_, "/") => on(filter, page::index),
        (_, "/page/{*file}") => on(filter, page::file),
        (_, "/metrics") => on(filter, handlers::metrics),
        (_, "/api/v1/status") => on(filter, handlers::status),
        (_, "/api/v1/stream") => on(filter, live::stream),
        (_, "/api/v1/chart") => on(filter, handlers::chart),
        (_, "/api/v1/report") => on(filter, handlers::report),
        (_, "/api/v1/config") => on(filter, running::config),
        (_, "/api/v1/record") => on(filter, record::record),
        (_, "/api/v1/reload") => on(filter, handlers::reload),
        (_, "/api/v1/routes/{route}/history") => on(filter, rollout::history),
        (_, "/api/v1/routes/{route}/promote") => on(filter, rollout::promote),
        (_, "/api/v1/routes/{route}/pause") => on(filter, rollout::pause),
        (_, "/api/v1/routes/{route}/resume") => on(filter, rollout::resume),
        (_, "/api/v1/routes/{route}/rollback") => on(filter, rollout::rollback),
        (_, "/api/v1/syncs/{sync}/parked") => on(filter, parked::list),
        (_, "/api/v1/syncs/{sync}/parked/retry") => on(filter, parked::retry_all),
        (_, "/api/v1/syncs/{sync}/parked/{id}/show") => on(filter, parked::show),
        (_, "/api/v1/syncs/{sync}/parked/{id}/retry") => on(filter, parked::retry),
        (_, "/api/v1/syncs/{sync}/parked/{id}/skip") => on(filter, parked::skip),
        (_, "/api/v1/syncs/{sync}/snapshot") => on(filter, snapshot::ask),
        (_, "/api/v1/syncs/{sync}/resume") => on(filter, resume::ask),
        ("GET", "/api/v1/session") => on(filter, session::show),
        ("POST", "/api/v1/session") => on(filter, session::begin),
        ("DELETE", "/api/v1/session") => on(filter, session::end),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/reference/admin-api.md");

    #[test]
    fn the_page_lists_every_path_and_what_it_takes() {
        let rows = PAGE.lines().filter(|line| {
            line.starts_with("| `GET ") || line.starts_with("| `POST ") || line.starts_with("| `DELETE ")
        });
        let page: Vec<(String, String)> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
            })
            .collect();
        let code: Vec<(String, String)> = PATHS
            .iter()
            .map(|(method, path, takes)| {
                assert!(handler(method, path).is_some(), "{method} {path} has no handler");
                let takes = match takes {
                    Takes::Nothing => "nothing",
                    Takes::Page => "no token",
                    Takes::View => "view",
                    Takes::SignIn => "no role",
                    Takes::Operate => "operate",
                };
                (format!("{method} {path}"), takes.to_owned())
            })
            .collect();
        assert_eq!(page, code);
    }
}
