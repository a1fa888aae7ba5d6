"""`temper serve`: server, worker and deployments together, so that runs can be started from Prefect's page."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flows import child
from flows.server import HOME, Server, ServerError, start_in_background

POOL = "temper"
DEPLOYMENTS = Path("infra/prefect.yaml")


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
    arguments = f"worker start --pool {POOL} --type process --name local --limit 1 --install-policy never".split()
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
