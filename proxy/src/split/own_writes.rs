//! The cookie `banyan_w`: on which syncs its bearer wrote, and when. Until a sync's watermark has passed that, their reads follow its owner.
//! Signed, so that nobody can make Banyan send all reads to the owner for years; it holds no secret.
//!
//! Its value is `<entries>.<signature>`, both base64url; an entry is a line `<sync>=<milliseconds since 1970>.<process>.<moment>`: when the
//! write was answered, by the machine's clock and by that of the process that answered. That process compares moments, which nobody sets.
//! Another replica has the time alone, and allows for clocks that differ.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};

use super::{Now, Signer, cookie};
use crate::links::Moment;

/// The cookie's name.
pub const WRITES_COOKIE: &str = "banyan_w";

/// More syncs than anybody writes to within seconds; keeps the cookie short. Older entries become one for all syncs.
const MOST: usize = 8;
/// Stands for every sync; no sync can have this name.
const ALL: &str = "*";
/// A longer value was not made here.
const LONGEST: usize = 2048;
/// Signed in front of the entries, so that a signature serves for nothing else.
const PURPOSE: &[u8] = b"banyan_w 2\n";

/// What a genuine cookie says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnWrites(Vec<Entry>);

/// When its bearer last wrote on a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    sync: String,
    wall: u64,
    process: u64,
    moment: Moment,
}

/// By what a process judges an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge {
    /// Its number.
    pub(super) process: u64,
    pub(super) now: Now,
    /// Of the sync in question.
    pub(super) watermark: Moment,
    /// How far the clock of another replica may be behind.
    pub(super) apart: Duration,
}

// === impl OwnWrites ===

impl OwnWrites {
    /// Reads the request's cookie; empty when there is none, or one that was not signed here.
    pub(super) fn of(headers: &HeaderMap, signer: &Signer) -> Self {
        cookie::find(headers, WRITES_COOKIE).and_then(|value| Self::read(value, signer)).unwrap_or_default()
    }

