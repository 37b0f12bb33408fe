"""Priorities with pika: of messages, of consumers, single active and exclusive consumers."""

import pytest

from support import (
    Inbox,
    await_ready,
    channel_refused,
    counts,
    declare,
    drain,
    each_queue_type,
    get,
    is_confirmed,
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

STRICT = "RabbitMQ has strict priorities in quorum queues since 4.3"


def publish_prioritized(channel, queue, *priorities):
    """Publishes one message for each priority; its body tells the priority and its place."""
    for place, priority in enumerate(priorities):
        publish(channel, queue, f"{priority}-{place}", priority=priority)


# x-max-priority


def test_b1_highest_first(channel, name):
    """B.1 x-max-priority: the highest first, and in the order of their publish within one priority."""
    queue = declare(channel, name("source"), max_priority=3)
    publish_prioritized(channel, queue, 1, 3, 2, 3, 1, 2)
    assert drain(channel, queue) == ["3-1", "3-3", "2-2", "2-5", "1-0", "1-4"]


def test_b1_absent_is_lowest(channel, name):
    """B.1 x-max-priority: no priority is priority 0."""
    queue = declare(channel, name("source"), max_priority=3)
    publish(channel, queue, "absent")
    publish(channel, queue, "zero", priority=0)
    publish(channel, queue, "one", priority=1)
    publish(channel, queue, "absent again")
    assert drain(channel, queue) == ["one", "absent", "zero", "absent again"]


def test_b1_above_the_highest(channel, name):
    """B.1 x-max-priority: what is above is taken for the highest; the property stays as published."""
    queue = declare(channel, name("source"), max_priority=2)
    publish_prioritized(channel, queue, 1, 2, 200, 255, 2)
    _, properties, body = receive(channel, queue)
    assert (properties.priority, body) == (2, "2-1")
    _, properties, body = receive(channel, queue)
    assert (properties.priority, body) == (200, "200-2")
    assert drain(channel, queue) == ["255-3", "2-4", "1-0"]


@pytest.mark.parametrize("arguments", [{}, {"max_priority": 0}], ids=["without", "zero"])
def test_b1_queues_without_priorities(channel, name, arguments):
    """B.1 x-max-priority: without it, or with 0, a priority is a property like any other."""
    queue = declare(channel, name("source"), **arguments)
    publish_prioritized(channel, queue, 1, 9, 5)
    assert drain(channel, queue) == ["1-0", "9-1", "5-2"]


def test_b1_all_levels(channel, name):
    """B.1 x-max-priority: up to 255."""
    queue = declare(channel, name("source"), max_priority=255)
    publish_prioritized(channel, queue, *range(0, 256, 5))
    await_ready(channel, queue, 52)
    assert [int(body.split("-")[0]) for body in drain(channel, queue)] == list(range(255, -1, -5))


def test_b1_a_consumer_gets_the_highest_next(channel, name):
    """B.1 x-max-priority: whenever it has room; what it holds already is not taken away again."""
    queue = declare(channel, name("source"), max_priority=9)
    publish_prioritized(channel, queue, 1, 2)
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue).wait(1)
    publish_prioritized(channel, queue, 9, 5)
    await_ready(channel, queue, 3)
    for count in (2, 3, 4):
        channel.basic_ack(inbox.tags[-1])
        inbox.wait(count)
    assert inbox.bodies == ["2-1", "9-0", "5-1", "1-0"]


def test_b1_requeue_keeps_the_place(channel, name):
    """B.1 x-max-priority, A.10: back among its equals, where it was."""
    queue = declare(channel, name("source"), max_priority=3)
    publish_prioritized(channel, queue, 1, 3, 3, 2)
    tags = [get(channel, queue)[0].delivery_tag for _ in range(3)]
    publish_prioritized(channel, queue, 3, 2)
    for tag in reversed(tags):
        channel.basic_nack(tag, requeue=True)
    assert drain(channel, queue) == ["3-1", "3-2", "3-0", "2-3", "2-1", "1-0"]


def test_b1_purge_takes_every_priority(channel, name):
    """B.1 x-max-priority: purge, counts and delete are of the queue as a whole."""
    queue = declare(channel, name("source"), max_priority=3)
    publish_prioritized(channel, queue, 1, 3, 2)
    await_ready(channel, queue, 3)
    assert channel.queue_purge(queue).method.message_count == 3
    publish_prioritized(channel, queue, 1, 3)
    await_ready(channel, queue, 2)
    assert channel.queue_delete(queue).method.message_count == 2


