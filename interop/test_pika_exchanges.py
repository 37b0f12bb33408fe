"""Exchanges with pika: declaring, redeclaring, deleting, binding to each other, and every refusal."""

import pika
import pytest

from support import channel_refused, connection_refused, drain, publish

TYPES = ["direct", "fanout", "topic", "headers"]
PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("durable", [False, True])
def test_declare_and_redeclare(channel, name, kind, durable):
    """A.4 declare: the same declaration again is fine, and so is a passive one."""
    exchange = name()
    for _ in range(2):
        channel.exchange_declare(exchange, kind, durable=durable)
    channel.exchange_declare(exchange, passive=True)


@pytest.mark.parametrize("exchange, kind", PREDECLARED.items())
def test_predeclared_exchanges(channel, exchange, kind):
    """A.8 predeclared: they are there, durable, and may be redeclared as they are."""
    channel.exchange_declare(exchange, passive=True)
    channel.exchange_declare(exchange, kind, durable=True)


def test_trace_exchange(connection, channel):
    """A.8 predeclared: amq.rabbitmq.trace is an internal topic exchange."""
    channel.exchange_declare("amq.rabbitmq.trace", "topic", durable=True, internal=True)
    with channel_refused(
        channel, 403, "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'"
    ):
        channel.basic_publish("amq.rabbitmq.trace", "", b"")


def test_passive_declare_ignores_the_properties(channel, name):
    """A.4 passive: only the name counts."""
    exchange = name()
    channel.exchange_declare(exchange, "fanout", durable=True)
    channel.exchange_declare(exchange, "topic", passive=True, durable=False, auto_delete=True)


def test_passive_declare_of_a_missing_exchange(channel, name):
    """A.4 passive: 404 with the name."""
    exchange = name()
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


@pytest.mark.parametrize(
    "argument, received, current, change",
    [
        ("type", "'fanout'", "'direct'", {"exchange_type": "fanout"}),
        ("durable", "'true'", "'false'", {"durable": True}),
        ("auto_delete", "'true'", "'false'", {"auto_delete": True}),
        ("internal", "'true'", "'false'", {"internal": True}),
    ],
)
def test_redeclare_differently(channel, name, argument, received, current, change):
    """A.4 declare: 406 names the first property that differs."""
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange '{exchange}' in vhost '/': "
        f"received {received} but current is {current}"
    )
    with channel_refused(channel, 406, text):
        channel.exchange_declare(exchange, **{"exchange_type": "direct", **change})


def test_redeclare_with_another_alternate(channel, name):
    """A.4 declare: the alternate-exchange is the one argument that is compared."""
    exchange = name()
    channel.exchange_declare(exchange, arguments={"alternate-exchange": "one", "anything": 1})
    channel.exchange_declare(exchange, arguments={"alternate-exchange": "one", "anything": 2})
    text = (
        f"PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{exchange}' in vhost '/': "
        "received 'two' but current is 'one'"
    )
    with channel_refused(channel, 406, text):
        channel.exchange_declare(exchange, arguments={"alternate-exchange": "two"})


def test_unknown_type(connection, channel, name):
    """A.10: a type nobody has heard of closes the connection."""
    with connection_refused(connection, 503, "COMMAND_INVALID - unknown exchange type 'nosuch'"):
        channel.exchange_declare(name(), "nosuch")


def test_reserved_prefix(channel):
    """A.4 declare: amq. is the broker's."""
    text = "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"
    with channel_refused(channel, 403, text):
        channel.exchange_declare("amq.mine")


def test_delete(channel, name):
    """A.4 delete: gone afterwards; deleting what is missing is fine."""
    exchange = name()
    channel.exchange_declare(exchange)
    channel.exchange_delete(exchange)
    channel.exchange_delete(exchange)
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


def test_delete_drops_the_bindings(channel, queue, name):
    """A.4 delete: a new exchange of that name starts without bindings."""
    exchange = name()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(queue, exchange)
    channel.exchange_delete(exchange)
    channel.exchange_declare(exchange, "fanout")
    channel.basic_publish(exchange, "", b"lost")
    assert drain(channel, queue) == []


