//! Certificates, made for a test.

use std::{net::TcpStream, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::broker::{DEADLINE, Place};

/// Versions for a client to be restricted to.
pub(crate) static ANY_VERSION: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
pub(crate) static VERSION_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
pub(crate) static VERSION_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A stream of a client over TLS.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts some CA.
#[derive(Clone)]
pub(crate) struct TlsClient {
    roots: Arc<RootCertStore>,
    pair: Option<Pair>,
    versions: &'static [&'static SupportedProtocolVersion],
    host: &'static str,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name = named("Authority");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("a CA"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server.
    pub(crate) fn server(&self, host: &str) -> Pair {
        let parameters = CertificateParams::new([host.to_owned()]).expect("parameters");
        self.sign(parameters)
    }

    /// One that has expired.
    pub(crate) fn expired(&self, host: &str) -> Pair {
        let mut parameters = CertificateParams::new([host.to_owned()]).expect("parameters");
        parameters.not_after = date_time_ymd(2020, 1, 2);
        self.sign(parameters)
    }

    /// A certificate for a client: `CN=<name>,O=Example`.
    pub(crate) fn client(&self, name: &str) -> Pair {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = named(name);
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts it.
    pub(crate) fn trusting(&self) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a CA");
        TlsClient { roots: Arc::new(roots), pair: None, versions: &ANY_VERSION, host: "localhost" }
    }
}

impl Pair {
    /// Puts both where the configuration of a test expects those of the server.
    pub(crate) fn install(&self, place: &Place) {
        place.write("server.pem", &self.certificate);
        place.write("server.key", &self.key);
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

impl TlsClient {
    pub(crate) fn with(self, pair: &Pair) -> Self {
        Self { pair: Some(pair.clone()), ..self }
    }

    pub(crate) fn only(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    pub(crate) fn asking_for(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    /// TLS over that stream; the handshake is done, as far as the client can tell.
    pub(crate) fn connect(&self, stream: TcpStream) -> Result<TlsStream, std::io::Error> {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(Arc::clone(&self.roots));
        let config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![pair.der()], key).expect("a client's certificate")
            }
        };
        let host = self.host.try_into().expect("a host");
        let connection = ClientConnection::new(Arc::new(config), host).expect("a client");
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::OrganizationName, "Example");
    names.push(DnType::CommonName, name);
    names
}
