"""Celery at work on the broker: real workers, and the applications that give them work.

Most tests share the worker `main`, which runs as `celery worker` does when nobody configures it: prefork, with
gossip, mingle, heartbeats and remote control. Tests that kill a worker or need one of its own start it themselves.

Celery cannot do chords over rpc://, whatever the broker: groups and chains are run over rpc://, and chords with
results kept in files, where the chord itself is a task (`celery.chord_unlock`) that retries until its header is done.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from amqp import Message
from amqp.exceptions import NotFound
from celery import chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError
from kombu import Connection

import celery_app
from celery_processes import CeleryProcess, Holds, Worker, eventually, stop_all
from celery_relay import Relay

RESULT_SECONDS = 20
QUIET = ["--without-gossip", "--without-mingle"]
QUEUES = ["celery", "celery.chords", "celery.cut", "celery.priority", "celery.late", "celery.narrow", "celery.warm"]
EXCHANGES = ["celery.broadcast", "celery.pidbox", "reply.celery.pidbox", "celeryev"]


class Application:
    """A program that sends tasks: the application and, as attributes, its tasks."""

    def __init__(self, broker, backend, **settings):
        self.backend = backend
        self.celery = celery_app.create_app(broker, backend, **settings)
        self.control = self.celery.control
        self.celery.finalize()

    def __getattr__(self, task):
        return self.celery.tasks[task]

    def inspect(self, worker):
        """Remote control of one worker; its answer ends the wait."""
        return self.control.inspect(destination=[worker.node], timeout=RESULT_SECONDS)

    def ready_messages(self, queue):
        """How many messages of `queue` are not at a consumer; None when there is no such queue."""
        with self.celery.connection_for_read() as connection:
            try:
                return connection.default_channel.queue_declare(queue, passive=True).message_count
            except NotFound:
                return None

    def close(self):
        with contextlib.suppress(AttributeError):
            self.celery.backend.result_consumer.stop()
        self.celery.close()


def value(result):
    """What a task returned, or its exception."""
    return result.get(timeout=RESULT_SECONDS)


@pytest.fixture(scope="module")
def url(broker):
    """The broker's address, with nothing there that an earlier run may have left."""
    delete_all(broker.url())
    yield broker.url()
    delete_all(broker.url())


def delete_all(url):
    """Each queue has an exchange of its name: Celery makes one for queues that nobody configured."""
    with Connection(url) as connection:
        for name in [*QUEUES, *EXCHANGES]:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the processes of this module write their logs."""
    return tmp_path_factory.mktemp("celery")


@pytest.fixture(scope="module")
def app(url):
    """An application with results over rpc://."""
    application = Application(url, "rpc://")
    yield application
    application.close()


@pytest.fixture(scope="module")
def workers(url, directory):
    """Starts workers for the whole module, and stops them together."""
    started = []

    def start(name, *options, backend="rpc://", **settings):
        started.append(Worker(name, directory, url, backend, *options, **settings))
        return started[-1]

    yield start
    stop_all(started)


@pytest.fixture(scope="module")
def main(workers):
    """A worker as it is when nobody configures it, with two processes."""
    return workers("main", "--concurrency=2", "--queues=celery,celery.broadcast").ready()


@pytest.fixture(scope="module")
def filing(url, directory):
    """An application whose results are files, with tasks in the queue `celery.chords`."""
    results = directory / "results"
    results.mkdir()
    application = Application(url, f"file://{results}", task_default_queue="celery.chords")
    yield application
    application.close()


@pytest.fixture(scope="module")
def chords(workers, filing, main):
    """A worker of threads, for `filing`. It starts when `main` is there, and so meets it."""
    options = ["--pool=threads", "--concurrency=4", "--queues=celery.chords,celery.broadcast"]
    return workers("chords", *options, backend=filing.backend, task_default_queue="celery.chords").ready()


@pytest.fixture(scope="module")
def narrow(workers):
    """A worker with one process and a prefetch of one, a heartbeat of one second, and nothing to say by itself."""
    options = ["--concurrency=1", "--prefetch-multiplier=1", "--queues=celery.narrow", "--without-heartbeat"]
    return workers("narrow", *options, *QUIET, broker_heartbeat=1).ready()


@pytest.fixture
def start_worker(url, directory):
    """Starts workers that the test has for itself, without what makes their start slow."""
    started = []

    def start(name, *options, broker=url, **settings):
        started.append(Worker(name, directory, broker, "rpc://", *QUIET, *options, **settings))
        return started[-1]

    yield start
    stop_all(started)


