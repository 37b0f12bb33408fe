"""Limits of queues with pika: x-max-length, x-max-length-bytes, x-overflow, x-delivery-limit."""

import pika
import pytest

from support import (
    Inbox,
    await_ready,
    counts,
    deaths,
    declare,
    drain,
    each_queue_type,
    elapse,
    get,
    is_confirmed,
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

LIMITS = [({"max_length": 2}, "length"), ({"max_length_bytes": 20}, "bytes")]
BODIES = [f"message {number}" for number in range(5)]
"""Nine octets each, so that two fit into either limit."""

each_limit = pytest.mark.parametrize("limit", [limit for limit, _ in LIMITS], ids=[title for _, title in LIMITS])
each_refusal = pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])


@pytest.fixture
def publisher(connection):
    """A channel in confirm mode, of the connection that `channel` is of."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


# New publish, dead-letter exchange or none


@each_queue_type
@each_limit
@pytest.mark.parametrize("overflow", [{}, {"overflow": "drop-head"}], ids=["default", "drop-head"])
def test_b3_drop_head(channel, publisher, name, dead, queue_type, limit, overflow):
    """B.3 drop-head: the oldest ready messages are dead-lettered in order, and every publish is acked."""
    queue = declare(channel, name("source"), queue_type, **limit, **overflow, **to(dead))
    assert all(is_confirmed(publisher, "", queue, body) for body in BODIES)
    await_ready(channel, queue, 2)
    assert receive_bodies(channel, dead, 3) == BODIES[:3]
    assert receive_bodies(channel, queue, 2) == BODIES[3:]


@each_queue_type
@each_limit
def test_b3_drop_head_without_a_dead_letter_exchange(channel, publisher, name, queue_type, limit):
    """B.3 drop-head: they are gone."""
    queue = declare(channel, name("source"), queue_type, **limit)
    assert all(is_confirmed(publisher, "", queue, body) for body in BODIES)
    await_ready(channel, queue, 2)
    assert receive_bodies(channel, queue, 2) == BODIES[3:]


@each_limit
@each_refusal
def test_b3_reject_publish(channel, publisher, name, limit, overflow):
    """B.3: without a dead-letter exchange both mean a nack, as long as the queue is full."""
    queue = declare(channel, name("source"), overflow=overflow, **limit)
    assert [is_confirmed(publisher, "", queue, body) for body in BODIES] == [True, True, False, False, False]
    assert get(channel, queue, auto_ack=True)[2] == BODIES[0]
    assert [is_confirmed(publisher, "", queue, body) for body in BODIES] == [True, False, False, False, False]
    assert drain(channel, queue) == [BODIES[1], BODIES[0]]


@each_limit
def test_b3_reject_publish_does_not_dead_letter(channel, publisher, name, dead, limit):
    """B.3 reject-publish: what is refused is the publisher's affair."""
    queue = declare(channel, name("source"), overflow="reject-publish", **limit, **to(dead))
    assert [is_confirmed(publisher, "", queue, body) for body in BODIES] == [True, True, False, False, False]
    elapse(channel, 50)
    assert drain(channel, dead) == []


@each_limit
def test_b3_reject_publish_dlx(channel, publisher, name, dead, limit):
    """B.3 reject-publish-dlx: the new message is refused and dead-lettered, reason maxlen."""
    queue = declare(channel, name("source"), overflow="reject-publish-dlx", **limit, **to(dead))
    assert [is_confirmed(publisher, "", queue, body) for body in BODIES] == [True, True, False, False, False]
    for body in BODIES[2:]:
        _, properties, received = receive(channel, dead)
        assert (received, deaths(properties)) == (body, [(queue, "maxlen", 1)])
    assert drain(channel, queue) == BODIES[:2]


