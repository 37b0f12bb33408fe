"""Exchange types beyond AMQP's own, with pika, and deduplication.

RabbitMQ has those that are not marked as deviations in plugins that it ships, to be enabled first:
rabbitmq_consistent_hash_exchange, rabbitmq_random_exchange, rabbitmq_recent_history_exchange, and rabbitmq_sharding for
x-modulus-hash.
"""

import contextlib
import time

import pika
import pytest

from support import (
    Inbox,
    await_ready,
    channel_refused,
    counts,
    deaths,
    declare,
    drain,
    elapse,
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

DELAYED = "RabbitMQ has this in a plugin that it does not ship: rabbitmq_delayed_message_exchange"
DEDUPLICATED = "RabbitMQ has this in a plugin that it does not ship: rabbitmq_message_deduplication"


@pytest.fixture
def exchange(channel, name):
    """Declares an exchange of a type with arguments, `exchange("x-random")`, and returns its name."""

    def declare_exchange(kind, **arguments):
        given = name(kind)
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        channel.exchange_declare(given, kind, arguments=arguments)
        return given

    return declare_exchange


def bind_new(channel, name, exchange, *keys):
    """A new queue bound to `exchange` for each key."""
    queues = [declare(channel, name(f"bound-{number}")) for number in range(len(keys))]
    for queue, key in zip(queues, keys):
        channel.queue_bind(queue, exchange, key)
    return queues


def share(channel, queues, total):
    """How many messages each queue has got when it is `total` of them all; the queues are empty then."""

    def ready():
        return [counts(channel, queue)[0] for queue in queues]

    wait_until(channel.connection, lambda: sum(ready()) >= total)
    shares = ready()
    assert sum(shares) == total
    for queue in queues:
        channel.queue_purge(queue)
    return shares


# x-consistent-hash


def test_b4_consistent_hash_by_routing_key(channel, name, exchange):
    """B.4 x-consistent-hash: the routing key decides, and the same one always does the same."""
    hashing = exchange("x-consistent-hash")
    queues = bind_new(channel, name, hashing, "1", "1", "1")
    for _ in range(3):
        for number in range(100):
            channel.basic_publish(hashing, f"key-{number}", str(number).encode())
    wait_until(channel.connection, lambda: sum(counts(channel, queue)[0] for queue in queues) == 300)
    contents = [drain(channel, queue) for queue in queues]
    assert all(len(bodies) == 3 * len(set(bodies)) > 0 for bodies in contents)
    assert sum(len(set(bodies)) for bodies in contents) == 100


def test_b4_consistent_hash_by_weight(channel, name, exchange):
    """B.4 x-consistent-hash: the binding key is a weight."""
    hashing = exchange("x-consistent-hash")
    queues = bind_new(channel, name, hashing, "1", "2", "5")
    for number in range(4000):
        channel.basic_publish(hashing, f"key-{number}", b"")
    for part, weight in zip(share(channel, queues, 4000), [1, 2, 5]):
        assert 0.7 * weight < part / 500 < 1.3 * weight


@pytest.mark.parametrize(
    "arguments, property_of",
    [
        ({"hash_header": "hash-on"}, lambda value: {"headers": {"hash-on": value}}),
        ({"hash_property": "message_id"}, lambda value: {"message_id": value}),
        ({"hash_property": "correlation_id"}, lambda value: {"correlation_id": value}),
        ({"hash_property": "timestamp"}, lambda value: {"timestamp": int(value)}),
    ],
    ids=["header", "message_id", "correlation_id", "timestamp"],
)
def test_b4_consistent_hash_by_something_else(channel, name, exchange, arguments, property_of):
    """B.4 hash-header, hash-property: they decide and the routing key does not; without one all go the same way."""
    hashing = exchange("x-consistent-hash", **arguments)
    queues = bind_new(channel, name, hashing, "1", "1", "1")
    for number in range(300):
        channel.basic_publish(hashing, "key", b"", pika.BasicProperties(**property_of(str(number))))
    assert all(40 < part < 180 for part in share(channel, queues, 300))
    for number in range(100):
        channel.basic_publish(hashing, f"key-{number}", b"", pika.BasicProperties(**property_of("7")))
    assert sorted(share(channel, queues, 100)) == [0, 0, 100]
    for number in range(100):
        channel.basic_publish(hashing, f"key-{number}", b"")
    assert sorted(share(channel, queues, 100)) == [0, 0, 100]


def test_b4_consistent_hash_moves_little(channel, name, exchange):
    """B.4 x-consistent-hash: when a queue comes, keys go to it and to no other; when it goes, they come back."""
    hashing = exchange("x-consistent-hash")
    queues = bind_new(channel, name, hashing, "1", "1", "1")

    def places():
        for number in range(300):
            channel.basic_publish(hashing, f"key-{number}", str(number).encode())
        wait_until(channel.connection, lambda: sum(counts(channel, queue)[0] for queue in queues) == 300)
        return {body: queue for queue in queues for body in drain(channel, queue)}

    before = places()
    queues += bind_new(channel, lambda _: name("another"), hashing, "1")
    during = places()
    moved = [body for body in before if before[body] != during[body]]
    assert 30 < len(moved) < 150
    assert {during[body] for body in moved} == {queues[-1]}
    channel.queue_unbind(queues[-1], hashing, "1")
    assert places() == before


def test_b4_consistent_hash_without_queues(channel, name, exchange):
    """B.4 x-consistent-hash: nobody to choose from is no route."""
    hashing = exchange("x-consistent-hash")
    (queue,) = bind_new(channel, name, hashing, "1")
    channel.queue_unbind(queue, hashing, "1")
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(hashing, "key", b"a", mandatory=True)


def test_b4_consistent_hash_to_exchanges(channel, name, exchange):
    """B.4 x-consistent-hash: an exchange may be what is chosen."""
    hashing = exchange("x-consistent-hash")
    fanouts = [name(f"fanout-{number}") for number in range(2)]
    queues = []
    for fanout in fanouts:
        channel.exchange_declare(fanout, "fanout")
        channel.exchange_bind(fanout, hashing, "1")
        queues.append(declare(channel, name(f"of-{fanout}")))
        channel.queue_bind(queues[-1], fanout)
    for number in range(200):
        channel.basic_publish(hashing, f"key-{number}", b"")
    assert all(part > 40 for part in share(channel, queues, 200))


@pytest.mark.parametrize(
    "key, complaint",
    [
        ("0", "must be greater than 0"),
        ("-1", "must be greater than 0"),
        ("heavy", 'must be an integer: <<"heavy">>'),
        ("1.5", 'must be an integer: <<"1.5">>'),
        (" 1", 'must be an integer: <<" 1">>'),
        ("", "must be an integer: <<>>"),
    ],
)
def test_b4_consistent_hash_with_a_bad_weight(channel, name, exchange, key, complaint):
    """B.4 x-consistent-hash: 406."""
    hashing = exchange("x-consistent-hash")
    queue = declare(channel, name("queue"))
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - The binding key {complaint}"):
        channel.queue_bind(queue, hashing, key)


@pytest.mark.deviation("RabbitMQ 3.10.8 has no upper limit, and a very large weight takes all memory there is")
@pytest.mark.parametrize("key", ["10001", "2147483648"])
def test_b4_consistent_hash_with_a_large_weight(channel, name, exchange, key):
    """B.4 x-consistent-hash: 406 above 10000, as in later versions."""
    hashing = exchange("x-consistent-hash")
    queue = declare(channel, name("queue"))
    channel.queue_bind(queue, hashing, "10000")
    channel.queue_unbind(queue, hashing, "10000")
    with channel_refused(channel, 406, "PRECONDITION_FAILED - The binding key must not exceed 10000"):
        channel.queue_bind(queue, hashing, key)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"hash_property": "app_id"}, "Unsupported property: app_id"),
        (
            {"hash_header": "h", "hash_property": "message_id"},
            "hash-header and hash-property are mutually exclusive",
        ),
    ],
    ids=["property", "both"],
)
def test_b4_consistent_hash_with_bad_arguments(channel, exchange, arguments, complaint):
    """B.4 x-consistent-hash: 406."""
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {complaint}"):
        exchange("x-consistent-hash", **arguments)