def test_b1_a_full_queue_drops_the_highest(channel, name, dead):
    """B.3, A.10 drop-head: the head of a priority queue is its highest priority."""
    queue = declare(channel, name("source"), max_priority=9, max_length=2, **to(dead))
    publish_prioritized(channel, queue, 1, 9, 5)
    assert receive_bodies(channel, dead, 1) == ["9-1"]
    publish_prioritized(channel, queue, 0)
    assert receive_bodies(channel, dead, 1) == ["5-2"]
    assert drain(channel, queue) == ["1-0", "0-0"]


def test_b3_a_full_priority_queue_refuses(channel, name):
    """B.3 reject-publish: whatever the priority of the new message."""
    queue = declare(channel, name("source"), max_priority=9, max_length=1, overflow="reject-publish")
    channel.confirm_delivery()
    assert is_confirmed(channel, "", queue, "low", priority=1)
    assert not is_confirmed(channel, "", queue, "high", priority=9)
    assert drain(channel, queue) == ["low"]


def test_b1_time_to_live_of_every_priority(channel, name, dead):
    """B.1: all priorities of the queue expire."""
    queue = declare(channel, name("source"), max_priority=9, message_ttl=100, **to(dead))
    publish_prioritized(channel, queue, 1, 9, 5)
    assert sorted(receive_bodies(channel, dead, 3)) == ["1-0", "5-2", "9-1"]
    assert counts(channel, queue) == (0, 0)


@pytest.mark.deviation("RabbitMQ expires messages at the head of a queue only")
def test_b1_expiry_behind_a_higher_priority(channel, name, dead):
    """B.1: a low one expires on time though a high one is before it."""
    queue = declare(channel, name("source"), max_priority=9, **to(dead))
    publish(channel, queue, "high", priority=9)
    publish(channel, queue, "low", priority=1, expiration="50")
    assert receive(channel, dead)[2] == "low"
    assert drain(channel, queue) == ["high"]


def test_a8_priority_survives_a_death(channel, name):
    """A.8: a dead letter takes its place by its priority."""
    dead = declare(channel, name("prioritized-dead"), max_priority=9)
    queue = declare(channel, name("source"), message_ttl=50, **to(dead))
    publish_prioritized(channel, queue, 1, 9, 5)
    await_ready(channel, dead, 3)
    assert receive_bodies(channel, dead, 3) == ["9-1", "5-2", "1-0"]


def test_b1_redeclare_with_another_priority(channel, name):
    """A.5: 406, as for any argument that the queue knows."""
    queue = declare(channel, name("source"), max_priority=3)
    declare(channel, queue, max_priority=3)
    text = f"inequivalent arg 'x-max-priority' for queue '{queue}' in vhost '/': received '4' but current is '3'"
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {text}"):
        declare(channel, queue, max_priority=4)


# Priorities in quorum queues


@pytest.mark.deviation(STRICT)
def test_b1_quorum_highest_first(channel, name):
    """0.1 quorum priority: strict, the highest first, without any argument."""
    queue = declare(channel, name("source"), "quorum")
    publish_prioritized(channel, queue, 1, 31, 5, 9, 31, 5)
    await_ready(channel, queue, 6)
    assert drain(channel, queue) == ["31-1", "31-4", "9-3", "5-2", "5-5", "1-0"]


@pytest.mark.deviation(STRICT)
def test_b1_quorum_absent_is_four(channel, name):
    """0.1 quorum priority: no priority is priority 4."""
    queue = declare(channel, name("source"), "quorum")
    publish_prioritized(channel, queue, 3, 5, 4)
    publish(channel, queue, "absent")
    publish_prioritized(channel, queue, 4)
    await_ready(channel, queue, 5)
    assert drain(channel, queue) == ["5-1", "4-2", "absent", "4-0", "3-0"]


@pytest.mark.deviation(STRICT)
def test_b1_quorum_above_the_highest(channel, name):
    """0.1 quorum priority: what is above 31 is taken for 31."""
    queue = declare(channel, name("source"), "quorum")
    publish_prioritized(channel, queue, 30, 31, 32, 255, 31)
    await_ready(channel, queue, 5)
    assert drain(channel, queue) == ["31-1", "32-2", "255-3", "31-4", "30-0"]


