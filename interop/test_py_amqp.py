"""py-amqp, the client beneath kombu and Celery: basic flows, and what pika keeps its users from asking."""

import re
import time

import amqp
import pytest


@pytest.fixture
def dial(broker, name):
    """Opens py-amqp connections and closes them after the test."""
    opened = []

    def connect(**options):
        options = {"userid": "guest", "password": "guest", "connect_timeout": 5, "read_timeout": 10, **options}
        opened.append(amqp.Connection(broker.address, **options))
        opened[-1].connect()
        return opened[-1]

    yield connect
    for connection in opened:
        if connection.connected:
            connection.close()


@pytest.fixture
def channel(dial):
    """A channel on a connection of its own."""
    return dial().channel()


@pytest.fixture
def queue(channel, name):
    """The name of an empty queue."""
    return channel.queue_declare(name("queue"), auto_delete=False).queue


def drain_until(connection, condition):
    """Lets `connection` work until `condition()` is true."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        connection.drain_events(timeout=5)


def publish(channel, queue, *bodies, **properties):
    """Publishes to `queue` by way of the default exchange."""
    for body in bodies:
        channel.basic_publish(amqp.Message(body, **properties), routing_key=queue)


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_login_methods(dial, method):
    """A.2 start: both mechanisms that need no TLS."""
    connection = dial(login_method=method)
    assert connection.server_properties["product"] == "RabbitMQ"
    assert {b"PLAIN", b"AMQPLAIN"} <= set(connection.mechanisms)
    assert connection.locales == ["en_US"]
    connection.channel().close()


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_wrong_password(broker, method):
    """A.2 auth failure: 403 names the mechanism."""
    connection = amqp.Connection(broker.address, userid="guest", password="wrong", login_method=method)
    with pytest.raises(amqp.AccessRefused) as refusal:
        connection.connect()
    assert refusal.value.reply_code == 403
    assert refusal.value.reply_text == (
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {method}. "
        "For details see the broker logfile."
    )


def test_unknown_virtual_host(broker):
    """A.2 open: 530."""
    connection = amqp.Connection(broker.address, userid="guest", password="guest", virtual_host="nosuch")
    with pytest.raises(amqp.NotAllowed) as refusal:
        connection.connect()
    assert refusal.value.reply_text == "NOT_ALLOWED - vhost nosuch not found"


def test_publish_and_get(channel, queue):
    """A.6: py-amqp's basic_get, with every property it can set."""
    properties = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "600000",
        "message_id": "m",
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
        "cluster_id": "k",
    }
    publish(channel, queue, "body", application_headers={"a": [1, {"b": None}]}, **properties)
    message = channel.basic_get(queue)
    assert (message.body, message.headers) == ("body", {"a": [1, {"b": None}]})
    assert {key: message.properties[key] for key in properties} == properties
    channel.basic_ack(message.delivery_tag)
    assert channel.basic_get(queue) is None


@pytest.mark.parametrize("value", [3.25, -1e300, 2**63 - 1, -(2**63), True, None, "é", {"t": [1.5]}], ids=repr)
def test_header_values(channel, queue, value):
    """A1.8: doubles too, which pika cannot send."""
    publish(channel, queue, "body", application_headers={"key": value})
    assert channel.basic_get(queue, no_ack=True).headers == {"key": value}


def test_consume_and_ack(dial, channel, queue):
    """A.6: deliveries come by drain_events."""
    reader, received = dial().channel(), []
    reader.basic_qos(0, 2, False)
    reader.basic_consume(queue, callback=received.append)
    publish(channel, queue, "a", "b", "c")
    drain_until(reader.connection, lambda: len(received) == 2)
    for message in received[:2]:
        reader.basic_ack(message.delivery_tag)
    drain_until(reader.connection, lambda: len(received) == 3)
    assert [message.body for message in received] == ["a", "b", "c"]
    assert [message.delivery_tag for message in received] == [1, 2, 3]
    reader.basic_reject(3, requeue=False)


def test_confirms(dial, name):
    """A.7: confirm_publish waits for each ack."""
    channel = dial(confirm_publish=True).channel()
    queue = channel.queue_declare(name(), auto_delete=False).queue
    for number in range(100):
        publish(channel, queue, str(number))
    assert channel.queue_declare(queue, passive=True).message_count == 100
    assert [channel.basic_get(queue, no_ack=True).body for _ in range(100)] == [str(number) for number in range(100)]


def test_returns(channel):
    """A.6 return: 312 NO_ROUTE with the message."""
    returned = []
    channel.events["basic_return"].add(lambda *back: returned.append(back))
    channel.basic_publish(amqp.Message("body"), exchange="amq.direct", routing_key="no such key", mandatory=True)
    drain_until(channel.connection, lambda: returned)
    error, exchange, routing_key, message = returned[0]
    assert (error.reply_code, error.reply_text) == (312, "NO_ROUTE")
    assert (exchange, routing_key, message.body) == ("amq.direct", "no such key", "body")


def test_transaction(channel, queue):
    """A.7: commit and rollback."""
    channel.tx_select()
    publish(channel, queue, "lost")
    channel.tx_rollback()
    publish(channel, queue, "kept")
    channel.tx_commit()
    assert channel.basic_get(queue, no_ack=True).body == "kept"
    assert channel.basic_get(queue) is None


