"""Publishing with pika: properties, header types, body sizes, returns, confirms, CC and BCC, and every refusal."""

import datetime
import decimal

import pika
import pytest

from support import Inbox, channel_refused, counts, drain, get, publish, round_trip, wait_until

FRAME_MAX = 131_072
"""What both sides agree on by default; a body frame carries 8 bytes less."""


def test_all_properties(channel, queue):
    """A.6 publish: all fourteen come back as they went in."""
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"key": "value"},
        delivery_mode=2,
        priority=7,
        correlation_id="correlation é",
        reply_to="somewhere",
        expiration="600000",
        message_id="id-1",
        timestamp=1_700_000_000,
        type="order",
        user_id="guest",
        app_id="shop",
        cluster_id="obsolete",
    )
    channel.basic_publish("", queue, b"body", sent)
    _, received, body = get(channel, queue, auto_ack=True)
    assert body == "body"
    assert vars(received) == vars(sent)
    assert all(value is not None for value in vars(received).values())


def test_no_properties(channel, queue):
    """A.6 publish: none are invented."""
    publish(channel, queue, "body")
    _, received, _ = get(channel, queue, auto_ack=True)
    assert vars(received) == vars(pika.BasicProperties())


@pytest.mark.parametrize(
    "properties",
    [{"headers": {}}, {"content_type": ""}, {"priority": 0}, {"timestamp": 0}, {"message_id": "x" * 255}],
    ids=["headers", "content_type", "priority", "timestamp", "message_id"],
)
def test_extreme_properties(channel, queue, properties):
    """A.6 publish: present but empty is not the same as absent."""
    publish(channel, queue, "body", **properties)
    _, received, _ = get(channel, queue, auto_ack=True)
    assert vars(received) == vars(pika.BasicProperties(**properties))


HEADERS = {
    "true": True,
    "false": False,
    "int": -(2**31),
    "int max": 2**31 - 1,
    "long": 2**31,
    "long min": -(2**63),
    "long max": 2**63 - 1,
    "decimal": decimal.Decimal("-3.14159"),
    "decimal whole": decimal.Decimal(12),
    "string": "text é 漢字",
    "empty string": "",
    "bytes": b"\x00\xff\xfe",
    "timestamp": datetime.datetime(2026, 2, 28, 12, 30, 15, tzinfo=datetime.UTC),
    "void": None,
    "array": [1, "two", [3, [b"four"]], {"five": [None, True]}],
    "empty array": [],
    "table": {"a": {"b": {"c": {"d": [{"e": 1}, {"f": None}]}}}},
    "empty table": {},
    "": "a key may be empty",
}


@pytest.mark.parametrize("key", HEADERS, ids=repr)
def test_header_types(channel, queue, key):
    """A1.8: each kind of field pika can send comes back with its type."""
    publish(channel, queue, "body", headers={key: HEADERS[key]})
    received = get(channel, queue, auto_ack=True)[1].headers
    assert received == {key: HEADERS[key]}
    assert type(received[key]) is type(pika.data.decode_value(encoded(HEADERS[key]), 0)[0])


def encoded(value):
    """`value` as pika puts it into a table."""
    pieces = []
    pika.data.encode_value(pieces, value)
    return b"".join(pieces)


def test_headers_all_at_once(channel, queue):
    """A1.8: a table of everything keeps its order too."""
    publish(channel, queue, "body", headers=HEADERS)
    received = get(channel, queue, auto_ack=True)[1].headers
    assert received == HEADERS
    assert list(received) == list(HEADERS)


def test_large_headers(channel, queue):
    """A1.8: eight thousand headers, which is not far below the frame's limit."""
    headers = {f"h{index}": index for index in range(8000)}
    publish(channel, queue, "body", headers=headers)
    assert get(channel, queue, auto_ack=True)[1].headers == headers


def test_deeply_nested_headers(channel, queue):
    """A1.8: as deep as anyone would go."""
    headers = {"bottom": True}
    for _ in range(20):
        headers = {"table": headers, "array": [[[]]]}
    publish(channel, queue, "body", headers=headers)
    assert get(channel, queue, auto_ack=True)[1].headers == headers


