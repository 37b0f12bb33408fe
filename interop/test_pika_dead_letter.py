"""Dead-lettering with pika: when, where to, with which headers, and when not."""

import datetime

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
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

FIRST_DEATH = ("x-first-death-reason", "x-first-death-queue", "x-first-death-exchange")
LAST_DEATH = ("x-last-death-reason", "x-last-death-queue", "x-last-death-exchange")


def reject(channel, queue):
    """Rejects the next message of `queue`, waited for."""
    channel.basic_reject(receive(channel, queue, auto_ack=False)[0].delivery_tag, requeue=False)


def without_last_death(headers):
    """The headers less x-last-death-*, which RabbitMQ has since 3.13 only."""
    return {key: value for key, value in headers.items() if key not in LAST_DEATH}


# How messages die: each of these leaves exactly the message "first" in the dead-letter queue


def die_by_reject(channel, queue):
    """basic.reject without requeue."""
    publish(channel, queue, "first")
    reject(channel, queue)


def die_by_nack(channel, queue):
    """basic.nack without requeue, several at once."""
    publish(channel, queue, "first")
    channel.basic_nack(receive(channel, queue, auto_ack=False)[0].delivery_tag, multiple=True, requeue=False)


def die_of_age(channel, queue):
    """The time that the queue allows is up."""
    publish(channel, queue, "first")


def die_of_expiration(channel, queue):
    """The time of the message is up."""
    publish(channel, queue, "first", expiration="50")


def die_of_length(channel, queue):
    """The queue is full."""
    publish(channel, queue, "first", "second")


def die_of_deliveries(channel, queue):
    """It was delivered and rejected too often."""
    publish(channel, queue, "first")
    for _ in range(2):
        channel.basic_reject(receive(channel, queue, auto_ack=False)[0].delivery_tag, requeue=True)


ENDS = [
    ("classic", "rejected", {}, die_by_reject),
    ("quorum", "rejected", {}, die_by_reject),
    ("classic", "rejected", {}, die_by_nack),
    ("quorum", "rejected", {}, die_by_nack),
    ("classic", "expired", {"message_ttl": 50}, die_of_age),
    ("quorum", "expired", {"message_ttl": 50}, die_of_age),
    ("classic", "expired", {}, die_of_expiration),
    ("quorum", "expired", {}, die_of_expiration),
    ("classic", "maxlen", {"max_length": 1}, die_of_length),
    ("quorum", "maxlen", {"max_length": 1}, die_of_length),
    ("classic", "maxlen", {"max_length_bytes": 8}, die_of_length),
    ("quorum", "maxlen", {"max_length_bytes": 8}, die_of_length),
    ("quorum", "delivery_limit", {"delivery_limit": 1}, die_of_deliveries),
]


@pytest.mark.parametrize(
    "queue_type, reason, arguments, die", ENDS, ids=[f"{queue_type}-{die.__name__}" for queue_type, _, _, die in ENDS]
)
def test_a8_x_death_of_every_reason(channel, name, dead, queue_type, reason, arguments, die):
    """A.8 x-death: exactly these keys, as pika reads their types; where it died first in x-first-death-*."""
    queue = declare(channel, name("source"), queue_type, **arguments, **to(dead))
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    die(channel, queue)
    method, properties, body = receive(channel, dead)
    after = datetime.datetime.now(datetime.timezone.utc)
    assert (method.exchange, method.routing_key, method.redelivered, body) == ("", dead, False, "first")
    time = properties.headers["x-death"][0].pop("time")
    assert before <= time <= after
    expected = {"count": 1, "reason": reason, "queue": queue, "exchange": "", "routing-keys": [queue]}
    if die is die_of_expiration:
        expected["original-expiration"] = "50"
    assert without_last_death(properties.headers) == {
        "x-death": [expected],
        "x-first-death-reason": reason,
        "x-first-death-queue": queue,
        "x-first-death-exchange": "",
    }
    assert isinstance(properties.headers["x-death"][0]["count"], pika.compat.long)
    assert drain(channel, dead) == []


