//! `banyan schema`: the JSON Schema of routes.yaml, made from the structs that read it. `schema/routes.schema.json` is its output.

use std::process::ExitCode;

use super::output;
use crate::config::File;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    output::data(&text()?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text() -> anyhow::Result<String> {
    let mut schema = schemars::schema_for!(File);
    schema.insert("title".to_owned(), "Banyan's routes.yaml".into());
    Ok(serde_json::to_string_pretty(&schema)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_the_repository_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/routes.schema.json");
        let fresh = text().unwrap() + "\n";
        if std::env::var_os("BANYAN_BLESS").is_some() {
            std::fs::write(path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == fresh, "schema/routes.schema.json is stale: `cargo run -- schema > schema/routes.schema.json`");
    }
}
