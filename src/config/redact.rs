//! The file's text as the page may show it: `***` where a secret stands.

use super::{
    node::{Kind, Node},
    parse, secrets, secrets_of_lines,
    span::{Span, Text},
};

/// Words by which a header, a parameter or a comment is taken to hold a secret.
const SECRET_WORDS: [&str; 8] =
    ["secret", "password", "token", "authorization", "cookie", "api-key", "apikey", "credential"];

/// The text without its secrets; one that is no YAML loses more than it had to.
pub(crate) fn redacted(text: &str) -> String {
    let text = Text::new(text.to_owned());
    let mut found = match parse::parse(&text) {
        Ok((root, _)) => {
            let mut found = Vec::new();
            secrets(&root, None, &mut found);
            header_values(&root, "", &mut found);
            found
        }
        Err(_) => secrets_of_lines(&text),
    };
    comments(&text, &mut found);
    found.sort_by_key(|span| span.start);
    let (mut out, mut at) = (String::new(), 0);
    for span in found.into_iter().filter(|span| span.start < span.end) {
        if span.start >= at {
            out.push_str(text.slice(Span { start: at, end: span.start }));
            out.push_str("***");
        }
        at = at.max(span.end);
    }
    out.push_str(text.slice(Span { start: at, end: text.as_str().len() }));
    out
}

/// What is set or added to messages, and what a match wants of a header or a parameter whose name says so, may be a credential.
fn header_values(node: &Node, key: &str, found: &mut Vec<Span>) {
    match &node.kind {
        Kind::Null | Kind::Scalar(_) => {}
        Kind::List(items) => items.iter().for_each(|item| header_values(item, key, found)),
        Kind::Map(entries) => {
            for entry in entries {
                let is_value = matches!(key, "set" | "add")
                    || (matches!(key, "headers" | "query") && is_secret_word(&entry.key.to_ascii_lowercase()));
                if is_value { all(&entry.value, found) } else { header_values(&entry.value, &entry.key, found) }
            }
        }
    }
}

fn all(node: &Node, found: &mut Vec<Span>) {
    match &node.kind {
        Kind::Null => {}
        Kind::Scalar(scalar) if scalar.text.starts_with("${") && scalar.text.ends_with('}') => {}
        Kind::Scalar(_) => found.push(node.span),
        Kind::List(items) => items.iter().for_each(|item| all(item, found)),
        Kind::Map(entries) => entries.iter().for_each(|entry| all(&entry.value, found)),
    }
}

/// A comment that speaks of a secret, or names a URL with credentials, may hold one.
fn comments(text: &Text, found: &mut Vec<Span>) {
    let mut start = 0;
    for line in text.as_str().split_inclusive('\n') {
        let at = if line.trim_start().starts_with('#') { line.find('#') } else { line.find(" #").map(|at| at + 1) };
        if let Some(at) = at {
            let comment = line[at..].to_ascii_lowercase();
            let credentials = comment.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
            if credentials || names_a_secret(&comment) {
                found.push(Span { start: start + at + 1, end: start + line.trim_end().len() });
            }
        }
        start += line.len();
    }
}

/// `password: x`, `token = x`; not prose about them.
fn names_a_secret(comment: &str) -> bool {
    SECRET_WORDS.iter().any(|word| {
        let mut rests = comment
            .match_indices(word)
            .map(|(at, word)| comment[at + word.len()..].trim_start_matches(['s', ' ', '"', '\'']));
        rests.any(|rest| rest.starts_with([':', '=']))
    })
}

fn is_secret_word(text: &str) -> bool {
    SECRET_WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_left_and_all_else_is_as_it_stands() {
        let text = r#"version: 1
secret: hidden-1   # for cookies
webhook: {url: "https://hooks.example/services/hidden-8", secret: "${HOOK}"}
# the old one, token: hidden-2
admin: {tokens: {view: "hidden-3", operate: "${OPERATE}"}}
upstreams: {monolith: {endpoints: ["http://127.0.0.1:7001"]}}
routes:
  - name: pay
    match: {path_prefix: /pay, headers: {x-api-key: hidden-4, x-beta: "1"}}
    legacy: {upstream: monolith, headers: {request: {set: {authorization: "Bearer hidden-5", x-env: '${ENV}'}}}}
    force: {secret: 'hidden-6'}
syncs:
  pay:
    legacy: {postgres: "postgres://u:hidden-7@db/shop"}
    modern: {postgres: "${MODERN}"}
"#;
        let shown = redacted(text);
        assert!(!shown.contains("hidden"), "{shown}");
        for kept in [
            "version: 1",
            "operate: \"${OPERATE}\"",
            "x-beta: \"1\"",
            "x-env: '${ENV}'",
            "postgres: \"${MODERN}\"",
            "127.0.0.1:7001",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
        assert_eq!(shown.lines().count(), text.lines().count());
        let broken = redacted("secret: hidden\n  bad: [\nurl: postgres://a:hidden@b\n");
        assert!(!broken.contains("hidden"), "{broken}");
    }

    #[test]
    fn of_the_commented_example_only_what_leads_to_the_databases_is_hidden() {
        let example = include_str!("../../routes.yaml");
        let shown = redacted(example);
        for (shown, line) in shown.lines().zip(example.lines()) {
            assert!(shown == line || line.contains("postgres://"), "{shown}");
        }
    }
}
