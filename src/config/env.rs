//! `${NAME}` and `${NAME:-default}` in values. What is put in is text: it never becomes a key, a list or a map, and no message shows it.

use super::{
    node::{Kind, Node, Scalar, Step},
    report::Diagnostic,
};

/// Where variables are looked up; a closure, so that tests need not touch the process.
pub(crate) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Expands every value of the tree.
pub(super) fn expand(root: &mut Node, env: Env<'_>, errors: &mut Vec<Diagnostic>) {
    walk(root, &mut Vec::new(), env, errors);
}

fn walk(node: &mut Node, path: &mut Vec<Step>, env: Env<'_>, errors: &mut Vec<Diagnostic>) {
    let span = node.span;
    match &mut node.kind {
        Kind::Null => {}
        Kind::Scalar(scalar) => {
            if scalar.text.contains('$') {
                match scalar_text(scalar, env) {
                    Ok(()) => {}
                    Err((message, hint)) => {
                        errors.push(Diagnostic::error(message).at(Step::join(path), span).hint(hint));
                    }
                }
            }
        }
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(Step::Index(index));
                walk(item, path, env, errors);
                path.pop();
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                path.push(Step::Key(entry.key.clone()));
                walk(&mut entry.value, path, env, errors);
                path.pop();
            }
        }
    }
}

fn scalar_text(scalar: &mut Scalar, env: Env<'_>) -> Result<(), (String, String)> {
    let mut out = String::with_capacity(scalar.text.len());
    let mut rest = scalar.text.as_str();
    let mut replaced = false;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(behind) = from.strip_prefix("$$") {
            out.push('$');
            rest = behind;
            replaced = true;
        } else if let Some(inside) = from.strip_prefix("${") {
            let Some((reference, behind)) = inside.split_once('}') else {
                return Err((
                    "`${` without its `}`".to_owned(),
                    "write `${NAME}` or `${NAME:-default}`; a plain `$` is written `$$`".to_owned(),
                ));
            };
            out.push_str(&value(reference, env)?);
            rest = behind;
            replaced = true;
        } else {
            out.push('$');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    if replaced {
        scalar.written = Some(std::mem::replace(&mut scalar.text, out));
    }
    Ok(())
}

fn value(reference: &str, env: Env<'_>) -> Result<String, (String, String)> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let valid = !name.is_empty()
        && !name.starts_with(|letter: char| letter.is_ascii_digit())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if !valid {
        return Err((
            format!("`{name}` is no name of an environment variable"),
            "write `${NAME}` or `${NAME:-default}`; a plain `$` is written `$$`".to_owned(),
        ));
    }
    match (env(name).filter(|value| !value.is_empty() || default.is_none()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-…}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let mut scalar = Scalar { text: text.to_owned(), plain: true, written: None };
        let env = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        scalar_text(&mut scalar, &env).map(|()| scalar.text).map_err(|(message, _)| message)
    }

    #[test]
    fn names_are_replaced_and_defaults_stand_in() {
        assert_eq!(expanded("pg://${HOST}/x").unwrap(), "pg://db/x");
        assert_eq!(expanded("${NONE:-5432}").unwrap(), "5432");
        assert_eq!(expanded("${EMPTY:-x}${EMPTY}").unwrap(), "x");
    }

    #[test]
    fn a_doubled_dollar_is_one_and_a_lone_one_stays() {
        assert_eq!(expanded("$${HOST} costs 5$").unwrap(), "${HOST} costs 5$");
    }

    #[test]
    fn what_is_not_set_or_not_closed_is_an_error() {
        assert_eq!(expanded("${NONE}").unwrap_err(), "the environment variable `NONE` is not set");
        assert_eq!(expanded("${HOST").unwrap_err(), "`${` without its `}`");
        assert_eq!(expanded("${a b}").unwrap_err(), "`a b` is no name of an environment variable");
    }
}
