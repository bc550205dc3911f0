//! End-to-end tests of the whole of Banyan, on real PostgreSQL and Apache Kafka. `./tests/run` installs and starts them.

// `cfg(test)` tells clippy that what is in here is test code, where `unwrap` is the right thing. It knows no
// `cfg(all(test, …))`, so that two attributes stand where a feature is asked for, too.
#[cfg(test)]
mod admin;
#[cfg(test)]
mod admin_tls;
#[cfg(test)]
mod boards;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod cli_metrics;
#[cfg(test)]
mod cli_verbs;
#[cfg(test)]
mod data_basic;
#[cfg(test)]
mod data_both;
#[cfg(test)]
mod data_columns;
#[cfg(test)]
mod data_failover;
#[cfg(test)]
mod data_failpoints;
#[cfg(test)]
mod data_faults;
#[cfg(test)]
mod data_functions;
#[cfg(test)]
mod data_kafka;
#[cfg(test)]
mod data_kafka_faults;
#[cfg(test)]
mod data_large;
#[cfg(test)]
mod data_mysql;
#[cfg(test)]
mod data_mysql_faults;
#[cfg(test)]
mod data_mysql_schema;
#[cfg(test)]
mod data_mysql_stops;
#[cfg(test)]
mod data_mysql_verify;
#[cfg(test)]
mod data_odds;
#[cfg(test)]
mod data_order_key;
#[cfg(test)]
mod data_outbox;
#[cfg(test)]
mod data_parked;
#[cfg(test)]
mod data_parked_faults;
#[cfg(test)]
mod data_remove;
#[cfg(test)]
mod data_rows;
#[cfg(test)]
mod data_schema;
#[cfg(test)]
mod data_schema_mapped;
#[cfg(test)]
mod data_slot;
#[cfg(test)]
mod data_snapshot;
#[cfg(test)]
mod data_stops;
#[cfg(test)]
mod data_tls;
#[cfg(test)]
mod data_types;
#[cfg(test)]
mod data_verify;
#[cfg(feature = "demo")]
#[cfg(test)]
mod demo_story;
#[cfg(test)]
mod file_golden;
#[cfg(test)]
mod file_link;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod harness_holds;
#[cfg(test)]
mod http_differential;
#[cfg(test)]
mod http_keys;
#[cfg(test)]
mod http_replay;
#[cfg(test)]
mod http_replicas;
#[cfg(test)]
mod http_rollout;
#[cfg(test)]
mod http_shadow;
#[cfg(test)]
mod http_shadow_budget;
#[cfg(test)]
mod http_shadow_writes;
#[cfg(test)]
mod http_split;
#[cfg(test)]
mod http_upgrade;
#[cfg(test)]
mod http_upgrade_data;
#[cfg(test)]
mod http_upgrade_talk;
#[cfg(test)]
mod page;
#[cfg(test)]
mod preflight;
#[cfg(test)]
mod reload_file;
#[cfg(feature = "demo")]
#[cfg(test)]
mod shop_events;
#[cfg(feature = "demo")]
#[cfg(test)]
mod shop_journey;
#[cfg(test)]
mod workload;