def test_exchange_to_exchange(channel, queue, name):
    """A.4 bind: exchange_bind and exchange_unbind."""
    source, destination = name("source"), name("destination")
    for exchange in (source, destination):
        channel.exchange_declare(exchange, "fanout", auto_delete=False)
    channel.queue_bind(queue, destination)
    channel.exchange_bind(destination, source)
    channel.basic_publish(amqp.Message("through"), exchange=source)
    assert channel.basic_get(queue, no_ack=True).body == "through"
    channel.exchange_unbind(destination, source)
    channel.basic_publish(amqp.Message("lost"), exchange=source)
    assert channel.basic_get(queue) is None


def test_nowait_everywhere(channel, name):
    """A.3-A.6: with nowait nothing is answered, and everything is done."""
    queue, exchange, received = name("queue"), name("exchange"), []
    channel.queue_declare(queue, auto_delete=False, nowait=True)
    channel.exchange_declare(exchange, "topic", auto_delete=False, nowait=True)
    channel.queue_bind(queue, exchange, "a.*", nowait=True)
    channel.confirm_select(nowait=True)
    channel.basic_consume(queue, "mine", callback=received.append, no_ack=True, nowait=True)
    channel.basic_publish(amqp.Message("a"), exchange=exchange, routing_key="a.b")
    drain_until(channel.connection, lambda: received)
    channel.basic_cancel("mine", nowait=True)
    for body in ("b", "c"):
        channel.basic_publish(amqp.Message(body), exchange=exchange, routing_key="a.b")
    assert channel.basic_get(queue, no_ack=True).body == "b"
    assert channel.queue_declare(queue, passive=True) == (queue, 1, 0)
    channel.queue_purge(queue, nowait=True)
    assert channel.queue_declare(queue, passive=True) == (queue, 0, 0)
    channel.queue_delete(queue, nowait=True)
    channel.exchange_delete(exchange, nowait=True)
    with pytest.raises(amqp.NotFound):
        channel.queue_declare(queue, passive=True)


def test_server_named_consumer_tag(channel, queue):
    """A.6 consume: an empty tag gets amq.ctag- and 22 characters."""
    tags = {channel.basic_consume(queue) for _ in range(5)}
    assert len(tags) == 5
    assert all(re.fullmatch(r"amq\.ctag-[A-Za-z0-9_-]{22}", tag) for tag in tags)


def test_consumer_tag_in_use(channel, queue):
    """A.10: 530 for the connection."""
    channel.basic_consume(queue, "mine")
    with pytest.raises(amqp.NotAllowed) as refusal:
        channel.basic_consume(queue, "mine")
    assert refusal.value.reply_code == 530
    assert refusal.value.reply_text == "NOT_ALLOWED - attempt to reuse consumer tag 'mine'"
    assert refusal.value.method_sig == (60, 20)


def test_refusals_name_the_method(channel, name):
    """A.3 soft vs hard: class and method of what was refused come with the close."""
    queue = name()
    with pytest.raises(amqp.NotFound) as refusal:
        channel.queue_declare(queue, passive=True)
    assert refusal.value.reply_text == f"NOT_FOUND - no queue '{queue}' in vhost '/'"
    assert refusal.value.method_sig == (50, 10)


def test_cancel_of_an_unknown_tag(channel):
    """A.10: cancel-ok."""
    channel.basic_cancel("never seen")
    assert channel.is_open


def test_cancel_notification(dial, channel, name):
    """A.6 cancel: py-amqp raises ConsumerCancelled, or calls on_cancel."""
    queue, cancelled = name(), []
    channel.queue_declare(queue, auto_delete=False)
    reader = dial().channel()
    reader.basic_consume(queue, "mine", on_cancel=cancelled.append)
    channel.queue_delete(queue)
    drain_until(reader.connection, lambda: cancelled)
    assert cancelled == ["mine"]


def test_line_breaks_are_stripped_from_names(channel, name):
    """A.10: CR and LF, in queue and exchange names alike."""
    queue, exchange = name("queue"), name("exchange")
    assert channel.queue_declare(queue + "\r\n", auto_delete=False).queue == queue
    channel.exchange_declare("\n" + exchange, "fanout", auto_delete=False)
    channel.queue_bind(queue, exchange)
    channel.basic_publish(amqp.Message("a"), exchange=exchange)
    assert channel.basic_get(queue, no_ack=True).body == "a"


def test_recover(channel, queue):
    """A.6 recover: both methods requeue."""
    publish(channel, queue, "a")
    for recover in (channel.basic_recover, channel.basic_recover_async):
        assert channel.basic_get(queue).body == "a"
        recover(requeue=True)
    message = channel.basic_get(queue, no_ack=True)
    assert (message.body, message.delivery_info["redelivered"]) == ("a", True)


def test_heartbeats(dial):
    """A1.5: negotiated down, and both sides send them."""
    connection = dial(heartbeat=1)
    assert connection.heartbeat == 1
    started = time.monotonic()
    while time.monotonic() - started < 2.6:
        connection.heartbeat_tick()
        try:
            connection.drain_events(timeout=0.25)
        except TimeoutError:
            pass
    assert connection.prev_recv is not None and connection.bytes_recv > 0
    connection.channel().close()


def test_immediate(channel, queue):
    """A.6 publish: not implemented."""
    channel.basic_publish(amqp.Message("a"), routing_key=queue, immediate=True)
    with pytest.raises(amqp.AMQPNotImplementedError) as refusal:
        channel.queue_declare(queue, passive=True)
    assert refusal.value.reply_text == "NOT_IMPLEMENTED - immediate=true"
    assert refusal.value.reply_code == 540