@each_queue_type
def test_a8_everything_else_stays(channel, name, dead, queue_type):
    """A.8: body, headers and properties are as published, but for the expiration."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    properties = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "priority": 3,
        "correlation_id": "correlation",
        "reply_to": "reply",
        "message_id": "message",
        "timestamp": 1_600_000_000,
        "type": "type",
        "user_id": "guest",
        "app_id": "app",
        "cluster_id": "cluster",
    }
    headers = {"z": 1, "a": [True, None, {"b": "c"}], "x-mine": -1}
    publish(channel, queue, "body", headers=headers, expiration="60000", **properties)
    reject(channel, queue)
    _, received, body = receive(channel, dead)
    assert body == "body"
    assert {key: getattr(received, key) for key in properties} == properties
    assert {key: received.headers[key] for key in headers} == headers
    assert received.expiration is None
    assert received.headers["x-death"][0]["original-expiration"] == "60000"


@each_queue_type
def test_a8_without_its_expiration_it_does_not_expire_again(channel, name, dead, queue_type):
    """A.8: this is what the expiration is removed for."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    publish(channel, queue, "a", expiration="50")
    await_ready(channel, dead, 1)
    elapse(channel, 100)
    assert drain(channel, dead) == ["a"]


@pytest.mark.deviation("RabbitMQ has x-last-death-* since 3.13")
@each_queue_type
def test_a8_last_death(channel, name, dead, queue_type):
    """A.8 x-last-death-*: always of the newest death, where x-first-death-* stays."""
    second = declare(channel, name("second"), queue_type, message_ttl=50, **to(dead))
    first = declare(channel, name("first"), queue_type, **to(second))
    publish(channel, first, "a")
    reject(channel, first)
    headers = receive(channel, dead)[1].headers
    assert [headers[key] for key in FIRST_DEATH] == ["rejected", first, ""]
    assert [headers[key] for key in LAST_DEATH] == ["expired", second, ""]


# Several deaths


@each_queue_type
def test_a8_two_deaths(channel, name, dead, queue_type):
    """A.8 x-death: the newest is first; x-first-death-* is of the oldest."""
    second = declare(channel, name("second"), queue_type, message_ttl=50, **to(dead))
    first = declare(channel, name("first"), queue_type, **to(second))
    publish(channel, first, "a")
    reject(channel, first)
    properties = receive(channel, dead)[1]
    assert deaths(properties) == [(second, "expired", 1), (first, "rejected", 1)]
    assert [properties.headers[key] for key in FIRST_DEATH] == ["rejected", first, ""]
    assert [entry["routing-keys"] for entry in properties.headers["x-death"]] == [[second], [first]]


def chain(channel, name, dead, length):
    """Queues of which each hands what expires to the next and the last to `dead`."""
    queues = [name(f"stage-{number}") for number in range(length)]
    for queue, successor in zip(queues, [*queues[1:], dead]):
        declare(channel, queue, message_ttl=20, **to(successor))
    return queues


def test_a8_chain_of_deaths(channel, name, dead):
    """A.8 x-death: an entry for each queue, and the newest is first."""
    queues = chain(channel, name, dead, 5)
    publish(channel, queues[0], "a")
    properties = receive(channel, dead)[1]
    assert deaths(properties)[0] == (queues[-1], "expired", 1)
    assert set(deaths(properties)) == {(queue, "expired", 1) for queue in queues}
    assert [properties.headers[key] for key in FIRST_DEATH] == ["expired", queues[0], ""]


@pytest.mark.deviation("RabbitMQ 3.10.8 turns the older entries around at each death; 4.0 has them in order")
def test_a8_chain_of_deaths_is_in_order(channel, name, dead):
    """A.8 x-death: all of it from the newest to the oldest, as RabbitMQ has it since 4.0."""
    queues = chain(channel, name, dead, 5)
    publish(channel, queues[0], "a")
    assert deaths(receive(channel, dead)[1]) == [(queue, "expired", 1) for queue in reversed(queues)]


