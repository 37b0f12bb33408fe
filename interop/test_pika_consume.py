"""Getting and consuming with pika: settling, requeueing, prefetch, priorities, exclusivity, cancellation, refusals."""

import pytest

from support import (
    Inbox,
    channel_refused,
    connection_refused,
    counts,
    drain,
    get,
    publish,
    round_trip,
    wait_until,
)


def unknown_tag(tag):
    """The text for a delivery tag that is not outstanding."""
    return f"PRECONDITION_FAILED - unknown delivery tag {tag}"


def test_get(channel, queue):
    """A.6 get: delivery tags count from 1, message_count is what stays ready."""
    publish(channel, queue, "a", "b", "c")
    got = [get(channel, queue) for _ in range(3)]
    assert [body for _, _, body in got] == ["a", "b", "c"]
    assert [method.delivery_tag for method, _, _ in got] == [1, 2, 3]
    assert [method.message_count for method, _, _ in got] == [2, 1, 0]
    assert [(method.exchange, method.routing_key, method.redelivered) for method, _, _ in got] == [
        ("", queue, False)
    ] * 3


def test_get_from_an_empty_queue(channel, queue):
    """A.6 get: get-empty."""
    assert channel.basic_get(queue) == (None, None, None)


def test_unsettled_gets_come_back(channel, connect, queue):
    """A.9: what a lost connection had not acknowledged is ready again, in place and redelivered."""
    other = connect()
    reader = other.channel()
    channel.confirm_delivery()
    publish(channel, queue, "a", "b", "c")
    tags = [get(reader, queue)[0].delivery_tag for _ in range(2)]
    reader.basic_ack(tags[1])
    other.close()
    got = [get(channel, queue) for _ in range(2)]
    assert [(method.redelivered, body) for method, _, body in got] == [(True, "a"), (False, "c")]


def test_get_without_ack_settles_at_once(channel, connect, queue):
    """A.6 get: no_ack messages do not come back."""
    other = connect()
    channel.confirm_delivery()
    publish(channel, queue, "a")
    assert get(other.channel(), queue, auto_ack=True)[2] == "a"
    other.close()
    assert drain(channel, queue) == []


def test_consume(channel, connection, queue):
    """A.6 consume: what was there and what comes, in order, with tags from 1."""
    publish(channel, queue, "a", "b")
    inbox = Inbox(connection.channel(), queue).wait(2)
    publish(channel, queue, "c")
    inbox.wait(3)
    assert (inbox.bodies, inbox.tags, inbox.redelivered) == (["a", "b", "c"], [1, 2, 3], [False] * 3)
    method, _, _ = inbox.deliveries[0]
    assert (method.exchange, method.routing_key, method.consumer_tag) == ("", queue, inbox.consumer_tag)


def test_gets_and_deliveries_share_the_tags(channel, queue):
    """A.6 deliver: one sequence for the channel."""
    publish(channel, queue, "a", "b", "c")
    channel.basic_qos(prefetch_count=1)
    assert get(channel, queue)[0].delivery_tag == 1
    inbox = Inbox(channel, queue).wait(1)
    assert inbox.tags == [2]
    assert get(channel, queue)[0].delivery_tag == 3


def test_generator(channel, queue):
    """pika's consume(): the tutorials' way of reading a queue."""
    publish(channel, queue, "a", "b", "c")
    bodies = []
    for method, _, body in channel.consume(queue, inactivity_timeout=5):
        bodies.append(body.decode())
        channel.basic_ack(method.delivery_tag)
        if len(bodies) == 3:
            break
    assert channel.cancel() == 0
    assert bodies == ["a", "b", "c"]


def test_ack_multiple(channel, connection, queue):
    """A.6 ack: multiple settles everything up to the tag and nothing above it."""
    publish(channel, queue, *"abcde")
    reader = connection.channel()
    inbox = Inbox(reader, queue).wait(5)
    reader.basic_ack(inbox.tags[2], multiple=True)
    reader.close()
    assert drain(channel, queue) == ["d", "e"]