@pytest.fixture
def holds(tmp_path):
    """Where the tasks `hold` and `hold_late` of one test wait for it."""
    files = Holds(tmp_path)
    yield files
    files.release_all()


# Tasks, results and retries


def test_a_task_returns_its_result(app, main):
    assert value(app.add.delay(2, 3)) == 5


def test_a_failed_task_raises_its_exception(app, main):
    with pytest.raises(ValueError, match="no such year"):
        value(app.fail.delay("no such year"))


def test_a_task_of_many_frames_comes_back_whole(app, main):
    text = "0123456789" * 100_000
    assert value(app.echo.delay(text)) == text


def test_the_state_of_a_running_task_is_seen_by_polling(url, main, holds):
    """`result.state` gets messages from the reply queue and puts those of unfinished tasks back."""
    polling = Application(url, "rpc://")
    running = polling.hold.delay(holds.directory, "polled")
    eventually(lambda: running.state == "STARTED", "the task is seen to run")
    assert running.state == "STARTED", "the message was put back"
    holds.release("polled")
    eventually(running.successful, "the task is seen to be done")
    assert running.result["name"] == "polled"
    polling.close()


def test_a_task_retries_itself_with_a_countdown(app, main):
    assert value(app.retry_itself.delay(2)) == 2


def test_a_task_is_retried_on_its_exception(app, main):
    assert value(app.retry_on_fault.delay(2)) == 2


def test_a_task_fails_when_its_retries_are_spent(app, main):
    with pytest.raises(celery_app.TemporaryFault, match="try 2"):
        value(app.retry_on_fault.delay(3))


def test_a_task_with_a_countdown_runs_no_earlier(app, main):
    sent = time.monotonic()
    later = app.add.apply_async((1, 2), countdown=0.5)
    sooner = app.add.apply_async((3, 4))
    assert value(sooner) == 7
    assert value(later) == 3
    assert time.monotonic() - sent >= 0.5


def test_tasks_that_wait_for_their_time_do_not_fill_the_prefetch(app, main):
    """The worker raises its prefetch for every such message it keeps: it has far more of them than it prefetches."""
    waiting = [app.add.apply_async((0, 0), countdown=60) for _ in range(40)]
    assert value(app.add.delay(1, 1)) == 2
    assert prefetch(app, main) > 40
    app.control.revoke([task.id for task in waiting], destination=[main.node], reply=True, timeout=RESULT_SECONDS)


# Canvas


def test_a_group_returns_every_result_in_order(app, main):
    many = group(app.add.s(number, number) for number in range(200))
    assert value(many.apply_async()) == [2 * number for number in range(200)]


def test_a_chain_hands_each_result_on(app, main):
    assert value(chain(app.add.s(1, 2), app.add.s(3), app.add.s(4)).apply_async()) == 10


def test_the_error_of_a_link_breaks_the_chain(app, main):
    broken = chain(app.add.s(1, 2), app.fail.si("broken link"), app.add.s(4)).apply_async()
    with pytest.raises(ValueError, match="broken link"):
        value(broken)


def test_a_callback_runs_after_the_task(app, main, tmp_path):
    noted = tmp_path / "noted"
    app.add.apply_async((1, 2), link=app.note.si(str(noted), "called back"))
    eventually(lambda: noted.exists() and noted.read_text() == "called back\n", "the callback runs")


def test_a_task_sends_tasks(app, main, tmp_path):
    noted = tmp_path / "noted"
    app.send_notes.delay(str(noted), ["one", "two", "three"])
    eventually(lambda: noted.exists() and noted.read_text().count("\n") == 3, "the tasks run")
    assert sorted(noted.read_text().split()) == ["one", "three", "two"]


def test_a_chord_runs_its_body_with_the_results_of_its_header(filing, chords):
    assert value(chord((filing.add.s(number, 1) for number in range(10)), filing.total.s()).apply_async()) == 55


def test_a_chord_waits_for_the_last_of_its_header(filing, chords, holds):
    body = chord([filing.add.s(1, 1), filing.hold.s(holds.directory, "last")], filing.echo.s()).apply_async()
    holds.started("last")
    assert body.state == "PENDING"
    holds.release("last")
    assert value(body) == [2, {"name": "last", "redelivered": False}]


def test_a_group_in_a_chain_becomes_a_chord(filing, chords):
    fan = chain(filing.add.s(1, 1), group(filing.add.s(10), filing.add.s(20)), filing.total.s(), filing.add.s(100))
    assert value(fan.apply_async()) == 134