@each_queue_type
def test_a8_the_same_death_again(channel, name, queue_type):
    """A.8 x-death: the count goes up, and the time stays that of the first."""
    wait, work = name("wait"), name("work")
    declare(channel, wait, queue_type, message_ttl=50, **to(work))
    declare(channel, work, queue_type, **to(wait))
    publish(channel, work, "job")
    reject(channel, work)
    first = receive(channel, work, auto_ack=False)
    elapse(channel, 1000)
    channel.basic_reject(first[0].delivery_tag, requeue=False)
    again = receive(channel, work)
    assert deaths(first[1]) == [(wait, "expired", 1), (work, "rejected", 1)]
    assert deaths(again[1]) == [(wait, "expired", 2), (work, "rejected", 2)]
    times = [[entry["time"] for entry in properties.headers["x-death"]] for _, properties, _ in (first, again)]
    assert times[0] == times[1]


@each_queue_type
def test_a8_reasons_have_entries_of_their_own(channel, name, queue_type):
    """A.8 x-death: one entry for each queue and reason; the one that is counted up comes to the front."""
    queue = name("source")
    declare(channel, queue, queue_type, max_length=1, **to(queue))
    publish(channel, queue, "a")
    reject(channel, queue)
    await_ready(channel, queue, 1)
    other = declare(channel, name("other"), queue_type, message_ttl=50, **to(queue))
    _, properties, _ = receive(channel, queue)
    for count in (1, 2):
        channel.basic_publish("", other, b"a", properties)
        _, properties, _ = receive(channel, queue)
        assert deaths(properties) == [(other, "expired", count), (queue, "rejected", 1)]
    channel.basic_publish("", queue, b"a", properties)
    reject(channel, queue)
    assert deaths(receive(channel, queue)[1]) == [(queue, "rejected", 2), (other, "expired", 2)]


# Where to


@each_queue_type
@pytest.mark.parametrize("override", [None, "other.key"])
def test_a8_routing_keys(channel, name, queue_type, override):
    """A.8: to the DLX with the keys of the publish, CC and BCC included, or with the overriding key alone."""
    exchange, queue = name("dlx"), name("source")
    channel.exchange_declare(exchange, "topic")
    arguments = {"dead_letter_routing_key": override} if override else {}
    declare(channel, queue, queue_type, dead_letter_exchange=exchange, **arguments)
    keys = [queue, "copy", "blind", "other.key"]
    targets = {key: declare(channel, name(f"target-{key}")) for key in keys}
    for key, target in targets.items():
        channel.queue_bind(target, exchange, key)
    publish(channel, queue, "a", headers={"CC": ["copy"], "BCC": ["blind"]})
    reject(channel, queue)
    expected = ["other.key"] if override else keys[:3]
    for key in expected:
        method, properties, _ = receive(channel, targets[key])
        assert (method.exchange, method.routing_key) == (exchange, expected[0])
        assert properties.headers.get("CC") == (None if override else ["copy"])
        assert "BCC" not in properties.headers
        assert properties.headers["x-death"][0]["routing-keys"] == [queue, "copy"]
    assert [counts(channel, target)[0] for target in targets.values()] == [0, 0, 0, 0]


@each_queue_type
def test_a8_the_exchange_of_the_publish(channel, name, dead, queue_type):
    """A.8 x-death: exchange and keys are those that brought the message into the queue where it died."""
    exchange, queue = name("exchange"), name("source")
    channel.exchange_declare(exchange, "topic")
    declare(channel, queue, queue_type, message_ttl=50, **to(dead))
    channel.queue_bind(queue, exchange, "orders.#")
    channel.basic_publish(exchange, "orders.eu.de", b"a")
    (entry,) = receive(channel, dead)[1].headers["x-death"]
    assert (entry["exchange"], entry["routing-keys"]) == (exchange, ["orders.eu.de"])