def test_b4_consistent_hash_first_weight_holds(channel, name, exchange):
    """B.4 x-consistent-hash: a queue has one weight; a second binding is accepted without effect."""
    hashing = exchange("x-consistent-hash")
    queues = bind_new(channel, name, hashing, "1", "1")
    channel.queue_bind(queues[0], hashing, "50")
    for number in range(600):
        channel.basic_publish(hashing, f"key-{number}", b"")
    assert all(part > 150 for part in share(channel, queues, 600))


# x-modulus-hash, x-random, x-local-random


def test_b4_modulus_hash(channel, name, exchange):
    """B.4 x-modulus-hash: the binding key is ignored; a routing key always leads to the same queue."""
    hashing = exchange("x-modulus-hash")
    queues = bind_new(channel, name, hashing, "", "a", "b")
    for number in range(300):
        channel.basic_publish(hashing, f"key-{number}", b"")
    assert all(part > 50 for part in share(channel, queues, 300))
    for _ in range(50):
        channel.basic_publish(hashing, "key", b"")
    assert sorted(share(channel, queues, 50)) == [0, 0, 50]


def test_b4_random(channel, name, exchange):
    """B.4 x-random: each message goes to one of the queues, whatever the keys."""
    random = exchange("x-random")
    queues = bind_new(channel, name, random, "", "a", "b")
    for _ in range(600):
        channel.basic_publish(random, "key", b"")
    assert all(part > 120 for part in share(channel, queues, 600))


