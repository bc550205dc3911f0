//! Parked transactions: what the target refused, stored whole in the target until a person has mended the cause.
//!
//! `keys` says what a row touches, `book` knows what is touched by what is parked, `draft` stores a transaction as its records go by, and
//! `held` is what the applier does with one later. What a refusal leads to is decided in `apply/refused.rs`.

pub(crate) mod book;
pub(crate) mod draft;
pub(crate) mod held;
pub(crate) mod keys;

/// States of a row of `banyan.parked` that has not ended.
pub(crate) const OPEN: &str = "('parked', 'retry', 'skip')";