def test_a8_one_death_many_queues(channel, name):
    """A.8: the DLX routes like any exchange: to several queues, through others, by its headers."""
    fanout, headers, queue = name("fanout"), name("headers"), name("source")
    channel.exchange_declare(fanout, "fanout")
    channel.exchange_declare(headers, "headers")
    channel.exchange_bind(headers, fanout)
    direct, matched, other = (declare(channel, name(noun)) for noun in ("direct", "matched", "other"))
    channel.queue_bind(direct, fanout)
    channel.queue_bind(matched, headers, arguments={"x-match": "all", "kind": "order"})
    channel.queue_bind(other, headers, arguments={"x-match": "all", "kind": "invoice"})
    declare(channel, queue, dead_letter_exchange=fanout)
    publish(channel, queue, "a", headers={"kind": "order"})
    reject(channel, queue)
    for target in (direct, matched):
        assert receive(channel, target)[0].exchange == fanout
    assert drain(channel, other) == []


@each_queue_type
def test_a8_default_exchange_without_a_key(channel, name, dead, queue_type):
    """B.1 x-dead-letter-exchange: '' with the original key leads to the queue of that name."""
    exchange, queue = name("exchange"), name("source")
    channel.exchange_declare(exchange, "fanout")
    declare(channel, queue, queue_type, dead_letter_exchange="")
    channel.queue_bind(queue, exchange)
    channel.basic_publish(exchange, dead, b"a")
    reject(channel, queue)
    assert receive(channel, dead)[2] == "a"


@each_queue_type
def test_b1_missing_dead_letter_exchange(channel, name, dead, queue_type):
    """B.1: what dies is dropped while there is no such exchange, and routed as soon as there is one."""
    exchange, queue = name("later"), name("source")
    declare(channel, queue, queue_type, dead_letter_exchange=exchange)
    publish(channel, queue, "lost")
    reject(channel, queue)
    await_ready(channel, queue, 0)
    elapse(channel, 50)
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(dead, exchange)
    publish(channel, queue, "kept")
    reject(channel, queue)
    assert receive_bodies(channel, dead, 1) == ["kept"]


def test_b1_unroutable_dead_letters(channel, name):
    """B.1: they are dropped, unless the exchange has an alternate."""
    exchange, alternate, queue = name("dlx"), name("alternate"), name("source")
    channel.exchange_declare(alternate, "fanout")
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": alternate})
    target = declare(channel, name("target"))
    channel.queue_bind(target, alternate)
    declare(channel, queue, dead_letter_exchange=exchange)
    publish(channel, queue, "a")
    reject(channel, queue)
    method, properties, _ = receive(channel, target)
    assert (method.exchange, deaths(properties)) == (exchange, [(queue, "rejected", 1)])


def test_a8_dead_letters_find_a_waiting_consumer(channel, connection, name, dead):
    """A.8: they are delivered like any message, also to a queue without a time of its own."""
    inbox = Inbox(connection.channel(), dead, auto_ack=True)
    queue = declare(channel, name("source"), message_ttl=0, **to(dead))
    publish(channel, queue, *"abc")
    assert inbox.wait(3).bodies == ["a", "b", "c"]


# Cycles


@each_queue_type
def test_a8_automatic_cycle(channel, name, dead, queue_type):
    """A.8 cycle rule: without a rejection a message does not come back to where it died."""
    one, two, exchange = name("one"), name("two"), name("dlx")
    channel.exchange_declare(exchange, "fanout")
    declare(channel, one, queue_type, message_ttl=50, dead_letter_exchange=exchange)
    declare(channel, two, queue_type, message_ttl=50, **to(one))
    for queue in (two, dead):
        channel.queue_bind(queue, exchange)
    publish(channel, one, "a")
    assert receive(channel, dead)[2] == "a"
    elapse(channel, 150)
    assert [counts(channel, queue)[0] for queue in (one, two)] == [0, 0]


@each_queue_type
def test_a8_a_cycle_spares_the_other_queues(channel, name, dead, queue_type):
    """A.8 cycle rule: the message is left out for the queue that closes the circle, and for no other."""
    exchange, queue = name("dlx"), name("source")
    channel.exchange_declare(exchange, "fanout")
    declare(channel, queue, queue_type, message_ttl=50, dead_letter_exchange=exchange)
    for target in (queue, dead):
        channel.queue_bind(target, exchange)
    publish(channel, queue, "a")
    assert deaths(receive(channel, dead)[1]) == [(queue, "expired", 1)]
    elapse(channel, 150)
    assert [counts(channel, each)[0] for each in (queue, dead)] == [0, 0]