def test_b4_random_without_queues(channel, exchange):
    """B.4 x-random: nobody to choose from is no route."""
    random = exchange("x-random")
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(random, "key", b"a", mandatory=True)


LOCAL_RANDOM = "RabbitMQ has x-local-random since 4.0"


@pytest.mark.deviation(LOCAL_RANDOM)
def test_b4_local_random(channel, name, exchange):
    """B.4 x-local-random: one of the queues that are on the node of the publisher; here all of them are."""
    random = exchange("x-local-random")
    queues = bind_new(channel, name, random, "", "", "")
    for number in range(600):
        channel.basic_publish(random, f"key-{number}", b"")
    assert all(part > 120 for part in share(channel, queues, 600))


@pytest.mark.deviation(LOCAL_RANDOM)
def test_b4_local_random_with_a_key(channel, name, exchange):
    """B.4 x-local-random: 406 for any binding key but the empty one."""
    random = exchange("x-local-random")
    queue = declare(channel, name("queue"))
    with channel_refused(channel, 406, "PRECONDITION_FAILED - Non empty binding 'key' key not permitted"):
        channel.queue_bind(queue, random, "key")


# x-recent-history


def publish_numbers(channel, exchange, count, **properties):
    """Publishes the numbers from 0 on, each with itself as the routing key."""
    for number in range(count):
        channel.basic_publish(exchange, f"key-{number}", str(number), pika.BasicProperties(**properties))


def test_b4_recent_history(channel, name, exchange):
    """B.4 x-recent-history: who binds gets the last 20, oldest first, as they were published, and all that follow."""
    history = exchange("x-recent-history")
    publish_numbers(channel, history, 25, headers={"mine": 1}, delivery_mode=2)
    (queue,) = bind_new(channel, name, history, "whatever")
    for number in range(5, 25):
        method, properties, body = receive(channel, queue)
        assert (method.exchange, method.routing_key, body) == (history, f"key-{number}", str(number))
        assert (properties.headers, properties.delivery_mode) == ({"mine": 1}, 2)
    channel.basic_publish(history, "other", b"new")
    assert receive_bodies(channel, queue, 1) == ["new"]


def test_b4_recent_history_of_another_length(channel, name, exchange):
    """B.4 x-recent-history-length."""
    history = exchange("x-recent-history", x_recent_history_length=3)
    publish_numbers(channel, history, 5)
    (queue,) = bind_new(channel, name, history, "")
    await_ready(channel, queue, 3)
    assert receive_bodies(channel, queue, 3) == ["2", "3", "4"]


def test_b4_recent_history_once_for_each_binding(channel, name, exchange):
    """B.4 x-recent-history: the same binding again is nothing new, another one of the same queue is."""
    history = exchange("x-recent-history")
    publish_numbers(channel, history, 2)
    (queue,) = bind_new(channel, name, history, "one")
    assert receive_bodies(channel, queue, 2) == ["0", "1"]
    channel.queue_bind(queue, history, "one")
    elapse(channel, 50)
    assert drain(channel, queue) == []
    channel.queue_bind(queue, history, "two")
    await_ready(channel, queue, 2)
    assert receive_bodies(channel, queue, 2) == ["0", "1"]
    channel.basic_publish(history, "", b"2")
    assert receive_bodies(channel, queue, 1) == ["2"]