@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 255, 4096, *(FRAME_MAX + edge for edge in (-9, -8, -7, -1, 0, 1)), 2 * (FRAME_MAX - 8), 1_048_576],
)
def test_body_sizes(channel, connection, queue, size):
    """A1.3, A1.10: bodies around the edges of frames come back whole, by get and by consume."""
    body = bytes(index * 7 % 256 for index in range(256)) * (size // 256 + 1)
    body = body[:size]
    received = []
    consumer = connection.channel()
    for _ in range(2):
        channel.basic_publish("", queue, body)
    assert channel.basic_get(queue, auto_ack=True)[2] == body
    consumer.basic_consume(queue, lambda *delivery: received.append(delivery[3]), auto_ack=True)
    wait_until(connection, lambda: received)
    assert received == [body]


def test_thousands_of_messages_in_order(channel, connection, queue):
    """A.9: first in, first out, nothing lost and nothing doubled, while both sides run at once."""
    total = 10_000
    inbox = Inbox(connection.channel(), queue, auto_ack=True)
    for number in range(total):
        publish(channel, queue, str(number))
    wait_until(connection, lambda: len(inbox.deliveries) >= total)
    assert inbox.bodies == [str(number) for number in range(total)]
    assert inbox.tags == list(range(1, total + 1))
    assert not any(inbox.redelivered)


def test_mandatory_without_a_route(channel, connection):
    """A.6 return: the whole message comes back, with 312 and the bare name."""
    returned = []
    channel.add_on_return_callback(lambda *back: returned.append(back))
    sent = pika.BasicProperties(headers={"key": [1]}, message_id="id-1")
    channel.basic_publish("amq.direct", "no such key", b"body" * 50_000, sent, mandatory=True)
    wait_until(connection, lambda: returned)
    ((_, method, properties, body),) = returned
    assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE")
    assert (method.exchange, method.routing_key) == ("amq.direct", "no such key")
    assert (vars(properties), body) == (vars(sent), b"body" * 50_000)


def test_mandatory_with_a_route(channel, connection, queue):
    """A.6 return: nothing comes back, and without mandatory never."""
    returned = []
    channel.add_on_return_callback(lambda *back: returned.append(back))
    channel.basic_publish("", queue, b"routed", mandatory=True)
    channel.basic_publish("amq.direct", "no such key", b"dropped")
    round_trip(connection)
    connection.process_data_events(time_limit=0)
    assert returned == []
    assert drain(channel, queue) == ["routed"]


def test_confirms(channel, queue):
    """A.7: an acked publish is in the queue, and so is an unroutable one without mandatory acked."""
    channel.confirm_delivery()
    for number in range(200):
        publish(channel, queue, str(number))
        assert number % 50 or counts(channel, queue)[0] == number + 1
    channel.basic_publish("amq.direct", "no such key", b"dropped")
    assert drain(channel, queue) == [str(number) for number in range(200)]


def test_unroutable_in_confirm_mode(channel, queue):
    """A.6, A.7: the return comes before the confirm, which is an ack: pika reports UnroutableError, not NackError."""
    channel.confirm_delivery()
    for body in (b"first", b"second"):
        with pytest.raises(pika.exceptions.UnroutableError) as failure:
            channel.basic_publish("amq.direct", "no such key", body, mandatory=True)
        (message,) = failure.value.messages
        assert (message.method.reply_code, message.method.reply_text, message.body) == (312, "NO_ROUTE", body)
        channel.basic_publish("", queue, body, mandatory=True)
    assert drain(channel, queue) == ["first", "second"]


def test_full_queue_nacks(channel, name):
    """A.7: a queue that rejects the publish turns its confirm into a nack, though another queue took the message."""
    full, roomy, exchange = name("full"), name("roomy"), name("exchange")
    channel.queue_declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_declare(roomy)
    channel.exchange_declare(exchange, "fanout")
    for queue in (full, roomy):
        channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "", b"a")
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish(exchange, "", b"b")
    assert (drain(channel, full), drain(channel, roomy)) == (["a"], ["a", "b"])


def test_confirm_select_twice(channel, queue):
    """A.7: idempotent."""
    channel.confirm_delivery()
    channel._impl.confirm_delivery(lambda _: None, callback=None)
    publish(channel, queue, "a")
    assert drain(channel, queue) == ["a"]