@pytest.mark.deviation(STRICT)
def test_b1_quorum_expiry_behind_a_higher_priority(channel, name, dead):
    """0.1 quorum priority: times are up in every priority."""
    queue = declare(channel, name("source"), "quorum", **to(dead))
    publish(channel, queue, "high", priority=31)
    publish(channel, queue, "low", priority=0, expiration="50")
    assert receive(channel, dead)[2] == "low"


@each_queue_type
def test_b1_one_priority_is_first_in_first_out(channel, name, queue_type):
    """A.9: priorities change nothing for those who do not use them."""
    queue = declare(channel, name("source"), queue_type)
    bodies = [str(number) for number in range(200)]
    publish(channel, queue, *bodies)
    await_ready(channel, queue, 200)
    assert drain(channel, queue) == bodies


# Consumer priorities


def inboxes_by_priority(connection, queue, prefetches):
    """A consumer on a channel of its own for each priority with its prefetch."""
    inboxes = {}
    for priority, prefetch in prefetches.items():
        channel = connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        inboxes[priority] = Inbox(channel, queue, arguments={"x-priority": priority})
    return inboxes


@each_queue_type
def test_b2_the_highest_consumer_with_room(channel, connection, name, queue_type):
    """A.9, B.2: a lower one gets what the higher ones have no room for; as soon as they have, it is theirs."""
    queue = declare(channel, name("source"), queue_type)
    inboxes = inboxes_by_priority(connection, queue, {1: 10, 5: 2, 3: 1})
    publish(channel, queue, *"abcd")
    wait_until(connection, lambda: sum(len(inbox.bodies) for inbox in inboxes.values()) == 4)
    assert {priority: inbox.bodies for priority, inbox in inboxes.items()} == {5: ["a", "b"], 3: ["c"], 1: ["d"]}
    inboxes[3].channel.basic_ack(inboxes[3].tags[0])
    inboxes[3].settle()
    publish(channel, queue, "e")
    assert inboxes[3].wait(2).bodies == ["c", "e"]


@each_queue_type
def test_b2_equal_consumers_take_turns(channel, connection, name, queue_type):
    """A.9: round-robin among those of the highest priority only."""
    queue = declare(channel, name("source"), queue_type)
    low = Inbox(connection.channel(), queue, arguments={"x-priority": -1})
    high = [Inbox(connection.channel(), queue, arguments={"x-priority": 2}) for _ in range(2)]
    publish(channel, queue, *"abcdef")
    wait_until(connection, lambda: sum(len(inbox.bodies) for inbox in high) == 6)
    assert [len(inbox.bodies) for inbox in high] == [3, 3]
    assert low.settle().bodies == []


@each_queue_type
def test_b2_cancel_lets_the_next_lower_in(channel, connection, name, queue_type):
    """A.9: when the higher one goes, the lower one gets the rest."""
    queue = declare(channel, name("source"), queue_type)
    high = Inbox(channel, queue, auto_ack=True, arguments={"x-priority": 10})
    low = Inbox(connection.channel(), queue, auto_ack=True)
    publish(channel, queue, "a")
    assert high.wait(1).bodies == ["a"]
    channel.basic_cancel(high.consumer_tag)
    publish(channel, queue, "b")
    assert low.wait(1).bodies == ["b"]


# Single active consumer


@each_queue_type
def test_b1_single_active_consumer(channel, connection, name, queue_type):
    """B.1 x-single-active-consumer: the first gets everything, on cancel the next."""
    queue = declare(channel, name("source"), queue_type, single_active_consumer=True)
    inboxes = [Inbox(connection.channel(), queue, auto_ack=True) for _ in range(3)]
    publish(channel, queue, *"abc")
    assert inboxes[0].wait(3).bodies == ["a", "b", "c"]
    inboxes[0].channel.basic_cancel(inboxes[0].consumer_tag)
    publish(channel, queue, "d", "e")
    assert inboxes[1].wait(2).bodies == ["d", "e"]
    inboxes[1].channel.close()
    publish(channel, queue, "f")
    assert inboxes[2].wait(1).bodies == ["f"]


@each_queue_type
def test_b1_single_active_consumer_with_a_full_prefetch(channel, connection, name, queue_type):
    """B.1 x-single-active-consumer: the others do not help out."""
    queue = declare(channel, name("source"), queue_type, single_active_consumer=True)
    first = connection.channel()
    first.basic_qos(prefetch_count=1)
    active = Inbox(first, queue)
    waiting = Inbox(connection.channel(), queue)
    publish(channel, queue, "a", "b")
    assert active.wait(1).bodies == ["a"]
    assert waiting.settle().bodies == []
    first.basic_ack(active.tags[0])
    assert active.wait(2).bodies == ["a", "b"]


