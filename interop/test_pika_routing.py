"""How exchanges route: direct, fanout, topic patterns, headers matching; each message once per queue."""

import pika
import pytest

from support import channel_refused, drain, publish

TOPICS = [
    ("a.b.c", {"a.b.c", "a.*.c", "a.#", "#", "#.c", "a.#.c", "*.*.*", "#.#", "*.#", "a.b.c.#", "#.a.b.c", "*.b.#"}),
    ("a", {"#", "a.#", "*", "#.#", "*.#"}),
    ("a.c", {"#", "a.#", "#.c", "a.#.c", "#.#", "*.#", "*.*"}),
    ("a.b.b.c", {"#", "a.#", "#.c", "a.#.c", "#.#", "*.#", "*.b.#"}),
    ("", {"#", "#.#", ""}),
    (".", {"#", "#.#", "*.*", "*.#"}),
    ("a..c", {"#", "#.#", "a.#", "#.c", "a.#.c", "a.*.c", "*.*.*", "*.#"}),
    ("b", {"#", "#.#", "*", "*.#"}),
    ("*", {"#", "#.#", "*", "*.#"}),
    ("A.B.C", {"#", "#.#", "*.*.*", "*.#"}),
]
PATTERNS = sorted({pattern for _, matching in TOPICS for pattern in matching})


@pytest.fixture
def bind_all(channel, name):
    """Binds a queue for each of some bindings (key, arguments); tells by index which of them got the last message."""

    def bound(kind, bindings):
        exchange = name("exchange")
        channel.exchange_declare(exchange, kind)
        queues = []
        for index, (key, arguments) in enumerate(bindings):
            queues.append(channel.queue_declare(name(f"q{index}"), exclusive=True).method.queue)
            channel.queue_bind(queues[-1], exchange, key, arguments)

        def reached(key, headers=None):
            channel.basic_publish(exchange, key, b"x", pika.BasicProperties(headers=headers))
            got = [drain(channel, queue) for queue in queues]
            assert all(bodies in ([], ["x"]) for bodies in got), "more than one copy"
            return {index for index, bodies in enumerate(got) if bodies}

        return reached

    return bound


def test_direct(bind_all):
    """A.8: by the whole key, to every queue bound with it; '' is a key like any other."""
    reached = bind_all("direct", [("a", None), ("a", None), ("b", None), ("", None), ("a.b", None)])
    assert reached("a") == {0, 1}
    assert reached("b") == {2}
    assert reached("") == {3}
    assert reached("a.b") == {4}
    assert reached("A") == set()
    assert reached("a.*") == set()


def test_fanout(bind_all):
    """A.8: to every queue, whatever the key."""
    reached = bind_all("fanout", [("a", None), ("", None), ("#", None)])
    assert reached("a") == reached("") == reached("anything") == {0, 1, 2}


def test_topic_patterns(bind_all):
    """A.8: * is one word, # any number of them, and words are what stands between dots."""
    reached = bind_all("topic", [(pattern, None) for pattern in PATTERNS])
    for key, matching in TOPICS:
        assert {PATTERNS[index] for index in reached(key)} == matching, key


def test_topic_bindings_come_and_go(channel, queue):
    """A.8: unbinding one pattern leaves the others, and overlapping patterns give one copy."""
    patterns = ["interop.a.*", "interop.#", "interop.*.b", "interop.a.b"]
    for pattern in patterns:
        channel.queue_bind(queue, "amq.topic", pattern)
    for index, pattern in enumerate(patterns):
        channel.basic_publish("amq.topic", "interop.a.b", b"x")
        assert drain(channel, queue) == ["x"], patterns[index:]
        channel.queue_unbind(queue, "amq.topic", pattern)
    channel.basic_publish("amq.topic", "interop.a.b", b"x")
    assert drain(channel, queue) == []


def test_one_queue_many_bindings(channel, queue, name):
    """A.4: a queue bound many times over still gets one copy."""
    exchange = name()
    channel.exchange_declare(exchange, "topic")
    for number in range(200):
        channel.queue_bind(queue, exchange, f"*.{number}.#")
    channel.queue_bind(queue, exchange, "#")
    channel.basic_publish(exchange, "a.7", b"once")
    assert drain(channel, queue) == ["once"]


