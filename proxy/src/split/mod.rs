//! Which side answers a request: reads follow the weight, writes follow the owner, a user reads what they wrote, and the same user stays on
//! the same side. Pure decisions: nothing here waits, and no lock is taken.

mod bucket;
mod choose;
mod cookie;
mod force;
mod id;
mod key;
mod lowered;
mod now;
pub(crate) mod own_writes;
mod pins;
mod recent;
mod signer;
#[cfg(test)]
mod tests;

pub use bucket::{BUCKETS, bucket, seed, shadow_seed};
pub(crate) use choose::is_write;
pub use choose::{AfterWrite, Choice, Moved, Reason, Split};
pub use cookie::add_private;
pub(crate) use cookie::find as find_cookie;
pub use force::{FORCE_SECRET, Force};
pub use id::{ID_COOKIE, NewId};
pub(crate) use key::keyless;
pub use key::{Key, address_key, find_key};
pub use lowered::Lowered;
pub use now::Now;
pub use own_writes::WRITES_COOKIE;
pub use pins::{Pinned, Pins};
pub use recent::RecentWrites;
pub use signer::{LEAST_SECRET, Signer, SignerError, kept_secret};