def test_b3_reject_publish_dlx_is_no_return(channel, name, dead):
    """B.3: the publish was routed, so mandatory has nothing to say; x-death has its exchange, keys and expiration."""
    exchange, queue = name("exchange"), name("source")
    channel.exchange_declare(exchange, "topic")
    declare(channel, queue, overflow="reject-publish-dlx", max_length=0, **to(dead))
    channel.queue_bind(queue, exchange, "a.*")
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={"CC": ["a.c"], "BCC": ["a.d"]}, expiration="60000")
    with pytest.raises(pika.exceptions.NackError) as refusal:
        channel.basic_publish(exchange, "a.b", b"a", properties, mandatory=True)
    assert refusal.value.messages == []
    _, received, _ = receive(channel, dead)
    (entry,) = received.headers["x-death"]
    assert (entry["exchange"], entry["routing-keys"]) == (exchange, ["a.b", "a.c"])
    assert (entry["original-expiration"], received.expiration) == ("60000", None)


def test_b3_quorum_reject_publish(channel, publisher, name, dead):
    """B.3: a quorum queue may take a few too many, then it nacks until there is room; nothing is dead-lettered."""
    queue = declare(channel, name("source"), "quorum", max_length=2, overflow="reject-publish", **to(dead))
    answers = [is_confirmed(publisher, "", queue, str(number)) for number in range(10)]
    assert answers[:2] == [True, True]
    assert answers[4:] == [False] * 6
    while counts(channel, queue)[0] > 0:
        get(channel, queue, auto_ack=True)
    wait_until(channel.connection, lambda: is_confirmed(publisher, "", queue, "again"))
    assert drain(channel, dead) == []


def test_b3_quorum_reject_publish_dlx(channel, publisher, name, dead):
    """B.3: not for a quorum queue, which falls back to drop-head."""
    queue = declare(channel, name("source"), "quorum", max_length=1, overflow="reject-publish-dlx", **to(dead))
    assert all(is_confirmed(publisher, "", queue, body) for body in "abc")
    assert receive_bodies(channel, dead, 2) == ["a", "b"]


# Extremes


@each_queue_type
def test_b3_message_larger_than_the_queue(channel, publisher, name, dead, queue_type):
    """B.3 drop-head: it is acked and dropped at once, and takes everything before it along.

    A quorum queue of RabbitMQ turns the order of what it drops at once around.
    """
    queue = declare(channel, name("source"), queue_type, max_length_bytes=10, **to(dead))
    assert is_confirmed(publisher, "", queue, "small")
    assert is_confirmed(publisher, "", queue, "larger than the queue")
    assert sorted(receive_bodies(channel, dead, 2)) == ["larger than the queue", "small"]
    assert is_confirmed(publisher, "", queue, "fits")
    assert receive_bodies(channel, queue, 1) == ["fits"]


@each_refusal
def test_b3_message_larger_than_the_queue_is_refused(channel, publisher, name, overflow):
    """B.3: a nack where publishes are refused."""
    queue = declare(channel, name("source"), max_length_bytes=10, overflow=overflow)
    assert not is_confirmed(publisher, "", queue, "larger than the queue")
    assert is_confirmed(publisher, "", queue, "fits")


@each_queue_type
def test_b3_no_room_at_all(channel, publisher, name, dead, queue_type):
    """B.3 x-max-length=0, drop-head: without a consumer every message dies."""
    queue = declare(channel, name("source"), queue_type, max_length=0, **to(dead))
    assert is_confirmed(publisher, "", queue, "a")
    assert receive_bodies(channel, dead, 1) == ["a"]


def test_b3_no_room_but_a_consumer(channel, publisher, name, dead):
    """B.3 x-max-length=0, drop-head: what a consumer takes at once is delivered."""
    queue = declare(channel, name("source"), max_length=0, **to(dead))
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    assert all(is_confirmed(publisher, "", queue, body) for body in "ab")
    assert receive_bodies(channel, dead, 1) == ["b"]
    assert inbox.wait(1).bodies == ["a"]


@each_refusal
def test_b3_no_room_is_full(channel, publisher, name, overflow):
    """B.3 x-max-length=0: refused, and so it stays when the queue has been asked before."""
    queue = declare(channel, name("source"), max_length=0, overflow=overflow)
    assert [is_confirmed(publisher, "", queue, body) for body in "ab"] == [False, False]
    assert drain(channel, queue) == []


