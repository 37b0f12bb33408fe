//! The broker under test: the real binary, with all its listeners on ports of their own.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A broker of the test's own. It stops when dropped.
pub(crate) struct TestBroker {
    /// Where AMQP is spoken.
    pub(crate) amqp: SocketAddr,
    /// Where the API and the page are.
    pub(crate) management: SocketAddr,
    /// Where metrics are.
    pub(crate) metrics: SocketAddr,
    child: Child,
    directory: TempDir,
}

/// What was answered to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

impl TestBroker {
    /// Starts the binary with these lines of configuration, and waits until it is ready.
    pub(crate) fn start(configuration: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("broker.toml"), configuration).expect("write broker.toml");
        Self::start_in(directory)
    }

    /// Stops it and starts another one on its data.
    pub(crate) fn restart(mut self) -> Self {
        self.stop();
        let directory =
            std::mem::replace(&mut self.directory, TempDir::new().expect("a temporary directory"));
        Self::start_in(directory)
    }

    /// Stops it and starts another one on its data, whose log of that level [`TestBroker::stop_and_read_log`] returns.
    pub(crate) fn restart_logging(mut self, level: &str) -> Self {
        self.stop();
        let directory =
            std::mem::replace(&mut self.directory, TempDir::new().expect("a temporary directory"));
        Self::start_logging(directory, Some(level))
    }

    /// Stops it, and returns what it has logged.
    pub(crate) fn stop_and_read_log(mut self) -> String {
        self.stop();
        fs::read_to_string(self.directory.path().join("log")).expect("its log")
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// The port of AMQP over TLS, if the configuration opens one.
    pub(crate) fn tls_port(&self) -> u16 {
        let text = fs::read_to_string(self.directory.path().join("ready.toml")).expect("the ready file");
        let addresses: toml::Table = toml::from_str(&text).expect("the ready file is TOML");
        let address = addresses["amqp_tls"][0].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        address.expect("an address").port()
    }

    fn start_in(directory: TempDir) -> Self {
        Self::start_logging(directory, None)
    }

    fn start_logging(directory: TempDir, log_level: Option<&str>) -> Self {
        let ready_file = directory.path().join("ready.toml");
        _ = fs::remove_file(&ready_file);
        let stderr = match log_level {
            None => Stdio::inherit(),
            Some(_) => fs::File::create(directory.path().join("log")).expect("a file for the log").into(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .arg("--config")
            .arg(directory.path().join("broker.toml"))
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--bind", "127.0.0.1", "--amqp-port", "0", "--management-port", "0"])
            .args(["--prometheus-port", "0", "--log-level", log_level.unwrap_or("warn"), "--ready-file"])
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("start the leveret binary");
        let started = Instant::now();
        let addresses = loop {
            if let Ok(text) = fs::read_to_string(&ready_file) {
                break toml::from_str::<toml::Table>(&text).expect("the ready file is TOML");
            }
            let ended = child.try_wait().expect("the state of the broker");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "not ready: {ended:?}");
            pause();
        };
        let address =
            |key: &str| addresses[key][0].as_str().and_then(|text| text.parse().ok()).expect("an address");
        let (amqp, management, metrics) = (address("amqp"), address("management"), address("prometheus"));
        Self { amqp, management, metrics, child, directory }
    }

    /// The URI of vhost `/` for guest.
    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.amqp)
    }

    /// What guest is answered to GET of that path below `/api/`.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None)
    }

    /// What guest is answered to a request with a body, or none.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.request_as("guest", "guest", method, path, body.map(|body| body.to_string()).as_deref())
    }

    /// What that user is answered.
    pub(crate) fn request_as(
        &self,
        user: &str,
        password: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Answer {
        self.request_with(&[("authorization", &basic(user, password))], method, path, body)
    }

    /// What is answered to a request with these headers.
    pub(crate) fn request_with(
        &self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Answer {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}/api/{path}", self.management))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.unwrap_or_default().to_owned()).expect("a request");
        send(request)
    }

    /// What a user is answered to POST of a body of that content type.
    pub(crate) fn post_as(
        &self,
        (user, password): (&str, &str),
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Answer {
        let request = ureq::http::Request::builder()
            .method("POST")
            .uri(format!("http://{}/api/{path}", self.management))
            .header("authorization", basic(user, password))
            .header("content-type", content_type);
        send(request.body(body.to_owned()).expect("a request"))
    }

    /// What is answered to GET of that path on the management port, without credentials and with these headers.
    pub(crate) fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = ureq::http::Request::builder().uri(format!("http://{}{path}", self.management));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        send(request.body(String::new()).expect("a request"))
    }

    /// What is answered to GET of that path on the port for metrics.
    pub(crate) fn metrics(&self, path: &str) -> Answer {
        let uri = format!("http://{}/{path}", self.metrics);
        send(ureq::http::Request::builder().uri(uri).body(String::new()).expect("a request"))
    }

    fn stop(&mut self) {
        // An error means that the process has ended already.
        _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while self.child.try_wait().expect("the state of the broker").is_none() {
            if asked.elapsed() > DEADLINE {
                _ = self.child.kill();
            }
            pause();
        }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The header `Authorization` of a user.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let credentials = format!("{user}:{password}");
    format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, credentials))
}

fn send(request: ureq::http::Request<String>) -> Answer {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(DEADLINE));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut response = agent.run(request).expect("an answer");
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let headers = headers.collect();
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string().expect("a body of text");
    Answer { status, headers, body }
}

/// Waits a moment before looking again.
#[expect(clippy::disallowed_methods, reason = "files, processes and HTTP can only be polled")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(5));
}

/// Waits until `check` has nothing to object to, and fails with its last objection otherwise.
pub(crate) fn wait_until(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(objection) = check() {
        assert!(started.elapsed() < DEADLINE, "not so in time that {what}: {objection}");
        pause();
    }
}
