"""Connections as pika opens them: server properties, tuning, heartbeats, logins, virtual hosts, channels."""

import select
import time

import pika
import pytest
from pika.exceptions import ProbableAccessDeniedError, ProbableAuthenticationError

from support import channel_refused, connection_refused, counts, drain, get, publish, round_trip, wait_until

CAPABILITIES = {
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
}
LOGIN_REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
)


def negotiated(connection):
    """pika's view of what was agreed on."""
    return connection._impl.params


def server_properties(connection):
    """The table the broker introduced itself with."""
    return connection._impl.server_properties


def test_server_introduces_itself(broker, connection):
    """A.2 start: kombu branches on product and version, Spring Boot reads version."""
    properties = server_properties(connection)
    assert properties["product"] == "RabbitMQ"
    assert all(properties[key] for key in ("version", "platform", "copyright", "information", "cluster_name"))
    if broker.is_leveret:
        assert properties["version"] == "3.13.7"
        assert properties["leveret_version"]


def test_server_capabilities(connection):
    """A.2 start: all of RabbitMQ's capabilities, each of them true."""
    assert server_properties(connection)["capabilities"] == dict.fromkeys(CAPABILITIES, True)
    assert connection.publisher_confirms_supported
    assert connection.exchange_exchange_bindings_supported
    assert connection.basic_nack_supported
    assert connection.consumer_cancel_notify_supported


def test_tune_proposes_rabbitmqs_limits(connect):
    """A.2 tune: channel_max 2047, frame_max 131072, heartbeat 60."""
    proposed = []
    connection = connect(heartbeat=lambda _, server: proposed.append(server) or server)
    assert proposed == [60]
    assert negotiated(connection).channel_max == 2047
    assert negotiated(connection).frame_max == 131072


def test_client_lowers_the_limits(connect):
    """A.2 tune-ok: the client's lower values hold."""
    connection = connect(channel_max=3, frame_max=4096, heartbeat=7)
    agreed = negotiated(connection)
    assert (agreed.channel_max, agreed.frame_max, agreed.heartbeat) == (3, 4096, 7)
    channels = [connection.channel() for _ in range(3)]
    with pytest.raises(pika.exceptions.NoFreeChannels):
        connection.channel()
    channels[1].close()
    assert connection.channel().channel_number == 2


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8175, 8176, 8177, 100_000])
def test_small_frames_carry_any_body(connect, name, size):
    """A.2 tune-ok, A1.3: with frame_max 4096 bodies of every size around the frame's edges come back whole."""
    body = bytes(index % 251 for index in range(size))
    writer, reader = connect(frame_max=4096).channel(), connect(frame_max=4096).channel()
    queue = writer.queue_declare(name()).method.queue
    writer.confirm_delivery()
    writer.basic_publish("", queue, body)
    assert reader.basic_get(queue, auto_ack=True)[2] == body


def test_each_side_has_its_own_frame_size(connect, name):
    """A body that came in large frames goes out in the small ones of its consumer, and the other way round."""
    body = bytes(range(256)) * 2000
    large, small = connect().channel(), connect(frame_max=4096).channel()
    queue = large.queue_declare(name()).method.queue
    for writer, reader in [(large, small), (small, large)]:
        writer.confirm_delivery()
        writer.basic_publish("", queue, body)
        assert reader.basic_get(queue, auto_ack=True)[2] == body


def test_idle_connection_stays_open_by_heartbeats(connect):
    """A1.5: an idle connection with a heartbeat of 1 s gets one every half of it, and lives."""
    connection = connect(heartbeat=1)
    started = time.monotonic()
    received = connection._impl._heartbeat_checker
    wait_until(connection, lambda: received._heartbeat_frames_received >= 5)
    assert time.monotonic() - started < 5
    assert connection.is_open
    round_trip(connection)