    fn read(value: &[u8], signer: &Signer) -> Option<Self> {
        if value.len() > LONGEST {
            return None;
        }
        let dot = value.iter().position(|b| *b == b'.')?;
        let mut message = PURPOSE.to_vec();
        URL_SAFE_NO_PAD.decode_vec(&value[..dot], &mut message).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(&value[dot + 1..]).ok()?;
        if !signer.is_signed(&message, &signature) {
            return None;
        }
        let entries = std::str::from_utf8(&message[PURPOSE.len()..]).ok()?;
        entries.lines().map(Entry::read).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether a write of its bearer on this sync may not be seen at the other side.
    pub(super) fn waits(&self, sync: &str, judge: &Judge) -> bool {
        self.0.iter().any(|entry| (entry.sync == sync || entry.sync == ALL) && entry.waits(judge))
    }

    /// The `Set-Cookie` after another write, answered at `at` by the process of this number. The cookie lasts so long that the limit of the lag
    /// holds by itself afterwards; what is as old is left out.
    pub(super) fn after(&self, sync: &str, process: u64, at: Now, lasts: Duration, signer: &Signer) -> HeaderValue {
        let oldest = at.wall.saturating_sub(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let fresh = Entry { sync: sync.to_owned(), wall: at.wall, process, moment: at.moment };
        let others = self.0.iter().filter(|entry| entry.sync != sync && entry.wall > oldest);
        let (all, others): (Vec<&Entry>, Vec<&Entry>) = others.partition(|entry| entry.sync == ALL);
        let mut others: Vec<Entry> = others.into_iter().cloned().collect();
        others.sort_by_key(|entry| std::cmp::Reverse(entry.wall));
        // First whatever the others say: a clock that was put back must not give this write up for them.
        let mut entries: Vec<Entry> = std::iter::once(fresh).chain(others).collect();
        let given_up = entries.iter().skip(MOST).chain(all).map(|entry| entry.wall).max();
        entries.truncate(MOST);
        // No process has the number 0: it is judged by its time.
        let all = given_up.map(|wall| Entry { sync: ALL.to_owned(), wall, process: 0, moment: Moment::NEVER });
        entries.extend(all);
        let lines: Vec<String> = entries.iter().map(Entry::line).collect();
        let lines = lines.join("\n");
        let signature = signer.sign(&[PURPOSE, lines.as_bytes()].concat());
        let value = format!("{}.{}", URL_SAFE_NO_PAD.encode(lines), URL_SAFE_NO_PAD.encode(signature));
        let age = lasts.as_secs().max(1);
        let text = format!("{WRITES_COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax");
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

// === impl Entry ===

impl Entry {
    fn read(line: &str) -> Option<Self> {
        let (sync, when) = line.rsplit_once('=')?;
        let mut parts = when.split('.');
        let (wall, process, moment) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            sync: sync.to_owned(),
            wall: wall.parse().ok()?,
            process: u64::from_str_radix(process, 16).ok()?,
            moment: Moment::new(moment.parse().ok()?),
        })
    }

    fn line(&self) -> String {
        format!("{}={}.{:x}.{}", self.sync, self.wall, self.process, self.moment.get())
    }

    fn waits(&self, judge: &Judge) -> bool {
        if judge.watermark == Moment::NEVER {
            return true;
        }
        if self.process == judge.process && self.process != 0 {
            return self.moment >= judge.watermark;
        }
        // Its age, by clocks that may differ, against the age of what the other side shows, by this process's alone.
        let age = Duration::from_millis(judge.now.wall.saturating_sub(self.wall));
        age <= judge.now.moment.since(judge.watermark) + judge.apart
    }
}

/// What nobody signed says nothing; what is signed is read, whatever it says, and the next cookie too.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(signer) = Signer::try_new(&[7; super::signer::LEAST_SECRET]) else { return };
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let headers: HeaderMap = [(http::header::COOKIE, value)].into_iter().collect();
        assert_eq!(OwnWrites::of(&headers, &signer), OwnWrites::default());
    }
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(&[PURPOSE, data].concat()));
    let value = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(data));
    let Some(writes) = OwnWrites::read(value.as_bytes(), &signer) else { return };
    let next = writes.after("shop", 3, Now::read(), Duration::from_secs(60), &signer);
    let next = next.to_str().unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    let Some(value) = next.strip_prefix("banyan_w=") else { unreachable!("{next}") };
    if value.len() <= LONGEST {
        let read = OwnWrites::read(value.as_bytes(), &signer);
        assert!(read.is_some_and(|read| read.0.len() <= MOST + 1 && read.0.iter().any(|entry| entry.sync == "shop")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const LASTS: Duration = Duration::from_secs(67);
    const APART: Duration = Duration::from_secs(2);

    fn signer(key: u8) -> Signer {
        Signer::try_new(&[key; 32]).unwrap()
    }

    /// So many milliseconds after the process began.
    fn at(millis: u64) -> Now {
        let wall: SystemTime = UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_millis(millis);
        Now::at(Moment::new(millis), wall)
    }

    fn judge(process: u64, now: Now, watermark: u64) -> Judge {
        Judge { process, now, watermark: Moment::new(watermark), apart: APART }
    }

    /// What a browser sends back.
    fn sent(set_cookie: &HeaderValue) -> String {
        set_cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    fn read(cookie: &str, signer: &Signer) -> OwnWrites {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::try_from(cookie).unwrap());
        OwnWrites::of(&headers, signer)
    }

    #[test]
    fn in_the_process_that_answered_a_write_waits_for_the_watermark_alone() {
        let signer = signer(1);
        let first = OwnWrites::default().after("payments", 7, at(100), LASTS, &signer);
        let second = read(&sent(&first), &signer).after("accounts", 7, at(400), LASTS, &signer);
        let known = read(&sent(&second), &signer);
        // However late it is.
        let hour = at(3_600_000);
        assert!(known.waits("payments", &judge(7, hour, 100)));
        assert!(!known.waits("payments", &judge(7, at(101), 101)));
        assert!(known.waits("accounts", &judge(7, hour, 400)));
        assert!(!known.waits("accounts", &judge(7, at(401), 401)));
        assert!(!known.waits("orders", &judge(7, hour, 1)));
        assert!(known.waits("payments", &judge(7, hour, 0)), "an unknown watermark");
        assert!(second.to_str().unwrap().contains("Max-Age=67;"));
    }

    #[test]
    fn another_replica_allows_for_clocks_that_differ() {
        let signer = signer(1);
        let known = read(&sent(&OwnWrites::default().after("payments", 7, at(100), LASTS, &signer)), &signer);
        // Its own clock began at another time; the other side shows what is older than 50 ms.
        let replica = |millis: u64| {
            let now = Now { moment: Moment::new(9_000_000), ..at(millis) };
            judge(8, now, 9_000_000 - 50)
        };
        assert!(known.waits("payments", &replica(0)), "a clock that is behind");
        assert!(known.waits("payments", &replica(100 + 2000 + 50)));
        assert!(!known.waits("payments", &replica(100 + 2000 + 51)));
        // A stalled applier: the watermark stands, however late it is.
        let stalled = Judge {
            watermark: Moment::new(9_000_000),
            ..judge(8, Now { moment: Moment::new(9_600_000), ..at(600_050) }, 1)
        };
        assert!(known.waits("payments", &stalled));
    }

    #[test]
    fn a_cookie_of_another_secret_says_nothing() {
        let made = OwnWrites::default().after("payments", 7, at(100), LASTS, &signer(1));
        assert_eq!(read(&sent(&made), &signer(2)), OwnWrites::default());
    }

    #[test]
    fn a_users_cookie_does_not_grow_with_their_writes_and_forgets_none() {
        let signer = signer(1);
        let mut cookie = OwnWrites::default().after("s0", u64::MAX, at(1000), LASTS, &signer);
        for sync in 1..100 {
            let name = format!("s{sync}");
            cookie = read(&sent(&cookie), &signer).after(&name, u64::MAX, at(1000 + sync), LASTS, &signer);
        }
        let known = read(&sent(&cookie), &signer);
        assert!(known.0.len() <= MOST + 1, "{known:?}");
        assert!(sent(&cookie).len() < LONGEST / 2);
        for sync in 0..100 {
            assert!(known.waits(&format!("s{sync}"), &judge(u64::MAX, at(1100), 1000)), "s{sync}");
            assert!(!known.waits(&format!("s{sync}"), &judge(u64::MAX, at(9000), 8999)), "s{sync}");
        }
        let later = known.after("s1", 1, at(1_000_000), LASTS, &signer);
        assert_eq!(read(&sent(&later), &signer).0.len(), 1);
    }

    proptest! {
        #[test]
        fn a_cookie_that_was_tampered_with_says_nothing(place in 9usize..90, flip in 1u8..=255) {
            let signer = signer(1);
            let made = sent(&OwnWrites::default().after("payments", 7, at(100), LASTS, &signer));
            let mut bytes = made.clone().into_bytes();
            let place = place % bytes.len();
            bytes[place] ^= flip;
            let Ok(header) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert("cookie", header);
            let known = OwnWrites::of(&headers, &signer);
            prop_assert_eq!(known, OwnWrites::default());
        }

        #[test]
        fn no_cookie_makes_it_panic(value in "\\PC{0,200}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(format!("banyan_w={value}")) {
                headers.insert("cookie", value);
            }
            prop_assert_eq!(OwnWrites::of(&headers, &signer(1)), OwnWrites::default());
        }
    }
}