def test_delete_if_unused(channel, queue, name):
    """A.4 delete: 406 while something is bound to it; then it goes."""
    exchange = name()
    channel.exchange_declare(exchange)
    channel.queue_bind(queue, exchange, "key")
    with channel_refused(channel, 406, f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use"):
        channel.exchange_delete(exchange, if_unused=True)
    again = channel.connection.channel()
    again.queue_unbind(queue, exchange, "key")
    again.exchange_delete(exchange, if_unused=True)
    with channel_refused(again, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        again.exchange_declare(exchange, passive=True)


@pytest.mark.parametrize("exchange", [*PREDECLARED, "amq.rabbitmq.trace"])
def test_delete_a_system_exchange(channel, exchange):
    """A.4 delete: never those of the broker."""
    text = f"ACCESS_REFUSED - deletion of system exchange '{exchange}' in vhost '/' not allowed"
    with channel_refused(channel, 403, text):
        channel.exchange_delete(exchange)


@pytest.mark.parametrize(
    "operation",
    [
        lambda channel: channel.exchange_declare("", "direct", durable=True),
        lambda channel: channel.exchange_delete(""),
        lambda channel: channel.exchange_bind("", "amq.direct", "key"),
        lambda channel: channel.exchange_bind("amq.direct", "", "key"),
        lambda channel: channel.exchange_unbind("", "amq.direct", "key"),
    ],
    ids=["declare", "delete", "bind to", "bind from", "unbind"],
)
def test_default_exchange_is_not_to_be_touched(channel, operation):
    """A.4: 403 for anything but publishing."""
    with channel_refused(channel, 403, "ACCESS_REFUSED - operation not permitted on the default exchange"):
        operation(channel)


def test_publish_to_a_missing_exchange(channel, name):
    """A.6 publish: 404 closes the channel."""
    exchange = name()
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.basic_publish(exchange, "key", b"lost")


def test_internal_exchange(channel, queue, name):
    """A.4 internal: it routes what another exchange sends, but no client publishes to it."""
    inner, outer = name("inner"), name("outer")
    channel.exchange_declare(inner, "fanout", internal=True)
    channel.exchange_declare(outer, "fanout")
    channel.exchange_bind(inner, outer)
    channel.queue_bind(queue, inner)
    channel.basic_publish(outer, "", b"through")
    assert drain(channel, queue) == ["through"]
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{inner}' in vhost '/'"
    with channel_refused(channel, 403, text):
        channel.basic_publish(inner, "", b"straight")


def test_exchange_to_exchange_binding(channel, queue, name):
    """A.4 bind: by routing key of the source's type, until unbound."""
    source, destination = name("source"), name("destination")
    channel.exchange_declare(source, "topic")
    channel.exchange_declare(destination, "fanout")
    channel.queue_bind(queue, destination)
    channel.exchange_bind(destination, source, "a.*")
    for key in ("a.b", "b.b"):
        channel.basic_publish(source, key, key)
    assert drain(channel, queue) == ["a.b"]
    channel.exchange_unbind(destination, source, "a.*")
    channel.basic_publish(source, "a.b", b"lost")
    assert drain(channel, queue) == []


def test_exchange_bindings_may_form_a_cycle(channel, queue, name):
    """A.4 bind: a message goes round once, and a queue gets one copy however many ways lead to it."""
    first, second = name("first"), name("second")
    for exchange in (first, second):
        channel.exchange_declare(exchange, "fanout")
        channel.queue_bind(queue, exchange)
    channel.exchange_bind(first, second)
    channel.exchange_bind(second, first)
    channel.basic_publish(first, "", b"once")
    channel.basic_publish(second, "", b"more")
    assert drain(channel, queue) == ["once", "more"]


@pytest.mark.parametrize("missing", ["source", "destination"])
def test_bind_a_missing_exchange(channel, name, missing):
    """A.4 bind: 404 names the one that is not there."""
    ends = {"source": name("source"), "destination": name("destination")}
    for end, exchange in ends.items():
        if end != missing:
            channel.exchange_declare(exchange)
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{ends[missing]}' in vhost '/'"):
        channel.exchange_bind(ends["destination"], ends["source"], "key")


def test_unbind_what_is_not_there(channel, name):
    """A.10: unbind-ok, whether it is the binding or an exchange that is missing."""
    source, destination = name("source"), name("destination")
    channel.exchange_unbind(destination, source, "key")
    channel.exchange_declare(source)
    channel.exchange_unbind(destination, source, "key")
    channel.exchange_declare(destination)
    channel.exchange_unbind(destination, source, "key")


def test_auto_delete_exchange_goes_with_its_last_binding(channel, queue, name):
    """A.4 auto-delete: not before the first binding, and not while one is left."""
    exchange = name()
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.exchange_declare(exchange, passive=True)
    for key in ("one", "two"):
        channel.queue_bind(queue, exchange, key)
    channel.queue_unbind(queue, exchange, "one")
    channel.exchange_declare(exchange, passive=True)
    channel.queue_unbind(queue, exchange, "two")
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


def test_auto_delete_exchange_goes_with_the_queue_it_fed(channel, name):
    """A.4 auto-delete: deleting the last bound queue unbinds it too."""
    exchange, queue = name("exchange"), name("queue")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange)
    channel.queue_delete(queue)
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


def test_auto_delete_counts_bindings_from_the_exchange_only(channel, queue, name):
    """A.4 auto-delete: losing a binding *to* it means nothing."""
    source, exchange = name("source"), name("exchange")
    channel.exchange_declare(source, "fanout")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_bind(queue, exchange)
    channel.exchange_bind(exchange, source)
    channel.exchange_unbind(exchange, source)
    channel.exchange_declare(exchange, passive=True)


def test_alternate_exchange_takes_what_has_no_route(channel, name):
    """A.4 alternate-exchange: only what was not routed, and that counts as routed for mandatory."""
    main, spare, routed, unrouted = (name(noun) for noun in ("main", "spare", "routed", "unrouted"))
    channel.exchange_declare(spare, "fanout")
    channel.exchange_declare(main, "direct", arguments={"alternate-exchange": spare})
    for queue in (routed, unrouted):
        channel.queue_declare(queue)
    channel.queue_bind(routed, main, "known")
    channel.queue_bind(unrouted, spare)
    channel.confirm_delivery()
    for key in ("known", "unknown"):
        channel.basic_publish(main, key, key, mandatory=True)
    assert drain(channel, routed) == ["known"]
    method, _, body = channel.basic_get(unrouted, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (main, "unknown", b"unknown")


def test_missing_alternate_exchange(channel, name):
    """A.4 alternate-exchange: it need not exist; then the message has no route."""
    exchange = name("main")
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": name("never declared")})
    channel.confirm_delivery()
    channel.basic_publish(exchange, "key", b"dropped")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(exchange, "key", b"returned", mandatory=True)


def test_alternate_exchanges_in_a_circle(channel, name):
    """A.4 alternate-exchange: a circle ends, without a route."""
    first, second = name("first"), name("second")
    channel.exchange_declare(first, "direct", arguments={"alternate-exchange": second})
    channel.exchange_declare(second, "direct", arguments={"alternate-exchange": first})
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(first, "key", b"round and round", mandatory=True)


def test_alternate_exchange_of_the_wrong_type(channel, name):
    """A.4 alternate-exchange: must be a string."""
    exchange = name()
    text = (
        f"PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange '{exchange}' "
        "in vhost '/'"
    )
    with channel_refused(channel, 406, text):
        channel.exchange_declare(exchange, arguments={"alternate-exchange": 7})


def test_bindings_with_other_arguments_are_others(channel, queue, name):
    """A.5 bind: a binding is its source, destination, key and arguments; repeating one changes nothing."""
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    for arguments in (None, {"note": "one"}, {"note": "two"}, {"note": "two"}):
        channel.queue_bind(queue, exchange, "key", arguments)
    for left, arguments in [(2, None), (1, {"note": "one"}), (0, {"note": "two"})]:
        channel.queue_unbind(queue, exchange, "key", arguments)
        channel.basic_publish(exchange, "key", b"one copy")
        assert drain(channel, queue) == ["one copy"] * bool(left)


def test_default_exchange_reaches_every_queue_by_name(channel, queue):
    """A.8 predeclared: the default exchange needs no bindings."""
    publish(channel, queue, "a", "b")
    assert drain(channel, queue) == ["a", "b"]