ALL = {"x-match": "all", "color": "red", "size": 1}
ANY = {"x-match": "any", "color": "red", "size": 1}


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"color": "red", "size": 1}, {0, 1, 2, 5, 6}),
        ({"color": "red", "size": 1, "more": True}, {0, 1, 2, 5, 6}),
        ({"color": "red"}, {1, 5, 6}),
        ({"size": 1}, {1, 6}),
        ({"color": "blue", "size": 2}, {5, 6}),
        ({"color": "red", "size": "1"}, {1, 5, 6}),
        ({"color": "red", "size": 2**40}, {1, 5, 6}),
        ({"color": None}, {5, 6}),
        ({}, {6}),
        (None, {6}),
        ({"x-custom": 1}, {4, 6}),
    ],
    ids=str,
)
def test_headers(bind_all, headers, expected):
    """A.8, A.10 headers: all is the default, void asks for presence, x- headers do not count."""
    bindings = [
        ALL,
        ANY,
        {"color": "red", "size": 1},
        {"x-match": "any", "x-custom": 1},
        {"x-match": "any-with-x", "x-custom": 1},
        {"color": None},
        {"x-match": "all", "x-custom": 1},
    ]
    assert bind_all("headers", [("", binding) for binding in bindings])("ignored", headers) == expected


def test_headers_without_conditions(bind_all):
    """A.8 headers: all of nothing matches, any of nothing does not."""
    reached = bind_all("headers", [("", None), ("", {"x-match": "all"}), ("", {"x-match": "any"})])
    assert reached("", {"a": 1}) == {0, 1}
    assert reached("", None) == {0, 1}


@pytest.mark.parametrize("value", [True, -5, 2**40, "text", b"\x00\xff", [1, "a"], {"k": {"n": 1}}], ids=str)
def test_headers_compare_any_type(bind_all, value):
    """A.8 headers: by value, whatever its type."""
    reached = bind_all("headers", [("", {"key": value}), ("", {"key": "something else"})])
    assert reached("", {"key": value}) == {0}


def test_headers_all_with_x(bind_all):
    """A.8 headers: all-with-x counts x- headers in."""
    reached = bind_all("headers", [("", {"x-match": "all-with-x", "x-a": 1, "b": 2})])
    assert reached("", {"x-a": 1, "b": 2}) == {0}
    assert reached("", {"b": 2}) == set()


def test_headers_unknown_match(channel, queue):
    """A.5 bind: 406."""
    text = 'PRECONDITION_FAILED - Invalid x-match field value <<"most">>; expected all, any, all-with-x, or any-with-x'
    with channel_refused(channel, 406, text):
        channel.queue_bind(queue, "amq.headers", "", {"x-match": "most"})


def test_routing_through_a_web_of_exchanges(channel, queue, name):
    """A.4 bind: three levels of exchanges, each routing by its own type, on the key and headers of the publish."""
    front, topics, byheader = name("front"), name("topics"), name("headers")
    channel.exchange_declare(front, "fanout")
    channel.exchange_declare(topics, "topic")
    channel.exchange_declare(byheader, "headers")
    channel.exchange_bind(topics, front)
    channel.exchange_bind(byheader, topics, "order.#")
    channel.queue_bind(queue, byheader, "", {"x-match": "any", "urgent": True})
    for key, urgent in [("order.new", True), ("order.new", False), ("invoice.new", True)]:
        channel.basic_publish(front, key, f"{key} {urgent}", pika.BasicProperties(headers={"urgent": urgent}))
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (front, "order.new", b"order.new True")
    assert drain(channel, queue) == []


def test_binding_a_thousand_keys(channel, queue, name):
    """A.5 bind: many bindings of one queue, each found."""
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    for number in range(1000):
        channel.queue_bind(queue, exchange, f"key {number}")
    for number in (0, 1, 500, 999, 1000):
        channel.basic_publish(exchange, f"key {number}", str(number))
    assert drain(channel, queue) == ["0", "1", "500", "999"]


def test_a_queue_name_is_not_a_pattern(channel, queue, name):
    """A.8: the default exchange compares names literally."""
    publish(channel, "#", "lost")
    publish(channel, queue + ".more", "lost")
    assert drain(channel, queue) == []
