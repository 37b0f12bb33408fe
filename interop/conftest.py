"""Fixtures of the interop suite: one broker for the whole run, connections and names for each test.

The broker is the binary that LEVERET_BINARY names (else target/debug/leveret), on ports of its own. With
LEVERET_INTEROP_ADDRESS=host:port the suite talks to a broker that already runs there instead. That is how to ask
RabbitMQ whether a test is right: all of them must pass there too, but for those marked `deviation`.
"""

import contextlib
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import time
import tomllib

import pika
import pytest
from rabbitmqadmin import RabbitmqAdmin

pytest.register_assert_rewrite("support")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
READY_SECONDS = 20
STOP_SECONDS = 20
LOG_TAIL_BYTES = 20_000


class Broker:
    """The broker under test: where it listens and how to log in as guest."""

    def __init__(self, address, log=None, process=None, addresses=None):
        """`address` is host:port; `log` the path of the log and `process` the child, if the suite started it, and
        `addresses` its ready file."""
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.log = log
        self.process = process
        self.addresses = addresses or {}

    @property
    def address(self):
        """host:port of the AMQP listener."""
        return f"{self.host}:{self.port}"

    @property
    def management(self):
        """host:port of the HTTP API and the web page. Of a broker that runs already, LEVERET_INTEROP_MANAGEMENT."""
        return os.environ.get("LEVERET_INTEROP_MANAGEMENT") or self.addresses["management"][0]

    @property
    def metrics(self):
        """host:port of the metrics."""
        return self.addresses["prometheus"][0]

    @property
    def is_leveret(self):
        """False when the suite runs against a broker that it did not start."""
        return self.process is not None

    def url(self, user="guest", password="guest", vhost="%2F"):
        """An amqp:// URL; `vhost` is percent-encoded by the caller."""
        return f"amqp://{user}:{password}@{self.address}/{vhost}"

    def parameters(self, user="guest", password="guest", **options):
        """pika's ConnectionParameters, with any of its options on top."""
        options.setdefault("credentials", pika.PlainCredentials(user, password))
        options.setdefault("connection_attempts", 1)
        options.setdefault("socket_timeout", 10)
        options.setdefault("blocked_connection_timeout", 30)
        return pika.ConnectionParameters(host=self.host, port=self.port, **options)


@pytest.fixture(scope="session")
def broker(request, tmp_path_factory):
    """The broker that every test of the run shares."""
    address = os.environ.get("LEVERET_INTEROP_ADDRESS")
    if address:
        running = Broker(address)
        request.config.interop_broker = running
        yield running
        return
    running = start_leveret(tmp_path_factory.mktemp("leveret"))
    request.config.interop_broker = running
    yield running
    stop_leveret(running)


@pytest.fixture
def name(broker, request):
    """Unique names for what a test declares: `name("orders")`. Queues and exchanges so named are deleted afterwards."""
    run = secrets.token_hex(4)
    given = []

    def unique(noun="q"):
        given.append(f"{request.node.originalname}.{run}.{noun}")
        return given[-1]

    yield unique
    if given:
        delete_all(broker, given)


@pytest.fixture
def connect(broker, name, request):
    """Opens pika BlockingConnections (`connect(heartbeat=1)`) and closes those still open after the test."""
    opened = []

    def open_connection(**options):
        opened.append(pika.BlockingConnection(broker.parameters(**options)))
        return opened[-1]

    yield open_connection
    for connection in opened:
        if getattr(request.node, "has_failed", False):
            cut(connection)
        elif connection.is_open:
            connection.close()


@pytest.fixture
def connection(connect):
    """An open pika BlockingConnection."""
    return connect()


@pytest.fixture
def channel(connection):
    """A channel on the test's `connection`."""
    return connection.channel()


@pytest.fixture
def queue(channel, name):
    """The name of an empty queue, declared with pika's defaults on `channel`."""
    return channel.queue_declare(name("queue")).method.queue


@pytest.fixture
def dead(channel, name):
    """The name of an empty durable queue for dead letters."""
    return channel.queue_declare(name("dead"), durable=True).method.queue


@pytest.fixture
def rabbitmqadmin(broker):
    """RabbitMQ's command-line client of the HTTP API: `rabbitmqadmin("list", "queues")`."""
    return RabbitmqAdmin(broker.management)


def start_leveret(directory, configuration=""):
    """Starts the binary in `directory`, with that text as its configuration, and waits until every listener accepts."""
    binary = os.environ.get("LEVERET_BINARY", REPOSITORY / "target" / "debug" / "leveret")
    config, ready, log = directory / "broker.toml", directory / "ready.toml", directory / "broker.log"
    config.write_text(configuration)
    # fmt: off
    command = [
        binary, "--config", config, "--data-dir", directory / "data", "--bind", "127.0.0.1", "--amqp-port", "0",
        "--management-port", "0", "--prometheus-port", "0", "--amqp-tls-port", "0", "--management-tls-port", "0",
        "--prometheus-tls-port", "0", "--ready-file", ready,
    ]
    # fmt: on
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory)
    addresses = wait_until_ready(process, ready, log)
    return Broker(addresses["amqp"][0], log, process, addresses)


def wait_until_ready(process, ready, log):
    """The addresses in the ready file; fails with the broker's log if there are none within READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        addresses = read_addresses(ready)
        if addresses:
            return addresses
        if process.poll() is not None:
            pytest.exit(f"leveret ended with {process.returncode} before it was ready:\n{tail(log)}", 3)
        time.sleep(0.005)
    process.kill()
    process.wait()
    return pytest.exit(f"leveret was not ready within {READY_SECONDS} s:\n{tail(log)}", 3)


def read_addresses(ready):
    """The ready file as a table; empty while it is missing or half written."""
    try:
        return tomllib.loads(ready.read_text())
    except (FileNotFoundError, tomllib.TOMLDecodeError):
        return {}


def stop_leveret(broker):
    """Asks the broker to stop; it must do so by itself, in time and with exit code 0."""
    assert broker.process.poll() is None, f"leveret died with {broker.process.returncode}:\n{tail(broker.log)}"
    broker.process.send_signal(signal.SIGTERM)
    try:
        code = broker.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        broker.process.kill()
        broker.process.wait()
        pytest.fail(f"leveret did not stop within {STOP_SECONDS} s of SIGTERM:\n{tail(broker.log)}")
    assert code == 0, f"leveret ended with {code} on SIGTERM:\n{tail(broker.log)}"


def delete_all(broker, names):
    """Deletes the queues and exchanges of these names; AMQP does not mind those that are not there."""
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()
    for each in names:
        channel.queue_delete(each)
        channel.exchange_delete(each)
    connection.close()


def cut(connection):
    """Ends the stream beneath a connection: after a failure a graceful close might wait for ever."""
    with contextlib.suppress(OSError, AttributeError, pika.exceptions.AMQPError):
        connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
        connection.close()


def tail(log):
    """The end of a log file."""
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def pytest_runtest_setup(item):
    """Skips the deviations where there is no Leveret to deviate."""
    deviation = item.get_closest_marker("deviation")
    if deviation and os.environ.get("LEVERET_INTEROP_ADDRESS"):
        pytest.skip(f"deviation: {deviation.args[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the end of the broker's log with every test that fails, and remembers that it did."""
    report = yield
    item.has_failed = getattr(item, "has_failed", False) or report.failed
    broker = getattr(item.config, "interop_broker", None)
    if report.failed and broker and broker.log:
        report.sections.append(("broker log", tail(broker.log)))
    return report