@each_queue_type
def test_a8_cycle_with_a_rejection(channel, name, queue_type):
    """A.8 cycle rule: with a rejection in it, it is a retry and goes on."""
    wait, work = name("wait"), name("work")
    declare(channel, wait, queue_type, message_ttl=20, **to(work))
    declare(channel, work, queue_type, **to(wait))
    publish(channel, work, "job")
    for count in range(1, 6):
        reject(channel, work)
        method, properties, _ = receive(channel, work, auto_ack=False)
        assert deaths(properties) == [(wait, "expired", count), (work, "rejected", count)]
        if count < 5:
            channel.basic_nack(method.delivery_tag, requeue=True)


@each_queue_type
def test_a8_cycle_of_one_queue(channel, name, queue_type):
    """A.8 cycle rule: a queue that is its own DLX gets back what is rejected, not what expires."""
    queue = name("source")
    declare(channel, queue, queue_type, message_ttl=400, **to(queue))
    publish(channel, queue, "a")
    reject(channel, queue)
    method, properties, _ = receive(channel, queue, auto_ack=False)
    assert deaths(properties) == [(queue, "rejected", 1)]
    channel.basic_nack(method.delivery_tag, requeue=True)
    elapse(channel, 600)
    assert drain(channel, queue) == []


@each_queue_type
def test_a8_cycle_of_full_queues(channel, name, queue_type):
    """A.8 cycle rule: maxlen is no rejection either; what fell out of both is gone."""
    one, two = name("one"), name("two")
    declare(channel, one, queue_type, max_length=1, **to(two))
    declare(channel, two, queue_type, max_length=1, **to(one))
    publish(channel, one, "a", "b", "c")
    await_ready(channel, two, 1)
    elapse(channel, 50)
    assert (drain(channel, one), drain(channel, two)) == (["c"], ["b"])


@pytest.mark.deviation("RabbitMQ 3.10.8 has three deaths in a wrong order, and so lets this go round for ever")
@each_queue_type
def test_a8_an_old_rejection_does_not_excuse_a_cycle(channel, name, queue_type):
    """A.8 cycle rule: what counts is whether there was a rejection since the message was last in the queue."""
    one, two = name("one"), name("two")
    declare(channel, one, queue_type, message_ttl=300, **to(two))
    declare(channel, two, queue_type, message_ttl=50, **to(one))
    publish(channel, one, "a")
    reject(channel, one)
    elapse(channel, 600)
    assert [counts(channel, queue)[0] for queue in (one, two)] == [0, 0]


# x-death from clients


def dead_of(channel, name, dead, entries, **headers):
    """The headers of a message that was published with these and then rejected; `entries(queue)` is its x-death."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a", headers={"x-death": entries(queue), **headers})
    reject(channel, queue)
    return queue, receive(channel, dead)[1]


def test_a10_x_death_from_a_client_is_continued(channel, name, dead):
    """A.10: counts go on, other entries stay, and x-first-death-* is not added."""
    queue, properties = dead_of(
        channel,
        name,
        dead,
        lambda queue: [
            {"queue": "elsewhere", "reason": "expired", "count": 3},
            {"queue": queue, "reason": "rejected", "count": 7, "mine": "kept"},
        ],
    )
    assert deaths(properties) == [(queue, "rejected", 8), ("elsewhere", "expired", 3)]
    assert properties.headers["x-death"][0]["mine"] == "kept"
    assert not set(FIRST_DEATH) & properties.headers.keys()


def test_a10_another_death_is_put_before_a_clients(channel, name, dead):
    """A.10: an entry of ours, complete, in front of theirs; their x-first-death-* stays."""
    headers = {"x-first-death-queue": "elsewhere"}
    queue, properties = dead_of(
        channel, name, dead, lambda _: [{"queue": "elsewhere", "reason": "expired", "count": 3}], **headers
    )
    assert deaths(properties) == [(queue, "rejected", 1), ("elsewhere", "expired", 3)]
    assert set(properties.headers["x-death"][0]) == {"count", "reason", "queue", "time", "exchange", "routing-keys"}
    assert properties.headers["x-first-death-queue"] == "elsewhere"


def test_a10_a_retried_message_takes_its_deaths_along(channel, name, dead):
    """A.10: a consumer that publishes what it got with its headers lets the count go on."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a")
    for count in range(1, 4):
        reject(channel, queue)
        _, properties, body = receive(channel, dead)
        assert deaths(properties) == [(queue, "rejected", count)]
        channel.basic_publish("", queue, body, properties)