@each_queue_type
def test_b1_only_bodies_have_octets(channel, publisher, name, queue_type):
    """A.9 x-max-length-bytes: properties and headers do not count, nor do empty bodies."""
    queue = declare(channel, name("source"), queue_type, max_length_bytes=10)
    for body in ("", "", "12345", "12345"):
        assert is_confirmed(publisher, "", queue, body, headers={"large": "x" * 1000})
    assert receive_bodies(channel, queue, 4) == ["", "", "12345", "12345"]


@each_queue_type
def test_b1_both_limits(channel, publisher, name, queue_type):
    """B.1: whichever is reached first."""
    queue = declare(channel, name("source"), queue_type, max_length=3, max_length_bytes=10)
    for body in ("a", "b", "c", "d", "123456789"):
        assert is_confirmed(publisher, "", queue, body)
    await_ready(channel, queue, 2)
    assert receive_bodies(channel, queue, 2) == ["d", "123456789"]


# What counts


@each_queue_type
def test_a9_unacknowledged_messages_do_not_count(channel, publisher, name, dead, queue_type):
    """A.9: the limit is on ready messages."""
    queue = declare(channel, name("source"), queue_type, max_length=1, **to(dead))
    for body in "abc":
        assert is_confirmed(publisher, "", queue, body)
        assert receive(channel, queue, auto_ack=False)[2] == body
    assert is_confirmed(publisher, "", queue, "d")
    assert receive_bodies(channel, queue, 1) == ["d"]
    assert drain(channel, dead) == []


@each_refusal
def test_a9_unacknowledged_messages_make_room(channel, publisher, name, overflow):
    """A.9: also where publishes are refused."""
    queue = declare(channel, name("source"), max_length=1, overflow=overflow)
    for body in "abc":
        assert is_confirmed(publisher, "", queue, body)
        get(channel, queue)
    assert is_confirmed(publisher, "", queue, "d")
    assert not is_confirmed(publisher, "", queue, "e")


def test_b3_requeue_over_the_limit_drops_the_head(channel, publisher, name, dead):
    """B.3 requeue: the head is dropped until the queue is within its limit; here that is what came back."""
    queue = declare(channel, name("source"), max_length=2, **to(dead))
    publish(channel, queue, "a", "b")
    tags = [get(channel, queue)[0].delivery_tag for _ in "ab"]
    assert all(is_confirmed(publisher, "", queue, body) for body in "cd")
    channel.basic_nack(tags[-1], multiple=True, requeue=True)
    assert receive_bodies(channel, dead, 2) == ["a", "b"]
    assert receive_bodies(channel, queue, 2) == ["c", "d"]


@each_refusal
def test_b3_requeue_is_never_refused(channel, publisher, name, dead, overflow):
    """B.3 requeue: kept where only publishes are refused, and those are until the queue is below its limit."""
    queue = declare(channel, name("source"), max_length=1, overflow=overflow, **to(dead))
    assert is_confirmed(publisher, "", queue, "a")
    method, _, _ = get(channel, queue)
    assert is_confirmed(publisher, "", queue, "b")
    channel.basic_nack(method.delivery_tag, requeue=True)
    await_ready(channel, queue, 2)
    assert not is_confirmed(publisher, "", queue, "c")
    assert drain(channel, queue) == ["a", "b"]


def test_b3_a_waiting_consumer_keeps_the_queue_from_filling(channel, connection, name, dead):
    """B.3: what is taken at once was never too much."""
    queue = declare(channel, name("source"), max_length=1, **to(dead))
    inbox = Inbox(connection.channel(), queue, auto_ack=True)
    publish(channel, queue, *BODIES)
    assert inbox.wait(5).bodies == BODIES
    assert drain(channel, dead) == []


