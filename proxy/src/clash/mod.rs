//! Cookies that both sides set under one name: in the browser the later one overwrites the earlier one, and users are signed out on one side
//! by the other. Seen in answers while they pass, told by `status`, one line in the log and a metric.
//!
//! The answering path looks at an answer's `Set-Cookie` lines, finds nearly always that it has seen them, and else hands them over without
//! waiting. Names, places and number are bounded; values are never looked at.

mod jar;
mod set_cookie;
mod watch;

pub use watch::CookieClash;
pub(crate) use watch::{Jars, Watch};
