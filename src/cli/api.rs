//! The management API of a broker, Leveret's or RabbitMQ's, as commands use it: blocking, one request after the other.

use std::{fs, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::{
    Agent, Body,
    http::{Method, Request, Response, StatusCode},
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem},
};

use super::{failure::Failure, options::Login};

/// The largest answer that is read, in bytes: the definitions or the list of a million queues.
const ANSWER_BYTES_MAX: u64 = 2 << 30;
/// What needs no login.
const HEALTH: &str = "leveret/health";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Linux distributions keep the certificates of the authorities that are trusted.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// What a path has as it is; everything else in a name is encoded, a slash too.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The API of one broker, for one user.
#[derive(Debug)]
pub(super) struct Api {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    user: String,
    authorization: String,
}

/// The path below `/api` of a thing with these names.
pub(super) fn path(segments: &[&str]) -> String {
    let encoded = segments.iter().map(|segment| utf8_percent_encode(segment, &ENCODED).to_string());
    encoded.collect::<Vec<_>>().join("/")
}

/// An address without a scheme is the commonest slip.
fn check_scheme(url: &str) -> Result<(), Failure> {
    match url.split_once("://") {
        Some(("http" | "https", _)) => Ok(()),
        Some((scheme, _)) => Err(Failure::Usage(format!(
            "{url}: commands use the management API, by http or https and not {scheme}: http://host:15672"
        ))),
        None => Err(Failure::Usage(format!("{url}: add http:// or https:// in front, as in http://{url}"))),
    }
}

/// Nothing in a path has an empty name, and what it would lead to is something else.
fn check_names(path: &str) -> Result<(), Failure> {
    let names = path.split_once('?').map_or(path, |(names, _)| names);
    if names.split('/').any(str::is_empty) {
        return Err(Failure::Usage(format!("a name is empty, so that this leads nowhere: /api/{path}")));
    }
    Ok(())
}

impl Api {
    /// The API that these options lead to; nothing is sent yet.
    ///
    /// # Errors
    /// An address that is neither of http nor of https, or a certificate that can't be read.
    pub(super) fn new(login: &Login) -> Result<Self, Failure> {
        check_scheme(&login.url)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(login.timeout);
        if login.url.starts_with("https:") {
            // An error says that there is one already.
            _ = rustls::crypto::ring::default_provider().install_default();
            config = config.tls_config(tls(login)?);
        }
        Ok(Self {
            agent: Agent::new_with_config(config.build()),
            url: login.url.trim_end_matches('/').to_owned(),
            user: login.user.clone(),
            authorization: basic(&login.user, login.password.expose()),
        })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The same API for another user.
    pub(super) fn as_user(&self, user: &str, password: &str) -> Self {
        let authorization = basic(user, password);
        Self { agent: self.agent.clone(), url: self.url.clone(), user: user.to_owned(), authorization }
    }

    /// What there is at a path below `/api`; it may have a query.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None)
    }

