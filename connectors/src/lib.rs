//! Banyan's data half: change data capture from PostgreSQL over Kafka into PostgreSQL, in both directions.
//!
//! It knows no HTTP routing.

pub mod config;
