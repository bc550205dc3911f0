//! Walks two JSON values side by side and collects where they differ, each folded place once.

use super::{
    Difference, Place, Rules, Seen, Spot, Values,
    json::Json,
    number,
    pairs::paired,
    pointer::{Step, folded},
};

/// Differences kept of one comparison; more say nothing more.
const MOST: usize = 64;
/// Differences looked at in one comparison; they are folded, so that more of them are more of the same.
const ENOUGH: usize = 4096;

/// Collects differences.
pub(super) struct Differ<'r> {
    rules: &'r Rules,
    found: Vec<Spot>,
    some_ignored: bool,
    looked_at: usize,
}

/// What one side has in a place, and how long it is.
#[derive(Clone, Copy)]
pub(super) struct Found(pub(super) Seen, pub(super) usize);

// === impl Differ ===

impl<'r> Differ<'r> {
    pub(super) fn new(rules: &'r Rules) -> Self {
        Self { rules, found: Vec::new(), some_ignored: false, looked_at: 0 }
    }

    /// Notes a difference.
    pub(super) fn found(&mut self, place: Place, control: Found, candidate: Found) {
        self.found_with(place, control, candidate, || None);
    }

    fn found_with(&mut self, place: Place, control: Found, candidate: Found, values: impl FnOnce() -> Option<Values>) {
        let difference = Difference { place, control: control.0, candidate: candidate.0 };
        if self.found.len() < MOST && !self.found.iter().any(|spot| spot.difference == difference) {
            let (control_length, candidate_length, values) = (control.1, candidate.1, values());
            self.found.push(Spot { difference, control_length, candidate_length, values });
        }
    }

    /// The differences, and whether there were others in ignored places.
    pub(super) fn finish(self) -> (Vec<Spot>, bool) {
        (self.found, self.some_ignored)
    }

    /// Notes where two documents differ.
    pub(super) fn json<'a>(&mut self, control: &'a Json<'a>, candidate: &'a Json<'a>) {
        self.walk(&mut Vec::new(), Some(control), Some(candidate));
    }

    fn walk<'a>(&mut self, place: &mut Vec<Step<'a>>, control: Option<&'a Json<'a>>, candidate: Option<&'a Json<'a>>) {
        if self.looked_at >= ENOUGH {
            return;
        }
        if self.rules.ignore.iter().any(|pattern| pattern.covers(place)) {
            self.some_ignored |= !is_same(control, candidate);
            return;
        }
        match (control, candidate) {
            (Some(Json::Object(left)), Some(Json::Object(right))) => {
                let is_none = |json: &&Json<'_>| self.rules.null_is_missing && **json == Json::Null;
                for (name, left, right) in side_by_side(left, right) {
                    let (left, right) = (left.filter(|json| !is_none(json)), right.filter(|json| !is_none(json)));
                    place.push(Step::Member(name));
                    self.walk(place, left, right);
                    place.pop();
                }
            }
            (Some(Json::Array(left)), Some(Json::Array(right))) => {
                if let Some((_, key)) = self.rules.unordered.iter().find(|(at, _)| at.is(place)) {
                    for (index, (left, right)) in paired(left, right, key).into_iter().enumerate() {
                        place.push(Step::Index(index));
                        self.walk(place, left, right);
                        place.pop();
                    }
                    return;
                }
                for index in 0..left.len().max(right.len()) {
                    place.push(Step::Index(index));
                    self.walk(place, left.get(index), right.get(index));
                    place.pop();
                }
            }
            _ if is_same(control, candidate) => {}
            (Some(left), Some(right)) if self.rules.near.is_near(place, left, right) => {}
            _ => {
                self.looked_at += 1;
                let shows_values = self.rules.shows_values;
                let values = || Values { control: control.and_then(shown), candidate: candidate.and_then(shown) };
                let (left, right) = (Found::in_json(control), Found::in_json(candidate));
                self.found_with(Place::Pointer(folded(place)), left, right, || shows_values.then(values));
            }
        }
    }
}

/// A single value as JSON, as far as it is not too long to be read.
fn shown(json: &Json<'_>) -> Option<String> {
    const LONGEST: usize = 120;
    let text = match json {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(text) => (*text).to_owned(),
        Json::String(text) => {
            let begin: String = text.chars().take(LONGEST).collect();
            serde_json::to_string(&begin).ok()?
        }
        Json::Array(_) | Json::Object(_) => return None,
    };
    Some(if text.chars().count() > LONGEST { text.chars().take(LONGEST).chain(['…']).collect() } else { text })
}

fn is_same(left: Option<&Json<'_>>, right: Option<&Json<'_>>) -> bool {
    let (Some(left), Some(right)) = (left, right) else { return left.is_none() && right.is_none() };
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => number::is_same(left, right),
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(Some(left), Some(right)))
        }
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|((name, left), (other, right))| name == other && is_same(Some(left), Some(right)))
        }
        (left, right) => left == right,
    }
}

type Members<'a> = [(std::borrow::Cow<'a, str>, Json<'a>)];

/// Merges two sorted lists of members.
fn side_by_side<'a>(
    left: &'a Members<'a>,
    right: &'a Members<'a>,
) -> impl Iterator<Item = (&'a str, Option<&'a Json<'a>>, Option<&'a Json<'a>>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let of_left = if order.is_le() { left.next() } else { None };
        let of_right = if order.is_ge() { right.next() } else { None };
        let name = of_left.or(of_right).map(|(name, _)| name.as_ref())?;
        Some((name, of_left.map(|(_, value)| value), of_right.map(|(_, value)| value)))
    })
}

// === impl Found ===

impl Found {
    fn in_json(json: Option<&Json<'_>>) -> Self {
        match json {
            None => Self(Seen::Missing, 0),
            Some(Json::Null) => Self(Seen::Null, 0),
            Some(Json::Bool(_)) => Self(Seen::Bool, 0),
            Some(Json::Number(text)) => Self(Seen::Number, text.len()),
            Some(Json::String(text)) => Self(Seen::String, text.chars().count()),
            Some(Json::Array(items)) => Self(Seen::Array, items.len()),
            Some(Json::Object(members)) => Self(Seen::Object, members.len()),
        }
    }
}