def test_ack_everything(channel, connection, queue):
    """A.6 ack: 0 with multiple settles all, also when nothing is outstanding."""
    publish(channel, queue, *"abc")
    reader = connection.channel()
    Inbox(reader, queue).wait(3)
    reader.basic_ack(0, multiple=True)
    reader.basic_ack(0, multiple=True)
    reader.close()
    assert drain(channel, queue) == []


@pytest.mark.parametrize("settle", ["basic_ack", "basic_nack", "basic_reject"])
@pytest.mark.parametrize("tag", [0, 1, 2, 99])
def test_unknown_delivery_tag(channel, queue, settle, tag):
    """A.6 ack: 406 for a tag never given, or given and settled before."""
    publish(channel, queue, "a")
    channel.basic_ack(get(channel, queue)[0].delivery_tag)
    with channel_refused(channel, 406, unknown_tag(tag)):
        getattr(channel, settle)(tag)


def test_ack_multiple_above_the_last_tag(channel, queue):
    """A.10: 406 as well."""
    publish(channel, queue, "a", "b")
    get(channel, queue)
    with channel_refused(channel, 406, unknown_tag(2)):
        channel.basic_ack(2, multiple=True)


def test_tags_belong_to_the_channel(channel, connection, queue):
    """A.6 ack: another channel's tag is unknown, and the message stays with its owner."""
    publish(channel, queue, "a")
    method, _, _ = get(channel, queue)
    other = connection.channel()
    with channel_refused(other, 406, unknown_tag(1)):
        other.basic_ack(method.delivery_tag)
    assert counts(channel, queue) == (0, 0)
    channel.basic_nack(method.delivery_tag)
    assert drain(channel, queue) == ["a"]


@pytest.mark.parametrize("settle", ["basic_nack", "basic_reject"])
def test_requeue_to_the_original_position(channel, queue, settle):
    """A.6 nack/reject: the message is where it was before, whatever order they come back in."""
    publish(channel, queue, *"abcdef")
    tags = {body: method.delivery_tag for method, _, body in (get(channel, queue) for _ in range(4))}
    for body in "cadb":
        getattr(channel, settle)(tags[body], requeue=True)
    got = [get(channel, queue, auto_ack=True) for _ in range(6)]
    assert [body for _, _, body in got] == list("abcdef")
    assert [method.redelivered for method, _, _ in got] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("settle", ["basic_nack", "basic_reject"])
def test_discard(channel, queue, settle):
    """A.6 nack/reject: without requeue the message is gone."""
    publish(channel, queue, "a", "b")
    getattr(channel, settle)(get(channel, queue)[0].delivery_tag, requeue=False)
    assert drain(channel, queue) == ["b"]


@pytest.mark.parametrize("requeue, left", [(True, "abcde"), (False, "de")])
def test_nack_multiple(channel, queue, requeue, left):
    """A.6 nack: multiple settles everything up to the tag."""
    publish(channel, queue, *"abcde")
    tags = [get(channel, queue)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[2], multiple=True, requeue=requeue)
    channel.basic_nack(tags[3])
    assert drain(channel, queue) == list(left)


def test_nack_everything(channel, queue):
    """A.6 nack: 0 with multiple."""
    publish(channel, queue, *"abc")
    for _ in range(2):
        get(channel, queue)
    channel.basic_nack(0, multiple=True)
    assert drain(channel, queue) == ["a", "b", "c"]


def test_nack_to_oneself(channel, connection, queue):
    """A.6 nack: an only consumer gets its message again, redelivered, with a new tag."""
    publish(channel, queue, "a")
    inbox = Inbox(connection.channel(), queue).wait(1)
    inbox.channel.basic_nack(inbox.tags[0])
    inbox.wait(2)
    assert (inbox.bodies, inbox.tags, inbox.redelivered) == (["a", "a"], [1, 2], [False, True])