def test_b3_the_new_one_dies_with_a_full_prefetch(channel, publisher, name, dead):
    """B.3 drop-head: a consumer that has no room leaves the limit as it is."""
    queue = declare(channel, name("source"), max_length=1, **to(dead))
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    assert all(is_confirmed(publisher, "", queue, body) for body in "abc")
    assert receive_bodies(channel, dead, 1) == ["b"]
    channel.basic_ack(inbox.wait(1).tags[0])
    assert inbox.wait(2).bodies == ["a", "c"]


# Several queues


@pytest.mark.parametrize(
    "overflow, confirmed, died",
    [("drop-head", True, ["a"]), ("reject-publish", False, []), ("reject-publish-dlx", False, ["b"])],
)
def test_b3_one_of_several_queues_is_full(channel, name, dead, overflow, confirmed, died):
    """B.3 fan-out: the others keep the message, and one refusal makes a nack."""
    exchange = name("exchange")
    channel.exchange_declare(exchange, "fanout")
    full = declare(channel, name("full"), max_length=1, overflow=overflow, **to(dead))
    roomy = declare(channel, name("roomy"))
    for queue in (full, roomy):
        channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    assert is_confirmed(channel, exchange, "", "a")
    assert is_confirmed(channel, exchange, "", "b") == confirmed
    assert drain(channel, roomy) == ["a", "b"]
    assert receive_bodies(channel, dead, len(died)) == died


@each_refusal
def test_b3_transaction_into_a_full_queue(channel, name, overflow):
    """A.7: 406, for the commit cannot be had as a whole."""
    queue = declare(channel, name("source"), max_length=1, overflow=overflow)
    channel.tx_select()
    publish(channel, queue, "a", "b")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        channel.tx_commit()
    assert (refusal.value.reply_code, refusal.value.reply_text) == (
        406,
        "PRECONDITION_FAILED - partial tx completion",
    )


def test_b3_dead_letters_into_a_full_queue(channel, name, dead):
    """B.3: nobody hears of their refusal: they are gone, or go on where the refusing queue has a DLX."""
    refusing = declare(channel, name("refusing"), max_length=1, overflow="reject-publish", **to(dead))
    forwarding = declare(channel, name("forwarding"), max_length=1, overflow="reject-publish-dlx", **to(dead))
    for target in (refusing, forwarding):
        queue = declare(channel, name(f"to-{target}"), message_ttl=50, **to(target))
        publish(channel, queue, "a", "b")
        await_ready(channel, target, 1)
    _, properties, body = receive(channel, dead)
    assert (body, deaths(properties)[0]) == ("b", (forwarding, "maxlen", 1))
    assert drain(channel, dead) == []


# x-delivery-limit


def fail(channel, queue):
    """Takes the next message and rejects it with requeue; tells its x-delivery-count."""
    method, properties, _ = receive(channel, queue, auto_ack=False)
    channel.basic_reject(method.delivery_tag, requeue=True)
    return properties.headers["x-delivery-count"]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_b1_delivery_limit(channel, name, dead, limit):
    """B.1 x-delivery-limit: after so many failures it is delivered once more, then dead-lettered."""
    queue = declare(channel, name("source"), "quorum", delivery_limit=limit, **to(dead))
    publish(channel, queue, "a")
    assert [fail(channel, queue) for _ in range(limit + 1)] == list(range(limit + 1))
    _, properties, body = receive(channel, dead)
    assert (body, deaths(properties)) == ("a", [(queue, "delivery_limit", 1)])
    assert "x-delivery-count" not in properties.headers
    assert drain(channel, queue) == []


def test_b1_delivery_limit_without_a_dead_letter_exchange(channel, name):
    """B.1 x-delivery-limit: the message is gone, the next one starts from 0."""
    queue = declare(channel, name("source"), "quorum", delivery_limit=1)
    publish(channel, queue, "a")
    fail(channel, queue)
    fail(channel, queue)
    publish(channel, queue, "b")
    _, properties, body = receive(channel, queue)
    assert (body, properties.headers["x-delivery-count"]) == ("b", 0)


