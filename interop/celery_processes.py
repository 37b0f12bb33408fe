"""The programs that Celery's users start: workers and the beat, each a process with a log that tests can read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import celery_app

START_SECONDS = 30
STOP_SECONDS = 15
EVENT_SECONDS = 20
POLL_SECONDS = 0.02


def eventually(condition, what, seconds=EVENT_SECONDS):
    """Waits until `condition()` is true and returns what it gave; fails with `what` when it does not become so."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)
    return value


class CeleryProcess:
    """`celery -A celery_app <arguments>`, started at once, with its output in `log`."""

    def __init__(self, log, environment, *arguments):
        self.log = Path(log)
        self.arguments = arguments
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "celery_app", *arguments],
                cwd=Path(__file__).parent,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self):
        return self.log.read_text(errors="replace")

    def logged(self, text, times=1, seconds=START_SECONDS):
        """Waits until the process has written `text`, `times` times."""

        def written():
            assert self.runs or self.output.count(text) >= times, (
                f"celery {self.arguments} ended with {self.process.returncode}:\n{self.output}"
            )
            return self.output.count(text) >= times

        eventually(written, f"{text!r} in the log of celery {self.arguments}", seconds)

    def terminate(self):
        """The signal that asks for a warm shutdown: no new tasks, finish those that run."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        """Ends it with no chance to tell the broker anything."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def ended(self):
        """Waits for its end and returns the exit code."""
        return self.process.wait(STOP_SECONDS)

    @property
    def runs(self):
        return self.process.poll() is None


def stop_all(processes):
    """Ends those that still run, all at once: gently, and for good where that takes too long."""
    running = [process for process in processes if process.runs]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.ended()
        except subprocess.TimeoutExpired:
            process.kill()


class Worker(CeleryProcess):
    """A `celery worker` for the application that `celery_app.create_app(broker, backend, **settings)` makes."""

    def __init__(self, name, directory, broker, backend, *options, **settings):
        self.node = f"{name}@interop"
        super().__init__(
            Path(directory) / f"{name}.log",
            celery_app.environment(broker, backend, **settings),
            *("worker", "--loglevel=INFO", f"--hostname={self.node}", *options),
        )

    def ready(self):
        """Waits until it consumes from its queues."""
        self.logged(f"{self.node} ready.")
        return self


class Holds:
    """The files by which a test meets the tasks `hold` and `hold_late` that it has sent."""

    def __init__(self, directory):
        self.directory = str(directory)

    def started(self, name, seconds=EVENT_SECONDS):
        """Waits until the task runs, and returns the id of the process that runs it."""
        path = Path(self.directory, f"{name}.started")
        eventually(path.exists, f"{name} runs", seconds)
        return int(path.read_text(encoding="utf-8"))

    def has_started(self, name):
        return Path(self.directory, f"{name}.started").exists()

    def forget(self, name):
        """As if the task had not started yet: for one that will be run again."""
        Path(self.directory, f"{name}.started").unlink()

    def release(self, *names):
        """Lets these tasks end."""
        for name in names:
            Path(self.directory, f"{name}.release").touch()

    def release_all(self):
        """Lets every task that has started end, so that a failed test keeps no worker busy."""
        self.release(*(path.stem for path in Path(self.directory).glob("*.started")))
