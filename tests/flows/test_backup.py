"""What docs/operations.md says of backup and restore, done: SQLite copied under a live server, and outs lost and pulled again."""

import shutil
import sqlite3
import subprocess

import httpx
import pytest

from flows.pipeline import run
from flows.server import HOME, start_in_background
from tests.flows.checkout import command, make_checkout, planned

needs_sqlite3 = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 here; on Debian: apt-get install sqlite3")


@needs_sqlite3
@pytest.mark.slow
def test_a_live_servers_database_is_restored_under_another(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    here, there = make_checkout(tmp_path / "here"), make_checkout(tmp_path / "there")
    server = start_in_background(here)
    try:
        assert run(here, *planned(here)).failed == ()
        command(here, "sqlite3", f"{HOME}/prefect.db", f".backup {tmp_path}/prefect.db")
        assert [found["state_type"] for found in flow_runs(server)] == ["COMPLETED"]
    finally:
        server.stop()
    (there / HOME).mkdir(parents=True)
    shutil.copyfile(tmp_path / "prefect.db", there / HOME / "prefect.db")
    other = start_in_background(there)
    try:
        other.wait()
        assert [found["state_type"] for found in flow_runs(other)] == ["COMPLETED"]
        assert run(there, *planned(there)).failed == ()
        assert len(flow_runs(other)) == 2
    finally:
        other.stop()


def flow_runs(server) -> list[dict]:
    return list(httpx.post(f"{server.api_url}/flow_runs/filter", json={}, timeout=60).raise_for_status().json())


@needs_sqlite3
def test_a_copy_under_a_writer_is_whole(tmp_path):
    """Why the page says `.backup` and never to copy the file: what is not yet in the file itself is in the copy."""
    with sqlite3.connect(tmp_path / "live.db", isolation_level=None) as live:
        live.execute("pragma journal_mode = wal")
        live.execute("create table run (name)")
        live.execute("insert into run values ('a')")
        subprocess.run(["sqlite3", str(tmp_path / "live.db"), f".backup {tmp_path}/copy.db"], check=True)
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("select name from run").fetchall() == [("a",)]


def test_lost_outs_come_back_from_the_remote_and_nothing_is_to_do(tmp_path):
    root = make_checkout(tmp_path / "c")
    command(root, "dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    command(root, "dvc", "repro", "--quiet")
    command(root, "dvc", "push", "--quiet")
    command(root, "git", "add", "-f", "dvc.lock", ".dvc/config")
    command(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "done")
    restored = tmp_path / "restored"
    command(tmp_path, "git", "clone", "--quiet", str(root), str(restored))
    assert [step.stale for step in planned(restored)[1]] == [True]
    command(restored, "dvc", "pull", "--quiet")
    assert [step.stale for step in planned(restored)[1]] == [False]
    assert (restored / "out/work.json").read_bytes() == (root / "out/work.json").read_bytes()
