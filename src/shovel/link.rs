//! One end of a shovel: a connection to another broker, over TCP or TLS, or to this one.

use std::{
    fmt,
    fs::{File, Metadata, OpenOptions, metadata},
    io::{self, Read as _},
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::OFlags;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

use super::uri::{Uri, UriOptions};
use crate::{
    broker::{Broker, login::LoginRefused, parameter::Parameter, user::User},
    client::{Connection, Options},
    server::{Clock, Connections},
};

/// How long a connection may take unless the URI says otherwise (RabbitMQ).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long another broker may take to answer a method.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Where systems keep the certificates of the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// The longest file with certificates or a key, in octets: who sets a shovel chooses which one is read.
const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// Where shovels log in from within this broker: this machine, but where no client is. Passwords that are guessed that way
/// hold up shovels, and nobody who connects.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 83, 72, 86);

/// What a shovel needs to connect.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) broker: Arc<Broker>,
    pub(super) connections: Connections,
    pub(super) clock: Clock,
    /// The shovel: its name is told, and its user acts within this broker.
    pub(super) parameter: Arc<Parameter>,
}

impl Connector {
    /// Connects to the first URI where that works.
    ///
    /// # Errors
    /// Why the last one did not; URIs are shown without their secrets.
    pub(super) async fn connect<'a>(&self, uris: &'a [Uri]) -> Result<(Connection, &'a Uri), String> {
        let mut failure = "there is no URI".to_owned();
        for uri in uris {
            match self.connect_to(uri).await {
                Ok(connection) => return Ok((connection, uri)),
                Err(reason) => failure = format!("{uri}: {reason}"),
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, uri: &Uri) -> Result<Connection, String> {
        let options = self.options(uri);
        let Some(host) = &uri.host else {
            let pipe = self.connections.connect_internally(self.user(uri)?);
            let options = Options { heartbeat_secs: 0, ..options };
            return Connection::open(pipe, &options).await.map_err(|error| error.to_string());
        };
        let limit = uri.options.connection_timeout.unwrap_or(CONNECT_TIMEOUT);
        let connecting = TcpStream::connect((host.as_str(), uri.port()));
        let stream = timeout(limit, connecting).await.map_err(|_| "no connection in time".to_owned())?;
        let stream = stream.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let connection = if uri.is_tls {
            let name = uri.options.server_name.as_deref().unwrap_or(host).to_owned();
            let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
            let tls_options = uri.options.clone();
            let reading = timeout(limit, spawn_blocking(move || tls_config(&tls_options)));
            let config = reading.await.map_err(|_| "no certificates in time".to_owned())?;
            let config = config.map_err(|error| error.to_string())??;
            let connector = TlsConnector::from(Arc::new(config));
            let handshake = timeout(limit, connector.connect(name, stream));
            let stream = handshake.await.map_err(|_| "no TLS handshake in time".to_owned())?;
            let stream = stream.map_err(|error| format!("TLS: {error}"))?;
            Connection::open(stream, &options).await
        } else {
            Connection::open(stream, &options).await
        };
        connection.map_err(|error| error.to_string())
    }

    fn options(&self, uri: &Uri) -> Options {
        let default = Options::default();
        Options {
            user: uri.user.clone().unwrap_or(default.user),
            password: uri.password.clone().unwrap_or(default.password),
            external: uri.options.external,
            virtual_host: uri.virtual_host.clone(),
            name: format!("Shovel {}", self.parameter.name),
            heartbeat_secs: uri.options.heartbeat_secs.unwrap_or(default.heartbeat_secs),
            channel_max: uri.options.channel_max.unwrap_or(default.channel_max),
            timeout: ANSWER_TIMEOUT,
            ..default
        }
    }

    /// As whom the shovel acts within this broker: who is named in the URI with the password, else the user who has set
    /// it.
    ///
    /// Deviation: in RabbitMQ it may do everything, so that who sets it may do what that user may not.
    fn user(&self, uri: &Uri) -> Result<Arc<User>, String> {
        let Broker { users, permissions, .. } = &*self.broker;
        let set_by = self.parameter.set_by.as_deref();
        match (&uri.user, &uri.password) {
            (Some(name), Some(password)) => self.log_in(name, password),
            (Some(name), None) if set_by.is_some_and(|set_by| set_by != name) => {
                Err(format!("to act as user '{name}' it needs the password in the URI"))
            }
            (Some(name), None) => users.get(name).ok_or_else(|| format!("there is no user '{name}'")),
            (None, _) => match set_by {
                Some(name) => {
                    let gone = || format!("user '{name}', who has set this shovel, does not exist any more");
                    users.get(name).ok_or_else(gone)
                }
                None => {
                    // It comes from a file of definitions, as administrators load it.
                    let mut users = users.list();
                    users.retain(|user| user.has_tag("administrator"));
                    users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                    let able = users
                        .into_iter()
                        .find(|user| permissions.vhost_access(&user.name, &uri.virtual_host));
                    able.ok_or_else(|| {
                        "no administrator may connect there: name a user in the URI".to_owned()
                    })
                }
            },
        }
    }

    /// The user named in a URI, if the password there is right. Failures are counted, so nobody can guess passwords fast.
    ///
    /// Who may connect from this machine only is let in only if that user has set the shovel: somebody else may be
    /// anywhere. A shovel out of a file of definitions was set by whoever runs this machine.
    fn log_in(&self, name: &str, password: &str) -> Result<Arc<User>, String> {
        // No word of why, as for other clients.
        let refused = || format!("user '{name}' can't log in");
        let set_by = self.parameter.set_by.as_deref();
        let is_elsewhere = set_by.is_some_and(|set_by| set_by != name);
        if is_elsewhere && self.broker.users.get(name).is_some_and(|user| user.loopback_only) {
            return Err(refused());
        }
        let user = self.broker.log_in(name, password.as_bytes(), FROM.into(), self.clock.now());
        user.map_err(|LoginRefused { failure, .. }| {
            warn!("shovel {:?}: login refused: {failure}", self.parameter.name);
            refused()
        })
    }
}

/// How TLS is spoken with a server. Reads files, so it blocks.
fn tls_config(options: &UriOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if options.verify_none {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
    } else {
        builder.with_root_certificates(authorities(options.ca_file.as_deref())?)
    };
    let Some(certificate) = &options.certificate_file else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("certfile", certificate)?;
    let key_file = options.key_file.as_ref().unwrap_or(certificate);
    let wrong = |error: &dyn fmt::Display| unusable("keyfile", key_file, error);
    let key = read_pem(key_file).map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(&error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&error))
}

