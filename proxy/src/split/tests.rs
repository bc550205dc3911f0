//! The rules of choosing a side, each by its name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderMap, Request, request::Parts};
use serde_json::{Value, json};

use super::{Choice, Moved, Now, Reason, RecentWrites, Signer, Split};
use crate::{
    links::{DataLinks, Moment, Owner, SyncLink},
    table::{Route, RouteTable, tests::config},
};

/// A data side that says what a test tells it.
#[derive(Clone)]
struct Data(Arc<Mutex<Says>>);

struct Says {
    owner: Owner,
    lag: Option<Duration>,
    watermark: Moment,
    wrote: Option<Moment>,
}

struct Case {
    route: Arc<Route>,
    data: Data,
    split: Split,
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

// === impl Data ===

impl SyncLink for Data {
    fn owner(&self) -> Owner {
        self.0.lock().unwrap().owner
    }

    fn lag(&self) -> Option<Duration> {
        self.0.lock().unwrap().lag
    }

    fn watermark(&self) -> Moment {
        self.0.lock().unwrap().watermark
    }

    fn wrote(&self, at: Moment) {
        self.0.lock().unwrap().wrote = Some(at);
    }

    fn hold(&self) -> &std::sync::Arc<crate::links::Hold> {
        crate::tests::never_held()
    }
}

impl DataLinks for Data {
    fn sync(&self, _: &str) -> Option<Arc<dyn SyncLink>> {
        Some(Arc::new(self.clone()))
    }
}

// === impl Case ===

impl Case {
    /// A route with both sides and these keys; its data is in step and legacy's.
    fn new(extra: impl Into<Value>) -> Self {
        let extra = extra.into();
        let mut route = json!({"name": "r", "match": {"path_prefix": "/"}, "legacy": "monolith", "modern": "payments"});
        route.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let says = Says { owner: Owner::Legacy, lag: Some(Duration::ZERO), watermark: now().moment, wrote: None };
        let data = Data(Arc::new(Mutex::new(says)));
        let table = RouteTable::compile(&config(json!([route])), &data).unwrap().0;
        let split = Split::new(Signer::try_new(&[7; 32]).unwrap(), Arc::new(RecentWrites::default()));
        Self { route: Arc::clone(&table.routes()[0]), data, split }
    }

    fn data(&self, owner: Owner, lag: Option<Duration>) {
        let mut says = self.data.0.lock().unwrap();
        (says.owner, says.lag) = (owner, lag);
    }

    /// The other side shows what was answered before.
    fn shows(&self, before: Moment) {
        self.data.0.lock().unwrap().watermark = before;
    }

    fn choose(&self, head: &Parts) -> Choice {
        self.split.choose(&self.route, head, CLIENT, now())
    }

    fn side(&self, method: &str, headers: &[(&str, &str)]) -> (Owner, Reason) {
        let choice = self.choose(&head(method, headers));
        (choice.side, choice.reason)
    }
}

fn now() -> Now {
    Now::at(Moment::new(50_000), UNIX_EPOCH + Duration::from_secs(1_800_000_000))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri("/x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn user(name: &str) -> Vec<(&str, &str)> {
    vec![("x-user-id", name)]
}

/// A name whose bucket is on this side of `weight`.
fn user_on(case: &Case, side: Owner) -> String {
    (0..).map(|n| format!("user-{n}")).find(|name| case.side("GET", &user(name)) == (side, Reason::Weight)).unwrap()
}

const STICKY: &str = "x-user-id";

#[test]
fn reads_follow_the_weight_and_writes_follow_the_owner_on_a_synced_route() {
    let case = Case::new(json!({"sync": "money", "weight": 50, "sticky": [{"header": STICKY}]}));
    let (ann, bob) = (user_on(&case, Owner::Legacy), user_on(&case, Owner::Modern));
    for owner in [Owner::Legacy, Owner::Modern] {
        case.data(owner, Some(Duration::ZERO));
        for read in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(case.side(read, &user(&ann)), (Owner::Legacy, Reason::Weight));
            assert_eq!(case.side(read, &user(&bob)), (Owner::Modern, Reason::Weight));
        }
        for write in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
            assert_eq!(case.side(write, &user(&ann)), (owner, Reason::Owner), "{write}");
            assert_eq!(case.side(write, &user(&bob)), (owner, Reason::Owner), "{write}");
        }
    }
}

