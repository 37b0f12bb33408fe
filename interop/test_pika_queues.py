"""Queues with pika: declaring, redeclaring, deleting, exclusivity, auto-delete, arguments, and every refusal."""

import re

import pytest

from support import Inbox, channel_refused, counts, drain, get, publish, round_trip, wait_until

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original declaration."
)


def missing(queue):
    """The text for a queue that is not there."""
    return f"NOT_FOUND - no queue '{queue}' in vhost '/'"


def test_declare_tells_name_and_counts(channel, name):
    """A.5 declare: ready messages and consumers, not what is unacknowledged."""
    queue = name()
    method = channel.queue_declare(queue).method
    assert (method.queue, method.message_count, method.consumer_count) == (queue, 0, 0)
    publish(channel, queue, "a", "b", "c")
    get(channel, queue)
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, queue).wait(1)
    for passive in (False, True):
        method = channel.queue_declare(queue, passive=passive).method
        assert (method.queue, method.message_count, method.consumer_count) == (queue, 1, 1)


def test_server_named_queue(channel):
    """A.5 declare: amq.gen- and 22 characters, another one each time."""
    names = {channel.queue_declare("", exclusive=True).method.queue for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", each) for each in names)


def test_empty_name_means_the_queue_declared_last(channel, name):
    """A.5: in bind, publish key, purge, get, consume, unbind and delete; also after a passive declaration."""
    queue = name()
    channel.queue_declare(queue)
    channel.queue_declare("", exclusive=True)
    channel.queue_declare(queue, passive=True)
    channel.queue_bind("", "amq.direct", "")
    channel.basic_publish("amq.direct", queue, b"key is the name")
    assert get(channel, "", auto_ack=True)[2] == "key is the name"
    channel.basic_publish("amq.direct", queue, b"x")
    assert channel.queue_purge("").method.message_count == 1
    channel.queue_unbind("", "amq.direct", "")
    channel.basic_publish("amq.direct", queue, b"lost")
    inbox = Inbox(channel, "")
    publish(channel, queue, "b")
    assert inbox.wait(1).bodies == ["b"]
    channel.basic_ack(inbox.tags[0])
    channel.queue_delete("")
    with channel_refused(channel, 404, missing(queue)):
        channel.queue_declare(queue, passive=True)


@pytest.mark.parametrize(
    "operation",
    [
        lambda channel: channel.queue_bind("", "amq.direct", "key"),
        lambda channel: channel.queue_unbind("", "amq.direct", "key"),
        lambda channel: channel.queue_purge(""),
        lambda channel: channel.queue_delete(""),
        lambda channel: channel.basic_get(""),
        lambda channel: channel.basic_consume("", print),
    ],
    ids=["bind", "unbind", "purge", "delete", "get", "consume"],
)
def test_empty_name_without_a_declaration(channel, operation):
    """A.5: 404."""
    with channel_refused(channel, 404, "NOT_FOUND - no previously declared queue"):
        operation(channel)


@pytest.mark.parametrize(
    "operation",
    [
        lambda channel, queue: channel.queue_declare(queue, passive=True),
        lambda channel, queue: channel.queue_bind(queue, "amq.direct", "key"),
        lambda channel, queue: channel.queue_purge(queue),
        lambda channel, queue: channel.basic_get(queue),
        lambda channel, queue: channel.basic_consume(queue, print),
    ],
    ids=["passive", "bind", "purge", "get", "consume"],
)
def test_missing_queue(channel, name, operation):
    """A.5, A.6: 404 with the name."""
    queue = name()
    with channel_refused(channel, 404, missing(queue)):
        operation(channel, queue)


def test_bind_to_a_missing_exchange(channel, queue, name):
    """A.5 bind: 404 with the exchange's name."""
    exchange = name()
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.queue_bind(queue, exchange)


@pytest.mark.parametrize("operation", ["queue_bind", "queue_unbind"])
def test_bind_to_the_default_exchange(channel, queue, operation):
    """A.5 bind: 403."""
    with channel_refused(channel, 403, "ACCESS_REFUSED - operation not permitted on the default exchange"):
        getattr(channel, operation)(queue, "", "key")


def test_unbind_what_is_not_there(channel, queue, name):
    """A.10: unbind-ok, whether it is the binding, the queue or the exchange that is missing."""
    channel.queue_unbind(queue, "amq.topic", "never.bound")
    channel.queue_unbind(name("missing"), "amq.topic", "never.bound")
    channel.queue_unbind(queue, name("missing"), "never.bound")


def test_delete_tells_how_many_were_ready(channel, name):
    """A.5 delete: the count; deleting what is missing is fine and counts 0."""
    queue = name()
    channel.queue_declare(queue)
    publish(channel, queue, "a", "b", "c")
    assert channel.queue_delete(queue).method.message_count == 3
    assert channel.queue_delete(queue).method.message_count == 0
    with channel_refused(channel, 404, missing(queue)):
        channel.queue_declare(queue, passive=True)


def test_deleted_queue_leaves_nothing_behind(channel, name):
    """A.5 delete: messages and bindings are gone for the next queue of that name."""
    queue = name()
    channel.queue_declare(queue)
    channel.queue_bind(queue, "amq.topic", queue)
    publish(channel, queue, "a")
    channel.queue_delete(queue)
    assert channel.queue_declare(queue).method.message_count == 0
    channel.basic_publish("amq.topic", queue, b"lost")
    assert drain(channel, queue) == []


def test_delete_if_unused(channel, connection, queue):
    """A.5 delete: 406 while there is a consumer."""
    Inbox(connection.channel(), queue)
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"):
        channel.queue_delete(queue, if_unused=True)


def test_delete_if_empty(channel, connection, queue):
    """A.5 delete: 406 while a message is ready; then it goes."""
    publish(channel, queue, "a")
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"):
        channel.queue_delete(queue, if_empty=True)
    again = connection.channel()
    again.queue_purge(queue)
    again.queue_delete(queue, if_empty=True, if_unused=True)
    with channel_refused(again, 404, missing(queue)):
        again.queue_declare(queue, passive=True)


def test_purge_takes_the_ready_messages_only(channel, queue):
    """A.5 purge: what is unacknowledged stays and can come back."""
    publish(channel, queue, "a", "b", "c")
    method, _, _ = get(channel, queue)
    assert channel.queue_purge(queue).method.message_count == 2
    assert channel.queue_purge(queue).method.message_count == 0
    channel.basic_nack(method.delivery_tag)
    assert drain(channel, queue) == ["a"]


def test_reserved_prefix(channel):
    """A.5 declare: amq. is the broker's."""
    text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
    with channel_refused(channel, 403, text):
        channel.queue_declare("amq.mine")


def test_longest_name(channel, name):
    """A1.7: a name of 255 bytes, in any script."""
    queue = name()
    queue += "é" * ((255 - len(queue)) // 2)
    queue += "x" * (255 - len(queue.encode()))
    assert channel.queue_declare(queue, exclusive=True).method.queue == queue
    publish(channel, queue, "a")
    assert drain(channel, queue) == ["a"]


@pytest.mark.parametrize("option", ["durable", "auto_delete"])
def test_redeclare_differently(channel, queue, option):
    """A.5 declare: 406 names what differs."""
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{option}' for queue '{queue}' in vhost '/': "
        "received 'true' but current is 'false'"
    )
    with channel_refused(channel, 406, text):
        channel.queue_declare(queue, **{option: True})


@pytest.mark.parametrize(
    "first, then, difference",
    [
        (
            {"x-message-ttl": 60000},
            {"x-message-ttl": 70000},
            "'x-message-ttl' for queue '{}' in vhost '/': received '70000' but current is '60000'",
        ),
        (
            {"x-message-ttl": 60000},
            {},
            "'x-message-ttl' for queue '{}' in vhost '/': "
            "received none but current is the value '60000' of type 'signedint'",
        ),
        (
            {},
            {"x-max-length": 5_000_000_000},
            "'x-max-length' for queue '{}' in vhost '/': "
            "received the value '5000000000' of type 'long' but current is none",
        ),
        (
            {"x-dead-letter-exchange": "one"},
            {"x-dead-letter-exchange": "two"},
            "'x-dead-letter-exchange' for queue '{}' in vhost '/': received 'two' but current is 'one'",
        ),
        (
            {"x-max-length": 1},
            {"x-max-length": 5_000_000_000},
            "'x-max-length' for queue '{}' in vhost '/': received '5000000000' but current is '1'",
        ),
    ],
)
def test_redeclare_with_other_arguments(channel, name, first, then, difference):
    """A.5 declare: 406 names the argument and both values, or the one there is with its type."""
    queue = name()
    channel.queue_declare(queue, arguments=first)
    with channel_refused(channel, 406, "PRECONDITION_FAILED - inequivalent arg " + difference.format(queue)):
        channel.queue_declare(queue, arguments=then)


def test_redeclare_equivalently(channel, name):
    """A.5, A.10: integers compare by value, unknown arguments not at all, and classic is the type by default."""
    queue = name()
    channel.queue_declare(queue, arguments={"x-message-ttl": 60000, "x-custom": 1})
    channel.queue_declare(queue, arguments={"x-message-ttl": 60000, "x-custom": 2})
    channel.queue_declare(queue, arguments={"x-message-ttl": 60000, "x-queue-type": "classic"})


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"x-expires": 0}, "'x-expires' for queue '{}' in vhost '/': {{value_zero,0}}"),
        ({"x-expires": -1}, "'x-expires' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        ({"x-expires": "1000"}, "'x-expires' for queue '{}' in vhost '/': \"expected integer, got longstr\""),
        (
            {"x-expires": 315360000001},
            "'x-expires' for queue '{}' in vhost '/': {{value_too_large,315360000001}}",
        ),
        ({"x-message-ttl": -1}, "'x-message-ttl' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        ({"x-max-length": -1}, "'x-max-length' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        ({"x-max-length": True}, "'x-max-length' for queue '{}' in vhost '/': \"expected integer, got bool\""),
        ({"x-max-length-bytes": -1}, "'x-max-length-bytes' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        ({"x-max-priority": 256}, "'x-max-priority' for queue '{}' in vhost '/': {{max_value_exceeded,256}}"),
        ({"x-max-priority": -1}, "'x-max-priority' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        (
            {"x-dead-letter-routing-key": "key"},
            "'x-dead-letter-routing-key' for queue '{}' in vhost '/': routing_key_but_no_dlx_defined",
        ),
        ({"x-overflow": "explode"}, "'x-overflow' for queue '{}' in vhost '/': invalid_overflow"),
    ],
    ids=str,
)
def test_invalid_argument(channel, name, arguments, complaint):
    """A.5 argument validation: 406 with RabbitMQ's Erlang term."""
    queue = name()
    with channel_refused(channel, 406, "PRECONDITION_FAILED - invalid arg " + complaint.format(queue)):
        channel.queue_declare(queue, arguments=arguments)