def test_a10_junk_in_place_of_x_death(channel, name, dead):
    """A.10: it is replaced, without x-first-death-*."""
    queue, properties = dead_of(channel, name, dead, lambda _: "junk")
    assert deaths(properties) == [(queue, "rejected", 1)]
    assert not set(FIRST_DEATH) & properties.headers.keys()


@pytest.mark.parametrize("entries", [[], [{}], [{"queue": 1}], [{"reason": "rejected"}]], ids=str)
def test_a10_incomplete_entries_of_x_death(channel, name, dead, entries):
    """A.10: they stay behind ours."""
    queue, properties = dead_of(channel, name, dead, lambda _: entries)
    entry, *others = properties.headers["x-death"]
    assert (entry["queue"], entry["reason"], entry["count"]) == (queue, "rejected", 1)
    assert others == entries


@pytest.mark.deviation("RabbitMQ 3.10.8 loses such a message in a crash")
@pytest.mark.parametrize("junk", [["a", 1], [[]]], ids=str)
def test_a10_junk_in_x_death(channel, name, dead, junk):
    """A.10: whatever a client put there, the message is dead-lettered and our entry is the first."""
    queue, properties = dead_of(channel, name, dead, lambda _: junk)
    entry = properties.headers["x-death"][0]
    assert (entry["queue"], entry["reason"], entry["count"]) == (queue, "rejected", 1)


@pytest.mark.deviation("RabbitMQ 3.10.8 loses such a message in a crash")
def test_a10_a_count_that_is_no_number(channel, name, dead):
    """A.10: the message is dead-lettered nevertheless."""
    queue, properties = dead_of(
        channel, name, dead, lambda queue: [{"queue": queue, "reason": "rejected", "count": "many"}]
    )
    entry = properties.headers["x-death"][0]
    assert (entry["queue"], entry["reason"]) == (queue, "rejected")


def test_a10_first_death_from_a_client(channel, name, dead):
    """A.10: without an x-death it is overwritten."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a", headers=dict.fromkeys(FIRST_DEATH, "made up"))
    reject(channel, queue)
    headers = receive(channel, dead)[1].headers
    assert [headers[key] for key in FIRST_DEATH] == ["rejected", queue, ""]


def test_a10_two_entries_of_one_death_from_a_client(channel, name, dead):
    """A.10: the first one counts on, the other is dropped."""
    queue, properties = dead_of(
        channel, name, dead, lambda queue: [{"queue": queue, "reason": "rejected", "count": count} for count in (7, 2)]
    )
    assert deaths(properties) == [(queue, "rejected", 8)]


# What does not dead-letter, and in which order things happen


@each_queue_type
def test_b1_purge_and_delete_do_not_dead_letter(channel, name, dead, queue_type):
    """B.1: those are no deaths, neither for what is ready nor for what is unacknowledged."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    publish(channel, queue, *"abc")
    receive(channel, queue, auto_ack=False)
    await_ready(channel, queue, 2)
    assert channel.queue_purge(queue).method.message_count == 2
    publish(channel, queue, "d")
    await_ready(channel, queue, 1)
    channel.queue_delete(queue)
    elapse(channel, 50)
    assert drain(channel, dead) == []