def test_a_chord_fails_with_its_header(filing, chords):
    body = chord([filing.add.s(1, 1), filing.fail.s("bad header")], filing.total.s()).apply_async()
    with pytest.raises(ChordError, match="bad header"):
        body.get(timeout=RESULT_SECONDS, follow_parents=False)


# Queues


def test_a_broadcast_task_runs_on_every_worker(app, main, chords, tmp_path):
    noted = tmp_path / "noted"
    app.note.apply_async((str(noted), "heard"), exchange="celery.broadcast", routing_key="all")
    eventually(lambda: noted.exists() and noted.read_text() == "heard\n" * 2, "both workers run it")


def test_high_priorities_run_first(app, start_worker, tmp_path):
    """Ten levels, sent lowest first before there is a worker; tasks of one priority keep their order."""
    noted = tmp_path / "noted"
    sent = [priority for priority in range(10) for _ in range(2)]
    tasks = [
        app.note.apply_async((str(noted), f"{priority}.{index}"), queue="celery.priority", priority=priority)
        for index, priority in enumerate(sent)
    ]
    start_worker(
        *("priority", "--pool=solo", "--prefetch-multiplier=1", "--queues=celery.priority"),
        task_acks_late=True,
    )
    for task in tasks:
        value(task)
    order = [tuple(map(int, line.split("."))) for line in noted.read_text().split()]
    assert order == sorted([*zip(sent, range(20), strict=True)], key=lambda task: (-task[0], task[1]))


def test_waiting_tasks_can_be_purged(app, main):
    """`purge` empties all the application's queues; only this one has no worker."""
    with app.celery.connection_for_write() as connection:
        celery_app.PRIORITY_QUEUE(connection.default_channel).declare()
    for _ in range(3):
        app.add.apply_async((1, 1), queue="celery.priority")
    assert app.control.purge() == 3
    assert app.ready_messages("celery.priority") == 0


def test_the_reply_queue_of_an_application_that_went_away_expires(url, main):
    """Nobody ever consumes from this reply queue, so it goes when its x-expires has passed."""
    gone = Application(url, "rpc://", result_expires=1)
    gone.add.delay(1, 1)
    queue = gone.celery.thread_oid
    gone.close()
    with Connection(url) as connection:
        eventually(lambda: is_unroutable(connection, queue), "the reply queue is deleted")


def is_unroutable(connection, queue):
    """Whether a message to `queue` comes back: unlike a declare, that does not renew the life of an unused queue."""
    channel = connection.channel()
    returned = []
    channel.events["basic_return"].add(lambda *details: returned.append(details))
    channel.confirm_select()
    channel.basic_publish_confirm(Message("{}"), routing_key=queue, mandatory=True)
    channel.close()
    return bool(returned)


def test_a_reply_queue_goes_with_its_application(url, main):
    application = Application(url, "rpc://")
    assert value(application.add.delay(1, 1)) == 2
    queue = application.celery.thread_oid
    assert application.ready_messages(queue) == 0
    application.close()
    eventually(lambda: application.ready_messages(queue) is None, "the auto-delete queue is deleted")


# Workers that die, stop and idle


def test_the_task_of_a_killed_worker_is_redelivered(app, main, start_worker, holds):
    victim = start_worker("victim", "--pool=solo", "--queues=celery.late")
    task = app.hold_late.apply_async((holds.directory, "late"), queue="celery.late")
    assert holds.started("late") == victim.process.pid
    victim.kill()
    holds.forget("late")
    with consuming(app, main, "celery.late"):
        assert holds.started("late") != victim.process.pid
        holds.release("late")
        assert value(task) == {"name": "late", "redelivered": True}


@contextlib.contextmanager
def consuming(app, worker, queue):
    """Has `worker` consume from `queue` too, for a while."""
    target = {"destination": [worker.node], "reply": True, "timeout": RESULT_SECONDS}
    assert app.control.add_consumer(queue, **target) == [{worker.node: {"ok": f"add consumer {queue}"}}]
    yield
    assert app.control.cancel_consumer(queue, **target) == [{worker.node: {"ok": f"no longer consuming from {queue}"}}]


def test_the_task_of_a_killed_pool_process_is_requeued(app, main, holds):
    """The worker itself lives, and rejects the message back to its queue."""
    task = app.hold_late.delay(holds.directory, "lost")
    process = holds.started("lost")
    assert process != main.process.pid
    holds.forget("lost")
    os.kill(process, signal.SIGKILL)
    assert holds.started("lost") != process
    holds.release("lost")
    assert value(task) == {"name": "lost", "redelivered": True}


