"""A site for tests of stages on workers: coordinator, Prefect server, workers in clones of their own, S3; all real, all here."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import psutil
from moto.server import ThreadedMotoServer

from tasks.runtime.imports import ROOT
from tests.flows.checkout import command, environment, make_checkout

SERVER = """
import sys, time
from flows.server import start_in_background
server = start_in_background(port=int(sys.argv[1]), for_workers=True)
server.wait()
print(server.api_url, flush=True)
time.sleep(1800)
"""
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Site:
    """Its parts; `close` ends them all."""

    def __init__(self, place: Path, stages: str) -> None:
        self.place, self.root = place, make_checkout(place / "coordinator", stages)
        self._storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._storage.start()
        host, port = self._storage.get_host_and_port()
        address = f"http://{host}:{port}"
        self.variables = environment(PYTHONPATH=str(ROOT), AWS_ENDPOINT_URL=address, AWS_ENDPOINT_URL_S3=address, **KEYS)
        self.s3 = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        self.s3.create_bucket(Bucket="data")
        command(self.root, "dvc", "remote", "add", "--local", "-d", "store", "s3://data/temper")
        self._started: list[subprocess.Popen] = []
        self.server = self.start_server(0)

    def start_server(self, port: int) -> subprocess.Popen:
        """Start the Prefect server, whose database outlives it, and have all that starts from now on talk to it.

        It is started on `port` once what was killed there has let go of it: on a port that is taken it would take another.
        """
        while port and is_open(port):
            time.sleep(0.05)
        words = [sys.executable, "-c", SERVER, str(port)]
        own = {key: value for key, value in self.variables.items() if key != "PREFECT_API_URL"}
        server = subprocess.Popen(words, cwd=self.root, env=own, stdout=subprocess.PIPE, text=True)
        self.variables["PREFECT_API_URL"] = server.stdout.readline().strip()
        assert str(port or "http") in self.variables["PREFECT_API_URL"], "the server did not come up there"
        self._started.append(server)
        return server

    def worker(self, kind: str, name: str, **more: str) -> subprocess.Popen:
        """Start a worker of a kind in a clone named `name`, made if it is not there; its log is `NAME.log`."""
        if not (self.place / name).exists():
            command(self.place, "git", "clone", "-q", str(self.root), name)
        words = [sys.executable, "-m", "flows.cli", "worker", kind, "--cold"]
        with self.log(name).open("ab") as log:
            worker = subprocess.Popen(words, cwd=self.place / name, env=self.variables | more, stdout=log, stderr=log)
        self._started.append(worker)
        return worker

    def log(self, name: str) -> Path:
        return self.place / f"{name}.log"

    def start(self, *words: str, **more: str) -> subprocess.Popen:
        """Start a coordinator on pools; what it prints goes to `coordinator.log`, afresh."""
        line = [sys.executable, "-m", "flows.cli", "run", *words, "--workers", "pool"]
        with self.log("coordinator").open("wb") as log:
            process = subprocess.Popen(line, cwd=self.root, env=self.variables | more, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def said(self, name: str = "coordinator") -> str:
        return self.log(name).read_text(errors="replace")

    def attempts(self, name: str) -> list[Path]:
        """Return the folders of unfinished attempts on a worker."""
        return sorted((self.place / name / ".temper/at").glob("*"))

    def counted(self, name: str) -> int:
        """Return how many checkpoints the unfinished attempts on a worker have."""
        return sum(len(list(folder.glob(".temper/checkpoints/work/*/step-*"))) for folder in self.attempts(name))

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                signal_tree(process, signal.SIGCONT)
                process.terminate()
        for process in self._started:
            process.wait(timeout=60)
        self._storage.stop()


def is_open(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def signal_tree(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to a process and all it has started, as if the machine did it: a stop from the top down."""
    top = psutil.Process(process.pid)
    for entry in [top, *top.children(recursive=True)]:
        try:
            os.kill(entry.pid, number)
        except ProcessLookupError:
            continue