    /// A list, or a lone thing as a list of one.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        match self.get(path)? {
            Value::Array(items) => Ok(items),
            Value::Null => Ok(Vec::new()),
            one => Ok(vec![one]),
        }
    }

    /// Makes or changes a thing.
    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::PUT, path, Some(body))
    }

    /// Adds something, or has something done.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body))
    }

    /// Removes a thing.
    pub(super) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, None).map(drop)
    }

    /// Closes a connection for a reason that its client is told.
    pub(super) fn close_connection(&self, name: &str, reason: &str) -> Result<(), Failure> {
        let path = path(&["connections", name]);
        // A header's value is one line.
        let reason = reason.replace(['\r', '\n'], " ");
        self.request(Method::DELETE, &path, None, Some(&reason)).map(drop)
    }

    /// Any request. The answer is null if it has no body.
    ///
    /// # Errors
    /// Whatever is not a success, with the broker's reason.
    pub(super) fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.request(method, path, body, None)
    }

    /// Whether the broker serves clients, as it says to who does not log in.
    ///
    /// # Errors
    /// [`Failure::Failed`] with the reason if it does not, [`Failure::Missing`] if it only tells who logs in: RabbitMQ.
    pub(super) fn health(&self) -> Result<(), Failure> {
        let (status, text) = self.anonymous()?;
        if status.is_success() {
            return Ok(());
        }
        let reason = serde_json::from_str::<Value>(&text).ok();
        let reason = reason.and_then(|answer| answer["reason"].as_str().map(str::to_owned));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Err(Failure::Failed(reason.unwrap_or(status.to_string()))),
            status if status.is_client_error() => {
                Err(Failure::Missing(format!("GET /api/{HEALTH}: {status}")))
            }
            status => Err(Failure::Unexpected(format!("{} answers {status}", self.url))),
        }
    }

    /// Whether anything answers that speaks HTTP, whatever it says.
    pub(super) fn answers(&self) -> Result<(), Failure> {
        self.anonymous().map(drop)
    }

    /// Asks for the health, and for nothing that needs a login.
    fn anonymous(&self) -> Result<(StatusCode, String), Failure> {
        let request = Request::builder().uri(format!("{}/api/{HEALTH}", self.url)).header("accept", "*/*");
        let request = request.body(()).map_err(|error| Failure::Usage(format!("{}: {error}", self.url)))?;
        self.read(self.agent.run(request))
    }

    /// Status and body of an answer.
    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<(StatusCode, String), Failure> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true);
        let text = body.read_to_string().map_err(|error| self.unreachable(&error))?;
        Ok((response.status(), text))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        reason: Option<&str>,
    ) -> Result<Value, Failure> {
        check_names(path)?;
        let url = format!("{}/api/{path}", self.url);
        let mut request = Request::builder()
            .method(&method)
            .uri(&url)
            .header("authorization", &self.authorization)
            // RabbitMQ answers 406 to those who want JSON of what has none.
            .header("accept", "*/*");
        if let Some(reason) = reason {
            request = request.header("x-reason", reason);
        }
        let wrong = |error: ureq::http::Error| Failure::Usage(format!("{url}: {error}"));
        let outcome = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body.to_string()).map_err(wrong)?)
            }
            None => self.agent.run(request.body(()).map_err(wrong)?),
        };
        let (status, text) = self.read(outcome)?;
        if status.is_success() && text.trim().is_empty() {
            return Ok(Value::Null);
        }
        let parsed = serde_json::from_str::<Value>(&text);
        match (status.is_success(), parsed) {
            (true, Ok(answer)) => Ok(answer),
            // Every management API has it.
            _ if status == StatusCode::NOT_FOUND && path == "overview" => {
                Err(self.no_api("it has no /api/overview"))
            }
            (false, Ok(answer)) => Err(self.refusal(status, &answer, &method, path)),
            (false, Err(_)) if text.trim().is_empty() => {
                Err(self.refusal(status, &Value::Null, &method, path))
            }
            (_, Err(_)) => {
                Err(self.no_api(&format!("it answers {method} /api/{path} with {status} and no JSON")))
            }
        }
    }

    /// Something else is there.
    fn no_api(&self, why: &str) -> Failure {
        Failure::Unexpected(format!(
            "{} is not a broker's management API: {why}; check the port in --url or LEVERET_URL, which is 15672 if \
             nobody has changed it",
            self.url
        ))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let what = match error {
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "connection refused: is the broker running, and is this the port of its management API?"
                    .to_owned()
            }
            ureq::Error::Timeout(_) => "no answer in time; --timeout says how long to wait".to_owned(),
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            ureq::Error::Protocol(_) => return self.no_api("what it answers is not HTTP"),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                return Failure::Usage(format!(
                    "{}: {error}; give an address such as http://host:15672",
                    self.url
                ));
            }
            error => error.to_string(),
        };
        Failure::Unavailable(format!(
            "cannot reach {}: {what} (--url or LEVERET_URL sets the address)",
            self.url
        ))
    }

    fn refusal(&self, status: StatusCode, answer: &Value, method: &Method, path: &str) -> Failure {
        let reason = match (&answer["reason"], &answer["error"]) {
            (Value::String(reason), _) => reason.clone(),
            (Value::Null, Value::String(error)) => error.clone(),
            (Value::Null, _) => status.to_string(),
            (reason, _) => reason.to_string(),
        };
        match status {
            // RabbitMQ answers 401 both to wrong credentials and to who may not do that.
            StatusCode::UNAUTHORIZED if answer["error"] == "not_authorized" && reason != "Not_Authorized" => {
                Failure::Denied(format!(
                    "{} refuses the login of user '{}': {reason} (--user and --password, or LEVERET_USER and \
                     LEVERET_PASSWORD, say who to log in as)",
                    self.url, self.user
                ))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Denied(format!("user '{}' may not do that: {reason}", self.user))
            }
            // Neither knows the path.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                Failure::Missing(format!("{method} /api/{path}: {reason}"))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Failure::Unavailable(reason),
            status if status.is_client_error() => Failure::Refused(reason),
            status => Failure::Unexpected(format!("{} answers {status}: {reason}", self.url)),
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Whom to trust, and what to show.
fn tls(login: &Login) -> Result<TlsConfig, Failure> {
    let mut config = TlsConfig::builder().disable_verification(login.insecure);
    if !login.insecure {
        let authorities = match &login.ca_certificate {
            Some(path) => certificates(path)?,
            None => TRUSTED.iter().find_map(|path| certificates(path).ok()).unwrap_or_default(),
        };
        config = config.root_certs(RootCerts::new_with_certs(&authorities));
    }
    if let Some(path) = &login.certificate {
        let key_path = login.key.as_ref().unwrap_or(path);
        let key = read(key_path)?;
        let key = PrivateKey::from_pem(&key)
            .map_err(|error| Failure::Io(format!("{key_path}: no private key: {error}")))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(path)?, key)));
    }
    Ok(config.build())
}

fn certificates(path: &str) -> Result<Vec<Certificate<'static>>, Failure> {
    let text = read(path)?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() {
        Err(Failure::Io(format!("{path}: no certificate in PEM format")))
    } else {
        Ok(found)
    }
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::of_file(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_are_encoded() {
        assert_eq!(path(&["queues", "/", "a b/ä%"]), "queues/%2F/a%20b%2F%C3%A4%25");
        assert_eq!(path(&["users", "a-b_c.d~e"]), "users/a-b_c.d~e");
    }

    #[test]
    fn slips_are_found_before_anything_is_sent() {
        let text = check_scheme("host:15672").unwrap_err().to_string();
        assert_eq!(text, "host:15672: add http:// or https:// in front, as in http://host:15672");
        assert!(check_scheme("amqp://host").is_err() && check_scheme("https://host").is_ok());
        assert!(check_names("queues/%2F/").is_err() && check_names("queues//a").is_err());
        assert!(check_names("queues/%2F/a?if-empty=true/").is_ok());
    }
}