def test_silent_client_is_disconnected(connect):
    """A1.5: after about two silent intervals the broker ends the stream, without an AMQP close."""
    connection = connect(heartbeat=1)
    sock = connection._impl._transport._sock
    started, received = time.monotonic(), b""
    while time.monotonic() - started < 10:
        if not select.select([sock], [], [], 10)[0]:
            continue
        try:
            data = sock.recv(4096)
        except ConnectionResetError:
            data = b""
        if not data:
            break
        received += data
    assert 1 < time.monotonic() - started < 6
    heartbeat = b"\x08\x00\x00\x00\x00\x00\x00\xce"
    assert received and received == heartbeat * (len(received) // len(heartbeat))
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(time_limit=5)


def test_heartbeats_can_be_turned_off(connect):
    """A1.5: 0 from the client turns them off for both sides."""
    connection = connect(heartbeat=0)
    assert negotiated(connection).heartbeat == 0
    assert connection._impl._heartbeat_checker is None
    round_trip(connection)


@pytest.mark.parametrize("login", [("guest", "wrong"), ("nobody", "guest"), ("guest", ""), ("", "")])
def test_wrong_login(broker, login):
    """A.2 auth failure: 403 with RabbitMQ's text, whoever it was, as pika announces authentication_failure_close."""
    with pytest.raises(ProbableAuthenticationError) as refusal:
        pika.BlockingConnection(broker.parameters(*login))
    assert str(refusal.value) == f"ConnectionClosedByBroker: (403) {LOGIN_REFUSED!r}"


def test_unknown_virtual_host(broker):
    """A.2 open: 530 with the name of the virtual host."""
    with pytest.raises((pika.exceptions.ConnectionClosedByBroker, ProbableAccessDeniedError)) as refusal:
        pika.BlockingConnection(broker.parameters(virtual_host="no such place"))
    assert "530" in str(refusal.value)
    assert "NOT_ALLOWED - vhost no such place not found" in str(refusal.value)


def test_client_properties_are_accepted(connect):
    """A.2 start-ok: a connection name and properties of any depth."""
    connection = connect(client_properties={"connection_name": "orders", "nested": {"deep": [1, {"er": None}]}})
    round_trip(connection)


def test_any_locale(connect):
    """A.2 start-ok: the locale does not matter."""
    round_trip(connect(locale="de_DE"))


def test_update_secret(connection):
    """A.2 update-secret: answered, and the connection goes on."""
    connection.update_secret("guest", "the old one expired")
    round_trip(connection)


def test_blocked_callbacks_stay_silent(connection, channel, queue):
    """A.2 blocked: nothing is said to a publisher while there is no alarm."""
    notices = []
    connection.add_on_connection_blocked_callback(lambda *notice: notices.append(notice))
    connection.add_on_connection_unblocked_callback(lambda *notice: notices.append(notice))
    publish(channel, queue, "a")
    round_trip(connection)
    assert notices == []


def test_client_closes_with_a_reason(connect):
    """A.2 close: any reply code and text of the client is answered with close-ok."""
    connection = connect()
    connection.channel()
    connection.close(320, "going home")
    assert connection.is_closed


def test_two_hundred_channels(connection, name):
    """A.3: channels work side by side on one connection, each with its own delivery tags."""
    channels = [connection.channel() for _ in range(200)]
    queues = [each.queue_declare(name(f"q{index}"), exclusive=True).method.queue for index, each in enumerate(channels)]
    for index, each in enumerate(channels):
        publish(each, queues[index], f"message {index}")
    for index, each in enumerate(channels):
        method, _, body = get(each, queues[index])
        assert (method.delivery_tag, body) == (1, f"message {index}")
        each.basic_ack(1)
    for each in channels:
        each.close()
    round_trip(connection)


def test_all_channel_numbers(connection):
    """A1.11: every number up to channel_max opens."""
    channels = [connection.channel(number) for number in (1, 2, 255, 256, 2046, 2047)]
    assert all(each.is_open for each in channels)


def test_channel_number_is_free_after_close(connection, name):
    """A.3 close: the number is reusable at once and starts from nothing: tags, consumers and modes are gone."""
    queue = name()
    for _ in range(50):
        channel = connection.channel(5)
        channel.queue_declare(queue)
        channel.tx_select()
        publish(channel, queue, "a")
        channel.tx_commit()
        assert get(channel, queue, auto_ack=True)[0].delivery_tag == 1
        channel.close()


def test_channel_close_requeues(connection, channel, queue):
    """A.3 close: unacknowledged messages are ready again when close-ok arrives, consumers are gone."""
    publish(channel, queue, "a", "b", "c")
    other = connection.channel()
    other.basic_consume(queue, lambda *_: None)
    wait_until(connection, lambda: counts(channel, queue) == (0, 1))
    other.close()
    assert counts(channel, queue) == (3, 0)
    assert drain(channel, queue) == ["a", "b", "c"]


def test_refused_channel_leaves_the_others_alone(connection, name):
    """A.3: one channel's refusal neither loses nor reorders what the other channels do."""
    queue = name()
    steady = connection.channel()
    steady.queue_declare(queue)
    for number in range(20):
        publish(steady, queue, f"{number}-before")
        doomed = connection.channel()
        missing = name("missing")
        with channel_refused(doomed, 404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'"):
            doomed.basic_publish(missing, "", b"lost")
            publish(steady, queue, f"{number}-after")
    expected = [f"{number}-{when}" for number in range(20) for when in ("before", "after")]
    assert drain(steady, queue) == expected


def test_flow_is_answered(channel):
    """A.3 flow: active=true is answered with true."""
    assert channel.flow(True) is True


def test_flow_cannot_be_stopped_by_the_client(connection, channel):
    """A.3 flow: active=false is not implemented."""
    with connection_refused(connection, 540, "NOT_IMPLEMENTED - active=false"):
        channel.flow(False)
