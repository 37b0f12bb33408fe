"""Time-outs of messages and queues with pika: x-message-ttl, expiration, x-expires."""

import pika
import pytest

from support import (
    Inbox,
    await_ready,
    channel_refused,
    counts,
    declare,
    drain,
    each_queue_type,
    elapse,
    get,
    is_confirmed,
    is_there,
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

HEAD_ONLY = "RabbitMQ expires messages at the head of a queue only"


# x-message-ttl and expiration


@each_queue_type
def test_b1_queue_ttl(channel, name, dead, queue_type):
    """B.1 x-message-ttl: every message is dead-lettered when its time is up, in order."""
    queue = declare(channel, name("source"), queue_type, message_ttl=50, **to(dead))
    publish(channel, queue, *"abc")
    assert receive_bodies(channel, dead, 3) == ["a", "b", "c"]
    assert counts(channel, queue) == (0, 0)


@each_queue_type
def test_b1_without_a_dead_letter_exchange(channel, name, queue_type):
    """B.1 x-message-ttl: an expired message is gone."""
    queue = declare(channel, name("source"), queue_type, message_ttl=50)
    publish(channel, queue, *"abc")
    elapse(channel, 100)
    assert drain(channel, queue) == []


@each_queue_type
def test_b2_expiration(channel, name, dead, queue_type):
    """B.2 expiration: one message expires, and its neighbour without an expiration stays."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    publish(channel, queue, "short", expiration="50")
    publish(channel, queue, "for ever")
    assert receive(channel, dead)[2] == "short"
    elapse(channel, 100)
    assert drain(channel, queue) == ["for ever"]


@each_queue_type
@pytest.mark.parametrize("ttl, expiration", [(50, "60000"), (60000, "50")], ids=["queue", "message"])
def test_a9_the_lesser_of_both(channel, name, dead, queue_type, ttl, expiration):
    """A.9: min(per message, per queue)."""
    queue = declare(channel, name("source"), queue_type, message_ttl=ttl, **to(dead))
    publish(channel, queue, "a", expiration=expiration)
    assert receive(channel, dead)[2] == "a"


@each_queue_type
def test_b1_a_delivered_message_does_not_expire(channel, name, dead, queue_type):
    """A.9: only what is ready expires; an ack after the time is fine."""
    queue = declare(channel, name("source"), queue_type, message_ttl=300, **to(dead))
    publish(channel, queue, "a")
    method, _, _ = receive(channel, queue, auto_ack=False)
    elapse(channel, 400)
    channel.basic_ack(method.delivery_tag)
    elapse(channel, 50)
    assert (drain(channel, queue), drain(channel, dead)) == ([], [])


@each_queue_type
def test_a10_requeued_after_its_time(channel, name, dead, queue_type):
    """A.10: a requeued message keeps its expiry; it has expired by now."""
    queue = declare(channel, name("source"), queue_type, message_ttl=300, **to(dead))
    publish(channel, queue, "a")
    method, _, _ = receive(channel, queue, auto_ack=False)
    elapse(channel, 400)
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert receive(channel, dead)[2] == "a"
    assert drain(channel, queue) == []


@each_queue_type
def test_a10_requeued_before_its_time(channel, name, dead, queue_type):
    """A.10: a requeued message keeps its expiry; it does not begin anew."""
    old = declare(channel, name("old"), queue_type, message_ttl=400, **to(dead))
    young = declare(channel, name("young"), queue_type, message_ttl=400, **to(dead))
    publish(channel, old, "old")
    method, _, _ = receive(channel, old, auto_ack=False)
    elapse(channel, 200)
    publish(channel, young, "young")
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert receive_bodies(channel, dead, 2) == ["old", "young"]


@each_queue_type
def test_a9_expired_messages_do_not_reach_a_consumer(channel, name, queue_type):
    """A.9: a consumer that comes too late gets what still lives."""
    queue = declare(channel, name("source"), queue_type)
    publish(channel, queue, "a", "b", expiration="50")
    publish(channel, queue, "c")
    elapse(channel, 100)
    assert Inbox(channel, queue, auto_ack=True).wait(1).bodies == ["c"]


@each_queue_type
def test_a9_messages_expire_behind_a_full_prefetch(channel, name, dead, queue_type):
    """A.9: what no consumer has room for expires as if there were none."""
    queue = declare(channel, name("source"), queue_type, message_ttl=100, **to(dead))
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    publish(channel, queue, *"abc")
    assert receive_bodies(channel, dead, 2) == ["b", "c"]
    channel.basic_ack(inbox.tags[0])
    assert inbox.wait(1).bodies == ["a"]


@each_queue_type
def test_b1_expired_messages_do_not_count(channel, name, dead, queue_type):
    """B.1 x-message-ttl: neither in message counts nor in what purge and delete tell."""
    queue = declare(channel, name("source"), queue_type, message_ttl=50, **to(dead))
    publish(channel, queue, *"abc")
    await_ready(channel, dead, 3)
    assert counts(channel, queue) == (0, 0)
    assert channel.queue_purge(queue).method.message_count == 0
    assert channel.queue_delete(queue).method.message_count == 0


@each_queue_type
def test_b3_expired_messages_leave_room(channel, name, queue_type):
    """B.3: what has expired does not fill a queue."""
    queue = declare(channel, name("source"), queue_type, message_ttl=100, max_length=1, overflow="reject-publish")
    channel.confirm_delivery()
    assert is_confirmed(channel, "", queue, "a")
    await_ready(channel, queue, 0)
    assert is_confirmed(channel, "", queue, "b")


def test_a9_time_counts_from_the_commit(channel, connection, name):
    """A.7, A.9: a message is in the queue, and its time runs, from tx.commit on."""
    queue = declare(channel, name("source"), message_ttl=300)
    channel.tx_select()
    publish(channel, queue, "a")
    elapse(channel, 400)
    channel.tx_commit()
    assert get(channel, queue)[2] == "a"


@each_queue_type
def test_b1_many_messages_expire_in_order(channel, name, dead, queue_type):
    """B.1 x-message-ttl: a whole queue of them."""
    queue = declare(channel, name("source"), queue_type, message_ttl=300, **to(dead))
    bodies = [str(number) for number in range(500)]
    publish(channel, queue, *bodies)
    await_ready(channel, dead, 500)
    assert drain(channel, dead) == bodies
    assert counts(channel, queue) == (0, 0)


def test_b1_the_longest_time(channel, name):
    """B.1, B.2: ten years are accepted from the queue and from the message, and nothing expires at once."""
    queue = declare(channel, name("source"), message_ttl=315_360_000_000)
    publish(channel, queue, "a", expiration="315360000000")
    elapse(channel, 50)
    assert drain(channel, queue) == ["a"]


@pytest.mark.deviation(HEAD_ONLY)
@each_queue_type
def test_a9_expiry_at_any_position(channel, name, dead, queue_type):
    """A short time behind a long one is up on time, as everybody expects who has not read the small print."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    publish(channel, queue, "for ever")
    publish(channel, queue, "long", expiration="60000")
    publish(channel, queue, "short", expiration="50")
    publish(channel, queue, "last")
    assert receive(channel, dead)[2] == "short"
    assert drain(channel, queue) == ["for ever", "long", "last"]


@pytest.mark.deviation(HEAD_ONLY)
@each_queue_type
def test_a9_dead_letters_come_in_the_order_of_their_deadlines(channel, name, dead, queue_type):
    """A queue with mixed expirations is a timer: this is what delays by dead-lettering are built on."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    times = ["450", "150", "300", "225", "75", "375"]
    for time in times:
        publish(channel, queue, time, expiration=time)
    assert receive_bodies(channel, dead, 6) == sorted(times, key=int)


@pytest.mark.deviation(HEAD_ONLY)
def test_a9_a_requeued_message_expires_at_any_position(channel, name, dead):
    """It goes back to its place behind a long one, and still is up on time."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "long", expiration="60000")
    publish(channel, queue, "short", expiration="200")
    taken = [get(channel, queue)[0].delivery_tag for _ in range(2)]
    for tag in taken:
        channel.basic_nack(tag, requeue=True)
    assert receive(channel, dead)[2] == "short"
    assert drain(channel, queue) == ["long"]


# Time-out 0: now or never


def zero_by(source, channel, name, queue_type, dead):
    """A queue, and the properties to publish with, for a time-out of 0 by the `source`."""
    if source == "queue":
        return declare(channel, name("source"), queue_type, message_ttl=0, **to(dead)), {}
    return declare(channel, name("source"), queue_type, **to(dead)), {"expiration": "0"}


each_source = pytest.mark.parametrize("source", ["queue", "message"])


@each_queue_type
@each_source
def test_a9_zero_without_a_consumer(channel, name, dead, queue_type, source):
    """A.9: it expires at once."""
    queue, properties = zero_by(source, channel, name, queue_type, dead)
    publish(channel, queue, "a", **properties)
    assert receive(channel, dead)[2] == "a"
    assert channel.basic_get(queue)[0] is None


@each_source
def test_a9_zero_is_not_to_be_got(channel, name, dead, source):
    """A.9: basic.get never finds it, however soon it comes; at a quorum queue of RabbitMQ it may."""
    queue, properties = zero_by(source, channel, name, "classic", dead)
    for _ in range(20):
        publish(channel, queue, "a", **properties)
        assert channel.basic_get(queue)[0] is None


@each_queue_type
@each_source
def test_a9_zero_with_a_ready_consumer(channel, name, dead, queue_type, source):
    """A.9: it is delivered; one that the consumer has no room for is not kept."""
    queue, properties = zero_by(source, channel, name, queue_type, dead)
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    publish(channel, queue, "a", **properties)
    inbox.wait(1)
    publish(channel, queue, "b", **properties)
    assert receive(channel, dead)[2] == "b"
    assert inbox.wait(1).bodies == ["a"]


@each_queue_type
@each_source
def test_a9_zero_requeued(channel, name, dead, queue_type, source):
    """A.9, A.10: its time was up when it came, even if that is in this very millisecond."""
    queue, properties = zero_by(source, channel, name, queue_type, dead)
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    publish(channel, queue, "a", **properties)
    channel.basic_nack(inbox.wait(1).tags[0], requeue=True)
    assert receive(channel, dead)[2] == "a"
    assert inbox.settle().bodies == ["a"]


# x-expires


def test_b1_unused_queue_expires(connection, channel, name, dead):
    """B.1 x-expires: it goes when nobody uses it, publishes notwithstanding; its messages are not dead-lettered."""
    queue = declare(channel, name("source"), expires=100, **to(dead))
    publish(channel, queue, "a")
    wait_until(connection, lambda: not is_there(connection, queue))
    with channel_refused(channel, 404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, passive=True)
    assert drain(connection.channel(), dead) == []


@pytest.mark.deviation("RabbitMQ looks whether a quorum queue is used every five seconds only")
def test_b1_unused_quorum_queue_expires(connection, channel, name):
    """B.1 x-expires: of any type, on time."""
    queue = declare(channel, name("source"), "quorum", expires=100)
    wait_until(connection, lambda: not is_there(connection, queue), seconds=2)


def test_b1_expires_with_a_consumer(connection, channel, name):
    """B.1 x-expires: a consumer holds the queue, and its time runs from the cancel on."""
    queue = declare(channel, name("source"), expires=300)
    inbox = Inbox(channel, queue, auto_ack=True)
    elapse(channel, 450)
    assert is_there(connection, queue)
    channel.basic_cancel(inbox.consumer_tag)
    assert is_there(connection, queue)
    wait_until(connection, lambda: not is_there(connection, queue))


@pytest.mark.parametrize(
    "use",
    [
        lambda channel, queue: declare(channel, queue, expires=700),
        lambda channel, queue: channel.queue_declare(queue, passive=True),
        lambda channel, queue: channel.basic_get(queue),
    ],
    ids=["declare", "passive", "get"],
)
def test_b1_expires_is_prolonged(connection, channel, name, use):
    """B.1, A.10 x-expires: each use begins the time anew."""
    queue = declare(channel, name("source"), expires=700)
    for _ in range(3):
        elapse(channel, 250)
        use(channel, queue)
    assert is_there(connection, queue)
    wait_until(connection, lambda: not is_there(connection, queue))


def test_b1_expires_and_bindings(connection, channel, name):
    """B.1 x-expires: the bindings go with the queue, and with the last of them an auto-delete exchange."""
    exchange = name("exchange")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    queue = declare(channel, name("source"), expires=300)
    channel.queue_bind(queue, exchange)
    wait_until(connection, lambda: not is_there(connection, queue))
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


# Declaring again


@each_queue_type
@pytest.mark.parametrize("argument", ["message_ttl", "expires"])
def test_a5_redeclare_with_another_time(channel, name, queue_type, argument):
    """A.5: an integer of another width is the same, another value is not."""
    queue = declare(channel, name("source"), queue_type, **{argument: 60000})
    declare(channel, queue, queue_type, **{argument: pika.compat.long(60000)})
    text = f"inequivalent arg 'x-{argument.replace('_', '-')}' for queue '{queue}' in vhost '/'"
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {text}: received '70000' but current is '60000'"):
        declare(channel, queue, queue_type, **{argument: 70000})
