//! `identity:` — the upstream that knows who a request comes from.

use std::time::Duration;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::HeaderName;

/// Asks one upstream who a request comes from, and tells both sides in headers. Asked of a request with cookies or `Authorization`: these
/// are passed on to it, with the host, `X-Forwarded-*` and the trace, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The upstream that is asked.
    #[garde(skip)]
    pub ask: String,
    /// What it is asked for, by GET: 200 or 204 with the headers of `copy` is somebody; one without any, 3xx, 401, 403 and 404 are nobody.
    #[garde(pattern(r"^/"))]
    pub path: String,
    /// Headers of its answer that are copied into the request, for both sides. From clients they are stripped.
    #[garde(length(min = 1, max = 16))]
    pub copy: Vec<HeaderName>,
    /// The cookies that it knows users by. Left out: all but Banyan's own, so that each other cookie that changes makes it be asked anew.
    #[serde(default)]
    #[garde(inner(length(min = 1, max = 16)))]
    pub cookies: Option<Vec<String>>,
    /// How long an answer holds, also for a session that was ended meanwhile. Default 30s.
    #[serde(with = "humantime_serde", default = "thirty_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub cache: Duration,
    /// How long a request waits for the answer; then it goes on as nobody's. Default 1s.
    #[serde(with = "humantime_serde", default = "one_second")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}