@each_queue_type
def test_b1_single_active_consumer_goes_away_with_work(channel, connection, connect, name, queue_type):
    """B.1 x-single-active-consumer: what it had is the next one's, redelivered."""
    queue = declare(channel, name("source"), queue_type, single_active_consumer=True)
    other = connect()
    active = Inbox(other.channel(), queue)
    waiting = Inbox(channel, queue)
    publish(channel, queue, "a", "b")
    active.wait(2)
    other.close()
    assert waiting.wait(2).bodies == ["a", "b"]
    assert waiting.redelivered == [True, True]


def test_b1_single_active_consumer_ignores_priorities_of_classic_queues(channel, connection, name):
    """A.9: the order of subscription decides."""
    queue = declare(channel, name("source"), single_active_consumer=True)
    low = Inbox(connection.channel(), queue, auto_ack=True, arguments={"x-priority": 1})
    high = Inbox(connection.channel(), queue, auto_ack=True, arguments={"x-priority": 10})
    publish(channel, queue, "a")
    assert low.wait(1).bodies == ["a"]
    assert high.settle().bodies == []


def test_b1_waiting_consumers_count(channel, connection, name):
    """A.5, B.1 x-single-active-consumer: a declaration tells of all that are there."""
    queue = declare(channel, name("source"), single_active_consumer=True)
    for _ in range(3):
        Inbox(connection.channel(), queue)
    assert counts(channel, queue)[1] == 3


def test_a10_no_exclusive_consumer_where_one_is_active(channel, name):
    """A.10: 403, from a classic queue; quorum queues of RabbitMQ do not know exclusive consumers."""
    queue = declare(channel, name("source"), single_active_consumer=True)
    with channel_refused(channel, 403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        channel.basic_consume(queue, print, exclusive=True)


def test_a10_get_from_a_queue_with_a_single_active_consumer(channel, name):
    """A.10: 405 for a quorum queue."""
    queue = declare(channel, name("source"), "quorum", single_active_consumer=True)
    text = (
        f"cannot obtain access to locked queue '{queue}' in vhost '/'. "
        "basic.get operations are not supported by quorum queues with single active consumer"
    )
    with channel_refused(channel, 405, f"RESOURCE_LOCKED - {text}"):
        channel.basic_get(queue)


def test_a5_single_active_consumer_is_not_changeable(channel, name):
    """B.1 x-single-active-consumer: 406 for another value."""
    queue = declare(channel, name("source"), single_active_consumer=True)
    declare(channel, queue, single_active_consumer=True)
    text = f"inequivalent arg 'x-single-active-consumer' for queue '{queue}' in vhost '/'"
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - {text}: received 'false' but current is 'true'"):
        declare(channel, queue, single_active_consumer=False)


# Exclusive consumers


def test_a6_exclusive_consumer(channel, connection, name):
    """A.6: others are refused while it lasts, those of its own connection too; basic.get is not."""
    queue = declare(channel, name("source"))
    exclusive = Inbox(channel, queue, exclusive=True)
    publish(channel, queue, "a")
    assert exclusive.wait(1).bodies == ["a"]
    channel.basic_nack(exclusive.tags[0], requeue=True)
    exclusive.wait(2)
    other = connection.channel()
    assert other.basic_get(queue)[0] is None
    with channel_refused(other, 403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        other.basic_consume(queue, print)


@each_queue_type
def test_a6_exclusive_consumer_is_gone_with_its_channel(channel, connection, name, queue_type):
    """A.6: then the next one may have the queue, exclusively too."""
    queue = declare(channel, name("source"), queue_type)
    first = connection.channel()
    Inbox(first, queue, exclusive=True)
    first.close()
    inbox = Inbox(channel, queue, exclusive=True)
    publish(channel, queue, "a")
    assert inbox.wait(1).bodies == ["a"]


def test_a6_exclusive_consumer_of_a_lost_connection(channel, connect, name):
    """A.6: likewise with its connection."""
    queue = declare(channel, name("source"))
    other = connect()
    Inbox(other.channel(), queue, exclusive=True)
    other.close()
    wait_until(channel.connection, lambda: counts(channel, queue)[1] == 0)
    assert Inbox(channel, queue, exclusive=True).consumer_tag