def test_exclusive_queue_is_its_connections(connection, connect, name):
    """A.5 exclusive: every channel of the connection may use it, and it is gone when close-ok has come."""
    queue, other = name(), connect()
    connection.channel().queue_declare(queue, exclusive=True)
    channel = connection.channel()
    publish(channel, queue, "a")
    assert drain(channel, queue) == ["a"]
    connection.close()
    stranger = other.channel()
    with channel_refused(stranger, 404, missing(queue)):
        stranger.queue_declare(queue, passive=True)


@pytest.mark.parametrize(
    "operation",
    [
        lambda channel, queue: channel.queue_declare(queue),
        lambda channel, queue: channel.queue_declare(queue, exclusive=True),
        lambda channel, queue: channel.queue_declare(queue, passive=True),
        lambda channel, queue: channel.queue_bind(queue, "amq.direct", "key"),
        lambda channel, queue: channel.queue_unbind(queue, "amq.direct", "key"),
        lambda channel, queue: channel.queue_purge(queue),
        lambda channel, queue: channel.queue_delete(queue),
        lambda channel, queue: channel.basic_get(queue),
        lambda channel, queue: channel.basic_consume(queue, print),
    ],
    ids=["declare", "declare exclusive", "passive", "bind", "unbind", "purge", "delete", "get", "consume"],
)
def test_exclusive_queue_of_another_connection(channel, connect, name, operation):
    """A.5 exclusive, A.10: 405 for everything; publishing to it is open to all."""
    queue = name()
    channel.queue_declare(queue, exclusive=True)
    channel.queue_bind(queue, "amq.direct", "key")
    stranger = connect().channel()
    publish(stranger, queue, "a")
    with channel_refused(stranger, 405, LOCKED.format(queue)):
        operation(stranger, queue)
    assert drain(channel, queue) == ["a"]