/// The authorities in that file, or those that the system trusts.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, String> {
    let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let file =
        file.or_else(system).ok_or("this system has no list of authorities: say cacertfile in the URI")?;
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates("cacertfile", file)?);
    if added == 0 {
        return Err(unusable("cacertfile", file, &"no certificate in it is one"));
    }
    Ok(store)
}

/// The certificates in the file that this option of a URI names.
fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(file).map_err(|error| unusable(option, file, &error))?;
    let certificates: Result<_, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates.map_err(|error| unusable(option, file, &error))
}

/// What is said of a file that can't be used: always the same, or it would tell who sets shovels which files there are.
fn unusable(option: &str, file: &Path, why: &dyn fmt::Display) -> String {
    debug!("{option} {} of a shovel can't be used: {why}", file.display());
    format!(
        "{option} {} can't be used: it has to be a regular file of 1 MiB at most that the broker may read, in the format PEM",
        file.display()
    )
}

/// What is in a file. Devices and pipes, which may have no end or never begin, are not read.
fn read_pem(file: &Path) -> io::Result<Vec<u8>> {
    // Opening some devices does something already.
    require_regular(&metadata(file)?)?;
    // If there is a pipe in its place by now, this does not wait for its other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    require_regular(&file.metadata()?)?;
    read_limited(file)
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) }
}

fn read_limited(file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > PEM_BYTES_MAX {
        return Err(io::Error::other("it is too long"));
    }
    Ok(content)
}

/// Takes any certificate, if the server has its key (`verify=verify_none`).
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_regular_files_are_read() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let pipe = path("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for (name, len) in [("short", PEM_BYTES_MAX), ("long", PEM_BYTES_MAX + 1)] {
            File::create(path(name)).unwrap().set_len(len).unwrap();
        }
        assert_eq!(read_pem(&path("short")).unwrap().len() as u64, PEM_BYTES_MAX);
        for file in [path("long"), pipe, path("nowhere"), directory.path().to_owned(), "/dev/zero".into()] {
            assert!(read_pem(&file).is_err(), "{}", file.display());
        }
    }

    #[test]
    fn what_cannot_be_used_does_not_tell_why() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("a");
        let options = UriOptions { ca_file: Some(file.clone()), ..UriOptions::default() };
        let refusal = || tls_config(&options).unwrap_err();
        let is_missing = refusal();
        std::fs::write(&file, "no certificate").unwrap();
        assert_eq!(refusal(), is_missing);
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(refusal(), is_missing);
    }
}
