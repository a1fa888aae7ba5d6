"""A real Prefect server of this checkout's own: on a free loopback port, for the time of a run or of `temper serve`.

Its history lies in `.temper/prefect`, so every run is still there when the next server starts. With PREFECT_API_URL set
none is started. The server starts while the caller goes on planning; `Server.wait` is patient, because on a busy machine
it takes half a minute where Prefect's own temporary server gives up after 20 seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flows import child

HOME = Path(".temper/prefect")
PATIENCE = 180.0
"""Seconds a server may take to answer before we say that it did not come up."""
PATIENCE_WITH_OTHERS = 15.0
"""The same for a server that PREFECT_API_URL names: it should be up already."""
LOOPBACK = "127.0.0.1"
POOL = "temper"
DEPLOYMENTS = Path("infra/prefect.yaml")
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
FOR_WORKERS = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN", "REPOSSESSOR", "TRIGGERS")
"""Services of the server that a run without workers has no use for."""


class ServerError(RuntimeError):
    """The Prefect server did not come up. The message names its log."""


@dataclass
class Server:
    """The Prefect server a run talks to: ours, or one that was there already."""

    api_url: str
    process: subprocess.Popen[bytes] | None = None
    """Our child; None for a server that somebody else started."""
    log: Path | None = None
    started: float = 0.0
    seconds: float = 0.0
    """How long it took to answer, once it has."""
    patience: float = PATIENCE

    @property
    def ui_url(self) -> str:
        """Return the address of the page for people."""
        return self.api_url.removesuffix("/api")

    def wait(self, patience: float | None = None) -> None:
        """Return when the server answers. Raises ServerError when it does not within `patience` seconds, or has ended."""
        patience = self.patience if patience is None else patience
        deadline = time.monotonic() + patience
        while not self.answers():
            if self.process is not None and self.process.poll() is not None:
                raise ServerError(f"the Prefect server ended with {self.process.returncode} before it answered{self._see()}")
            if time.monotonic() > deadline:
                raise ServerError(f"no Prefect server answers at {self.api_url} after {patience:.0f} s{self._see()}")
            time.sleep(0.05)
        self.seconds = self.seconds or time.monotonic() - self.started

    def answers(self, timeout: float = 5.0) -> bool:
        """Say whether the API answers now; one that wants to know who asks does."""
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=timeout) as reply:
                return bool(reply.status == 200)
        except urllib.error.HTTPError as refusal:
            return refusal.code < 500
        except OSError:
            return False

    def alive(self) -> bool:
        """Say whether the server is there: our own process, however busy, or another one that answers."""
        return self.answers() if self.process is None else self.process.poll() is None

    def settings(self) -> dict[str, Any]:
        """Return the settings of a client: nothing pickled, nothing cached but by DVC; soon told that our own server is gone."""
        ours = {"client.max_retries": 2, "home": self.log.parent} if self.log else {}
        return {"api.url": self.api_url, "results.persist_by_default": False, **ours}

    def environment(self) -> dict[str, str]:
        """Return the same for a process of Prefect's that is started for this server."""
        home = {"PREFECT_HOME": str(self.log.parent)} if self.log else {}
        return {"PREFECT_API_URL": self.api_url, "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false", **ALWAYS, **home}

    def stop(self) -> None:
        """End our server and all it has started; one that somebody else started is left alone."""
        if self.process is not None:
            child.stop(self.process, grace=10)

    def _see(self) -> str:
        return f"; its log is {self.log}" if self.log else "; check PREFECT_API_URL"


_ours: dict[Path, Server] = {}


def start_in_background(root: Path = Path(), *, port: int = 0, for_workers: bool = False) -> Server:
    """Return the server to use for the checkout at `root`, starting one if there is none; it may not answer yet.

    That is, in this order: PREFECT_API_URL; the one this process has started; one that another process of this checkout
    runs (`temper serve`); a new one on `port` if that is free, else on any. It lives until this process ends.
    """
    root = root.resolve()
    running = _ours.get(root)
    if running is not None and running.process is not None and running.process.poll() is None:
        return running
    if url := os.environ.get("PREFECT_API_URL"):
        return Server(url.rstrip("/"), started=time.monotonic(), patience=PATIENCE_WITH_OTHERS)
    home = root / HOME
    home.mkdir(parents=True, exist_ok=True)
    with (home / "address").open("a+", encoding="utf-8") as address:
        if not _take(address):
            return Server(_read(address), started=time.monotonic())
        server = _start(root, address, port, for_workers)
    _ours[root] = server
    atexit.register(server.stop)
    return server


