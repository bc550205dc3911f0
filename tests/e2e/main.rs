//! End-to-end tests of the whole of Banyan, on real PostgreSQL and Apache Kafka. `./tests/run` starts them.
