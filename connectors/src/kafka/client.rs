//! How every client of Kafka comes in, and what is heard while it cannot: a refused log-in is told to librdkafka's own threads alone, and all
//! that a call sees of it is that no broker answers.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use secrecy::ExposeSecret as _;

use crate::{config::Kafka, error::FlowError};

/// What librdkafka calls the files of `kafka.tls`.
const TLS_FILES: [(&str, &str); 3] =
    [("ca", "ssl.ca.location"), ("client_cert", "ssl.certificate.location"), ("client_key", "ssl.key.location")];

/// What was heard before is no reason for what fails now.
const FRESH: Duration = Duration::from_secs(30);

/// What librdkafka guesses when a connection is closed before anything was said, or what it takes the alert of a TLS server for.
const MISMATCHES: [&str; 4] = [
    "connecting to a SSL listener?",
    "connecting to a PLAINTEXT broker listener?",
    "require SASL",
    "Invalid response size",
];

/// Hears why no broker is to be had, and says nothing by itself: what ends an attempt is said once, by its supervisor.
#[derive(Debug, Default)]
pub(crate) struct Ear(Mutex<Option<Heard>>);

#[derive(Debug)]
struct Heard {
    at: Instant,
    what: String,
    /// A broker refuses us; it is not merely away.
    refused: bool,
}

// === impl Kafka ===

impl Kafka {
    /// What all clients are told: where the brokers are, TLS and the log-in. Nothing is connected.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Critical);
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => return config,
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            // OpenSSL is built in and has no folder of its own: the library looks where systems have theirs.
            config.set("ssl.ca.location", "probe");
            for (key, file) in tls.files() {
                if let Some((_, name)) = TLS_FILES.iter().find(|(ours, _)| *ours == key) {
                    config.set(*name, file.to_string_lossy());
                }
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.as_str())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", sasl.password.expose_secret());
        }
        config
    }
}

// === impl Ear ===

impl Ear {
    /// To be called with what librdkafka tells its threads.
    pub(crate) fn hear(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as C;
        let (refused, what) = match error.rdkafka_error_code() {
            Some(C::Authentication | C::SaslAuthenticationFailed) => (
                true,
                format!(
                    "Kafka refuses the log-in ({}); put `kafka.sasl` right, or the user at the brokers",
                    plainly(reason)
                ),
            ),
            Some(C::SSL) => (true, no_tls(reason)),
            Some(C::BrokerTransportFailure) if reason.contains("SSL routines") => (true, no_tls(reason)),
            Some(C::BrokerTransportFailure | C::BadMessage)
                if MISMATCHES.iter().any(|mismatch| reason.contains(mismatch)) =>
            {
                (
                    true,
                    format!(
                        "{}: this broker speaks otherwise; put `kafka.tls` and `kafka.sasl` right",
                        cut(&plainly(reason), ": ")
                    ),
                )
            }
            Some(C::Fatal | C::UnsupportedFeature) => (true, plainly(reason)),
            Some(C::BrokerTransportFailure | C::Resolve | C::OperationTimedOut) => (false, plainly(reason)),
            // That all brokers are down says less than why the last one is.
            _ => return,
        };
        let mut heard = self.lock();
        let weaker = heard.as_ref().is_some_and(|before| before.refused && !refused && before.at.elapsed() < FRESH);
        if !weaker {
            *heard = Some(Heard { at: Instant::now(), what, refused });
        }
    }

    /// Whether a broker refuses us; waiting for it will not help soon.
    pub(crate) fn refused(&self) -> bool {
        self.lock().as_ref().is_some_and(|heard| heard.refused)
    }

    /// What failed, with the best reason that is known; all of them may be mended elsewhere while the flow waits.
    pub(crate) fn failed(&self, doing: &'static str, source: KafkaError) -> FlowError {
        match &source {
            // Never with the value: it may be the password.
            KafkaError::ClientConfig(_, what, key, _) => FlowError::Busy(format!("{doing}: {what} ({key})")),
            KafkaError::ClientCreation(what) => FlowError::Busy(format!("{doing}: {}", in_our_words(what))),
            _ => match self.lock().take_if(|heard| heard.at.elapsed() < FRESH) {
                Some(heard) => FlowError::Busy(format!("{doing}: {}", heard.what)),
                None => FlowError::Kafka { doing, source },
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Ear {
    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(&error, reason);
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ConsumerContext for Ear {}

/// What is needed to do something that Kafka has forbidden.
pub(crate) fn forbidden(what: &str, topic: &str, needs: &str) -> FlowError {
    FlowError::Busy(format!("Kafka does not let Banyan {what} the topic `{topic}`: give its user {needs} there"))
}

fn no_tls(reason: &str) -> String {
    format!("there is no TLS with Kafka ({}); put `kafka.tls` right", in_our_words(&plainly(reason)))
}

/// `sasl_ssl://kafka-1:9093/bootstrap: what happened (after 3ms in state AUTH_REQ, 4 identical error(s) suppressed)` without what differs each
/// time.
fn plainly(reason: &str) -> String {
    let reason = cut(reason, " (after ");
    let reason = reason.split_once("://").map_or(reason, |(_, rest)| rest);
    match reason.split_once(": ") {
        Some((broker, what)) => format!("{}: {what}", cut(broker, "/")),
        None => reason.to_owned(),
    }
}

fn cut<'t>(text: &'t str, at: &str) -> &'t str {
    text.split_once(at).map_or(text, |(before, _)| before)
}

fn in_our_words(what: &str) -> String {
    TLS_FILES.iter().fold(what.to_owned(), |text, (ours, theirs)| text.replace(theirs, &format!("`kafka.tls.{ours}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(told: &[(RDKafkaErrorCode, &str)]) -> String {
        let ear = Ear::default();
        for (code, reason) in told {
            ear.hear(&KafkaError::Global(*code), reason);
        }
        ear.failed("asking", KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure)).to_string()
    }

    #[test]
    fn a_refused_log_in_is_the_reason_whatever_is_heard_beside_it() {
        let refused = (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://k:1/bootstrap: SASL authentication error: no (after 3ms in state AUTH_REQ, 4 identical error(s) suppressed)",
        );
        let away =
            (RDKafkaErrorCode::BrokerTransportFailure, "sasl_ssl://k:2/2: Connect failed (after 0ms in state CONNECT)");
        let all = (RDKafkaErrorCode::AllBrokersDown, "2/2 brokers are down");
        let text = heard(&[away, refused, away, all]);
        let right = "waiting: asking: Kafka refuses the log-in (k:1: SASL authentication error: no); put `kafka.sasl` right, or the user at the brokers";
        assert_eq!(text, right);
        assert_eq!(heard(&[away, all]), "waiting: asking: k:2: Connect failed");
        assert!(heard(&[]).starts_with("asking: Meta data fetch error"));
    }

    #[test]
    fn a_setting_that_is_refused_is_named_without_its_value() {
        let setting = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "invalid".into(),
            "sasl.password".into(),
            "hunter2".into(),
        );
        let text = Ear::default().failed("making a producer", setting).to_string();
        assert_eq!(text, "waiting: making a producer: invalid (sasl.password)");
    }
}
