//! Banyan's HTTP half: it answers requests from legacy or modern, route by route, and shadows and compares.
//!
//! It knows no database and no Kafka; what it asks of them stands in [`links`].

mod body;
mod clash;
pub mod compare;
pub mod config;
mod error;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod gather;
pub mod history;
mod hold;
mod identity;
pub mod links;
mod listen;
pub mod metrics;
mod observe;
mod proxy;
mod rate;
pub mod rollout;
pub mod shadow;
mod socket;
mod spelling;
pub mod split;
mod stations;
pub mod table;
mod trace;
mod tunnel;
mod upstream;

#[cfg(test)]
mod tests;

pub use clash::CookieClash;
pub use error::StartError;
pub use identity::Identity;
pub use listen::{Expiry, Given, Offers, Tls, TlsFileError};
pub use proxy::{ListenerStatus, NoReport, Proxy, ProxyStatus, RouteStatus, check_files, check_tls};
pub use rate::RateLimit;
pub use upstream::{CircuitState, EndpointState, EndpointStatus, UpstreamStatus};