def test_a_warm_shutdown_finishes_what_runs_and_leaves_the_rest(app, start_worker, holds):
    worker = start_worker("warm", "--concurrency=1", "--queues=celery.warm")
    running = app.hold.apply_async((holds.directory, "running"), queue="celery.warm")
    holds.started("running")
    left = [app.hold.apply_async((holds.directory, f"left.{index}"), queue="celery.warm") for index in range(3)]
    eventually(lambda: app.ready_messages("celery.warm") == 0, "the worker has prefetched the others")
    worker.terminate()
    worker.logged("Warm shutdown")
    holds.release("running")
    assert value(running)["name"] == "running"
    assert worker.ended() == 0
    eventually(lambda: app.ready_messages("celery.warm") == len(left), "the others are back in the queue")


def test_an_idle_worker_lives_by_heartbeats(app, narrow):
    """For three seconds nothing but heartbeats of one second passes between them; then the worker is still there."""
    later = app.delivery.apply_async(countdown=3, queue="celery.narrow")
    assert value(later)["routing_key"] == "celery.narrow"
    assert "Connection to broker lost" not in narrow.output
    assert "missed heartbeat" not in narrow.output.lower()
    assert narrow.output.count("Connected to amqp://") == 1


def test_a_worker_comes_back_when_its_connection_is_cut(app, broker, start_worker):
    """It declares everything again, its exclusive control queue too, and goes on."""
    with Relay(broker.host, broker.port) as relay:
        worker = start_worker("cut", "--concurrency=1", "--queues=celery.cut", broker=relay.url).ready()
        relay.cut()
        worker.logged("Connected to amqp://", times=2)
        assert value(app.delivery.apply_async(queue="celery.cut"))["routing_key"] == "celery.cut"
        eventually(lambda: app.inspect(worker).ping() == {worker.node: {"ok": "pong"}}, "it is in control again")
        stop_all([worker])


# Remote control and events


def test_workers_meet_each_other(main, chords):
    """Mingle: a worker that starts asks the others for what they know."""
    chords.logged("mingle: sync with")
    chords.logged("mingle: sync complete")


def test_every_worker_answers_a_ping(app, main, chords):
    def all_answer():
        answers = app.control.inspect(timeout=1).ping() or {}
        return answers.keys() >= {main.node, chords.node} and all(each == {"ok": "pong"} for each in answers.values())

    eventually(all_answer, "both answer, with nobody else to ask for")


def test_the_command_line_pings_a_worker(url, main):
    command = [sys.executable, "-m", "celery", "--broker", url, "inspect", "ping", "--destination", main.node]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert f"{main.node}: OK" in done.stdout
    assert "1 node online." in done.stdout


def test_a_worker_tells_what_it_does(app, main, holds):
    task = app.hold.delay(holds.directory, "inspected")
    holds.started("inspected")
    (active,) = app.inspect(main).active()[main.node]
    assert (active["id"], active["name"]) == (task.id, "hold")
    stats = app.inspect(main).stats()[main.node]
    assert stats["pid"] == main.process.pid
    assert stats["broker"]["transport"] == "amqp"
    assert "celery" in [queue["name"] for queue in app.inspect(main).active_queues()[main.node]]
    holds.release("inspected")
    assert value(task)["name"] == "inspected"


def test_a_rate_limit_is_set_from_afar(app, main):
    target = {"destination": [main.node], "reply": True, "timeout": RESULT_SECONDS}
    assert "ok" in app.control.rate_limit("echo", "1000/s", **target)[0][main.node]
    assert "echo [rate_limit=1000/s]" in app.inspect(main).registered("rate_limit")[main.node]
    assert value(app.echo.delay("limited")) == "limited"
    app.control.rate_limit("echo", None, **target)


def test_a_queue_is_consumed_from_only_while_asked_for(app, main):
    with consuming(app, main, "celery.late"):
        assert value(app.delivery.apply_async(queue="celery.late"))["routing_key"] == "celery.late"
    waiting = app.delivery.apply_async(queue="celery.late")
    assert app.ready_messages("celery.late") == 1
    with consuming(app, main, "celery.late"):
        assert value(waiting)["redelivered"] is False


