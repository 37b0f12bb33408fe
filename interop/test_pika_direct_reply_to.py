"""Direct reply-to with pika: replies without a queue."""

import pika
import pytest

from support import Inbox, channel_refused, get, publish, wait_until

REPLY_TO = "amq.rabbitmq.reply-to"


def test_request_and_reply(channel, connect, queue):
    """A.8 direct reply-to: the server sees an address of its own and answers to it by the default exchange."""
    replies = Inbox(channel, REPLY_TO, auto_ack=True)
    server = connect().channel()
    for number in range(3):
        publish(channel, queue, f"request {number}", reply_to=REPLY_TO, correlation_id=str(number))
    for _ in range(3):
        _, request, body = get_soon(server, queue)
        assert request.reply_to.startswith(REPLY_TO + ".") and len(request.reply_to) > len(REPLY_TO) + 8
        publish(server, request.reply_to, f"reply to {body}", correlation_id=request.correlation_id)
    replies.wait(3)
    assert replies.bodies == [f"reply to request {number}" for number in range(3)]
    assert [properties.correlation_id for _, properties, _ in replies.deliveries] == ["0", "1", "2"]
    method, properties, _ = replies.deliveries[0]
    assert (method.consumer_tag, method.exchange, method.redelivered) == (replies.consumer_tag, "", False)
    assert method.routing_key == request.reply_to


def get_soon(channel, queue):
    """basic.get of a message that another connection has just published."""
    got = []

    def arrived():
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            got.append((method, properties, body.decode()))
        return bool(got)

    wait_until(channel.connection, arrived)
    return got[0]


def test_every_requester_has_its_own_address(channel, connect, queue):
    """A.8 direct reply-to: replies go to the channel that asked."""
    connections = [connect() for _ in range(3)]
    inboxes = []
    for index, each in enumerate(connections):
        asking = each.channel()
        inboxes.append(Inbox(asking, REPLY_TO, auto_ack=True))
        publish(asking, queue, str(index), reply_to=REPLY_TO)
    addresses = set()
    for _ in connections:
        _, request, body = get_soon(channel, queue)
        addresses.add(request.reply_to)
        publish(channel, request.reply_to, f"for {body}")
    assert len(addresses) == 3
    for index, inbox in enumerate(inboxes):
        assert inbox.wait(1).bodies == [f"for {index}"]


def test_consumer_must_not_acknowledge(channel):
    """A.8 direct reply-to: 406 without no_ack."""
    with channel_refused(channel, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        channel.basic_consume(REPLY_TO, print)


def test_one_consumer_per_channel(channel):
    """A.8 direct reply-to: 406 for a second one; after a cancel there may be another."""
    first = Inbox(channel, REPLY_TO, auto_ack=True)
    channel.basic_cancel(first.consumer_tag)
    Inbox(channel, REPLY_TO, auto_ack=True)
    with channel_refused(channel, 406, "PRECONDITION_FAILED - reply consumer already set"):
        channel.basic_consume(REPLY_TO, print, auto_ack=True)


def test_request_without_a_consumer(channel, queue):
    """A.8 direct reply-to: 406 if there is nobody to reply to."""
    with channel_refused(channel, 406, "PRECONDITION_FAILED - fast reply consumer does not exist"):
        publish(channel, queue, "request", reply_to=REPLY_TO)


def test_server_asks_whether_the_requester_is_there(channel, connect, queue):
    """A.8, A.10 direct reply-to: declaring the address answers one consumer, or 404 when it has gone."""
    requester = connect()
    asking = requester.channel()
    Inbox(asking, REPLY_TO, auto_ack=True)
    publish(asking, queue, "request", reply_to=REPLY_TO)
    address = get_soon(channel, queue)[1].reply_to
    for passive in (True, False):
        method = channel.queue_declare(address, passive=passive).method
        assert (method.queue, method.message_count, method.consumer_count) == (address, 0, 1)
    requester.close()
    with channel_refused(channel, 404, f"NOT_FOUND - no queue '{address}' in vhost '/'"):
        wait_until(channel.connection, lambda: channel.queue_declare(address, passive=True) is None)


def test_reply_to_a_requester_who_left(channel, connect, queue):
    """A.8 direct reply-to: at most once: the reply is dropped, returned if it was mandatory."""
    requester = connect()
    asking = requester.channel()
    Inbox(asking, REPLY_TO, auto_ack=True)
    publish(asking, queue, "request", reply_to=REPLY_TO)
    address = get_soon(channel, queue)[1].reply_to
    requester.close()
    channel.confirm_delivery()
    publish(channel, address, "too late")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", address, b"too late", mandatory=True)


def test_the_general_name_is_always_there(channel):
    """A.10: declaring amq.rabbitmq.reply-to itself answers one consumer, with or without a requester."""
    for passive in (True, False):
        method = channel.queue_declare(REPLY_TO, passive=passive).method
        assert (method.queue, method.message_count, method.consumer_count) == (REPLY_TO, 0, 1)


@pytest.mark.deviation("RabbitMQ 3.10.8 fails with 541 INTERNAL_ERROR on an address that it never gave out")
def test_made_up_address(channel):
    """A.8 direct reply-to: an address that was never given out belongs to nobody."""
    address = REPLY_TO + ".made.up"
    with channel_refused(channel, 404, f"NOT_FOUND - no queue '{address}' in vhost '/'"):
        channel.queue_declare(address, passive=True)


def test_other_reply_queues_stay_as_they_are(channel, queue):
    """A.6 publish: only the special name is rewritten."""
    for address in ("somewhere", "amq.rabbitmq.reply-to.x", ""):
        publish(channel, queue, "request", reply_to=address)
        assert get(channel, queue, auto_ack=True)[1].reply_to == address
