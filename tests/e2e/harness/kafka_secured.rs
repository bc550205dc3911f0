//! A broker as companies run it: TLS, log-ins, and nobody but the tests themselves may do what no ACL allows.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Authority, Kafka, kafka::More, ports, watchdog};

/// Must never be seen in a log, a metric or an error.
pub(crate) const PASSWORD: &str = "pw-of-banyan-at-kafka";
/// So long a connection lasts before the password is asked for again, in milliseconds.
const SESSION: u32 = 3_000;

/// One broker with a listener for certificates and one for passwords, besides the one without either, where everything is allowed.
pub(crate) struct Secured {
    pub(crate) kafka: Kafka,
    folder: PathBuf,
    certificates: u16,
    passwords: u16,
}

// === impl Secured ===

impl Secured {
    /// Every user may do everything: a user without any ACL is let in.
    pub(crate) fn open() -> Self {
        Self::with(true)
    }

    /// The user `banyan` may do what [`Self::allow`] says, and nothing else.
    pub(crate) fn closed() -> Self {
        Self::with(false)
    }

    fn with(everybody_may: bool) -> Self {
        let folder = watchdog::folder("authority");
        let authority = Authority::new(&folder);
        authority.signs("broker", "localhost");
        authority.signs("banyan", "banyan");
        let [certificates, passwords] = [(); 2].map(|()| ports::reserve());
        let scram = |digest: &str| format!("SCRAM-SHA-{digest}=[name=banyan,password={PASSWORD}]");
        let module = "org.apache.kafka.common.security";
        let properties = format!(
            "ssl.keystore.type=PEM\n\
             ssl.keystore.location={folder}/broker.both.pem\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={folder}/ca.pem\n\
             listener.name.certificates.ssl.client.auth=required\n\
             listener.name.passwords.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.passwords.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_banyan=\"{PASSWORD}\";\n\
             listener.name.passwords.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
             listener.name.passwords.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
             connections.max.reauth.ms={SESSION}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             allow.everyone.if.no.acl.found={everybody_may}\n\
             super.users=User:ANONYMOUS\n",
            folder = folder.display(),
        );
        let more = More {
            listeners: vec![("CERTIFICATES", certificates, "SSL"), ("PASSWORDS", passwords, "SASL_SSL")],
            properties,
            arguments: ["256", "512"]
                .map(scram)
                .into_iter()
                .flat_map(|user| ["--add-scram".to_owned(), user])
                .collect(),
        };
        Self { kafka: Kafka::with(&more), folder, certificates, passwords }
    }

    /// Of the listener that asks for a certificate.
    pub(crate) fn by_certificate(&self) -> String {
        format!("localhost:{}", self.certificates)
    }

    /// Of the listener that asks for a password.
    pub(crate) fn by_password(&self) -> String {
        format!("localhost:{}", self.passwords)
    }

    /// The keys of `kafka` with which Banyan comes in by its certificate.
    pub(crate) fn certificate(&self) -> Value {
        let file = |name: &str| self.folder.join(name);
        json!({"tls": {"ca": file("ca.pem"), "client_cert": file("banyan.pem"), "client_key": file("banyan.key")}})
    }

    /// The keys of `kafka` with which Banyan comes in by a password.
    pub(crate) fn password(&self, mechanism: &str, password: &str) -> Value {
        let sasl = json!({"mechanism": mechanism, "username": "banyan", "password": password});
        json!({"tls": {"ca": self.folder.join("ca.pem")}, "sasl": sasl})
    }

    /// Gives the user `banyan` another password for `scram_sha_512`.
    pub(crate) fn set_password(&self, password: &str) {
        let config = format!("SCRAM-SHA-512=[password={password}]");
        self.kafka.tool(&[
            "org.apache.kafka.tools.ConfigCommand",
            "--bootstrap-server",
            &self.kafka.brokers(),
            "--alter",
            "--entity-type",
            "users",
            "--entity-name",
            "banyan",
            "--add-config",
            &config,
        ]);
    }

    /// Allows the user `banyan` these operations on topics whose names begin so.
    pub(crate) fn allow(&self, operations: &[&str], prefix: &str) {
        self.acl("--add", operations, prefix);
    }

    /// Takes them away again.
    pub(crate) fn forbid(&self, operations: &[&str], prefix: &str) {
        self.acl("--remove", operations, prefix);
    }

    fn acl(&self, verb: &str, operations: &[&str], prefix: &str) {
        let brokers = self.kafka.brokers();
        let mut arguments = vec!["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &brokers, verb];
        if verb == "--remove" {
            arguments.push("--force");
        }
        arguments.extend([
            "--allow-principal",
            "User:banyan",
            "--topic",
            prefix,
            "--resource-pattern-type",
            "prefixed",
        ]);
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        self.kafka.tool(&arguments);
    }
}
