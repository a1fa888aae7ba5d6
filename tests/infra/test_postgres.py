"""Prefect's server on a real Postgres, as in infra/compose.yaml: a run, its artifacts, deployments, schedules, automations."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from flows.deployments import PLACE
from flows.pipeline import run
from flows.serve import _bring_up
from flows.server import HOME, Server, start_in_background
from flows.watching.monitoring import Monitoring
from tasks.runtime.imports import ROOT
from tasks.runtime.params import read_yaml
from tests.flows.checkout import make_checkout, planned
from tests.flows.test_stage import wait_for

pytestmark = pytest.mark.slow

SCHEME = "postgresql+asyncpg"


def programs() -> Path:
    """Return the folder of Postgres's programs: Debian keeps them out of PATH, a folder for each version."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True), Path(shutil.which("pg_ctl") or "/nowhere")]
    if not found[0].is_file():
        pytest.skip("no Postgres on this machine; on Debian: apt-get install postgresql")
    return found[0].parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a fresh database, owned by a user who is not root: Postgres refuses to run as root."""
    where, place, port = programs(), Path(tempfile.mkdtemp(prefix="temper-postgres-")), free_port()
    become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if become:
        shutil.chown(place, "postgres")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    data = ["-D", str(place / "data")]
    steps = {
        "initdb": [*data, "--username=prefect", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
        "pg_ctl": [*data, "-l", str(place / "log"), "-o", settings, "-w", "start"],
    }
    try:
        for program, words in steps.items():
            command = [*become, str(where / program), *words]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True) if program == "initdb" else None
            assert done is None or done.returncode == 0, done.stderr
            if program == "pg_ctl":
                subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
        yield f"127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*become, str(where / "pg_ctl"), *data, "-m", "immediate", "stop"], cwd=place, stdout=subprocess.DEVNULL)
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = make_checkout(tmp_path_factory.mktemp("postgres") / "c")
    for place in ("flows/deployed.py", str(PLACE)):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text((ROOT / place).read_text())
    return root


@pytest.fixture(scope="module")
def server(postgres, root) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"{SCHEME}://prefect@{postgres}")
        server = start_in_background(root, for_workers=True)
        server.wait()
        yield server
        server.stop()


def asked(postgres: str, query: str) -> list[tuple]:
    """Ask the database itself."""

    async def ask():
        connection = await asyncpg.connect(f"postgresql://prefect@{postgres}")
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_the_site_names_its_database_as_this_test_does():
    site = read_yaml(ROOT / "infra/compose.yaml")["services"]["server"]["environment"]
    assert site["PREFECT_API_DATABASE_CONNECTION_URL"].startswith(f"{SCHEME}://prefect:")


def test_a_run_and_its_artifacts_are_in_the_database(server, root, postgres):
    assert run(root, *planned(root)).failed == ()
    assert asked(postgres, "select state_type from flow_run") == [("COMPLETED",)]
    assert asked(postgres, "select name from task_run") == [("work",)]
    keys = {key for (key,) in asked(postgres, "select key from artifact")}
    assert keys >= {"work-scores", "work-plot-curve", "work-outs", "summary", "links"}
    assert not (root / HOME / "prefect.db").exists()


def test_its_schedules_are_kept_and_made_into_runs(server, root, postgres):
    _bring_up(root, server, Monitoring())
    counted = "select d.name, count(*) from flow_run r join deployment d on d.id = r.deployment_id group by 1"
    wait_for(lambda: {"nightly", "weekly-study"} <= {name for name, _ in asked(postgres, counted)}, patience=120)
    found = dict(asked(postgres, counted))
    assert set(found) == {"nightly", "weekly-study"}, "what has no schedule has no runs"
    assert min(found.values()) >= 3, "the next ones are known beforehand"


def test_its_automations_are_kept(server, postgres):
    assert len(asked(postgres, "select name from automation where name like 'temper: %'")) == 5