#[test]
fn a_route_without_a_sync_follows_its_weight_for_everything() {
    let case = Case::new(json!({"weight": 50, "sticky": [{"header": STICKY}]}));
    let bob = user_on(&case, Owner::Modern);
    assert_eq!(case.side("POST", &user(&bob)), (Owner::Modern, Reason::Weight));
    assert!(case.choose(&head("POST", &user(&bob))).is_write);
}

#[test]
fn an_upgrade_on_a_synced_route_is_a_write() {
    let case = Case::new(json!({"sync": "money", "weight": 100}));
    case.data(Owner::Legacy, Some(Duration::ZERO));
    let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert_eq!(case.side("GET", &upgrade), (Owner::Legacy, Reason::Owner));
    assert_eq!(case.side("GET", &[]), (Owner::Modern, Reason::Weight));
    assert_eq!(case.side("GET", &[("upgrade", "websocket")]), (Owner::Modern, Reason::Weight));
}

#[test]
fn while_the_lag_is_above_its_limit_or_unknown_all_reads_go_to_the_owner() {
    let case = Case::new(json!({"sync": "money", "weight": 100}));
    for (lag, expected) in [
        (Some(Duration::from_secs(5)), (Owner::Modern, Reason::Weight)),
        (Some(Duration::from_millis(5001)), (Owner::Legacy, Reason::Lag)),
        (None, (Owner::Legacy, Reason::Lag)),
    ] {
        case.data(Owner::Legacy, lag);
        assert_eq!(case.side("GET", &[]), expected, "{lag:?}");
    }
    assert_eq!(case.choose(&head("GET", &[])).moved, Some(Moved::Lag));
    case.data(Owner::Modern, None);
    assert_eq!(case.side("GET", &[]), (Owner::Modern, Reason::Weight));
}