def serve(root: Path, port: int = 4200) -> None:
    """Keep the server, a process worker and the deployments of infra/prefect.yaml up until Ctrl-C; all on this machine only.

    On another port when `port` is taken. Raises ServerError when one of them does not come up or ends on its own.
    """
    server = start_in_background(root, port=port, for_workers=True)
    print(f"Prefect: {server.ui_url} (starting)", flush=True)
    try:
        server.wait()
        _make_pool(server)
        with _worker(root, server) as worker:
            _deploy(root, server)
            print(f"ready after {time.monotonic() - server.started:.0f} s; runs start from the page; Ctrl-C ends all", flush=True)
            while worker.poll() is None and server.alive():
                time.sleep(1)
        raise ServerError(
            f"the worker or the server has ended; see {root / HOME / 'worker.log'} and {server.log or server.api_url}"
        )
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        server.stop()


@contextlib.contextmanager
def _worker(root: Path, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process worker; at the end its flow runs are stopped first, so that they write their checkpoints."""
    arguments = [
        "worker",
        "start",
        "--pool",
        POOL,
        "--type",
        "process",
        "--name",
        "local",
        "--limit",
        "1",
        "--install-policy",
        "never",
    ]
    with (root / HOME / "worker.log").open("wb") as output:
        worker = child.start("prefect", *arguments, cwd=root, output=output, env=server.environment())
    try:
        yield worker
    finally:
        child.stop_tree(worker)


def _make_pool(server: Server) -> None:
    """Make the pool that the worker and the deployments share, unless it is there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import temporary_settings
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with temporary_settings(server.settings()), get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def _deploy(root: Path, server: Server) -> None:
    """Bring the deployments of infra/prefect.yaml to the server. Raises ServerError with what Prefect says."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    environment = {**os.environ, **server.environment(), "TEMPER_ROOT": str(root.resolve())}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{DEPLOYMENTS}: not deployed: {(done.stdout + done.stderr).strip()}")


def _take(address: IO[str]) -> bool:
    """Take the lock that goes with a running server; its process inherits it, so the kernel lets go when that ends."""
    try:
        fcntl.flock(address, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(address: IO[str], patience: float = 5.0) -> str:
    """Return the address that the holder of the lock has written, or is about to write."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        address.seek(0)
        if (text := address.read()).endswith("\n"):
            return text.strip()
        time.sleep(0.05)
    raise ServerError(f"another server of this checkout holds {address.name} but has written no address there; stop it")


def _start(root: Path, address: IO[str], port: int, for_workers: bool) -> Server:
    listener = _listen(port)
    api_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}/api"
    address.truncate(0)
    address.write(f"{api_url}\n")
    address.flush()
    log = root / HOME / "server.log"
    with listener, log.open("wb") as output:
        process = child.start(
            "flows.server",
            str(listener.fileno()),
            cwd=root,
            output=output,
            env=_environment(root, api_url, for_workers),
            inherit=(listener.fileno(), address.fileno()),
        )
    return Server(api_url, process, log, time.monotonic())


def _listen(port: int) -> socket.socket:
    """Return a socket bound to `port`, or to a free port when that is taken: whoever binds it here cannot lose it again."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.bind((LOOPBACK, 0))
    return listener


def _environment(root: Path, api_url: str, for_workers: bool) -> Mapping[str, str]:
    """Return the settings of the server process. The page must be told its API: it looks for port 4200 otherwise."""
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": str(for_workers).lower() for name in FOR_WORKERS}
    place = {"PREFECT_HOME": str(root / HOME), "PREFECT_SERVER_UI_API_URL": api_url, "PREFECT_API_URL": api_url}
    return {**ALWAYS, **off, **place, "PREFECT__SERVER_FINAL": "1"}


def main() -> None:
    """Be the server process: serve Prefect's app on the listening socket that was handed down."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.socket(fileno=int(sys.argv[1]))
    server = uvicorn.Server(uvicorn.Config(create_app(final=True), log_level="warning", lifespan="on"))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
