"""The Prefect server of a checkout: it comes up on a port of its own, is found by others, and never outlives who started it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows import server
from flows.server import HOME, Server, ServerError, _take, start_in_background
from tests.flows.checkout import environment
from tests.flows.test_stage import wait_for

OWNER = """
import time
from pathlib import Path
from flows.server import start_in_background
server = start_in_background(Path())
server.wait()
print(server.api_url, server.process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return reply.read().decode()


def gone(pid: int, patience: float = 10) -> bool:
    deadline = time.monotonic() + patience
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def free(place: Path) -> bool:
    """Tell whether nobody holds the place of the server of a checkout."""
    with (place / HOME / "address").open() as address:
        return _take(address)


class TestWithoutStartingOne:
    def test_a_configured_api_is_used_and_nothing_is_started(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4200/api/")
        found = start_in_background(tmp_path)
        assert found.log is None
        assert found.api_url == "http://prefect.example:4200/api"
        assert found.ui_url == "http://prefect.example:4200"
        assert list(tmp_path.iterdir()) == []

    def test_a_taken_port_means_another_port(self):
        with socket.socket() as taken:
            taken.bind((server.LOOPBACK, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with server._listen(port) as other:
                assert other.getsockname()[0] == server.LOOPBACK
                assert other.getsockname()[1] not in (port, 0)

    def test_a_free_port_is_taken_as_asked_for(self):
        with server._listen(0) as listener:
            port = listener.getsockname()[1]
        with server._listen(port) as again:
            assert again.getsockname()[1] == port

    def test_nobody_answering_is_an_error_that_says_where_to_look(self):
        with server._listen(0) as silent:
            port = silent.getsockname()[1]
        with pytest.raises(ServerError, match=f"127.0.0.1:{port}/api after 0 s; check PREFECT_API_URL"):
            Server(f"http://127.0.0.1:{port}/api").wait(patience=0.2)

    def test_services_that_only_workers_need_are_off_for_a_run(self, tmp_path):
        for_run = server._environment(tmp_path, "http://127.0.0.1:1/api", for_workers=False)
        for_workers = server._environment(tmp_path, "http://127.0.0.1:1/api", for_workers=True)
        assert for_run["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] == "false"
        assert for_workers["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] == "true"


@pytest.mark.slow
class TestARealServer:
    @pytest.fixture(scope="class")
    def place(self, tmp_path_factory):
        return tmp_path_factory.mktemp("served")

    @pytest.fixture(scope="class")
    def owner(self, place):
        """Another process that has started the server of `place`; yields it with the API's address and the server's pid."""
        process = subprocess.Popen([sys.executable, "-c", OWNER], cwd=place, env=environment(), stdout=subprocess.PIPE, text=True)
        url, pid = process.stdout.readline().split()
        yield process, url, int(pid)
        process.kill()
        process.wait()

    def test_it_answers_on_loopback_alone(self, owner):
        _, url, pid = owner
        assert get(f"{url}/health") == "true"
        listening = [entry.laddr.ip for entry in psutil.Process(pid).net_connections() if entry.status == psutil.CONN_LISTEN]
        assert listening == [server.LOOPBACK]

    def test_its_page_calls_its_own_api(self, owner):
        _, url, _ = owner
        ui = url.removesuffix("/api")
        assert f'"api_url":"{url}"' in get(f"{ui}/ui-settings")
        assert "<html" in get(f"{ui}/").lower()

    def test_its_history_lies_in_the_checkout(self, owner, place):
        assert (place / HOME / "prefect.db").exists()

    def test_another_process_of_the_checkout_uses_it(self, owner, place):
        _, url, _ = owner
        found = start_in_background(place)
        assert found.log is None
        assert found.api_url == url
        found.wait()

    def test_it_is_the_leader_of_a_session_of_its_own(self, owner):
        process, _, pid = owner
        assert os.getsid(pid) == pid != os.getsid(process.pid)

    def test_it_dies_with_a_killed_owner_and_then_leaves_its_place_to_the_next(self, owner, place):
        process, url, pid = owner
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert gone(pid), "an orphaned server"
        wait_for(lambda: free(place))  # a process counts as dead before the last of its threads has let go of its files
        following = start_in_background(place)
        try:
            assert following.log == place / HOME / "server.log"
            assert following.api_url != url
            following.wait()
            assert following.seconds > 0
            assert start_in_background(place) is following
        finally:
            following.stop()
        assert not following.answers()
        assert following.process.returncode == 0, following.log.read_text()

    def test_a_crashed_one_is_started_again_where_it_was(self, tmp_path, capfd):
        ours = start_in_background(tmp_path)
        try:
            ours.wait()
            crashed = ours.process.pid
            os.kill(crashed, signal.SIGKILL)
            assert gone(crashed)
            assert get(f"{ours.api_url}/health") == "true", "a client that asks meanwhile is kept waiting, not refused"
            assert ours.process.pid != crashed
            assert "ended with -9; starting it again" in capfd.readouterr().err
        finally:
            ours.stop()
        assert gone(ours.process.pid)

    def test_one_that_cannot_start_is_an_error_that_names_its_log(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/missing/prefect.db")
        ours = start_in_background(tmp_path)
        with pytest.raises(ServerError, match=r"ended before it answered; its log is .*server\.log"):
            ours.wait()
        assert "unable to open database file" in ours.log.read_text()
        ours.stop()