def test_b4_recent_history_through_an_exchange(channel, name, exchange):
    """B.4 x-recent-history: an exchange that is bound hands the past on to its queues, in no certain order."""
    history, fanout = exchange("x-recent-history"), name("fanout")
    publish_numbers(channel, history, 2)
    channel.exchange_declare(fanout, "fanout")
    (queue,) = bind_new(channel, name, fanout, "")
    channel.exchange_bind(fanout, history)
    assert sorted(receive_bodies(channel, queue, 2)) == ["0", "1"]


@pytest.mark.parametrize("value, stored", [(True, False), (False, True), ("true", True), (1, True)], ids=str)
def test_b4_recent_history_that_is_not_stored(channel, name, exchange, value, stored):
    """B.2 x-recent-history-no-store: true, and nothing else, keeps a message out of the past, not out of the queues."""
    history = exchange("x-recent-history")
    (present,) = bind_new(channel, name, history, "")
    publish_numbers(channel, history, 1, headers={"x-recent-history-no-store": value})
    assert receive_bodies(channel, present, 1) == ["0"]
    late = declare(channel, name("late"))
    channel.queue_bind(late, history)
    elapse(channel, 50)
    assert drain(channel, late) == (["0"] if stored else [])


@pytest.mark.parametrize("length, shown", [(0, "0"), (-1, "-1"), ("5", '<<"5">>'), (True, "true"), (None, "undefined")])
def test_b4_recent_history_of_a_bad_length(channel, exchange, length, shown):
    """B.4 x-recent-history-length: 406 with RabbitMQ's Erlang term."""
    text = f"Invalid argument {shown}, 'x-recent-history-length' must be a positive integer"
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {text}"):
        exchange("x-recent-history", x_recent_history_length=length)


def test_b4_recent_history_without_queues(channel, name, exchange):
    """B.4 x-recent-history: it is no route for mandatory, though it is remembered."""
    history = exchange("x-recent-history")
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(history, "key", b"a", mandatory=True)
    (queue,) = bind_new(channel, name, history, "")
    assert receive_bodies(channel, queue, 1) == ["a"]


# x-delayed-message


def publish_delayed(channel, exchange, key, *delays):
    """Publishes a message for each delay in milliseconds, which is its body, too."""
    for delay in delays:
        channel.basic_publish(exchange, key, str(delay), pika.BasicProperties(headers={"x-delay": delay}))


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_message(channel, name, exchange):
    """B.4 x-delayed-message: it comes after its delay, which is negative then; headers and properties stay."""
    delayed = exchange("x-delayed-message", x_delayed_type="direct")
    (queue,) = bind_new(channel, name, delayed, "key")
    start = time.monotonic()
    headers = {"x-delay": 200, "mine": "kept"}
    channel.basic_publish(delayed, "key", b"a", pika.BasicProperties(headers=headers, message_id="m", delivery_mode=2))
    elapse(channel, 100)
    assert drain(channel, queue) == []
    method, properties, body = receive(channel, queue)
    assert time.monotonic() - start >= 0.2
    assert (method.exchange, method.routing_key, method.redelivered, body) == (delayed, "key", False, "a")
    assert properties.headers == {"x-delay": -200, "mine": "kept"}
    assert (properties.message_id, properties.delivery_mode) == ("m", 2)


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_messages_come_when_they_are_due(channel, name, exchange):
    """B.4 x-delayed-message: in the order of their time, and in that of their publish for the same time."""
    delayed = exchange("x-delayed-message", x_delayed_type="fanout")
    (queue,) = bind_new(channel, name, delayed, "")
    publish_delayed(channel, delayed, "", 300, 100, 200)
    assert receive_bodies(channel, queue, 3) == ["100", "200", "300"]


@pytest.mark.deviation(DELAYED)
@pytest.mark.parametrize("headers", [None, {}, {"x-delay": 0}, {"x-delay": -200}], ids=str)
def test_b4_messages_without_a_delay(channel, name, exchange, headers):
    """B.4 x-delayed-message: no delay, none that is positive, or one that was spent: routed at once."""
    delayed = exchange("x-delayed-message", x_delayed_type="direct")
    (queue,) = bind_new(channel, name, delayed, "key")
    channel.confirm_delivery()
    channel.basic_publish(delayed, "key", b"a", pika.BasicProperties(headers=headers), mandatory=True)
    assert drain(channel, queue) == ["a"]


