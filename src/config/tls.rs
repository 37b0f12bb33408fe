//! `[tls]`: certificates, and what is asked of clients.

use std::path::PathBuf;

use serde::Deserialize;

use super::value;

/// `[tls]`: certificates, and what is asked of clients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Tls {
    /// A file with the broker's certificate and those between it and the CA, as PEM. Without one there is no TLS.
    #[serde(deserialize_with = "value::path")]
    pub certificate: Option<PathBuf>,
    /// A file with the certificate's private key, as PEM, not encrypted.
    #[serde(deserialize_with = "value::path")]
    pub key: Option<PathBuf>,
    /// Further certificates, for clients that name a host.
    pub sni: Vec<NamedCertificate>,
    /// A file with the certificates of the CAs that clients' certificates come from, as PEM.
    #[serde(deserialize_with = "value::path")]
    pub client_ca: Option<PathBuf>,
    /// Whether AMQP clients are asked for a certificate.
    pub verify: Verify,
    /// Whether one without a certificate is refused (RabbitMQ's `fail_if_no_peer_cert`).
    pub require_client_certificate: bool,
    /// The oldest version of TLS that is spoken.
    pub min_version: TlsVersion,
    /// What of a client's certificate is the name of the user whom it stands for.
    pub cert_login_from: CertLogin,
    /// Which kind of subject alternative name, if it is that: the first of that kind counts.
    pub cert_login_san_type: SanType,
}

/// A certificate for clients that name a host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct NamedCertificate {
    /// The host's name; `*.` at its start stands for one label.
    pub host: String,
    /// See [`Tls::certificate`].
    pub certificate: PathBuf,
    /// See [`Tls::key`].
    pub key: PathBuf,
}

/// Whether AMQP clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// They are not.
    None,
    /// They are, and one that is shown must come from a CA of [`Tls::client_ca`].
    Peer,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2. In the file, `"1.2"`.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3. In the file, `"1.3"`.
    #[serde(rename = "1.3")]
    V1_3,
}

/// What of a certificate names a user (RabbitMQ's `ssl_cert_login_from`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertLogin {
    /// The whole subject, as RFC 4514 writes it: `CN=ann,O=Example`.
    DistinguishedName,
    /// The common name; several are joined by commas.
    CommonName,
    /// A subject alternative name.
    SubjectAlternativeName,
}

/// A kind of subject alternative name (RabbitMQ's `ssl_cert_login_san_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SanType {
    /// A host.
    Dns,
    /// An address for mail.
    Email,
    /// An IP address.
    Ip,
    /// A URI.
    Uri,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            sni: Vec::new(),
            client_ca: None,
            verify: Verify::None,
            require_client_certificate: false,
            min_version: TlsVersion::V1_2,
            cert_login_from: CertLogin::DistinguishedName,
            cert_login_san_type: SanType::Dns,
        }
    }
}