def test_the_prefetch_of_a_consumer_grows_and_shrinks(app, narrow, holds):
    """The prefetch of 1 is raised for a task that waits for its time, and lowered when that time has come.

    The worker sends basic.qos for a consumer that is already there; both changes must reach it.
    """
    first = app.hold_late.apply_async((holds.directory, "later"), countdown=0.5, queue="celery.narrow")
    assert value(app.delivery.apply_async(queue="celery.narrow"))["routing_key"] == "celery.narrow", "it was raised"
    holds.started("later")
    eventually(lambda: prefetch(app, narrow) == 1, "the worker has seen that its time has come")
    assert prefetch(app, narrow) == 1, "and had a turn more of its loop, to tell the broker"
    waiting = [app.hold_late.apply_async((holds.directory, f"{index}"), queue="celery.narrow") for index in range(3)]
    assert app.ready_messages("celery.narrow") == 3, "it was lowered"
    holds.release("later", "0", "1", "2")
    assert [value(task)["name"] for task in [first, *waiting]] == ["later", "0", "1", "2"]


def test_the_prefetch_grows_with_the_pool(app, narrow, holds):
    (answer,) = app.control.pool_grow(2, destination=[narrow.node], reply=True, timeout=RESULT_SECONDS)
    assert answer == {narrow.node: {"ok": "pool will grow"}}
    assert prefetch(app, narrow) == 3
    names = ["0", "1", "2", "3", "4"]
    tasks = [app.hold_late.apply_async((holds.directory, name), queue="celery.narrow") for name in names]
    holds.started("0")
    eventually(lambda: app.ready_messages("celery.narrow") == 2, "three of five tasks are with the worker")
    holds.release(*names)
    assert [value(task)["name"] for task in tasks] == names


def prefetch(app, worker):
    """The prefetch that `worker` has asked for."""
    return app.inspect(worker).stats()[worker.node]["prefetch_count"]


def test_a_revoked_task_never_runs(app, main, tmp_path):
    noted = tmp_path / "noted"
    task = app.note.apply_async((str(noted), "ran"), countdown=1)
    eventually(lambda: task.id in scheduled(app, main), "the worker has it")
    app.control.revoke(task.id, destination=[main.node], reply=True, timeout=RESULT_SECONDS)
    with pytest.raises(TaskRevokedError):
        value(task)
    assert not noted.exists()


def scheduled(app, worker):
    """The ids of the tasks that wait in `worker` for their time."""
    return [task["request"]["id"] for task in app.inspect(worker).scheduled()[worker.node]]


def test_a_running_task_can_be_terminated(app, main, holds):
    task = app.hold.delay(holds.directory, "terminated")
    holds.started("terminated")
    app.control.revoke(task.id, terminate=True, destination=[main.node], reply=True, timeout=RESULT_SECONDS)
    with pytest.raises(TaskRevokedError):
        value(task)


def test_events_tell_the_life_of_a_task(app, main):
    target = {"destination": [main.node], "reply": True, "timeout": RESULT_SECONDS}
    with capture(app) as events:
        eventually(lambda: ("worker-heartbeat", main.node) in sources(events), "the worker was woken up")
        app.control.enable_events(**target)
        task = app.add.delay(1, 1)
        assert value(task) == 2
        wanted = ["task-sent", "task-received", "task-started", "task-succeeded"]
        eventually(lambda: sorted(kinds(events, task.id)) == sorted(wanted), f"{wanted} of the task")
        app.control.disable_events(**target)
    assert [kind for kind in kinds(events, task.id) if kind != "task-sent"] == wanted[1:], "the worker's in order"


@contextlib.contextmanager
def capture(app):
    """Collects events, as `celery events` does."""
    events, stopping = [], threading.Event()

    def receive():
        with app.celery.connection_for_read() as connection:
            receiver = app.celery.events.Receiver(connection, handlers={"*": events.append})
            for _ in receiver.itercapture(timeout=None):
                if stopping.is_set():
                    return

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    yield events
    stopping.set()
    app.control.broadcast("heartbeat")
    thread.join(RESULT_SECONDS)
    assert not thread.is_alive()


def sources(events):
    return [(event["type"], event["hostname"]) for event in list(events)]


def kinds(events, task):
    """The events of one task, as they came."""
    return [event["type"] for event in list(events) if event.get("uuid") == task]


# Beat


def test_beat_sends_its_schedule(url, app, main, directory, tmp_path):
    noted = tmp_path / "noted"
    entry = {"task": "note", "schedule": 0.2, "args": [str(noted), "tick"]}
    settings = {"beat_schedule": {"tick": entry}, "beat_max_loop_interval": 0.1}
    beat = CeleryProcess(
        directory / "beat.log",
        celery_app.environment(url, "rpc://", **settings),
        *("beat", "--loglevel=INFO", f"--schedule={tmp_path / 'schedule'}", "--pidfile="),
    )
    try:
        eventually(lambda: noted.exists() and noted.read_text().count("tick\n") >= 3, "three ticks")
    finally:
        stop_all([beat])
    assert beat.process.returncode == 0
