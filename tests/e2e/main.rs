//! End-to-end tests of the whole of Banyan, on real PostgreSQL and Apache Kafka. `./tests/run` installs and starts them.

// `cfg(test)` tells clippy that what is in here is test code, where `unwrap` is the right thing.
#[cfg(test)]
mod data_basic;
#[cfg(test)]
mod data_both;
#[cfg(test)]
mod data_rows;
#[cfg(test)]
mod data_stops;
#[cfg(all(test, feature = "demo"))]
mod demo_story;
#[cfg(test)]
mod file_golden;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod harness_holds;
#[cfg(test)]
mod http_shadow;
#[cfg(test)]
mod http_split;
#[cfg(test)]
mod preflight;
#[cfg(all(test, feature = "demo"))]
mod shop_journey;
