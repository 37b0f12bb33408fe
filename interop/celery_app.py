"""A small Celery application: what the workers, the beat and the tests of `test_celery.py` share.

`celery -A celery_app worker` reads its broker, its result backend and anything else it should know from the
environment, see `environment`. Tasks that must wait do so on files: `hold` runs until its test says so.
"""

import json
import os
import time
from pathlib import Path

from celery import Celery, shared_task
from kombu import Queue
from kombu.common import Broadcast

HOLD_LIMIT = 30.0
"""Seconds after which `hold` gives up: a failed test must not leave a worker that never ends."""

PRIORITY_QUEUE = Queue("celery.priority", max_priority=10)
UNUSED_SECONDS = 60
"""How long a reply or broadcast queue that nobody consumes from stays on the broker (its x-expires)."""


def create_app(broker, backend, **settings):
    """An application on `broker` (a URL) that keeps its results in `backend` (a URL)."""
    app = Celery("interop", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={"confirm_publish": True},
        task_queues=[Queue("celery"), PRIORITY_QUEUE, Broadcast("celery.broadcast", expires=UNUSED_SECONDS)],
        task_send_sent_event=True,
        task_track_started=True,
        result_expires=UNUSED_SECONDS,
        result_chord_retry_interval=0.1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
    )
    app.conf.update(settings)
    return app


def environment(broker, backend, **settings):
    """The environment from which a `celery -A celery_app` process makes the same application."""
    return {
        "CELERY_APP_BROKER": broker,
        "CELERY_APP_BACKEND": backend,
        "CELERY_APP_SETTINGS": json.dumps(settings),
    }


app = create_app(
    os.environ.get("CELERY_APP_BROKER"),
    os.environ.get("CELERY_APP_BACKEND", "rpc://"),
    **json.loads(os.environ.get("CELERY_APP_SETTINGS", "{}")),
)


class TemporaryFault(Exception):
    """What a task meets that succeeds when it is tried again."""


@shared_task(name="add")
def add(x, y):
    return x + y


@shared_task(name="total")
def total(numbers):
    return sum(numbers)


@shared_task(name="fail")
def fail(text):
    raise ValueError(text)


@shared_task(name="echo")
def echo(value):
    return value


@shared_task(name="send_notes", bind=True)
def send_notes(self, path, texts):
    """Sends a task for each of `texts`: a worker is a publisher too."""
    for text in texts:
        self.app.tasks["note"].delay(path, text)


@shared_task(name="delivery", bind=True, acks_late=True)
def delivery(self):
    """How the message of this task came."""
    return self.request.delivery_info


@shared_task(name="retry_itself", bind=True, max_retries=3)
def retry_itself(self, succeed_at):
    """Fails until it has been retried `succeed_at` times, and tells how often that was."""
    if self.request.retries < succeed_at:
        raise self.retry(exc=TemporaryFault("not yet"), countdown=0.1)
    return self.request.retries


@shared_task(
    name="retry_on_fault",
    bind=True,
    autoretry_for=(TemporaryFault,),
    max_retries=2,
    default_retry_delay=0.1,
)
def retry_on_fault(self, succeed_at):
    """The same with Celery's own retries: `max_retries` of them, with a delay between."""
    if self.request.retries < succeed_at:
        raise TemporaryFault(f"try {self.request.retries}")
    return self.request.retries


@shared_task(name="note")
def note(path, text):
    """Appends a line to the file `path`, so that a test sees which tasks ran, and in what order."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return text


@shared_task(name="hold", bind=True, acks_late=False)
def hold(self, directory, name):
    return wait_for_release(self.request, Path(directory), name)


@shared_task(name="hold_late", bind=True, acks_late=True, reject_on_worker_lost=True)
def hold_late(self, directory, name):
    return wait_for_release(self.request, Path(directory), name)


def wait_for_release(request, directory, name):
    """Says in `<name>.started` which process runs it, and runs until there is a file `<name>.release`."""
    started = directory / f"{name}.started"
    unfinished = started.with_suffix(".partial")
    unfinished.write_text(str(os.getpid()), encoding="utf-8")
    unfinished.rename(started)
    give_up = time.monotonic() + HOLD_LIMIT
    while not (directory / f"{name}.release").exists():
        if time.monotonic() > give_up:
            raise TimeoutError(f"nobody released {name}")
        time.sleep(0.01)
    return {"name": name, "redelivered": bool(request.delivery_info["redelivered"])}