def test_recover(channel, queue):
    """A.6 recover: everything unacknowledged is requeued, in order."""
    publish(channel, queue, *"abc")
    for _ in range(2):
        get(channel, queue)
    channel.basic_recover(requeue=True)
    got = [get(channel, queue, auto_ack=True) for _ in range(3)]
    assert [(method.redelivered, body) for method, _, body in got] == [(True, "a"), (True, "b"), (False, "c")]


def test_recover_forgets_the_tags(channel, queue):
    """A.6 recover: the old tags are unknown afterwards."""
    publish(channel, queue, "a")
    method, _, _ = get(channel, queue)
    channel.basic_recover(requeue=True)
    with channel_refused(channel, 406, unknown_tag(1)):
        channel.basic_ack(method.delivery_tag)


def test_recover_without_requeue(connection, channel):
    """A.6 recover: not implemented."""
    with connection_refused(connection, 540, "NOT_IMPLEMENTED - requeue=false"):
        channel.basic_recover(requeue=False)


def test_prefetch_per_consumer(channel, connection, queue):
    """A.6 qos: global=false limits each consumer made after it, and an ack makes room for one more."""
    publish(channel, queue, *"abcdefgh")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=2)
    inbox = Inbox(reader, queue).wait(2)
    reader.basic_ack(inbox.tags[0])
    inbox.wait(3)
    reader.basic_ack(inbox.tags[2], multiple=True)
    inbox.wait(5)
    second = Inbox(reader, queue).wait(2)
    assert (inbox.bodies, second.bodies) == (list("abcde"), list("fg"))


def test_prefetch_changes_for_later_consumers_only(channel, connection, queue):
    """A.6 qos: global=false does not touch a consumer that is there."""
    publish(channel, queue, *"abcdef")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=1)
    first = Inbox(reader, queue).wait(1)
    reader.basic_qos(prefetch_count=3)
    first.settle()
    second = Inbox(reader, queue).wait(3)
    assert (first.bodies, second.bodies) == (["a"], ["b", "c", "d"])


def test_prefetch_for_the_channel(channel, connection, queue):
    """A.6 qos: global=true is one limit for all consumers of the channel, and changes at run time."""
    publish(channel, queue, *"abcdefgh")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=3, global_qos=True)
    inboxes = [Inbox(reader, queue), Inbox(reader, queue)]

    def received():
        return sum(len(inbox.deliveries) for inbox in inboxes)

    wait_until(connection, lambda: received() == 3)
    inboxes[0].settle()
    assert received() == 3
    reader.basic_qos(prefetch_count=5, global_qos=True)
    wait_until(connection, lambda: received() == 5)
    inboxes[0].settle()
    assert received() == 5
    reader.basic_qos(prefetch_count=0, global_qos=True)
    wait_until(connection, lambda: received() == 8)
    assert sorted(inboxes[0].bodies + inboxes[1].bodies) == list("abcdefgh")


def test_both_prefetch_limits_hold(channel, connection, queue):
    """A.6 qos: the consumer's and, if it was set after that, the channel's."""
    publish(channel, queue, *"abcdefgh")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=2)
    reader.basic_qos(prefetch_count=3, global_qos=True)
    inboxes = [Inbox(reader, queue).wait(2), Inbox(reader, queue).wait(1)]
    assert [inbox.bodies for inbox in inboxes] == [["a", "b"], ["c"]]


def test_prefetch_per_consumer_lifts_the_channels(channel, connection, queue):
    """A.6 qos: global=false ends a limit that global=true had set before, as RabbitMQ 3.10.8 does."""
    publish(channel, queue, *"abcdefgh")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=3, global_qos=True)
    reader.basic_qos(prefetch_count=2)
    inboxes = [Inbox(reader, queue).wait(2), Inbox(reader, queue).wait(2)]
    assert [inbox.bodies for inbox in inboxes] == [["a", "b"], ["c", "d"]]