@pytest.mark.deviation(DELAYED)
@pytest.mark.parametrize(
    "kind, binding, arguments, matching, other",
    [
        ("direct", "a", None, "a", "b"),
        ("topic", "a.*.c", None, "a.b.c", "a.b"),
        ("headers", "", {"x-match": "all", "kind": "order"}, "order", "invoice"),
    ],
)
def test_b4_delayed_messages_are_routed_as_their_type_says(
    channel, name, exchange, kind, binding, arguments, matching, other
):
    """B.4 x-delayed-type: the other half of what the exchange is."""
    delayed = exchange("x-delayed-message", x_delayed_type=kind)
    queue = declare(channel, name("queue"))
    channel.queue_bind(queue, delayed, binding, arguments)
    for key in (other, matching):
        channel.basic_publish(delayed, key, key, pika.BasicProperties(headers={"x-delay": 50, "kind": key}))
    assert receive_bodies(channel, queue, 1) == [matching]


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_messages_are_routed_when_they_are_due(channel, name, exchange):
    """B.4 x-delayed-message: by the bindings of then."""
    delayed = exchange("x-delayed-message", x_delayed_type="direct")
    (early,) = bind_new(channel, name, delayed, "key")
    publish_delayed(channel, delayed, "key", 150)
    channel.queue_unbind(early, delayed, "key")
    late = declare(channel, name("late"))
    channel.queue_bind(late, delayed, "key")
    assert receive_bodies(channel, late, 1) == ["150"]
    assert drain(channel, early) == []


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_messages_and_confirms(channel, exchange):
    """B.4 x-delayed-message: acked when they are accepted; mandatory has nothing to say about what is delayed."""
    delayed = exchange("x-delayed-message", x_delayed_type="direct")
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={"x-delay": 60_000})
    channel.basic_publish(delayed, "nobody", b"a", properties, mandatory=True)
    with contextlib.suppress(pika.exceptions.UnroutableError):
        channel.basic_publish(delayed, "nobody", b"b", mandatory=True)


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_messages_go_with_their_exchange(channel, name, exchange):
    """B.4 x-delayed-message: what was still waiting when the exchange was deleted does not come."""
    delayed = exchange("x-delayed-message", x_delayed_type="fanout")
    (queue,) = bind_new(channel, name, delayed, "")
    publish_delayed(channel, delayed, "", 100)
    channel.exchange_delete(delayed)
    elapse(channel, 200)
    assert drain(channel, queue) == []


@pytest.mark.deviation(DELAYED)
def test_b4_delayed_messages_wait_for_a_consumer(channel, connection, name, exchange):
    """B.4 x-delayed-message: they reach who waits for them, a thousand as well as one."""
    delayed = exchange("x-delayed-message", x_delayed_type="fanout")
    (queue,) = bind_new(channel, name, delayed, "")
    inbox = Inbox(connection.channel(), queue, auto_ack=True)
    publish_delayed(channel, delayed, "", *([100] * 1000))
    assert len(inbox.wait(1000).bodies) == 1000


