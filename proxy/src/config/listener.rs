//! A listening socket: where it is, how clients speak there, and what one of them may take.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Networks;

/// One listening socket and what a client may ask of it.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port, for example `0.0.0.0:8080`. A new one is listened on before one that is gone is closed.
    #[garde(skip)]
    #[schemars(with = "String")]
    pub bind: SocketAddr,
    /// Answers TLS here, and nothing else. Left out: plain TCP.
    #[serde(default)]
    #[garde(dive)]
    pub tls: Option<ListenerTls>,
    /// Whom a load balancer speaks for, where one stands in front and says so (PROXY protocol). Left out: a connection's own address counts, and
    /// a PROXY header is a bad request.
    #[serde(default)]
    #[garde(dive)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What one client may take.
    #[serde(default)]
    #[garde(dive)]
    pub limits: Limits,
}

/// The PROXY protocol, version 1 or 2: a load balancer says the client's address before the connection's first byte, also before TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The load balancers' networks: `10.0.0.0/8`, `192.0.2.7`. From these a header is required, and the address in it is the client's; one that
    /// is missing, wrong or slower than `limits.head_time` closes the connection. From anybody else none is read.
    #[garde(custom(some_network))]
    pub from: Networks,
}

/// TLS towards clients. HTTP/2 and HTTP/1.1 are offered (ALPN), by the admin listener HTTP/1.1 alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// One or more. The first whose names fit what the client asks for (SNI) is shown; where none fits, the first of all. The files are read
    /// again when they change; one that cannot be used leaves the certificates before in force.
    #[garde(length(min = 1), dive)]
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken: `"1.2"` or `"1.3"`. Default `"1.2"`.
    #[serde(default)]
    #[garde(skip)]
    pub min_version: TlsVersion,
    /// A PEM file with the authorities that a client's certificate must come from: mutual TLS, a client without one is refused. Left out: no
    /// client is asked for a certificate.
    #[serde(default)]
    #[garde(skip)]
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// A PEM file: the certificate, and behind it what leads to its authority.
    #[garde(skip)]
    pub cert: PathBuf,
    /// A PEM file with the certificate's private key.
    #[garde(skip)]
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Limits of a listener. Each has a default that suits a public site.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections over all workers; one more is closed at once. Default 100,000.
    #[garde(range(min = 1))]
    pub connections: usize,
    /// Bytes of one request's head. Default 64 KiB; over it: 431.
    #[garde(skip)]
    #[schemars(with = "String")]
    pub header_bytes: ByteSize,
    /// Header lines of one request. Default 100; over it: 431.
    #[garde(range(min = 1, max = 1000))]
    pub headers: usize,
    /// From the first byte of a head to its end. Default 10s; over it: 408 and closed. A TLS handshake may take as long.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub head_time: Duration,
    /// Streams that one HTTP/2 connection may have open. Default 128; one more is refused.
    #[garde(range(min = 1, max = 10_000))]
    pub streams: u32,
    /// Streams that one HTTP/2 connection may reset a second. Default 100; over it the connection is closed (`ENHANCE_YOUR_CALM`).
    #[garde(range(min = 1))]
    pub resets: u32,
    /// How long a keep-alive connection may wait for its next request. Default 75s.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub idle_time: Duration,
    /// How long a client may take no byte of an answer that is there for it. Default 60s; over it: closed.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub take_time: Duration,
}

// === impl Listener ===

impl Listener {
    /// Plain TCP, everything else by default.
    #[must_use]
    pub fn new(bind: SocketAddr) -> Self {
        Self { bind, tls: None, proxy_protocol: None, limits: Limits::default() }
    }
}

fn some_network(networks: &Networks, (): &()) -> garde::Result {
    if networks.get().is_empty() {
        return Err(garde::Error::new(
            "an empty list of networks is nobody's; leave `proxy_protocol` out where nobody speaks it",
        ));
    }
    Ok(())
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            header_bytes: ByteSize::kib(64),
            headers: 100,
            head_time: Duration::from_secs(10),
            streams: 128,
            resets: 100,
            idle_time: Duration::from_secs(75),
            take_time: Duration::from_secs(60),
        }
    }
}
