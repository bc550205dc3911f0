//! Banyan's HTTP half: it answers requests from legacy or modern, route by route, and shadows and compares.
//!
//! It knows no database and no Kafka; what it asks of them stands in [`links`].

pub mod compare;
pub mod config;
pub mod links;
pub mod shadow;
pub mod split;
pub mod table;
