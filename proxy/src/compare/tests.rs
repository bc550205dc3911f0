use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tests::headers;

/// Rules as they stand in the file, in JSON.
fn rules(compare: &Value) -> Rules {
    Rules::new(&serde_json::from_value(compare.clone()).unwrap())
}

fn compare_by(rules: &Rules, left: &str, right: &str) -> Verdict {
    let headers = headers(&[("content-type", "application/json")]);
    let answer = |body| Answer { status: StatusCode::OK, headers: &headers, body: Body::Whole(body) };
    rules.compare(&answer(left.as_bytes()), &answer(right.as_bytes()))
}

fn compare_json(left: &str, right: &str, ignore: &[&str]) -> Verdict {
    compare_by(&rules(&json!({"ignore": ignore})), left, right)
}

fn differences(verdict: &Verdict) -> Vec<String> {
    let Verdict::Mismatch(spots) = verdict else { panic!("{verdict:?}") };
    let line = |d: &Difference| format!("{} {:?} {:?}", d.place, d.control, d.candidate);
    spots.iter().map(|spot| line(&spot.difference)).collect()
}

#[test]
fn a_text_against_a_number_is_a_difference_of_types() {
    let verdict = compare_json(r#"{"amount":"19.90","id":7}"#, r#"{"id":7.0,"amount":19.9}"#, &[]);
    assert_eq!(differences(&verdict), ["/amount String Number"]);
}

#[test]
fn values_are_shown_where_the_file_says_so_and_never_those_of_headers() {
    let long = "x".repeat(500);
    let (left, right) = (format!(r#"{{"a":"19.90","b":[1],"c":"{long}"}}"#), r#"{"a":19.9,"b":null,"c":"é\n"}"#);
    let full = rules(&json!({"samples": "full", "headers": ["x-told"]}));
    let (one, other) = (
        headers(&[("content-type", "application/json"), ("x-told", "hunter")]),
        headers(&[("content-type", "application/json")]),
    );
    let answer = |headers, body| Answer { status: StatusCode::OK, headers, body: Body::Whole(body) };
    let Verdict::Mismatch(spots) = full.compare(&answer(&one, left.as_bytes()), &answer(&other, right.as_bytes()))
    else {
        panic!()
    };
    let shown: Vec<Option<(Option<&str>, Option<&str>)>> = spots
        .iter()
        .map(|spot| spot.values.as_ref().map(|values| (values.control.as_deref(), values.candidate.as_deref())))
        .collect();
    let cut = format!("\"{}…", "x".repeat(119));
    assert_eq!(
        shown,
        [
            None,
            Some((Some("\"19.90\""), Some("19.9"))),
            Some((None, Some("null"))),
            Some((Some(cut.as_str()), Some("\"é\\n\"")))
        ]
    );
    assert!(!serde_json::to_string(&spots).unwrap().contains("hunter"));
    let Verdict::Mismatch(spots) = compare_json(&left, right, &[]) else { panic!() };
    assert!(spots.iter().all(|spot| spot.values.is_none()) && !serde_json::to_string(&spots).unwrap().contains("19.9"));
}

#[test]
fn differing_items_of_a_list_are_one_place() {
    let verdict = compare_json(r#"{"l":[{"a":1},{"a":2},{"a":3}]}"#, r#"{"l":[{"a":2},{"a":3}]}"#, &[]);
    assert_eq!(differences(&verdict), ["/l/*/a Number Number", "/l/* Object Missing"]);
}

#[test]
fn only_ignored_differences_are_ignored() {
    let (left, right) = (r#"{"at":1,"l":[{"at":1}]}"#, r#"{"at":2,"l":[{"at":2}]}"#);
    assert_eq!(compare_json(left, right, &["/at", "/l/*/at"]), Verdict::Ignored);
    assert_eq!(differences(&compare_json(left, right, &["/at"])), ["/l/*/at Number Number"]);
    assert_eq!(compare_json(left, left, &["/at"]), Verdict::Match);
}

#[test]
fn an_array_whose_order_does_not_count_is_compared_by_its_items_keys() {
    let by_id = rules(&json!({"unordered": {"/items": "/id"}}));
    let left = r#"{"items":[{"id":1,"n":1},{"id":2,"n":2},{"id":3,"n":3}]}"#;
    assert_eq!(
        compare_by(&by_id, left, r#"{"items":[{"n":3,"id":3},{"id":1.0,"n":1},{"id":2,"n":2}]}"#),
        Verdict::Match
    );
    let verdict = compare_by(&by_id, left, r#"{"items":[{"id":3,"n":3},{"id":1,"n":"1"},{"id":4,"n":4}]}"#);
    assert_eq!(
        differences(&verdict),
        ["/items/*/n Number String", "/items/* Object Missing", "/items/* Missing Object"]
    );
    // Without the rule the order counts.
    let verdict = compare_json(r#"{"items":[1,2]}"#, r#"{"items":[2,1]}"#, &[]);
    assert_eq!(differences(&verdict), ["/items/* Number Number"]);
}

#[test]
fn items_without_a_key_are_told_apart_as_a_whole() {
    let whole = rules(&json!({"unordered": {"/tags": "", "": ""}}));
    assert_eq!(compare_by(&whole, r#"{"tags":["a","b","b",10]}"#, r#"{"tags":["b",1e1,"a","b"]}"#), Verdict::Match);
    let verdict = compare_by(&whole, r#"{"tags":["a","b","b"]}"#, r#"{"tags":["b","a","a"]}"#);
    assert_eq!(differences(&verdict), ["/tags/* String String"], "how often an item is there counts");
    assert_eq!(compare_by(&whole, "[[1],{}]", "[{},[1]]"), Verdict::Match);
    assert_eq!(compare_by(&whole, r#"["1"]"#, "[1]").outcome(), Outcome::Mismatch);
}

#[test]
fn items_with_one_key_and_those_with_none_are_compared_in_their_order() {
    let by_id = rules(&json!({"unordered": {"": "/id"}}));
    assert_eq!(compare_by(&by_id, r#"[{"n":1},{"id":1},{"n":2}]"#, r#"[{"id":1},{"n":1},{"n":2}]"#), Verdict::Match);
    let verdict = compare_by(&by_id, r#"[{"id":1,"n":1},{"id":1,"n":2}]"#, r#"[{"id":1,"n":2},{"id":1,"n":1}]"#);
    assert_eq!(differences(&verdict), ["/*/n Number Number"]);
}

#[test]
fn numbers_and_times_may_differ_by_as_much_as_the_file_says() {
    let near = rules(&json!({"numbers_within": {"/**/price": 0.01}, "times_within": {"/items/*/at": "2s"}}));
    let left = r#"{"price":1.5,"items":[{"price":"19.90","at":"2026-11-26T12:00:00Z"}]}"#;
    assert_eq!(
        compare_by(&near, left, r#"{"price":1.51,"items":[{"price":"19.91","at":"2026-11-26T13:00:01+01:00"}]}"#),
        Verdict::Match
    );
    let verdict = compare_by(&near, left, r#"{"price":1.52,"items":[{"price":19.90,"at":"2026-11-26T12:00:03Z"}]}"#);
    assert_eq!(
        differences(&verdict),
        ["/items/*/at String String", "/items/*/price String Number", "/price Number Number"]
    );
}

#[test]
fn a_null_is_the_same_as_nothing_if_the_file_says_so() {
    let (left, right) = (r#"{"a":null,"l":[null]}"#, r#"{"b":null,"l":[]}"#);
    assert_eq!(
        differences(&compare_json(left, right, &[])),
        ["/a Null Missing", "/b Missing Null", "/l/* Null Missing"]
    );
    let verdict = compare_by(&rules(&json!({"null_is_missing": true})), left, right);
    assert_eq!(differences(&verdict), ["/l/* Null Missing"], "an item of an array is no member");
    let verdict = compare_by(&rules(&json!({"null_is_missing": true})), r#"{"a":null}"#, r#"{"a":0}"#);
    assert_eq!(differences(&verdict), ["/a Missing Number"]);
}

#[test]
fn a_status_that_differs_is_a_mismatch_whatever_the_bodies() {
    let none = HeaderMap::new();
    let of = |status, body| Answer { status, headers: &none, body };
    let verdict =
        rules(&json!({})).compare(&of(StatusCode::NOT_FOUND, Body::Unread), &of(StatusCode::OK, Body::Whole(b"x")));
    assert_eq!(differences(&verdict), ["status Status(404) Status(200)"]);
}

fn ok<'a>(headers: &'a HeaderMap, body: Body<'a>) -> Answer<'a> {
    Answer { status: StatusCode::OK, headers, body }
}

#[test]
fn what_cannot_be_said_is_not_comparable() {
    let odd = headers(&[("content-encoding", "compress")]);
    let json = headers(&[("content-type", "application/json")]);
    let plain = HeaderMap::new();
    let (one, other) = (Body::Long { length: 9, hash: 1 }, Body::Long { length: 9, hash: 2 });
    let rules = rules(&json!({}));
    let cases = [
        (ok(&plain, Body::Unread), ok(&plain, Body::Unread), NotComparable::TooLong),
        (ok(&plain, Body::Unread), ok(&plain, Body::Whole(b"a")), NotComparable::TooLong),
        (ok(&json, one), ok(&json, other), NotComparable::TooLong),
        (ok(&odd, one), ok(&plain, other), NotComparable::TooLong),
        (ok(&odd, Body::Whole(b"a")), ok(&plain, Body::Whole(b"a")), NotComparable::Encoded),
        (ok(&odd, Body::Whole(b"a")), ok(&odd, Body::Whole(b"b")), NotComparable::Encoded),
        (
            ok(&plain, Body::Whole(b"a")),
            Answer { status: StatusCode::NOT_MODIFIED, headers: &plain, body: Body::Whole(b"") },
            NotComparable::Conditional,
        ),
    ];
    for (control, candidate, why) in cases {
        assert_eq!(rules.compare(&control, &candidate), Verdict::NotComparable(why));
    }
    assert_eq!(rules.compare(&ok(&odd, Body::Whole(b"a")), &ok(&odd, Body::Whole(b"a"))), Verdict::Match);
}

#[test]
fn a_body_over_the_bound_is_known_by_its_length_and_hash() {
    let rules = rules(&json!({}));
    let (pdf, json) =
        (headers(&[("content-type", "application/pdf")]), headers(&[("content-type", "application/json")]));
    let long = |hash| Body::Long { length: 1 << 20, hash };
    for headers in [&pdf, &json] {
        assert_eq!(rules.compare(&ok(headers, long(1)), &ok(headers, long(1))), Verdict::Match);
    }
    for other in [long(2), Body::Long { length: 7, hash: 1 }, Body::Whole(b"%PDF")] {
        assert_eq!(differences(&rules.compare(&ok(&pdf, long(1)), &ok(&pdf, other))), ["body Bytes Bytes"]);
    }
}

#[test]
fn an_encoding_makes_no_difference_and_one_that_is_broken_does() {
    use std::io::Write;
    let gzip = |text: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    };
    let json = [("content-type", "application/json")];
    let (plain, zipped) = (headers(&json), headers(&[json[0], ("content-encoding", "gzip")]));
    let (text, body) = (br#"{"a":1}"#.as_slice(), gzip(br#"{ "a": 1.0 }"#));
    let rules = rules(&json!({}));
    assert_eq!(rules.compare(&ok(&plain, Body::Whole(text)), &ok(&zipped, Body::Whole(&body))), Verdict::Match);
    let other = gzip(br#"{"a":2}"#);
    let verdict = rules.compare(&ok(&zipped, Body::Whole(&body)), &ok(&zipped, Body::Whole(&other)));
    assert_eq!(differences(&verdict), ["/a Number Number"]);
    let verdict = rules.compare(&ok(&plain, Body::Whole(text)), &ok(&zipped, Body::Whole(text)));
    assert_eq!(differences(&verdict), ["body Bytes Broken"]);
}

#[test]
fn forms_are_compared_by_their_members() {
    let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
    let of = |body: &'static str| ok(&form, Body::Whole(body.as_bytes()));
    let rules = rules(&json!({"ignore": ["/at"]}));
    assert_eq!(rules.compare(&of("a=1&b=x+y&b=z"), &of("b=x%20y&a=1&b=z")), Verdict::Match);
    assert_eq!(rules.compare(&of("a=1&at=1"), &of("a=1&at=2")), Verdict::Ignored);
    assert_eq!(
        differences(&rules.compare(&of("a=1&b=1"), &of("a=2&b=1&b=2"))),
        ["/a String String", "/b String Array"]
    );
}

#[test]
fn a_charset_that_json_always_has_is_no_difference() {
    let (a, b) = (
        headers(&[("content-type", "application/json")]),
        headers(&[("content-type", "Application/JSON; charset=UTF-8")]),
    );
    let of = |headers| ok(headers, Body::Whole(b"{}"));
    assert_eq!(rules(&json!({})).compare(&of(&a), &of(&b)), Verdict::Match);
}

#[test]
fn bodies_that_are_no_json_are_compared_as_bytes() {
    for (kind, seen) in [("text/html", "String"), ("application/pdf", "Bytes")] {
        let headers = headers(&[("content-type", kind)]);
        let of = |body: &'static [u8]| ok(&headers, Body::Whole(body));
        assert_eq!(differences(&rules(&json!({})).compare(&of(b"<p>"), &of(b""))), [format!("body {seen} Missing")]);
        assert_eq!(differences(&rules(&json!({})).compare(&of(b"<p>"), &of(b"<b>"))), [format!("body {seen} {seen}")]);
    }
}

/// Where two documents differ, the slow way: every place of either by its path, ignored ones left out; what is below a place of which only one
/// side is a container of that kind is that place's difference.
fn reference(left: &Value, right: &Value, ignore: &[&str]) -> std::collections::BTreeSet<String> {
    fn walk(
        at: &str,
        left: Option<&Value>,
        right: Option<&Value>,
        ignore: &[&str],
        found: &mut std::collections::BTreeSet<String>,
    ) {
        if ignore.contains(&at) || left == right {
            return;
        }
        let mut below: Vec<String> = Vec::new();
        match (left, right) {
            (Some(Value::Object(left)), Some(Value::Object(right))) => {
                below.extend(left.keys().chain(right.keys()).cloned());
            }
            (Some(Value::Array(left)), Some(Value::Array(right))) => {
                below.extend((0..left.len().max(right.len())).map(|i| i.to_string()));
            }
            _ => {
                let parts: Vec<&str> =
                    at.split('/').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part }).collect();
                found.insert(parts.join("/"));
            }
        }
        for name in below {
            let child = |value: Option<&Value>| value.and_then(|value| value.pointer(&format!("/{name}")).cloned());
            walk(&format!("{at}/{name}"), child(left).as_ref(), child(right).as_ref(), ignore, found);
        }
    }
    let mut found = std::collections::BTreeSet::new();
    walk("", Some(left), Some(right), ignore, &mut found);
    found
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_document_matches_itself(value in any_json()) {
        let text = value.to_string();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(compare_json(&text, &pretty, &[]), Verdict::Match);
    }

    #[test]
    fn documents_match_only_when_they_are_equal(left in any_json(), right in any_json()) {
        let verdict = compare_json(&left.to_string(), &right.to_string(), &[]);
        prop_assert_eq!(verdict == Verdict::Match, left == right);
    }

    #[test]
    fn ignoring_a_member_is_comparing_without_it(left in any_json(), right in any_json()) {
        let (x, y) = (json!({"x": left, "y": [1]}), json!({"x": right, "y": [1]}));
        let ignored = compare_json(&x.to_string(), &y.to_string(), &["/x"]);
        prop_assert_eq!(ignored, if left == right { Verdict::Match } else { Verdict::Ignored });
    }

    #[test]
    fn ignore_takes_away_exactly_what_lies_below(left in any_json(), right in any_json()) {
        let (x, y) = (json!({"a": left, "b": left}), json!({"a": right, "b": right}));
        let all = compare_json(&x.to_string(), &y.to_string(), &[]);
        let some = compare_json(&x.to_string(), &y.to_string(), &["/a"]);
        let places = |verdict: &Verdict| match verdict {
            Verdict::Mismatch(_) => differences(verdict),
            _ => Vec::new(),
        };
        let expected: Vec<String> = places(&all).into_iter().filter(|place| !place.starts_with("/a ") && !place.starts_with("/a/")).collect();
        prop_assert_eq!(places(&some), expected);
    }

    #[test]
    fn it_finds_what_a_simple_reference_finds(left in any_json(), right in any_json(), ignored in prop::sample::select(vec!["/a", "/b/a", "/0", "/a/1"])) {
        let verdict = compare_json(&left.to_string(), &right.to_string(), &[ignored]);
        let found: std::collections::BTreeSet<String> = match &verdict {
            Verdict::Mismatch(spots) => spots.iter().map(|spot| match &spot.difference.place {
                Place::Pointer(pointer) => pointer.clone(),
                other => panic!("{other}"),
            }).collect(),
            _ => std::collections::BTreeSet::new(),
        };
        prop_assert_eq!(found, reference(&left, &right, &[ignored]));
        prop_assert_eq!(verdict == Verdict::Match, left == right);
    }

    #[test]
    fn in_an_unordered_array_no_order_makes_a_difference(items in prop::collection::vec(any_json(), 0..6), seed in any::<u64>()) {
        let mut other = items.clone();
        // A shuffle that the seed decides.
        other.sort_by_key(|item| xxhash_rust::xxh64::xxh64(item.to_string().as_bytes(), seed));
        let (left, right) = (Value::from(items).to_string(), Value::from(other).to_string());
        prop_assert_eq!(compare_by(&rules(&json!({"unordered": {"": ""}})), &left, &right), Verdict::Match);
    }
}
