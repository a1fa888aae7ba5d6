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
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from flows import child
from flows.watching import pages

HOME = Path(".temper/prefect")
PATIENCE = 300.0
"""Seconds a server may take to answer before we say that it did not come up."""
PATIENCE_WITH_OTHERS = 15.0
"""The same for a server that PREFECT_API_URL names: it should be up already."""
RESTARTS = 2
"""How often a server that crashes is started again."""
HEARTBEAT = 30
"""Seconds between two signs of life of a run, the least that Prefect knows."""
LOOPBACK = "127.0.0.1"
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
FOR_WORKERS = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN", "REPOSSESSOR", "TRIGGERS")
"""Services of the server that a run without workers has no use for."""


class ServerError(RuntimeError):
    """The Prefect server did not come up. The message names its log."""


class Server:
    """The Prefect server that a run talks to: one that is there already, or, as `OwnServer`, one of our own."""

    log: Path | None = None
    """What it prints, when it is ours."""

    def __init__(self, api_url: str, patience: float = PATIENCE) -> None:
        """Name a server by the address of its API, and how long it may take to answer."""
        self.api_url = api_url
        self.patience = patience
        self.started = time.monotonic()
        self.seconds = 0.0
        """How long it took to answer, once it has."""

    @property
    def ui_url(self) -> str:
        """Return the address of the page for people."""
        return self.api_url.removesuffix("/api")

    def wait(self, patience: float | None = None) -> None:
        """Return when the server answers. Raises ServerError when it does not within `patience` seconds, or has ended."""
        patience = self.patience if patience is None else patience
        while not self.answers():
            if not self.alive():
                raise ServerError(f"the Prefect server ended before it answered{self._see()}")
            if time.monotonic() - self.started > patience:
                raise ServerError(f"no Prefect server answers at {self.api_url} after {patience:.0f} s{self._see()}")
            time.sleep(0.1)
        self.seconds = self.seconds or time.monotonic() - self.started

    def answers(self, timeout: float = 3.0) -> bool:
        """Say whether the API answers now; one that wants to know who asks does."""
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=timeout) as reply:
                return bool(reply.status == 200)
        except urllib.error.HTTPError as refusal:
            return refusal.code < 500
        except OSError:
            return False

    def alive(self) -> bool:
        """Say whether there is any hope that it answers."""
        return True

    def settings(self) -> dict[str, Any]:
        """Return the settings of a client: no result is stored, DVC is the only cache; a lost server is soon given up."""
        more: dict[str, Any] = {"home": self.log.parent} if self.log else {}
        if "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" not in os.environ:
            more["flows.heartbeat_frequency"] = HEARTBEAT
        if "PREFECT_CLIENT_MAX_RETRIES" not in os.environ:
            more["client.max_retries"] = 2
        return {"api.url": self.api_url, "results.persist_by_default": False, **more}

    def environment(self) -> dict[str, str]:
        """Return the same for a process of Prefect's that is started for this server."""
        home = {"PREFECT_HOME": str(self.log.parent)} if self.log else {}
        beat = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": os.environ.get("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT))}
        return {"PREFECT_API_URL": self.api_url, "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false", **ALWAYS, **beat, **home}

    def stop(self) -> None:
        """Leave it alone: somebody else started it."""

    def _see(self) -> str:
        return f"; its log is {self.log}" if self.log else "; check PREFECT_API_URL"


class OwnServer(Server):
    """A server that this process has started, and starts again should it crash.

    The listening socket stays open here, so that a client that calls meanwhile waits for the next server instead of failing.
    """

    def __init__(self, root: Path, address: IO[str], port: int, for_workers: bool) -> None:
        """Start on `port`, or on any port when that is taken; `address` is the open, locked file to write it to."""
        self._listener = _listen(port)
        super().__init__(f"http://{LOOPBACK}:{self._listener.getsockname()[1]}/api")
        self.log: Path = root / HOME / "server.log"
        self._root, self._address = root, os.dup(address.fileno())
        self._settings = _environment(root, self.api_url, for_workers)
        self._stopping, self._turn = False, threading.Lock()
        address.truncate(0)
        address.write(f"{self.api_url}\n")
        address.flush()
        self.process = self._start("wb")
        self._keeper = threading.Thread(target=self._keep_up, daemon=True)
        self._keeper.start()

    def alive(self) -> bool:
        """Say whether its process is there, however busy, or is about to be started again."""
        return self.process.poll() is None or self._keeper.is_alive()

    def stop(self) -> None:
        """End the server, and give its port and its place in the checkout back."""
        with self._turn:
            if self._stopping:
                return
            self._stopping = True
        child.stop(self.process, grace=10)
        self._listener.close()
        os.close(self._address)

    def _start(self, mode: str) -> subprocess.Popen[bytes]:
        listener = self._listener.fileno()
        with self.log.open(mode) as output:
            inherit = (listener, self._address)
            return child.start("flows.server", str(listener), cwd=self._root, output=output, env=self._settings, inherit=inherit)

    def _keep_up(self) -> None:
        """Start the server again when it ends without being asked to, unless it has never come up.

        Stays until the last one ends: a child goes with the thread that started it.
        """
        for _ in range(RESTARTS):
            code = self.process.wait()
            with self._turn:
                if self._stopping or not self.seconds:
                    return
                print(f"the Prefect server ended with {code}; starting it again (log: {self.log})", file=sys.stderr, flush=True)
                self.process = self._start("ab")
        self.process.wait()


_ours: dict[Path, OwnServer] = {}


def start_in_background(root: Path = Path(), *, port: int = 0, for_workers: bool = False) -> Server:
    """Return the server to use for the checkout at `root`, starting one if there is none; it may not answer yet.

    That is, in this order: PREFECT_API_URL; the one this process has started; one that another process of this checkout
    runs (`temper serve`); a new one on `port` if that is free, else on any. It lives until this process ends.
    """
    root = root.resolve()
    running = _ours.get(root)
    if running is not None and running.alive():
        return running
    if url := os.environ.get("PREFECT_API_URL"):
        return Server(url.rstrip("/"), patience=PATIENCE_WITH_OTHERS)
    (root / HOME).mkdir(parents=True, exist_ok=True)
    with (root / HOME / "address").open("a+", encoding="utf-8") as address:
        if not _take(address):
            return Server(_read(address))
        _ours[root] = OwnServer(root, address, port, for_workers)
    atexit.register(_ours[root].stop)
    return _ours[root]


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


def _listen(port: int) -> socket.socket:
    """Return a socket listening on `port`, or on a free port when that is taken; nobody can take it from us after that."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.bind((LOOPBACK, 0))
    listener.listen(128)
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
    app = create_app(final=True)
    pages.add(app, Path.cwd())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