def test_prefetch_does_not_hold_back_auto_ack(channel, connection, queue):
    """A.6 qos: it counts what is unacknowledged."""
    publish(channel, queue, *"abcdef")
    reader = connection.channel()
    reader.basic_qos(prefetch_count=1)
    assert Inbox(reader, queue, auto_ack=True).wait(6).bodies == list("abcdef")


def test_prefetch_does_not_hold_back_get(channel, queue):
    """A.6 qos: basic.get is the client's own decision."""
    publish(channel, queue, *"abc")
    channel.basic_qos(prefetch_count=1)
    assert [get(channel, queue)[2] for _ in range(3)] == list("abc")


def test_prefetch_size(connection, channel):
    """A.6 qos: not implemented."""
    with connection_refused(connection, 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"):
        channel.basic_qos(prefetch_size=10)


def test_round_robin(channel, connection, queue):
    """A.9: consumers of equal priority take turns."""
    inboxes = [Inbox(connection.channel(), queue) for _ in range(3)]
    for number in range(30):
        publish(channel, queue, str(number))
    wait_until(connection, lambda: sum(len(inbox.deliveries) for inbox in inboxes) == 30)
    assert [inbox.bodies for inbox in inboxes] == [[str(each) for each in range(turn, 30, 3)] for turn in range(3)]


def test_busy_consumer_is_passed_over(channel, connection, queue):
    """A.9: who has no credit loses the turn, not the message."""
    readers = [connection.channel() for _ in range(2)]
    readers[0].basic_qos(prefetch_count=1)
    slow, fast = (Inbox(reader, queue) for reader in readers)
    publish(channel, queue, *"abcdef")
    wait_until(connection, lambda: len(slow.deliveries) + len(fast.deliveries) == 6)
    assert (slow.bodies, fast.bodies) == (["a"], list("bcdef"))


def test_consumer_priorities(channel, connection, queue):
    """A.9, B.2 x-priority: the higher gets everything until its prefetch is used up; 0 is the default."""
    limits = {-5: 0, 0: 2, 10: 2}
    inboxes = {}
    for priority, prefetch in limits.items():
        reader = connection.channel()
        reader.basic_qos(prefetch_count=prefetch)
        inboxes[priority] = Inbox(reader, queue, arguments={"x-priority": priority} if priority else None)
    publish(channel, queue, *"abcdef")
    wait_until(connection, lambda: sum(len(inbox.deliveries) for inbox in inboxes.values()) == 6)
    assert {priority: inbox.bodies for priority, inbox in inboxes.items()} == {
        10: ["a", "b"],
        0: ["c", "d"],
        -5: ["e", "f"],
    }
    inboxes[10].channel.basic_ack(inboxes[10].tags[0])
    publish(channel, queue, "g")
    assert inboxes[10].wait(3).bodies == ["a", "b", "g"]


def test_invalid_consumer_priority(channel, queue):
    """A.6 consume: 406."""
    text = (
        f"PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{queue}' in vhost '/': "
        '"expected integer, got longstr"'
    )
    with channel_refused(channel, 406, text):
        channel.basic_consume(queue, print, arguments={"x-priority": "high"})


def test_exclusive_consumer(channel, connection, queue):
    """A.6 consume: exclusive refuses others while it lasts, and is refused while there are others."""
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    exclusive = Inbox(channel, queue, exclusive=True)
    for options in ({}, {"exclusive": True}):
        other = connection.channel()
        with channel_refused(other, 403, text):
            other.basic_consume(queue, print, **options)
    channel.basic_cancel(exclusive.consumer_tag)
    shared = Inbox(channel, queue)
    other = connection.channel()
    with channel_refused(other, 403, text):
        other.basic_consume(queue, print, exclusive=True)
    publish(channel, queue, "a")
    assert shared.wait(1).bodies == ["a"]


def test_cancel(channel, connection, queue):
    """A.6 cancel: nothing arrives after cancel-ok; what is unacknowledged stays so and can be settled."""
    publish(channel, queue, "a")
    reader = connection.channel()
    inbox = Inbox(reader, queue).wait(1)
    assert reader.basic_cancel(inbox.consumer_tag) == []
    publish(channel, queue, "b")
    wait_until(connection, lambda: counts(channel, queue) == (1, 0))
    assert inbox.settle().bodies == ["a"]
    reader.basic_nack(inbox.tags[0])
    assert drain(channel, queue) == ["a", "b"]


def test_consumer_tag_is_free_after_cancel(channel, queue):
    """A.6 cancel: the tag may be used again."""
    for body in "ab":
        inbox = Inbox(channel, queue, consumer_tag="mine", auto_ack=True)
        publish(channel, queue, body)
        assert inbox.wait(1).bodies == [body]
        channel.basic_cancel("mine")


def test_queue_delete_cancels_the_consumers(channel, connection, name):
    """A.6 cancel: the broker tells each of them, after what it had delivered; the channel lives on."""
    queue, cancelled = name(), []
    channel.queue_declare(queue)
    inboxes = [Inbox(connection.channel(), queue) for _ in range(3)]
    for inbox in inboxes:
        inbox.channel.add_on_cancel_callback(lambda method: cancelled.append(method.method.consumer_tag))
    publish(channel, queue, *"abc")
    assert channel.queue_delete(queue).method.message_count == 0
    wait_until(connection, lambda: len(cancelled) == 3)
    assert sorted(cancelled) == sorted(inbox.consumer_tag for inbox in inboxes)
    assert [inbox.bodies for inbox in inboxes] == [["a"], ["b"], ["c"]]
    for inbox in inboxes:
        inbox.channel.basic_ack(inbox.tags[0])
        assert inbox.channel.consumer_tags == []
    round_trip(connection)
    assert all(inbox.channel.is_open for inbox in inboxes)


def test_no_cancel_for_the_one_who_cancels(channel, connection, name):
    """A.6 cancel: a cancelled consumer gets no notice, also if that deletes its queue."""
    queue, notices = name(), []
    channel.queue_declare(queue, auto_delete=True)
    channel.add_on_cancel_callback(notices.append)
    inbox = Inbox(channel, queue)
    channel.basic_cancel(inbox.consumer_tag)
    round_trip(connection)
    connection.process_data_events(time_limit=0)
    assert notices == []


def test_consumers_of_many_queues_on_one_channel(channel, connection, name):
    """A.6 consume: each delivery names its consumer."""
    queues = [channel.queue_declare(name(f"q{index}")).method.queue for index in range(20)]
    reader = connection.channel()
    inboxes = [Inbox(reader, queue, auto_ack=True) for queue in queues]
    for queue in queues:
        publish(channel, queue, queue)
    wait_until(connection, lambda: all(inbox.deliveries for inbox in inboxes))
    assert [inbox.bodies for inbox in inboxes] == [[queue] for queue in queues]
    assert sorted(tag for inbox in inboxes for tag in inbox.tags) == list(range(1, 21))


def test_competing_consumers_share_everything(channel, connect, queue):
    """A.9: three connections, three thousand messages, each delivered once and in order for each consumer."""
    total = 3000
    connections = [connect() for _ in range(3)]
    inboxes = []
    for each in connections:
        reader = each.channel()
        reader.basic_qos(prefetch_count=50)
        inboxes.append(Inbox(reader, queue))
    publish(channel, queue, *(str(number) for number in range(total)))
    settled = [0] * 3
    while sum(len(inbox.deliveries) for inbox in inboxes) < total or min(settled) == 0:
        for index, inbox in enumerate(inboxes):
            connections[index].process_data_events(time_limit=0.001)
            if len(inbox.tags) > settled[index]:
                settled[index] = len(inbox.tags)
                inbox.channel.basic_ack(inbox.tags[-1], multiple=True)
    received = [[int(body) for body in inbox.bodies] for inbox in inboxes]
    assert sorted(sum(received, [])) == list(range(total))
    assert all(each == sorted(each) for each in received)
    for each in connections:
        round_trip(each)
    assert counts(channel, queue) == (0, 3)