@each_queue_type
def test_b1_what_comes_back_does_not_die(channel, connection, name, dead, queue_type):
    """B.1: requeue, recover and a closed channel put messages back."""
    queue = declare(channel, name("source"), queue_type, **to(dead))
    other = connection.channel()
    publish(channel, queue, "a")
    other.basic_nack(receive(other, queue, auto_ack=False)[0].delivery_tag, requeue=True)
    receive(other, queue, auto_ack=False)
    other.basic_recover(requeue=True)
    receive(other, queue, auto_ack=False)
    other.close()
    assert receive_bodies(channel, queue, 1) == ["a"]
    assert drain(channel, dead) == []


def test_b1_acknowledged_messages_do_not_die(channel, name, dead):
    """B.1: neither by ack nor without acks."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a", "b")
    channel.basic_ack(get(channel, queue)[0].delivery_tag)
    get(channel, queue, auto_ack=True)
    elapse(channel, 50)
    assert drain(channel, dead) == []


def test_b1_multiple_rejections_keep_the_order(channel, name, dead):
    """A.9: one nack for many puts them into the dead-letter queue in the order they had."""
    queue = declare(channel, name("source"), **to(dead))
    bodies = [str(number) for number in range(100)]
    publish(channel, queue, *bodies)
    tags = [get(channel, queue)[0].delivery_tag for _ in bodies]
    channel.basic_nack(tags[-1], multiple=True, requeue=False)
    assert receive_bodies(channel, dead, 100) == bodies


@each_queue_type
def test_a7_dead_letters_and_confirms(channel, name, dead, queue_type):
    """A.7: a publish is confirmed for the queue it went to, whatever becomes of it there."""
    queue = declare(channel, name("source"), queue_type, max_length=1, **to(dead))
    channel.confirm_delivery()
    publish(channel, queue, *"abcdef")
    assert receive_bodies(channel, dead, 5) == list("abcde")
    assert receive_bodies(channel, queue, 1) == ["f"]


def test_a7_rejections_in_a_transaction(channel, connection, name, dead):
    """A.7: nobody dies before the commit, and after a rollback nobody at all."""
    queue = declare(channel, name("source"), **to(dead))
    publish(channel, queue, "a")
    worker = connection.channel()
    worker.tx_select()
    method, _, _ = get(worker, queue)
    worker.basic_reject(method.delivery_tag, requeue=False)
    worker.tx_rollback()
    assert counts(channel, dead)[0] == 0
    worker.basic_reject(method.delivery_tag, requeue=False)
    assert counts(channel, dead)[0] == 0
    worker.tx_commit()
    assert deaths(receive(channel, dead)[1]) == [(queue, "rejected", 1)]


def test_a7_publishes_of_a_transaction_die(channel, name, dead):
    """A.7: what a commit puts into a full queue goes on to the dead letters."""
    queue = declare(channel, name("source"), max_length=1, **to(dead))
    channel.tx_select()
    publish(channel, queue, *"abc")
    channel.tx_commit()
    assert receive_bodies(channel, dead, 2) == ["a", "b"]


@pytest.mark.parametrize("strategy", ["at-most-once", "at-least-once"])
def test_b1_dead_letter_strategy(channel, name, strategy):
    """B.1 x-dead-letter-strategy: either way every message arrives, once, in a queue that is there to take it."""
    dead = declare(channel, name("quorum-dead"), "quorum")
    arguments = {"overflow": "reject-publish", "dead_letter_strategy": strategy}
    queue = declare(channel, name("source"), "quorum", message_ttl=50, **arguments, **to(dead))
    publish(channel, queue, *"abc")
    await_ready(channel, dead, 3)
    assert receive_bodies(channel, dead, 3) == ["a", "b", "c"]
    wait_until(channel.connection, lambda: counts(channel, queue)[0] == 0)


@pytest.mark.parametrize("arguments", [{"dead_letter_strategy": "always"}, {"dead_letter_strategy": 1}], ids=str)
def test_b1_invalid_dead_letter_strategy(channel, name, arguments):
    """B.1 x-dead-letter-strategy: 406."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        declare(channel, name("source"), "quorum", **arguments)
    assert refusal.value.reply_code == 406
    assert "x-dead-letter-strategy" in refusal.value.reply_text