def test_exclusive_must_match_on_the_same_connection(channel, queue):
    """A.10: a mismatch of exclusive is 405 even for the owner."""
    with channel_refused(channel, 405, LOCKED.format(queue)):
        channel.queue_declare(queue, exclusive=True)


def test_auto_delete_queue_goes_with_its_last_consumer(channel, connection, name):
    """A.5 auto-delete: not before the first consumer, not for a get, and at cancel as at channel close."""
    for leave in (lambda inbox: inbox.channel.basic_cancel(inbox.consumer_tag), lambda inbox: inbox.channel.close()):
        queue = name()
        channel.queue_declare(queue, auto_delete=True)
        publish(channel, queue, "a")
        assert drain(channel, queue) == ["a"]
        inboxes = [Inbox(connection.channel(), queue) for _ in range(2)]
        leave(inboxes[0])
        assert counts(channel, queue) == (0, 1)
        leave(inboxes[1])
        doomed = connection.channel()
        with channel_refused(doomed, 404, missing(queue)):
            doomed.queue_declare(queue, passive=True)


def test_auto_delete_queue_goes_with_its_consumers_connection(channel, connection, connect, name):
    """A.5 auto-delete: also when the consumer's connection closes."""
    queue, consumer = name(), connect()
    channel.queue_declare(queue, auto_delete=True)
    Inbox(consumer.channel(), queue)
    consumer.close()
    with channel_refused(channel, 404, missing(queue)):
        wait_until(connection, lambda: channel.queue_declare(queue, passive=True) is None)