@pytest.mark.deviation(DELAYED)
@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({}, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        ({"x_delayed_type": 5}, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (
            {"x_delayed_type": "x-delayed-message"},
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ],
    ids=["missing", "integer", "itself"],
)
def test_b4_delayed_message_with_a_bad_type(channel, exchange, arguments, complaint):
    """B.4 x-delayed-type: 406."""
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {complaint}"):
        exchange("x-delayed-message", **arguments)


@pytest.mark.deviation(DELAYED)
def test_b4_redeclare_a_delayed_message_exchange(channel, exchange):
    """A.4: the type within is an argument that must be the same."""
    delayed = exchange("x-delayed-message", x_delayed_type="direct")
    channel.exchange_declare(delayed, "x-delayed-message", arguments={"x-delayed-type": "direct"})
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        channel.exchange_declare(delayed, "direct")
    assert refusal.value.reply_code == 406


# Deduplication


def publish_unique(channel, exchange, key, *values, **headers):
    """Publishes a message with x-deduplication-header for each value, which is its body, too."""
    for value in values:
        properties = pika.BasicProperties(headers={"x-deduplication-header": value, **headers})
        channel.basic_publish(exchange, key, value, properties)


@pytest.mark.deviation(DEDUPLICATED)
def test_b4_deduplicating_exchange(channel, name, exchange):
    """B.4 x-message-deduplication: a fanout that passes each value of the header once."""
    unique = exchange("x-message-deduplication", x_cache_size=100)
    queues = bind_new(channel, name, unique, "", "some key")
    publish_unique(channel, unique, "any", *"abacab")
    for queue in queues:
        assert receive_bodies(channel, queue, 3) == ["a", "b", "c"]
    publish_unique(channel, unique, "any", "a")
    channel.basic_publish(unique, "", b"without")
    channel.basic_publish(unique, "", b"without")
    assert receive_bodies(channel, queues[0], 2) == ["without", "without"]


@pytest.mark.deviation(DEDUPLICATED)
def test_b4_deduplication_for_a_time(channel, name, exchange):
    """B.4 x-cache-ttl: of the exchange, or of the message, in milliseconds; then the value is new again."""
    unique = exchange("x-message-deduplication", x_cache_size=100, x_cache_ttl=100)
    (queue,) = bind_new(channel, name, unique, "")
    publish_unique(channel, unique, "", "short", "short")
    publish_unique(channel, unique, "", "long", "long", **{"x-cache-ttl": 60_000})
    assert receive_bodies(channel, queue, 2) == ["short", "long"]
    elapse(channel, 150)
    publish_unique(channel, unique, "", "short", "long")
    assert receive_bodies(channel, queue, 1) == ["short"]


@pytest.mark.deviation(DEDUPLICATED)
def test_b4_deduplication_of_so_many(channel, name, exchange):
    """B.4 x-cache-size: so many values are remembered, and no more."""
    unique = exchange("x-message-deduplication", x_cache_size=2)
    (queue,) = bind_new(channel, name, unique, "")
    publish_unique(channel, unique, "", *"abcd")
    assert receive_bodies(channel, queue, 4) == ["a", "b", "c", "d"]
    publish_unique(channel, unique, "", *"abcd")
    received = receive(channel, queue)[2]
    assert received in "ab"


@pytest.mark.deviation(DEDUPLICATED)
@pytest.mark.parametrize("arguments", [{}, {"x_cache_size": 0}, {"x_cache_size": "many"}], ids=str)
def test_b4_deduplicating_exchange_with_a_bad_size(channel, exchange, arguments):
    """B.4 x-cache-size: required, and positive: 406."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        exchange("x-message-deduplication", **arguments)
    assert refusal.value.reply_code == 406
    assert "'x-cache-size' must be an integer greater than 0" in refusal.value.reply_text


@pytest.mark.deviation(DEDUPLICATED)
def test_b1_deduplicating_queue(channel, name):
    """B.1 x-message-deduplication: no two messages of one value in the queue at a time."""
    queue = declare(channel, name("queue"), message_deduplication=True)
    publish_unique(channel, "", queue, *"abacab")
    assert receive_bodies(channel, queue, 3) == ["a", "b", "c"]
    publish_unique(channel, "", queue, "a")
    publish(channel, queue, "without", "without")
    assert receive_bodies(channel, queue, 3) == ["a", "without", "without"]


@pytest.mark.deviation(DEDUPLICATED)
def test_b1_deduplicating_queue_confirms(channel, name):
    """B.1 x-message-deduplication: the publisher of a duplicate is told that all is well, for it is."""
    queue = declare(channel, name("queue"), message_deduplication=True)
    channel.confirm_delivery()
    publish_unique(channel, "", queue, "a", "a")
    assert receive_bodies(channel, queue, 1) == ["a"]


@pytest.mark.deviation(DEDUPLICATED)
def test_b1_deduplicating_queue_forgets_the_dead(channel, name, dead):
    """B.1 x-message-deduplication: what has expired is not in the queue any more."""
    queue = declare(channel, name("queue"), message_deduplication=True, message_ttl=50, **to(dead))
    for _ in range(2):
        publish_unique(channel, "", queue, "a")
        _, properties, body = receive(channel, dead)
        assert (body, deaths(properties)) == ("a", [(queue, "expired", 1)])