def test_b1_lost_channels_and_connections_are_failures(channel, connection, connect, name, dead):
    """B.1 x-delivery-limit: a consumer that goes away without an ack counts."""
    queue = declare(channel, name("source"), "quorum", delivery_limit=2, **to(dead))
    publish(channel, queue, "a")
    worker = connection.channel()
    assert receive(worker, queue, auto_ack=False)[1].headers["x-delivery-count"] == 0
    worker.close()
    other = connect()
    assert receive(other.channel(), queue, auto_ack=False)[1].headers["x-delivery-count"] == 1
    other.close()
    assert receive(channel, queue, auto_ack=False)[1].headers["x-delivery-count"] == 2
    channel.close()
    assert receive(connection.channel(), dead)[2] == "a"


def test_b1_every_delivery_of_a_dead_letter_queue_counts_anew(channel, name):
    """B.1 x-delivery-count: each queue has its own."""
    dead = declare(channel, name("quorum-dead"), "quorum")
    queue = declare(channel, name("source"), "quorum", delivery_limit=0, **to(dead))
    publish(channel, queue, "a")
    fail(channel, queue)
    assert [fail(channel, dead), fail(channel, dead)] == [0, 1]


@pytest.mark.deviation("RabbitMQ 3.10.8 has no limit by default; it is 20 since 4.0")
def test_b1_delivery_limit_by_default(channel, name, dead):
    """0.1: a quorum queue lets a message fail 20 times."""
    queue = declare(channel, name("source"), "quorum", **to(dead))
    publish(channel, queue, "a")
    assert [fail(channel, queue) for _ in range(21)] == list(range(21))
    assert deaths(receive(channel, dead)[1]) == [(queue, "delivery_limit", 1)]


@pytest.mark.deviation("RabbitMQ 3.10.8 knows no way to lift the limit; -1 does it since 4.0")
def test_b1_no_delivery_limit(channel, name, dead):
    """B.1 x-delivery-limit: -1 is none, also not the default."""
    queue = declare(channel, name("source"), "quorum", delivery_limit=-1, **to(dead))
    publish(channel, queue, "a")
    assert [fail(channel, queue) for _ in range(25)] == list(range(25))
    assert receive(channel, queue)[2] == "a"


@pytest.mark.deviation("RabbitMQ counts every return before 4.3, there only failures")
def test_b1_giving_back_is_no_failure(channel, name, dead):
    """0, fact 3: basic.nack with requeue and basic.recover may be repeated for ever; a reject counts."""
    queue = declare(channel, name("source"), "quorum", delivery_limit=1, **to(dead))
    publish(channel, queue, "a")
    for _ in range(5):
        method, properties, _ = receive(channel, queue, auto_ack=False)
        assert (properties.headers or {}).get("x-delivery-count", 0) == 0
        channel.basic_nack(method.delivery_tag, requeue=True)
    for expected in (0, 1):
        method, properties, _ = receive(channel, queue, auto_ack=False)
        assert (properties.headers or {}).get("x-delivery-count", 0) == expected
        channel.basic_reject(method.delivery_tag, requeue=True)
    assert deaths(receive(channel, dead)[1]) == [(queue, "delivery_limit", 1)]


@pytest.mark.deviation("RabbitMQ refuses x-delivery-limit on a classic queue")
def test_b1_delivery_limit_of_a_classic_queue(channel, name, dead):
    """B.1 x-delivery-limit: ours holds for any queue that has it."""
    queue = declare(channel, name("source"), delivery_limit=2, **to(dead))
    publish(channel, queue, "a")
    for _ in range(3):
        channel.basic_reject(receive(channel, queue, auto_ack=False)[0].delivery_tag, requeue=True)
    assert deaths(receive(channel, dead)[1]) == [(queue, "delivery_limit", 1)]
    assert drain(channel, queue) == []


def test_b1_classic_queues_have_no_default_limit(channel, name, dead):
    """0.1: what people have in production goes on as before."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a")
    for _ in range(25):
        channel.basic_reject(receive(channel, queue, auto_ack=False)[0].delivery_tag, requeue=True)
    assert receive(channel, queue)[2] == "a"