/// A write of this request, answered now; its cookie as a browser sends it back.
fn written(case: &Case, headers: &[(&str, &str)]) -> String {
    let write = case.choose(&head("POST", headers));
    let cookie = case.split.answered(&case.route, write.after_write.as_ref().unwrap(), now()).unwrap();
    cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[test]
fn a_user_reads_what_they_wrote_by_cookie_until_the_watermark_has_passed_it() {
    let case = Case::new(json!({"sync": "money", "weight": 100}));
    let sent = written(&case, &[]);
    assert_eq!(case.data.0.lock().unwrap().wrote, Some(now().moment));
    assert_eq!(case.side("GET", &[("cookie", &sent)]), (Owner::Legacy, Reason::OwnWrites));
    assert_eq!(case.side("GET", &[]), (Owner::Modern, Reason::Weight));
    let read = head("GET", &[("cookie", &sent)]);
    let later = |after: u64| case.split.choose(&case.route, &read, CLIENT, now() + millis(after));
    assert_eq!(later(600_000).reason, Reason::OwnWrites, "a stalled applier, and no time is enough");
    case.shows(now().moment + millis(1));
    assert_eq!((later(2).side, later(2).moved), (Owner::Modern, None));
}

#[test]
fn a_user_without_cookies_reads_what_they_wrote_by_their_key_until_the_watermark_has_passed_it() {
    let case = Case::new(json!({"sync": "money", "weight": 100, "sticky": [{"header": STICKY}]}));
    written(&case, &user("ann"));
    assert_eq!(case.side("GET", &user("ann")), (Owner::Legacy, Reason::OwnWrites));
    assert_eq!(case.side("GET", &user("bob")), (Owner::Modern, Reason::Weight));
    assert_eq!(case.choose(&head("GET", &user("ann"))).moved, Some(Moved::OwnWrites));
    let later = |after: u64| case.split.choose(&case.route, &head("GET", &user("ann")), CLIENT, now() + millis(after));
    assert_eq!(later(600_000).side, Owner::Legacy);
    case.shows(now().moment + millis(1));
    assert_eq!(later(2).side, Owner::Modern);
}

#[test]
fn a_write_is_remembered_whichever_side_owns() {
    let case = Case::new(json!({"sync": "money", "weight": 0, "sticky": [{"header": STICKY}]}));
    case.data(Owner::Modern, Some(Duration::ZERO));
    let sent = written(&case, &user("ann"));
    for headers in [user("ann"), vec![("cookie", sent.as_str())]] {
        assert_eq!(case.side("GET", &headers), (Owner::Modern, Reason::OwnWrites));
    }
    case.shows(now().moment + millis(1));
    for headers in [user("ann"), vec![("cookie", sent.as_str())]] {
        assert_eq!(case.side("GET", &headers), (Owner::Legacy, Reason::Weight));
    }
}

#[test]
fn a_write_whose_outcome_is_unknown_waits_for_what_comes_later_too() {
    let case = Case::new(json!({"sync": "money", "weight": 100, "sticky": [{"header": STICKY}]}));
    let write = case.choose(&head("POST", &user("ann")));
    let _ = case.split.unanswered(&case.route, write.after_write.as_ref().unwrap(), now());
    case.shows(now().moment + millis(2000));
    assert_eq!(case.side("GET", &user("ann")).1, Reason::OwnWrites);
    case.shows(now().moment + millis(2001));
    assert_eq!(case.side("GET", &user("ann")).1, Reason::Weight);
}

#[test]
fn a_write_is_remembered_on_every_replica_with_the_same_secret() {
    let (one, other) =
        (Case::new(json!({"sync": "money", "weight": 100})), Case::new(json!({"sync": "money", "weight": 100})));
    let sent = written(&one, &[]);
    // The other replica's own clock began elsewhere; its other side shows what is older than 30 ms.
    let side = |after: u64, watermark: u64| {
        other.shows(Moment::new(watermark));
        let now = Now { moment: Moment::new(7_000), ..now() + millis(after) };
        other.split.choose(&other.route, &head("GET", &[("cookie", &sent)]), CLIENT, now).side
    };
    assert_eq!(side(0, 7_000), Owner::Legacy);
    assert_eq!(side(2_030, 6_970), Owner::Legacy);
    assert_eq!(side(2_031, 6_970), Owner::Modern);
    assert_eq!(side(6_000, 1_000), Owner::Legacy, "a stalled applier");
    assert_eq!(side(600_000, 0), Owner::Legacy, "nobody knows");
    let stranger = one.split.with_signer(Signer::try_new(&[8; 32]).unwrap());
    assert_eq!(stranger.choose(&one.route, &head("GET", &[("cookie", &sent)]), CLIENT, now()).side, Owner::Modern);
}

#[test]
fn the_first_key_that_is_present_wins_and_an_empty_one_is_none() {
    let case = Case::new(json!({"weight": 50, "sticky": [{"header": STICKY}, {"cookie": "shop_id"}]}));
    let bucket = |headers: &[(&str, &str)]| case.choose(&head("GET", headers)).bucket;
    let ann = bucket(&[("x-user-id", "ann")]);
    assert!(ann.is_some());
    assert_eq!(bucket(&[("cookie", "shop_id=bob"), ("x-user-id", "ann")]), ann);
    assert_eq!(bucket(&[("cookie", "a=1; shop_id=ann"), ("x-user-id", "")]), ann);
    assert_eq!(bucket(&[("cookie", "banyan_id=ann; shop_id=")]), ann);
    assert_eq!(bucket(&[("x-user-id", "")]), None);
}

#[test]
fn without_a_key_legacy_answers_below_100_and_modern_at_100() {
    for (weight, expected) in [
        (json!(0), (Owner::Legacy, Reason::Weight)),
        (json!(99.99), (Owner::Legacy, Reason::Keyless)),
        (json!(100), (Owner::Modern, Reason::Weight)),
    ] {
        assert_eq!(Case::new(json!({"weight": weight})).side("GET", &[]), expected);
    }
}

#[test]
fn a_clients_address_draws_a_bucket_where_the_route_says_so() {
    let case = Case::new(json!({"weight": 50, "keyless": "client_address"}));
    let bucket = |client: &str| {
        case.split.choose(&case.route, &head("GET", &[]), client.parse().unwrap(), now()).bucket.unwrap()
    };
    assert_eq!(bucket("192.0.2.7"), bucket("::ffff:192.0.2.7"));
    assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:2"));
    let all: BTreeSet<u16> = (1..=50).map(|host| bucket(&format!("192.0.2.{host}"))).collect();
    assert!(all.len() > 45, "{all:?}");
}

#[test]
fn banyans_cookie_is_made_for_page_loads_alone_and_the_first_answer_follows_it() {
    let case = Case::new(json!({"weight": 50}));
    for page in [
        [("sec-fetch-mode", "navigate"), ("accept", "*/*")],
        [("accept", "text/html,application/xhtml+xml;q=0.9"), ("x", "y")],
        [("accept", "application/xml, TEXT/HTML ;q=0.5"), ("x", "y")],
    ] {
        let choice = case.choose(&head("GET", &page));
        let id = choice.new_id.unwrap();
        let again =
            case.choose(&head("GET", &[("cookie", id.set_cookie().to_str().unwrap().split(';').next().unwrap())]));
        assert_eq!((again.side, again.bucket, again.new_id), (choice.side, choice.bucket, None));
    }
    for program in [
        &[][..],
        &[("accept", "*/*")],
        &[("accept", "text/htmlx")],
        &[("sec-fetch-mode", "cors"), ("accept", "text/html")],
        &[("accept", "text/html"), ("cookie", "banyan_id=x")],
    ] {
        assert_eq!(case.choose(&head("GET", program)).new_id, None, "{program:?}");
    }
    for weight in [0, 100] {
        let case = Case::new(json!({"weight": weight}));
        assert_eq!(case.choose(&head("GET", &[("accept", "text/html")])).new_id, None);
    }
}

#[test]
fn half_of_many_new_users_start_on_each_side_at_weight_50() {
    let case = Case::new(json!({"weight": 50}));
    let page = head("GET", &[("accept", "text/html")]);
    let modern = (0..1000).filter(|_| case.choose(&page).side == Owner::Modern).count();
    assert!((420..=580).contains(&modern), "{modern}");
}

#[test]
fn a_route_with_one_side_uses_it() {
    let begun = Case::new(json!({"modern": null, "weight": null}));
    assert_eq!(begun.side("POST", &user("ann")), (Owner::Legacy, Reason::NotBegun));
    let retired = Case::new(json!({"legacy": null}));
    assert_eq!(retired.side("POST", &user("ann")), (Owner::Modern, Reason::Retired));
}

#[test]
fn a_write_goes_nowhere_rather_than_past_its_owner() {
    let case = Case::new(json!({"modern": null, "sync": "money"}));
    assert_eq!(case.side("POST", &[]), (Owner::Legacy, Reason::NotBegun));
    case.data(Owner::Modern, Some(Duration::ZERO));
    assert_eq!(case.side("POST", &[]), (Owner::Modern, Reason::Owner));
    assert!(case.route.target(Owner::Modern).is_none());
    assert_eq!(case.side("GET", &[]), (Owner::Legacy, Reason::NotBegun));
}

#[test]
fn routes_of_one_group_move_their_users_together() {
    let bucket = |extra: Value| {
        let mut keys = json!({"weight": 50, "sticky": [{"header": STICKY}]});
        keys.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Case::new(keys).choose(&head("GET", &user("ann"))).bucket.unwrap()
    };
    assert_eq!(bucket(json!({"name": "a", "sync": "money"})), bucket(json!({"name": "b", "sync": "money"})));
    assert_eq!(bucket(json!({"name": "a", "group": "g"})), bucket(json!({"name": "b", "sync": "money", "group": "g"})));
    assert_eq!(bucket(json!({"name": "a", "group": "money"})), bucket(json!({"name": "b", "sync": "money"})));
    assert_ne!(bucket(json!({"name": "a"})), bucket(json!({"name": "b"})));
}

#[test]
fn no_header_makes_choosing_panic() {
    let case = Case::new(json!({"sync": "money", "weight": 50, "sticky": [{"cookie": "c"}]}));
    for value in ["", ";", "=", ";;=;", "c", "c=", "=c", "c==", "banyan_w=.", "banyan_w=..", "banyan_w=AA.AA"] {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", value.parse().unwrap());
        let mut head = head("GET", &[]);
        head.headers = headers;
        assert_eq!(case.choose(&head).moved, None, "{value}");
    }
}
