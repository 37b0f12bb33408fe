"""RabbitMQ's command-line client of the HTTP API, `rabbitmqadmin`, as Debian's package rabbitmq-server has it.

The package is downloaded once by apt, unpacked below target/ and never installed. So what runs is the real thing, whether
or not there is a RabbitMQ on the machine.
"""

import csv
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import tools

PACKAGE = "rabbitmq-server"
CACHE = pathlib.Path(__file__).resolve().parent.parent / "target" / "rabbitmqadmin"
DOWNLOAD_SECONDS = 300
COMMAND_SECONDS = 60


class RabbitmqAdmin:
    """Runs rabbitmqadmin against a broker: `admin("list", "queues")` is what it prints."""

    def __init__(self, management, user="guest", password="guest"):
        """`management` is host:port of the HTTP API."""
        self.host, _, self.port = management.rpartition(":")
        self.user, self.password = user, password

    def run(self, *arguments, stdin=None):
        """The completed process."""
        # fmt: off
        command = [
            sys.executable, script(), "--host", self.host, "--port", self.port,
            "--username", self.user, "--password", self.password, *arguments,
        ]
        # fmt: on
        # Its own configuration file would change what it does.
        environment = {**os.environ, "HOME": tempfile.gettempdir()}
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=environment
        )

    def __call__(self, *arguments, stdin=None):
        """What it prints; fails if it does."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"rabbitmqadmin {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def rows(self, *arguments):
        """What it prints as a table, each row as a dictionary."""
        return list(csv.DictReader(io.StringIO(self("--format", "tsv", *arguments)), delimiter="\t"))


def script():
    """The path of rabbitmqadmin, downloaded if it is not there yet."""
    path = CACHE / "rabbitmqadmin"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            unpack(download(pathlib.Path(directory)), pathlib.Path(directory) / "rabbitmqadmin")
            # Whole or not at all, since others may do the same now.
            os.replace(pathlib.Path(directory) / "rabbitmqadmin", path)
    return path


def download(directory):
    """The package's file. apt's lists may be old or missing, then they are fetched first, by who may do so."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        tools.missing(f"rabbitmqadmin is taken from Debian's package {PACKAGE}, and there is no apt-get")
    command = ["apt-get", "download", PACKAGE]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    if done.returncode != 0 and os.geteuid() == 0:
        subprocess.run(["apt-get", "update"], capture_output=True, timeout=DOWNLOAD_SECONDS)
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    packages = list(directory.glob("*.deb"))
    if not packages:
        tools.missing(f"apt-get could not download {PACKAGE}: {done.stdout}{done.stderr}")
    return packages[0]


def unpack(package, target):
    """Copies rabbitmqadmin out of the package."""
    unpacked = package.parent / "unpacked"
    subprocess.run(["dpkg", "-x", package, unpacked], check=True, timeout=DOWNLOAD_SECONDS)
    candidates = sorted(path for path in unpacked.rglob("rabbitmqadmin") if path.is_file())
    assert candidates, f"there is no rabbitmqadmin in {package.name}"
    shutil.copy(candidates[0], target)