def test_queue_delete_requeues_nothing(channel, connection, name):
    """A.5 delete: settling a delivery of a queue that is gone is fine."""
    queue = name()
    channel.queue_declare(queue)
    publish(channel, queue, "a", "b")
    tags = [get(channel, queue)[0].delivery_tag for _ in range(2)]
    connection.channel().queue_delete(queue)
    channel.basic_ack(tags[0])
    channel.basic_nack(tags[1])
    round_trip(connection)
    assert channel.is_open


def get_arriving(channel, queue):
    """The message at the head as `get` gives it; it may still be on its way there."""
    wait_until(channel.connection, lambda: counts(channel, queue)[0] > 0)
    return get(channel, queue)


def returned(channel, queue):
    """Rejects the message at the head with requeue, and tells how it came: redelivered, headers."""
    method, properties, _ = get_arriving(channel, queue)
    channel.basic_reject(method.delivery_tag, requeue=True)
    return method.redelivered, properties.headers


def test_quorum_queue_counts_deliveries(channel, name):
    """A.5: basic.get tells the count from 0, a consumer from 1; a header of that name is replaced, others stay."""
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    publish(channel, queue, "a", headers={"z": 1, "x-delivery-count": 77})
    assert returned(channel, queue) == (False, {"x-delivery-count": 0, "z": 1})
    assert returned(channel, queue) == (True, {"x-delivery-count": 1, "z": 1})
    inbox = Inbox(channel, queue).wait(1)
    assert inbox.deliveries[0][1].headers == {"x-delivery-count": 2, "z": 1}
    channel.basic_ack(inbox.tags[0])
    publish(channel, queue, "b")
    assert inbox.wait(2).deliveries[1][1].headers is None


@pytest.mark.parametrize("limit, deliveries", [(0, 1), (2, 3)])
def test_delivery_limit(channel, name, limit, deliveries):
    """B.1 x-delivery-limit: so many deliveries may fail, and the message comes once more."""
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": limit})
    publish(channel, queue, "a")
    for count in range(deliveries):
        assert returned(channel, queue)[1] == {"x-delivery-count": count}
    publish(channel, queue, "b")
    assert get_arriving(channel, queue)[2] == "b"


@pytest.mark.deviation("RabbitMQ 3.10.8 has no limit by default and takes a negative one for 0")
@pytest.mark.parametrize("arguments, deliveries", [({}, 21), ({"x-delivery-limit": -1}, None)])
def test_delivery_limit_of_rabbitmq_4(channel, name, arguments, deliveries):
    """B.1 x-delivery-limit: 20 by default, and a negative one is none."""
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"} | arguments)
    publish(channel, queue, "a")
    for count in range(deliveries or 30):
        assert returned(channel, queue)[1] == {"x-delivery-count": count}
    publish(channel, queue, "b")
    assert get_arriving(channel, queue)[2] == ("b" if deliveries else "a")
