//! Whatever bytes a file holds, loading it ends with a verdict.

use proptest::prelude::*;

use super::*;

#[path = "../../fuzz/mutate.rs"]
mod mutate;

const GOOD: &str = include_str!("../../routes.yaml");

fn verdict(bytes: &[u8]) -> Result<Accepted, Box<Report>> {
    let env = |name: &str| (name == "SET").then(|| "value-of-a-variable".to_owned());
    check("routes.yaml", bytes, &env, &Against::default())
}

/// Everything a person would see of it; rendering must not fail either.
fn shown(bytes: &[u8]) -> String {
    match verdict(bytes) {
        Ok(accepted) => accepted.report.render(true) + &accepted.report.count(),
        Err(report) => {
            assert!(report.errors() > 0, "refused without a reason");
            assert!(report.first_error().is_some());
            report.render(false) + &report.count()
        }
    }
}

/// Pieces that YAML files are made of, put together at random.
fn scraps() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n"),
        Just("\n  "),
        Just("\n    "),
        Just("\n  - "),
        Just(": "),
        Just(" "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("\""),
        Just("'"),
        Just("&a "),
        Just("*a"),
        Just("<<: "),
        Just("? "),
        Just("| "),
        Just(">"),
        Just("!!str "),
        Just("!x "),
        Just("#"),
        Just("---"),
        Just("..."),
        Just("${SET}"),
        Just("${X:-d}"),
        Just("${"),
        Just("$$"),
        Just("\t"),
        Just("\u{0}"),
        Just("\u{85}"),
        Just("ö"),
        Just("🌳"),
        Just("version"),
        Just("listeners"),
        Just("upstreams"),
        Just("default"),
        Just("routes"),
        Just("name"),
        Just("match"),
        Just("path_prefix"),
        Just("/x"),
        Just("legacy"),
        Just("modern"),
        Just("weight"),
        Just("sticky"),
        Just("header"),
        Just("syncs"),
        Just("tables"),
        Just("postgres"),
        Just("1"),
        Just("-7"),
        Just("0.5"),
        Just("1e999"),
        Just(".nan"),
        Just("true"),
        Just("null"),
        Just("~"),
        Just("bind"),
        Just("endpoints"),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        shown(&bytes);
    }

    #[test]
    fn scraps_of_yaml_get_a_verdict(text in scraps()) {
        shown(text.as_bytes());
    }

    #[test]
    fn a_good_file_with_a_hole_or_a_scrap_in_it_gets_a_verdict(at in 0..GOOD.len(), cut in 0_usize..200, scrap in scraps()) {
        let mut bytes = GOOD.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, scrap.into_bytes());
        shown(&bytes);
    }

    #[test]
    fn a_value_that_is_exchanged_gets_a_verdict(line in 0..GOOD.lines().count(), value in "[ -~]{0,20}") {
        let text: Vec<String> = GOOD
            .lines()
            .enumerate()
            .map(|(number, text)| match text.split_once(": ") {
                Some((key, _)) if number == line => format!("{key}: {value}"),
                _ => text.to_owned(),
            })
            .collect();
        shown(text.join("\n").as_bytes());
    }

    #[test]
    fn an_expanded_value_is_never_shown(key in prop::sample::select(vec!["default", "workers", "memory", "secret", "install", "zzz"])) {
        let line = format!("{key}: \"${{SET}}\"\n");
        let said = shown(GOOD.replace(&format!("\n{key}: "), &format!("\n# {key}: ")).as_bytes().iter().chain(line.as_bytes()).copied().collect::<Vec<_>>().as_slice());
        prop_assert!(!said.contains("value-of-a-variable"), "{}", said);
    }
}

#[test]
fn the_example_in_the_repository_is_right() {
    let accepted = verdict(GOOD.as_bytes()).unwrap_or_else(|report| panic!("{}", report.render(false)));
    assert!(accepted.loaded.proxy.routes.len() >= 2);
}

#[test]
fn a_file_over_1_mib_is_refused_before_it_is_parsed() {
    let mut big = GOOD.to_owned();
    while big.len() <= LARGEST {
        big.push_str("# more\n");
    }
    let report = verdict(big.as_bytes()).unwrap_err();
    assert_eq!(report.diagnostics[0].message, "the file is larger than 1 MiB");
    big.truncate(LARGEST);
    assert!(verdict(big.as_bytes()).is_ok(), "exactly 1 MiB is allowed");
}

#[test]
fn more_errors_than_a_person_reads_are_cut() {
    let routes: String =
        (0..500).map(|n| format!("  - {{name: r{n}, match: {{path: /r{n}}}, legacy: m, weight: 500}}\n")).collect();
    let text = format!(
        "version: 1\nlisteners: [{{bind: \"127.0.0.1:0\"}}]\nupstreams: {{m: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\ndefault: m\nroutes:\n{routes}"
    );
    let report = verdict(text.as_bytes()).unwrap_err();
    assert_eq!(report.errors(), report::MOST);
    assert!(report.count().starts_with("100 errors (there are more) in"), "{}", report.count());
}