def test_no_confirm_select_on_a_transactional_channel(channel):
    """A.7: one or the other."""
    channel.tx_select()
    with channel_refused(channel, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        channel.confirm_delivery()


@pytest.mark.parametrize(
    "expiration, complaint",
    [
        ("5s", '{leftover_string,"s"}'),
        ("1.5", '{leftover_string,".5"}'),
        (" 5", "no_integer"),
        ("", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_invalid_expiration(channel, queue, expiration, complaint):
    """A.6 publish: 406 with RabbitMQ's Erlang term."""
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': {complaint}"):
        publish(channel, queue, "lost", expiration=expiration)


@pytest.mark.parametrize("expiration", ["0", "1", "4294967296"])
def test_expiration_reaches_a_waiting_consumer(channel, connection, queue, expiration):
    """A.9, A.10: whatever the expiration, a consumer that waits gets the message."""
    inbox = Inbox(connection.channel(), queue, auto_ack=True)
    publish(channel, queue, "now or never", expiration=expiration)
    assert inbox.wait(1).bodies == ["now or never"]
    assert inbox.deliveries[0][1].expiration == expiration


def test_user_id_must_be_ones_own(channel, queue):
    """A.6 publish: 406 for another's."""
    publish(channel, queue, "a", user_id="guest")
    text = "PRECONDITION_FAILED - user_id property set to 'someone' but authenticated user was 'guest'"
    with channel_refused(channel, 406, text):
        publish(channel, queue, "b", user_id="someone")


def test_a_refused_publish_is_not_confirmed(channel, connection, queue, name):
    """A.6 publish: what went before it is in the queue, it and what follows is not."""
    exchange = name("missing")
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.confirm_delivery()
        publish(channel, queue, "before")
        channel.basic_publish(exchange, "key", b"refused")
        publish(channel, queue, "after")
    assert drain(connection.channel(), queue) == ["before"]


def test_sender_selected_distribution(channel, name):
    """A.8 CC/BCC: further routing keys; CC stays in the headers, BCC does not, and nobody gets two copies."""
    to, cc, bcc, both = (name(noun) for noun in ("to", "cc", "bcc", "both"))
    for queue in (to, cc, bcc, both):
        channel.queue_declare(queue)
    headers = {"CC": [cc, both, cc], "BCC": [bcc, both], "other": 1}
    publish(channel, to, "letter", headers=headers)
    for queue in (to, cc, bcc, both):
        method, properties, body = get(channel, queue, auto_ack=True)
        assert body == "letter"
        assert method.routing_key == to
        assert properties.headers == {"CC": [cc, both, cc], "other": 1}
        assert drain(channel, queue) == []


def test_carbon_copies_through_an_exchange(channel, queue, name):
    """A.8 CC/BCC: the keys go through the same exchange; a copy suffices for mandatory."""
    exchange = name()
    channel.exchange_declare(exchange, "topic")
    channel.queue_bind(queue, exchange, "a.*")
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={"BCC": ["a.b"]})
    channel.basic_publish(exchange, "nowhere", b"copy", properties, mandatory=True)
    assert get(channel, queue, auto_ack=True)[1].headers == {}
    with pytest.raises(pika.exceptions.UnroutableError) as failure:
        channel.basic_publish(
            exchange, "nowhere", b"", pika.BasicProperties(headers={"BCC": ["b.b"], "CC": ["c"]}), mandatory=True
        )
    assert failure.value.messages[0].properties.headers == {"CC": ["c"]}


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_carbon_copies_must_be_an_array(channel, queue, header):
    """A.8 CC/BCC: 406 for anything else."""
    text = f'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"{header}",longstr}}'
    with channel_refused(channel, 406, text):
        publish(channel, queue, "lost", headers={header: "not an array"})


def test_persistent_and_transient(channel, name):
    """A.6 publish: both modes go to durable and transient queues alike."""
    for durable in (False, True):
        queue = name(f"durable {durable}")
        channel.queue_declare(queue, durable=durable)
        for mode in (1, 2):
            publish(channel, queue, str(mode), delivery_mode=mode)
        assert [get(channel, queue, auto_ack=True)[1].delivery_mode for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("mode", [0, 9])
def test_invalid_delivery_mode(channel, queue, mode):
    """A.10: 406."""
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - invalid message: {{delivery_mode_unknown,{mode}}}"):
        properties = pika.BasicProperties()
        properties.delivery_mode = mode
        channel.basic_publish("", queue, b"lost", properties)


def test_longest_routing_key(channel, queue):
    """A1.7: 255 bytes."""
    key = "k" * 255
    channel.queue_bind(queue, "amq.direct", key)
    channel.basic_publish("amq.direct", key, b"a")
    assert get(channel, queue, auto_ack=True)[0].routing_key == key


def test_many_queues_one_publish(channel, name):
    """A.9: one publish to a hundred queues reaches each exactly once."""
    exchange = name("exchange")
    channel.exchange_declare(exchange, "fanout")
    queues = [channel.queue_declare(name(f"q{index}")).method.queue for index in range(100)]
    for queue in queues:
        channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "any", b"to all")
    for queue in queues:
        assert drain(channel, queue) == ["to all"]
