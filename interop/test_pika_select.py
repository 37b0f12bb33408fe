"""pika's SelectConnection: the callback style, with many things under way at once."""

import functools

import pika
import pytest
from pika.adapters.select_connection import SelectConnection

DEADLINE_SECONDS = 15


class Session:
    """Runs one SelectConnection until the scenario calls `done`; whatever a callback raises ends the run."""

    def __init__(self, adapter, parameters, scenario):
        """`scenario(session, channel)` starts when the first channel is open."""
        self.outcome = None
        self.closed_with = None
        self.connection = adapter(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=functools.partial(scenario, self)),
            on_open_error_callback=lambda _, error: self.finish(error),
            on_close_callback=lambda _, reason: self.finish(reason),
        )

    def run(self):
        """What the scenario gave to `done`, or the reason why the connection ended before."""
        self.connection.ioloop.call_later(DEADLINE_SECONDS, self.overdue)
        self.connection.ioloop.start()
        return self.outcome if self.outcome is not None else self.closed_with

    def done(self, outcome=True):
        """Keeps the outcome and closes the connection."""
        self.outcome = outcome
        self.connection.close()

    def finish(self, reason):
        """Stops the loop once the connection is closed."""
        self.closed_with = reason
        self.connection.ioloop.stop()

    def overdue(self):
        """Fails the test."""
        raise AssertionError(f"not done within {DEADLINE_SECONDS} s")


@pytest.fixture
def run(broker):
    """Runs a scenario on a SelectConnection."""

    def scenario_result(scenario, **options):
        return Session(SelectConnection, broker.parameters(**options), scenario).run()

    return scenario_result


def test_open_and_close(run):
    """A.2, A.3: open, a channel, close; the close reason is the client's own."""
    assert run(lambda session, channel: session.done(channel.channel_number)) == 1


def test_wrong_password(run):
    """A.2 auth failure: on_open_error_callback gets ProbableAuthenticationError."""
    reason = run(lambda session, channel: session.done(), credentials=pika.PlainCredentials("guest", "wrong"))
    assert isinstance(reason, pika.exceptions.ProbableAuthenticationError)


def test_publish_confirm_and_consume(run, name):
    """A.6, A.7: five hundred publishes under way at once; every one confirmed, delivered once and in order."""
    queue, total = name(), 500
    confirmed, received = set(), []

    def scenario(session, channel):
        def on_confirm(frame):
            assert isinstance(frame.method, pika.spec.Basic.Ack)
            last = frame.method.delivery_tag
            first = min(set(range(1, last + 1)) - confirmed) if frame.method.multiple else last
            confirmed.update(range(first, last + 1))
            finish_if_complete()

        def on_message(_channel, method, _properties, body):
            received.append(int(body))
            channel.basic_ack(method.delivery_tag)
            finish_if_complete()

        def finish_if_complete():
            if len(confirmed) == total == len(received):
                session.done()

        def publish(_frame):
            for number in range(total):
                channel.basic_publish("", queue, str(number))

        def select(_frame):
            channel.basic_consume(queue, on_message)
            channel.confirm_delivery(on_confirm, callback=publish)

        channel.queue_declare(queue, callback=select)

    assert run(scenario) is True
    assert confirmed == set(range(1, total + 1))
    assert received == list(range(total))


def test_returns_before_confirms(run):
    """A.6, A.7: each return comes before the confirm of its publish."""
    events = []

    def scenario(session, channel):
        def on_confirm(frame):
            events.append(("confirm", frame.method.delivery_tag, frame.method.multiple))
            if frame.method.delivery_tag == 20:
                session.done()

        def publish(_frame):
            for number in range(1, 21):
                channel.basic_publish("amq.direct", "no such key", str(number), mandatory=True)

        channel.add_on_return_callback(lambda *back: events.append(("return", int(back[3]))))
        channel.confirm_delivery(on_confirm, callback=publish)

    assert run(scenario) is True
    assert [number for kind, number, *_ in events if kind == "return"] == list(range(1, 21))
    for position, (kind, number, *_) in enumerate(events):
        if kind == "confirm":
            assert [each for each in range(1, number + 1) if ("return", each) not in events[:position]] == []


def test_pipelined_declarations(run, name):
    """A.5: answers come in the order of the questions, without waiting for each."""
    queues, answers = [name(f"q{index}") for index in range(50)], []

    def scenario(session, channel):
        def on_declared(frame):
            answers.append(frame.method.queue)
            if len(answers) == len(queues):
                session.done()

        for queue in queues:
            channel.queue_declare(queue, exclusive=True, callback=on_declared)

    assert run(scenario) is True
    assert answers == queues


def test_refused_channel(run, name):
    """A.3: the channel's close callback gets code and text; the connection opens another."""
    missing = name()

    def scenario(session, channel):
        def on_closed(_channel, reason):
            session.connection.channel(on_open_callback=lambda other: session.done((reason, other.is_open)))

        channel.add_on_close_callback(on_closed)
        channel.basic_publish(missing, "key", b"lost")

    reason, lives_on = run(scenario)
    assert (reason.reply_code, reason.reply_text) == (404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'")
    assert lives_on


def test_refused_connection(run, name):
    """A.4: a connection error reaches the connection's close callback."""

    def scenario(session, channel):
        channel.exchange_declare(name(), "nosuch")

    reason = run(scenario)
    assert (reason.reply_code, reason.reply_text) == (503, "COMMAND_INVALID - unknown exchange type 'nosuch'")


def test_broker_cancels(run, name):
    """A.6 cancel: on_cancel_callback is told when the queue goes."""
    queue = name()

    def scenario(session, channel):
        channel.add_on_cancel_callback(lambda frame: session.done(frame.method.consumer_tag))
        channel.queue_declare(queue)
        channel.basic_consume(
            queue, lambda *_: None, consumer_tag="mine", callback=lambda _: channel.queue_delete(queue)
        )

    assert run(scenario) == "mine"


def test_prefetch_and_nack(run, name):
    """A.6: with a prefetch of one, each message once more after its nack, then on to the next."""
    queue, received = name(), []

    def scenario(session, channel):
        def on_message(_channel, method, _properties, body):
            received.append((body.decode(), method.redelivered))
            if len(received) == 6:
                session.done()
            elif method.redelivered:
                channel.basic_ack(method.delivery_tag)
            else:
                channel.basic_nack(method.delivery_tag)

        def publish(_frame):
            for body in "abc":
                channel.basic_publish("", queue, body)

        channel.queue_declare(queue)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue, on_message, callback=publish)

    assert run(scenario) is True
    assert received == [(body, again) for body in "abc" for again in (False, True)]
