"""One stage on a GPU: the kernel's lease is the truth, Prefect's limit shows it, and what a killed holder leaves behind heals."""

import signal
import subprocess
import sys
import threading

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import temporary_settings

from flows.server import start_in_background
from flows.workers import gpus, slots
from flows.workers.gpus import Stopped, lent
from flows.workers.slots import limit_of
from tasks.runtime.imports import ROOT
from tests.flows.checkout import environment
from tests.flows.test_stage import wait_for

HOLDER = """
import sys, time
from flows.workers.gpus import lent
with lent(1, lambda: False, lambda line: print(line, flush=True)) as pinned:
    print("holds", pinned["CUDA_VISIBLE_DEVICES"], flush=True)
    time.sleep(600)
"""
GPUS = ("GPU-a", "GPU-b")


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch, tmp_path):
    """A machine of two GPUs, with leases of its own."""
    monkeypatch.setenv(gpus.VISIBLE, ",".join(GPUS))
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def never() -> bool:
    return False


def test_a_gpu_is_named_as_in_every_container_where_that_can_be_known():
    assert limit_of("GPU-8f6d-1") == "temper-GPU-8f6d-1"
    assert limit_of("0").startswith("temper-GPU-")


def test_without_a_server_the_gpu_is_held_all_the_same():
    said = []
    with (
        temporary_settings({"api.url": "http://127.0.0.1:9/api", "client.max_retries": 0}),
        lent(1, never, said.append) as pinned,
    ):
        assert pinned == {gpus.VISIBLE: "GPU-a"}
        with lent(1, never, said.append) as other:
            assert other == {gpus.VISIBLE: "GPU-b"}
    assert "temper-GPU-a is not shown on Prefect's page (ConnectError); the GPU is held all the same" in said


@pytest.mark.slow
class TestOnAServer:
    @pytest.fixture(scope="class")
    def server(self, tmp_path_factory):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PREFECT_API_URL", raising=False)
            server = start_in_background(tmp_path_factory.mktemp("slots"), for_workers=True)
            server.wait()
            with temporary_settings(server.settings()):
                yield server
            server.stop()

    def active(self, device: str) -> int:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(limit_of(device)).active_slots

    def holder(self, server, tmp_path) -> subprocess.Popen:
        """Another process that holds the first GPU that is free."""
        around = environment(PYTHONPATH=str(ROOT), PREFECT_API_URL=server.api_url, TMPDIR=str(tmp_path))
        around[gpus.VISIBLE] = ",".join(GPUS)
        return subprocess.Popen([sys.executable, "-c", HOLDER], env=around, stdout=subprocess.PIPE, text=True)

    def test_two_stages_have_a_gpu_each_and_the_limits_show_it(self, server):
        with lent(1, never, print) as one, lent(1, never, print) as other:
            assert {one[gpus.VISIBLE], other[gpus.VISIBLE]} == set(GPUS)
            assert [self.active(device) for device in GPUS] == [1, 1]
        assert [self.active(device) for device in GPUS] == [0, 0]

    def test_a_stage_that_wants_both_waits_for_both(self, server):
        got, stop = [], threading.Event()

        def both():
            with temporary_settings(server.settings()), lent(2, never, print) as pinned:
                got.append(pinned[gpus.VISIBLE])
                stop.wait(30)

        with lent(1, never, print):
            waiting = threading.Thread(target=both)
            waiting.start()
            assert not stop.wait(1.5)
            assert got == []
        wait_for(lambda: got)
        stop.set()
        waiting.join()
        assert got == ["GPU-a,GPU-b"]

    def test_a_slot_of_a_killed_holder_is_had_by_the_next_without_anyones_help(self, server, tmp_path):
        holder = self.holder(server, tmp_path)
        assert holder.stdout.readline() == "holds GPU-a\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert self.active("GPU-a") == 1, "leaked: nobody told the server"
        said = []
        with lent(1, never, said.append) as pinned:
            assert pinned == {gpus.VISIBLE: "GPU-a"}
            assert self.active("GPU-a") == 1
        assert said == ["temper-GPU-a: its last holder was killed; what it had is given back"]
        assert self.active("GPU-a") == 0

    def test_so_is_one_whose_holder_the_server_has_forgotten(self, server, tmp_path):
        holder = self.holder(server, tmp_path)
        assert holder.stdout.readline() == "holds GPU-a\n"
        holder.kill()
        holder.wait()
        for lease in (server.log.parent / "concurrency_leases").glob("*"):
            lease.unlink()
        with lent(1, never, print) as pinned:
            assert pinned == {gpus.VISIBLE: "GPU-a"}
        assert self.active("GPU-a") == 0

    def test_a_damaged_note_of_a_killed_holder_stops_nobody(self, server, two_gpus):
        with lent(1, never, print):
            pass
        note = next(two_gpus.glob("temper-gpus-*/GPU-a")) / "slot"
        note.write_text("no id")
        with lent(1, never, print) as pinned:
            assert pinned == {gpus.VISIBLE: "GPU-a"}
        assert not note.exists()

    def test_a_server_that_forgets_while_a_stage_runs_counts_nothing_afterwards(self, server):
        with lent(1, never, print):
            for lease in (server.log.parent / "concurrency_leases").glob("*"):
                lease.unlink()
        assert self.active("GPU-a") == 0

    def test_a_slot_that_somebody_without_our_leases_has_is_waited_for(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(slots, "LOOK", 0.1)
        elsewhere = tmp_path / "container"
        elsewhere.mkdir()
        holder = self.holder(server, elsewhere)
        assert holder.stdout.readline() == "holds GPU-a\n"
        said = []
        with pytest.raises(Stopped), lent(1, lambda: bool(said), said.append):
            raise AssertionError("two stages on one GPU")
        assert said == ["waiting for temper-GPU-a, which Prefect says is taken elsewhere or out of service"]
        assert self.active("GPU-a") == 1
        holder.send_signal(signal.SIGINT)
        holder.wait()
        assert self.active("GPU-a") == 0

    def test_a_gpu_whose_limit_is_set_to_0_is_out_of_service(self, server, monkeypatch):
        monkeypatch.setattr(slots, "LOOK", 0.1)
        with lent(2, never, print):
            pass
        said = []
        with get_client(sync_client=True) as client:
            client.update_global_concurrency_limit(limit_of("GPU-b"), GlobalConcurrencyLimitUpdate(limit=0))
            with pytest.raises(Stopped), lent(2, lambda: bool(said), said.append):
                raise AssertionError("taken out of service, and used")
            client.update_global_concurrency_limit(limit_of("GPU-b"), GlobalConcurrencyLimitUpdate(limit=1))
        assert self.active("GPU-a") == 0

    def test_the_slot_is_taken_again_before_its_time_is_over(self, server, monkeypatch):
        monkeypatch.setattr(slots, "AGAIN", 0.1)
        with lent(1, never, print):
            leases = list((server.log.parent / "concurrency_leases").glob("*-*.json"))
            before = {lease: lease.read_text() for lease in leases}
            assert before
            wait_for(lambda: all(lease.read_text() != text for lease, text in before.items()))
