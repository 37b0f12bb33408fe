"""tx.* with pika: what is buffered until commit, what rollback undoes."""

import pika
import pytest

from support import Inbox, channel_refused, counts, drain, get, publish, wait_until


@pytest.fixture
def observer(connection):
    """A channel that is not transactional; what it publishes is in the queue at once, for others too."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def test_publishes_wait_for_commit(channel, observer, queue):
    """A.7: nobody sees them before, everybody after, in order; select is idempotent."""
    channel.tx_select()
    channel.tx_select()
    publish(channel, queue, "a", "b")
    assert counts(observer, queue) == (0, 0)
    channel.tx_commit()
    assert drain(observer, queue) == ["a", "b"]


def test_rollback_forgets_the_publishes(channel, observer, queue):
    """A.7: they never happened, and the next transaction starts from nothing."""
    channel.tx_select()
    publish(channel, queue, "lost")
    channel.tx_rollback()
    publish(channel, queue, "kept")
    channel.tx_commit()
    assert drain(observer, queue) == ["kept"]


def test_acks_wait_for_commit(channel, observer, queue):
    """A.7: an ack that was not committed when the channel closes did not happen."""
    publish(observer, queue, "a", "b")
    channel.tx_select()
    tags = [get(channel, queue)[0].delivery_tag for _ in range(2)]
    channel.basic_ack(tags[0])
    channel.tx_commit()
    channel.basic_ack(tags[1])
    channel.close()
    method, _, body = get(observer, queue, auto_ack=True)
    assert (method.redelivered, body) == (True, "b")
    assert drain(observer, queue) == []


def test_rejects_wait_for_commit(channel, observer, queue):
    """A.7: so does a requeue."""
    publish(observer, queue, "a")
    channel.tx_select()
    channel.basic_nack(get(channel, queue)[0].delivery_tag, requeue=True)
    assert counts(observer, queue) == (0, 0)
    channel.tx_commit()
    assert drain(observer, queue) == ["a"]


def test_rollback_restores_the_acks(channel, observer, queue):
    """A.7, A.10: the messages stay unacknowledged, are not redelivered, and can be acked again."""
    publish(observer, queue, "a")
    channel.tx_select()
    inbox = Inbox(channel, queue).wait(1)
    channel.basic_ack(inbox.tags[0])
    channel.tx_rollback()
    assert inbox.settle().bodies == ["a"]
    assert counts(observer, queue) == (0, 1)
    channel.basic_ack(inbox.tags[0])
    channel.tx_commit()
    channel.close()
    assert drain(observer, queue) == []


def test_transaction_over_several_queues(channel, observer, name):
    """A.7: all of it at once, with what was taken from one queue and put into others."""
    source, targets = name("source"), [name("one"), name("two")]
    for queue in (source, *targets):
        channel.queue_declare(queue)
    publish(observer, source, "job")
    channel.tx_select()
    method, _, _ = get(channel, source)
    for queue in targets:
        publish(channel, queue, "part")
    channel.basic_ack(method.delivery_tag)
    assert [counts(observer, queue)[0] for queue in targets] == [0, 0]
    channel.tx_commit()
    assert [drain(observer, queue) for queue in targets] == [["part"], ["part"]]
    channel.close()
    assert drain(observer, source) == []


def test_closing_the_channel_rolls_back(channel, observer, queue):
    """A.7: what was not committed is gone."""
    channel.tx_select()
    publish(channel, queue, "lost")
    channel.close()
    assert drain(observer, queue) == []


def test_returns_come_at_commit(channel, connection, queue):
    """A.10: routing, and so the return, happens at commit, before commit-ok."""
    returned = []
    channel.add_on_return_callback(lambda *back: returned.append(back[3]))
    channel.tx_select()
    channel.basic_publish("amq.direct", "no such key", b"unroutable", mandatory=True)
    publish(channel, queue, "routed")
    connection.channel().close()
    connection.process_data_events(time_limit=0)
    assert returned == []
    channel.tx_commit()
    connection.process_data_events(time_limit=0)
    assert returned == [b"unroutable"]


def test_large_transaction(channel, observer, queue):
    """A.7: a thousand messages, in order."""
    channel.tx_select()
    publish(channel, queue, *(str(number) for number in range(1000)))
    channel.tx_commit()
    inbox = Inbox(observer, queue, auto_ack=True).wait(1000)
    assert inbox.bodies == [str(number) for number in range(1000)]


def test_refused_publish_fails_the_channel_at_once(channel, observer, queue, name):
    """A.6 publish: 404 as ever, and the rest of the transaction is gone."""
    exchange = name("missing")
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.tx_select()
        publish(channel, queue, "lost")
        channel.basic_publish(exchange, "key", b"refused")
    assert drain(observer, queue) == []


@pytest.mark.parametrize("operation", ["tx_commit", "tx_rollback"])
def test_not_transactional(channel, operation):
    """A.7: 406 without tx.select."""
    with channel_refused(channel, 406, "PRECONDITION_FAILED - channel is not transactional"):
        getattr(channel, operation)()


def test_no_tx_select_in_confirm_mode(channel):
    """A.7: one or the other."""
    channel.confirm_delivery()
    with channel_refused(channel, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"):
        channel.tx_select()


def test_transaction_with_a_consumer_elsewhere(channel, observer, queue):
    """A.7: a waiting consumer gets everything at commit."""
    inbox = Inbox(observer, queue, auto_ack=True)
    channel.tx_select()
    for body in ("a", "b"):
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
    assert inbox.settle().bodies == []
    channel.tx_commit()
    wait_until(channel.connection, lambda: inbox.bodies == ["a", "b"])
