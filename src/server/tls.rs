//! TLS: the broker's certificates, and what is learned of a client by the handshake.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::warn;

use super::certificate::{self, Facts, LoginRule};
use crate::{
    broker::connections::TlsStatus,
    config::{self, TlsVersion, Verify},
};

/// Everything that TLS connections are made with. It can be exchanged while they go on.
#[derive(Debug)]
pub(crate) struct Tls {
    loaded: RwLock<Arc<Loaded>>,
}

/// A certificate of the broker, for those who watch when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnCertificate {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Its subject.
    pub(crate) subject: String,
    /// The last second in which it is valid, counted from 1970.
    pub(crate) expires_unix_secs: i64,
}

/// What is spoken over TLS. Only AMQP clients are asked for a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    Amqp,
    Http,
}

/// A file that TLS can't do with.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {}: {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

#[derive(Debug)]
struct Loaded {
    amqp: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    login: LoginRule,
    certificates: Vec<OwnCertificate>,
}

impl Tls {
    /// Reads the files of the configuration; `None` if it has no certificate.
    ///
    /// # Errors
    /// What is wrong with which file. An expired certificate is only warned of.
    pub(super) fn load(config: &config::Tls) -> Result<Option<Arc<Self>>, TlsError> {
        let loaded = Loaded::read(config)?;
        Ok(loaded.map(|loaded| Arc::new(Self { loaded: RwLock::new(Arc::new(loaded)) })))
    }

    /// Reads them anew, for the connections to come.
    ///
    /// # Errors
    /// As [`Tls::load`]. Then everything stays as it was.
    pub(super) fn reload(&self, config: &config::Tls) -> Result<(), TlsError> {
        // Without a certificate in the configuration, the one that listeners have goes on until the next start.
        if let Some(loaded) = Loaded::read(config)? {
            *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        }
        Ok(())
    }

    /// The broker's certificates.
    pub(crate) fn certificates(&self) -> Vec<OwnCertificate> {
        self.loaded().certificates.clone()
    }

    /// Does the handshake with a client.
    ///
    /// # Errors
    /// If the client goes away, or the two don't agree.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> io::Result<(TlsStream<TcpStream>, TlsStatus)> {
        let loaded = self.loaded();
        let config = match protocol {
            Protocol::Amqp => &loaded.amqp,
            Protocol::Http => &loaded.http,
        };
        let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
        let status = status(&stream, loaded.login);
        Ok((stream, status))
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loaded {
    fn read(config: &config::Tls) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
        let provider = Arc::new(ring::default_provider());
        let mut certificates = Vec::new();
        let mut read = |certificate: &Path, key: &Path| {
            let (pair, own) = read_pair(certificate, key, &provider)?;
            certificates.push(own);
            Ok(Arc::new(pair))
        };
        let default = read(certificate, key)?;
        let by_host = config
            .sni
            .iter()
            .map(|named| Ok((named.host.to_ascii_lowercase(), read(&named.certificate, &named.key)?)));
        let by_host = by_host.collect::<Result<HashMap<_, _>, TlsError>>()?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(Resolver { default, by_host });
        Ok(Some(Self {
            amqp: server_config(config, true, &provider, &resolver)?,
            http: server_config(config, false, &provider, &resolver)?,
            login: LoginRule { from: config.cert_login_from, san_type: config.cert_login_san_type },
            certificates,
        }))
    }
}

fn server_config(
    config: &config::Tls,
    asks_clients: bool,
    provider: &Arc<CryptoProvider>,
    resolver: &Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions = match config.min_version {
        TlsVersion::V1_2 => &[&TLS12, &TLS13][..],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .expect("invariant: ring has cipher suites for every version");
    let client_ca = config.client_ca.as_deref().filter(|_| asks_clients && config.verify == Verify::Peer);
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(client_roots(path)?.into(), Arc::clone(provider));
            let verifier =
                if config.require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| fault(path, error))?)
        }
    };
    Ok(Arc::new(builder.with_cert_resolver(Arc::clone(resolver))))
}

/// The CAs that clients' certificates come from.
fn client_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| fault(path, format!("a certificate can't be used: {error}")))?;
    }
    Ok(roots)
}

/// A certificate with those between it and its CA, and its key.
fn read_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, OwnCertificate), TlsError> {
    let chain = read_certificates(certificate)?;
    let facts = chain.first().and_then(|leaf| Facts::of(leaf));
    let facts = facts.ok_or_else(|| fault(certificate, "the first certificate can't be read"))?;
    warn_of_validity(certificate, &facts);
    let pair = CertifiedKey::from_der(chain, read_key(key)?, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            fault(key, format!("is not the private key of the certificate in {}", certificate.display()))
        }
        rustls::Error::InvalidCertificate(_) => fault(certificate, error),
        error => fault(key, format!("the private key can't be used: {error}")),
    })?;
    let own = OwnCertificate {
        path: certificate.to_owned(),
        subject: facts.subject,
        expires_unix_secs: facts.expires_unix_secs,
    };
    Ok((pair, own))
}

fn warn_of_validity(path: &Path, facts: &Facts) {
    let now = i64::try_from(super::clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    let problem = if now > facts.expires_unix_secs {
        "has expired"
    } else if now < facts.begins_unix_secs {
        "is not valid yet"
    } else {
        return;
    };
    let (subject, validity) = (&facts.subject, &facts.validity);
    warn!("TLS: {}: the certificate of {subject} {problem}: it is valid {validity}", path.display());
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| fault(path, format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(fault(
            path,
            "there is no certificate in it: it should have one as PEM, BEGIN CERTIFICATE",
        ));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    if text.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        return Err(fault(
            path,
            "the private key is encrypted, and there is nobody to ask for its password; `openssl pkey -in FILE -out \
             FILE` writes it in clear, to be protected by the file's mode",
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            fault(path, "there is no private key in it: it should have one as PEM, BEGIN PRIVATE KEY")
        }
        error => fault(path, format!("is not PEM: {error}")),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| fault(path, format!("cannot be read: {error}")))
}

fn fault(path: &Path, problem: impl ToString) -> TlsError {
    TlsError { path: path.to_owned(), problem: problem.to_string() }
}

/// Chooses the certificate by the host that a client names.
#[derive(Debug)]
struct Resolver {
    default: Arc<CertifiedKey>,
    /// In lower case; `*.` at the start stands for one label.
    by_host: HashMap<String, Arc<CertifiedKey>>,
}

impl Resolver {
    fn find(&self, host: &str) -> &Arc<CertifiedKey> {
        let host = host.to_ascii_lowercase();
        let wildcard = || self.by_host.get(&format!("*.{}", host.split_once('.')?.1));
        self.by_host.get(&host).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(client_hello.server_name().map_or(&self.default, |host| self.find(host))))
    }
}

/// What the handshake has agreed on, and who the client is by its certificate, which was verified.
fn status(stream: &TlsStream<TcpStream>, login: LoginRule) -> TlsStatus {
    let (_, connection) = stream.get_ref();
    let protocol = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "tlsv1.2",
        _ => "tlsv1.3",
    };
    let cipher = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let status = TlsStatus {
        protocol: protocol.to_owned(),
        cipher: cipher.unwrap_or_default(),
        ..TlsStatus::default()
    };
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    let Some(facts) = leaf.and_then(|leaf| Facts::of(leaf)) else { return status };
    TlsStatus {
        peer_subject: Some(facts.subject),
        peer_issuer: Some(facts.issuer),
        peer_validity: Some(facts.validity),
        peer_login: leaf.and_then(|leaf| certificate::login(leaf, login)),
        ..status
    }
}
