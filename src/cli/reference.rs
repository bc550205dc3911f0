//! `docs/reference/routes-yaml.md`, made from the schema, so that the page and the structs cannot part. Only a test runs it.

use std::{collections::VecDeque, fmt::Write as _};

use serde_json::Value;

const HEAD: &str = "\
# routes.yaml

Every key, made from the structs that read it (`BANYAN_BLESS=1 cargo test --bin banyan reference` writes this page anew). An example with
comments is [routes.yaml](../../routes.yaml); editors read [the schema](../../schema/routes.schema.json) from its first line.

- `${NAME}` and `${NAME:-default}` in a value are replaced from the environment; `$$` is one `$`. What is put in is text: it never becomes
  a list, a map or a key. A variable that is not set and has no default is an error. Put quotes round such a value inside `{…}` and `[…]`.
- Durations have a unit (`150ms`, `2s`, `15m`), sizes too (`64KiB`, `10MB`), percentages are bare numbers with at most two decimals.
- A key that this version does not know is refused, and so is a key of a later version; nothing in the file is ignored.
- A file over 1 MiB, one that is not UTF-8, nested more than 32 deep, or that repeats itself by aliases without end, is refused.
- The file is read again when it changes and at SIGHUP: validated whole, compiled whole, swapped at once. One with an error changes nothing.
  *Restart* marks keys whose change waits for a restart; `banyan status` lists those that wait. A sync's `owner` cannot be changed.
";

/// The page.
pub(super) fn page(schema: &Value) -> String {
    let mut out = HEAD.to_owned();
    let mut todo = VecDeque::from([("Top level".to_owned(), schema)]);
    let mut done = Vec::new();
    while let Some((title, object)) = todo.pop_front() {
        let about = object["description"].as_str().unwrap_or_default();
        let _ = writeln!(out, "\n## {title}\n\n{about}\n\n| key | value | meaning |\n| --- | --- | --- |");
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in object["properties"].as_object().into_iter().flatten() {
            let must = if required.contains(&key.as_str()) { ", required" } else { "" };
            let path = if title == "Top level" { key.clone() } else { format!("{}.{key}", title.trim_matches('`')) };
            let shape = shape(schema, value, &path, &mut todo);
            let meaning =
                value["description"].as_str().unwrap_or_default().replace("A change needs a restart.", "*Restart.*");
            let _ = writeln!(out, "| `{key}` | {}{must} | {} |", cell(&shape), cell(&meaning));
        }
        done.push(title);
        todo.retain(|(title, _)| !done.contains(title));
    }
    out
}

/// What a value looks like, in words; maps with keys of their own become sections.
fn shape<'s>(schema: &'s Value, value: &'s Value, path: &str, todo: &mut VecDeque<(String, &'s Value)>) -> String {
    let section = |path: String, object: &'s Value, todo: &mut VecDeque<(String, &'s Value)>| {
        let title = format!("`{path}`");
        let link = title.to_lowercase().replace(|letter: char| !letter.is_alphanumeric() && letter != '_', "");
        if todo.iter().all(|(known, _)| *known != title) {
            todo.push_back((title, object));
        }
        format!("[map](#{link})")
    };
    if let Some(name) = value["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return shape(schema, &schema["$defs"][name], path, todo);
    }
    for many in ["anyOf", "oneOf"] {
        if let Some(forms) = value[many].as_array() {
            if let [one, list] = forms.as_slice()
                && list["items"] == *one
            {
                return format!("{}, or a list of them", shape(schema, one, path, todo));
            }
            let mut shapes: Vec<String> = Vec::new();
            for form in forms.iter().filter(|form| form["type"] != "null") {
                let text = match form["const"].as_str() {
                    Some(one) => format!("`{one}`"),
                    None => shape(schema, form, path, todo),
                };
                if !shapes.contains(&text) {
                    shapes.push(text);
                }
            }
            return shapes.join(" or ");
        }
    }
    let kind = match &value["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") if value["properties"].is_object() => {
            let keys: Vec<&String> =
                value["properties"].as_object().into_iter().flatten().map(|(key, _)| key).collect();
            match keys.as_slice() {
                // `{header: …}` says all by itself.
                [key] if value["required"] == serde_json::json!([key]) && path.ends_with("[]") => {
                    format!("`{{{key}: …}}`")
                }
                _ => section(path.to_owned(), value, todo),
            }
        }
        Some("object") => {
            let below = value["additionalProperties"].as_object().map(|_| &value["additionalProperties"]);
            let below =
                below.or_else(|| value["patternProperties"].as_object().and_then(|patterns| patterns.values().next()));
            let below =
                below.map_or("values".to_owned(), |below| shape(schema, below, &format!("{path}.<name>"), todo));
            format!("map of names to {below}")
        }
        Some("array") => format!("list of {}", shape(schema, &value["items"], &format!("{path}[]"), todo)),
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("integer" | "number") => match (value["minimum"].as_f64(), value["maximum"].as_f64()) {
            (Some(least), Some(most)) if least == most => format!("`{least}`"),
            (Some(least), Some(most)) => format!("number, {least} to {most}"),
            _ => "number".to_owned(),
        },
        _ => "text".to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[test]
fn the_reference_in_the_repository_is_fresh() {
    let schema: Value = serde_json::from_str(&super::schema::text().unwrap()).unwrap();
    let fresh = page(&schema);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/routes-yaml.md");
    if std::env::var_os("BANYAN_BLESS").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap_or_default() == fresh, "docs/reference/routes-yaml.md is stale");
}
