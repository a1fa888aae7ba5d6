"""`temper serve`: server, worker, deployments, schedules and automations together, as infra/ says.

Run again, it brings the server in line with the files again; what was taken out of them is taken down.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import temporary_settings

from flows import child, deployments
from flows.server import HOME, Server, ServerError, start_in_background
from flows.watching import automations, monitoring


def serve(root: Path, port: int = 4200) -> None:
    """Keep server, a process worker, deployments, schedules and automations up until Ctrl-C; all on this machine only.

    On another port when `port` is taken; on the server that PREFECT_API_URL names, if it does. Raises UserError for a file of
    infra/ that is wrong, before anything starts, and ServerError when a part does not come up or ends on its own.
    """
    watched = monitoring.read(root)
    deployments.names(root)
    server = start_in_background(root, port=port, for_workers=True)
    if server.log is None and "PREFECT_API_URL" not in os.environ:
        raise ServerError(
            f"a `temper serve` or `temper run` of this checkout keeps a server already, {server.ui_url}; end it first"
        )
    print(f"Prefect: {server.ui_url} (starting)", flush=True)
    try:
        server.wait()
        _bring_up(root, server, watched)
        with _worker(root, server) as worker:
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


def _bring_up(root: Path, server: Server, watched: monitoring.Monitoring) -> None:
    """Bring the pool, the deployments and the automations of the server in line with the checkout."""
    with temporary_settings(server.settings()), get_client(sync_client=True) as client:
        _make_pool(client)
        deployments.keep(root, server, client)
        for block in automations.keep(client, watched):
            print(f"nobody is told through {block}: there is no such block; make it on the page, or set {automations.ADDRESS}")


@contextlib.contextmanager
def _worker(root: Path, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process worker; at the end its flow runs are stopped first, so that they write their checkpoints."""
    arguments = f"worker start --pool {deployments.POOL} --type process --name local --limit 1 --install-policy never".split()
    with (root / HOME / "worker.log").open("wb") as output:
        worker = child.start("prefect", *arguments, cwd=root, output=output, env=server.environment())
    try:
        yield worker
    finally:
        child.stop_tree(worker)


def _make_pool(client: SyncPrefectClient) -> None:
    """Make the pool that the worker and the deployments share, unless it is there."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=deployments.POOL, type="process", base_job_template=template))
