"""TLS as Python's clients and the openssl program do it: pika, aio-pika and py-amqp with passwords and certificates,
urllib for the API."""

import base64
import json
import ssl
import subprocess
import urllib.request

import aio_pika
import amqp
import pika
import pytest
from conftest import start_leveret, stop_leveret

CONFIGURATION = """
[tls]
certificate = "server.pem"
key = "server.key"
client_ca = "ca.pem"
verify = "peer"

[[users]]
name = "guest"
password = "guest"
tags = ["administrator"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]

[[users]]
name = "CN=ann,O=Example"
password = "never used"
tags = []
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]
"""

pytestmark = pytest.mark.deviation("the broker of these tests is their own")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with a CA, and certificates for the server (localhost, 127.0.0.1), for ann, and from a stranger."""
    directory = tmp_path_factory.mktemp("authority")
    make_authority(directory, "ca")
    make_authority(directory, "stranger-ca")
    sign(directory, "server", "ca", "/O=Example/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    sign(directory, "ann", "ca", "/O=Example/CN=ann")
    sign(directory, "stranger", "stranger-ca", "/O=Example/CN=ann")
    return directory


@pytest.fixture(scope="module")
def secure(authority):
    """A broker with TLS."""
    running = start_leveret(authority, CONFIGURATION)
    yield running
    stop_leveret(running)


@pytest.fixture
def context(authority):
    """Makes an SSLContext that trusts the CA, with the certificate of that name or none."""

    def make(name=None, ca="ca"):
        made = ssl.create_default_context(cafile=authority / f"{ca}.pem")
        if name:
            made.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
        return made

    return make


def openssl(directory, *arguments):
    """Runs the openssl program there."""
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def make_authority(directory, name):
    """A CA of that name."""
    # fmt: off
    openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign", "-keyout", f"{name}.key",
            "-out", f"{name}.pem")
    # fmt: on


def sign(directory, name, ca, subject, extension=None):
    """A certificate of that name from that CA, with an RSA key."""
    # fmt: off
    openssl(directory, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", f"{name}.key",
            "-out", f"{name}.csr")
    # fmt: on
    (directory / f"{name}.ext").write_text("basicConstraints=CA:FALSE\n" + (extension or ""))
    # fmt: off
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    # fmt: on


def parameters(broker, context, **options):
    """pika's parameters for the port with TLS."""
    host, _, port = broker.addresses["amqp_tls"][0].rpartition(":")
    return pika.ConnectionParameters(
        host=host,
        port=int(port),
        ssl_options=pika.SSLOptions(context, "localhost"),
        connection_attempts=1,
        socket_timeout=10,
        **options,
    )


def round_trip(connection):
    """Sends a large message to a queue of its own and takes it back."""
    body = bytes(range(256)) * 8192
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, body, mandatory=True)
    _, _, received = channel.basic_get(queue, auto_ack=True)
    assert received == body


def test_pika_with_a_password(secure, context):
    connection = pika.BlockingConnection(parameters(secure, context()))
    round_trip(connection)
    connection.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_pika_with_a_certificate(secure, context, version):
    mine = context("ann")
    mine.minimum_version = mine.maximum_version = version
    options = {"credentials": pika.credentials.ExternalCredentials()}
    connection = pika.BlockingConnection(parameters(secure, mine, **options))
    round_trip(connection)
    listed = api(secure, context(), "connections")
    of_ann = [one for one in listed if one["user"] == "CN=ann,O=Example"]
    assert [one["auth_mechanism"] for one in of_ann] == ["EXTERNAL"]
    connection.close()


def test_a_certificate_of_a_stranger_is_refused(secure, context):
    options = {"credentials": pika.credentials.ExternalCredentials()}
    with pytest.raises((pika.exceptions.AMQPError, OSError)):
        pika.BlockingConnection(parameters(secure, context("stranger"), **options))


def test_a_client_refuses_a_broker_from_elsewhere(secure, context):
    with pytest.raises((pika.exceptions.AMQPError, OSError)):
        pika.BlockingConnection(parameters(secure, context(ca="stranger-ca")))


def test_external_is_not_offered_without_a_certificate(secure, context):
    options = {"credentials": pika.credentials.ExternalCredentials()}
    with pytest.raises(pika.exceptions.AMQPError):
        pika.BlockingConnection(parameters(secure, context(), **options))


async def test_aio_pika(secure, context):
    port = secure.addresses["amqp_tls"][0].rpartition(":")[2]
    url = f"amqps://guest:guest@localhost:{port}/"
    connection = await aio_pika.connect(url, ssl_context=context())
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"over TLS"), queue.name)
        message = await queue.get(no_ack=True)
        assert message.body == b"over TLS"


def test_py_amqp(secure, authority):
    """kombu and Celery connect by this."""
    with amqp.Connection(
        host=f"localhost:{secure.addresses['amqp_tls'][0].rpartition(':')[2]}",
        ssl={"ca_certs": str(authority / "ca.pem"), "server_hostname": "localhost"},
    ) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).queue
        channel.basic_publish(amqp.Message(b"over TLS"), routing_key=queue)
        assert channel.basic_get(queue, no_ack=True).body == b"over TLS"


def test_the_api(secure, context):
    assert api(secure, context(), "whoami")["name"] == "guest"


def test_openssl_says_what_was_agreed_on(secure, authority):
    address = secure.addresses["amqp_tls"][0]
    # fmt: off
    command = ["openssl", "s_client", "-connect", address, "-CAfile", "ca.pem", "-verify_return_error",
               "-servername", "localhost", "-brief"]
    # fmt: on
    done = subprocess.run(command, cwd=authority, input=b"", capture_output=True, timeout=20, check=True)
    assert b"TLSv1.3" in done.stderr and b"Verification: OK" in done.stderr


def api(broker, context, path):
    """What guest is answered over https."""
    host, _, port = broker.addresses["management_tls"][0].rpartition(":")
    credentials = base64.b64encode(b"guest:guest").decode()
    request = urllib.request.Request(f"https://{host}:{port}/api/{path}")
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return json.load(answer)