/// The target `config` of `fuzz/`, which `cargo fuzz` cannot reach in a binary: the broken files of the end-to-end tests are its seeds.
#[test]
fn mutated_files_get_a_verdict() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");
    let seeds = mutate::seeds(folder.as_ref());
    let seeds: Vec<_> = seeds.into_iter().filter(|seed| seed.len() < 3_000).chain([GOOD.as_bytes().to_vec()]).collect();
    mutate::run("config", &seeds, 500, |bytes| drop(shown(bytes)));
}

#[test]
fn an_owner_is_not_changed_by_the_file() {
    let against = |accepted, known| Against { owners: [("payments".to_owned(), (accepted, known))].into() };
    let judge = |text: &str, against: &Against| check("routes.yaml", text.as_bytes(), &|_| None, against);
    let edited = GOOD.replacen("owner: legacy ", "owner: modern ", 1);
    assert_ne!(edited, GOOD);
    let same = against(Owner::Legacy, Owner::Legacy);
    assert!(judge(GOOD, &same).is_ok());
    let report = judge(&edited, &same).unwrap_err();
    assert_eq!(report.diagnostics.iter().filter(|one| one.severity == Severity::Error).count(), 1);
    let said = report.render(false);
    assert!(said.contains("the owner of sync `payments` cannot be changed in this version: legacy owns it"), "{said}");
    assert!(said.contains("hint: put `owner: legacy` back"), "{said}");
    // What the databases say may be written down, and what stands in the file may stay.
    assert!(judge(&edited, &against(Owner::Legacy, Owner::Modern)).is_ok());
    assert!(judge(GOOD, &against(Owner::Legacy, Owner::Modern)).is_ok());
}

#[test]
fn a_restart_is_needed_only_for_what_a_reload_cannot_change() {
    let restart =
        |text: &str| check("routes.yaml", text.as_bytes(), &|_| None, &Against::default()).unwrap().loaded.restart;
    let before = restart(GOOD);
    let changed = |from: &str, to: &str| {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        before.changed(&restart(&text))
    };
    assert_eq!(changed("weight: 0 ", "weight: 5 "), [""; 0]);
    assert_eq!(changed("version: 1\n", "version: 1 # the first\nworkers: 3\nmemory: 1GiB\n"), ["memory"]);
    assert_eq!(changed("BANYAN_BIND:-127.0.0.1:8080", "BANYAN_BIND:-127.0.0.1:8081"), [""; 0]);
    assert_eq!(changed("tables: [public.payments]", "tables: [public.payments]\n    max_lag: 9s"), [""; 0]);
    assert_eq!(changed("tables: [public.payments]", "tables: [public.other]"), ["syncs.payments.tables"]);
}

#[test]
fn many_warnings_hide_no_error_and_refuse_no_file() {
    let file = |owner: &str| {
        let routes: String =
            (0..300).map(|n| format!("  - {{name: r{n}, match: {{path: /same}}, legacy: m}}\n")).collect();
        format!(
            "version: 1\nlisteners: [{{bind: \"127.0.0.1:0\"}}]\nupstreams: {{m: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\ndefault: m\n\
             kafka: {{brokers: \"127.0.0.1:1\"}}\nsyncs:\n  s:\n    owner: {owner}\n    legacy: {{postgres: \"postgres://a@h/a\"}}\n    \
             modern: {{postgres: \"postgres://a@h/b\"}}\n    tables: [public.a]\nroutes:\n{routes}"
        )
    };
    let against = Against { owners: [("s".to_owned(), (Owner::Legacy, Owner::Legacy))].into() };
    let judge = |owner: &str| check("routes.yaml", file(owner).as_bytes(), &|_| None, &against);
    assert_eq!(judge("legacy").unwrap().report.warnings(), report::MOST);
    assert_eq!(judge("modern").unwrap_err().errors(), 1);
}

#[test]
fn a_large_file_is_read_in_no_time() {
    let names: String = (0..20_000).map(|n| format!("  u{n}: {{endpoints: [\"http://127.0.0.1:1\"]}}\n")).collect();
    let text = format!("version: 1\nlisteners: [{{bind: \"127.0.0.1:0\"}}]\ndefault: u0\nupstreams:\n{names}");
    assert!(text.len() < LARGEST);
    let begun = std::time::Instant::now();
    assert!(verdict(text.as_bytes()).is_ok());
    // A build without optimisation on a busy machine; quadratic work would take minutes.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn the_files_in_the_guide_to_sessions_are_right() {
    let guide = include_str!("../../docs/guides/sessions.md");
    let blocks: Vec<&str> =
        guide.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let file = format!("version: 1\nlisteners: [{{bind: \"127.0.0.1:8080\"}}]\n{block}");
        let shown = shown(file.as_bytes());
        assert_eq!(shown, "0 warnings in routes.yaml", "{block}");
    }
}
