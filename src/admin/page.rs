//! The page for people: files that are part of the program, so that it needs no network and no build step. It holds no data; what it shows, it
//! asks of `/api/v1` with the session of whoever looks at it.

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::gate::problem;

/// Name, kind and content.
type File = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Below `/page/`. `src/page/vendor/README.md` says where the foreign ones come from.
const FILES: [File; 19] = [
    ("app.js", SCRIPT, include_bytes!("../page/app.js")),
    ("address.js", SCRIPT, include_bytes!("../page/address.js")),
    ("ask.js", SCRIPT, include_bytes!("../page/ask.js")),
    ("chart.js", SCRIPT, include_bytes!("../page/chart.js")),
    ("config.js", SCRIPT, include_bytes!("../page/config.js")),
    ("differences.js", SCRIPT, include_bytes!("../page/differences.js")),
    ("html.js", SCRIPT, include_bytes!("../page/html.js")),
    ("numbers.js", SCRIPT, include_bytes!("../page/numbers.js")),
    ("route.js", SCRIPT, include_bytes!("../page/route.js")),
    ("routes.js", SCRIPT, include_bytes!("../page/routes.js")),
    ("session.js", SCRIPT, include_bytes!("../page/session.js")),
    ("split.js", SCRIPT, include_bytes!("../page/split.js")),
    ("syncs.js", SCRIPT, include_bytes!("../page/syncs.js")),
    ("well.js", SCRIPT, include_bytes!("../page/well.js")),
    ("style.css", STYLE, include_bytes!("../page/style.css")),
    ("vendor/preact.min.umd.js", SCRIPT, include_bytes!("../page/vendor/preact.min.umd.js")),
    ("vendor/hooks.umd.js", SCRIPT, include_bytes!("../page/vendor/hooks.umd.js")),
    ("vendor/htm.umd.js", SCRIPT, include_bytes!("../page/vendor/htm.umd.js")),
    ("vendor/uPlot.iife.min.js", SCRIPT, include_bytes!("../page/vendor/uPlot.iife.min.js")),
];
const CHART_STYLE: File = ("vendor/uPlot.min.css", STYLE, include_bytes!("../page/vendor/uPlot.min.css"));
const INDEX: File = ("index.html", HTML, include_bytes!("../page/index.html"));

/// Own files alone, no code in the text, nobody's frame, and nothing is sent elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// `GET /`
pub(super) async fn index() -> Response {
    serve(&INDEX)
}

/// `GET /page/{*file}`
pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().chain([&CHART_STYLE]).find(|(known, ..)| *known == name) {
        Some(file) => serve(file),
        None => problem(StatusCode::NOT_FOUND, "not_found", "the page has no such file"),
    }
}

fn serve(&(_, kind, content): &File) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path as FilePath};

    use super::*;

    /// Every file of the folder is served, but what is only there to be read; a script that is left out would be noticed by a browser alone.
    #[test]
    fn every_file_of_the_page_is_served_and_vendored_ones_are_as_they_came() {
        let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        let names = |below: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(folder.join(below)).unwrap().map(|entry| entry.unwrap().file_name());
            let names = entries.map(|name| format!("{below}{}", name.into_string().unwrap()));
            names.filter(|name| name.ends_with(".js") || name.ends_with(".css")).collect()
        };
        let served: BTreeSet<String> =
            FILES.iter().chain([&CHART_STYLE]).map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(served, &names("") | &names("vendor/"));
        let sums = fs::read_to_string(folder.join("vendor/SHA256SUMS")).unwrap();
        for (name, _, content) in FILES.iter().chain([&CHART_STYLE]) {
            let Some(name) = name.strip_prefix("vendor/") else { continue };
            let sum: String =
                <sha2::Sha256 as sha2::Digest>::digest(content).iter().map(|b| format!("{b:02x}")).collect();
            assert!(sums.contains(&format!("{sum}  {name}\n")), "{name} is another one: {sum}");
        }
    }

    #[test]
    fn no_file_of_our_own_reaches_for_anything_elsewhere() {
        for (name, _, content) in FILES.iter().chain([&INDEX]).filter(|(name, ..)| !name.starts_with("vendor/")) {
            let text = std::str::from_utf8(content).unwrap();
            for word in ["https://", "http://", "innerHTML", "style=\"", "eval(", " on:", "localStorage"] {
                assert!(!text.contains(word), "{name}: {word}");
            }
        }
    }
}
