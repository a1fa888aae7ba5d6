"""Whatever dies while stages run on workers, the run goes on or the next one does, and no result is lost or recorded twice."""

import json
import signal
import subprocess

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.settings import temporary_settings

from flows.planning.recorded import entries
from flows.workers.follow import ending
from tests.flows.checkout import WORK_STAGE
from tests.flows.site import Site, signal_tree
from tests.flows.test_stage import wait_for

STAGES = f"""\
{WORK_STAGE.rstrip()}
    meta: {{worker: gpu}}
  lonely:
    cmd: echo lonely > out/lonely
    deps: [work.py]
    outs: [out/lonely]
    meta: {{worker: nowhere}}
"""
LOST_AFTER = "12"
PATIENCE = 240
"""Seconds; a busy machine is no failure."""
WORKERS = ("one", "two")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A coordinator, its server and two workers of one kind."""
    site = Site(tmp_path_factory.mktemp("faults"), STAGES)
    site.variables["TEMPER_LOST_AFTER"] = LOST_AFTER
    site.workers = {name: site.worker("gpu", name) for name in WORKERS}
    yield site
    site.close()


def begun(site: Site, seed: int, *, steps: int = 16) -> tuple[subprocess.Popen, str]:
    """Start a run whose stage takes a while; return it once a worker has two checkpoints, and that worker's name."""
    words = ["work", "--set", f"work.loss={seed}", "--set", f"work.steps={steps}", "--set", "work.seconds=0.5"]
    run = site.start(*words)
    before = {name: site.counted(name) for name in WORKERS}

    def busy() -> list[str]:
        assert run.poll() is None, site.said()
        return [name for name in WORKERS if site.counted(name) >= before[name] + 2]

    wait_for(busy, PATIENCE)
    return run, busy()[0]


def sent(site: Site) -> list:
    """Return what was sent to the workers so far, the newest last."""
    with temporary_settings({"api.url": site.variables["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["work"])))
        return [(run, ending(client, run.id)) for run in sorted(runs, key=lambda run: run.expected_start_time)]


def done(site: Site, run: subprocess.Popen) -> list[int]:
    """Wait for a run that must end well; return the processes that counted, one a step."""
    assert run.wait(timeout=PATIENCE + 60) == 0, site.said()
    return json.loads((site.root / "out/work.json").read_text())


def loss(site: Site) -> float:
    return json.loads((site.root / "out/scores.json").read_text())["loss"]


def test_a_worker_that_dies_whole_is_missed_and_another_takes_its_stage(site):
    run, name = begun(site, 1)
    signal_tree(site.workers[name], signal.SIGKILL)
    assert len(set(done(site, run))) == 1, "the other worker began anew: checkpoints lie on the machine that died"
    assert "lost: no sign of life from its worker for" in site.said()
    (_, first), (_, second) = sent(site)[-2:]
    assert first is None
    assert second.outcome.ending == "completed"
    site.workers[name] = site.worker("gpu", name)


def test_a_machine_that_hangs_tells_nothing_when_it_wakes(site):
    run, name = begun(site, 2)
    signal_tree(site.workers[name], signal.SIGSTOP)
    done(site, run)
    recorded, before = entries(site.root, "dvc.yaml"), len(sent(site))
    signal_tree(site.workers[name], signal.SIGCONT)
    wait_for(lambda: "ended with" in site.said(name).partition(str(sent(site)[-2][0].id))[2], PATIENCE)
    hung, other = sent(site)[-2:]
    assert len(sent(site)) == before
    assert hung[1] is None, "the run that was lost has told a result"
    assert other[1].outcome.ending == "completed"
    assert entries(site.root, "dvc.yaml") == recorded
    assert site.workers[name].poll() is None


def test_a_worker_that_is_asked_to_end_gives_its_stage_back(site):
    run, name = begun(site, 6)
    site.workers[name].terminate()
    assert site.workers[name].wait(timeout=PATIENCE) == 0, site.said(name)
    done(site, run)
    (given_back, told), (_, second) = sent(site)[-2:]
    assert told.outcome.ending == "preempted"
    assert given_back.state.is_failed()
    assert second.outcome.ending == "completed"
    assert "stopped by SIGTERM" in site.said(name)
    site.workers[name] = site.worker("gpu", name)


def test_a_coordinator_that_dies_finds_what_it_sent(site):
    run, _ = begun(site, 3)
    before = len(sent(site))
    run.kill()
    run.wait()
    wait_for(lambda: sent(site)[-1][0].state.is_completed(), PATIENCE)
    assert json.loads((site.root / "out/scores.json").read_text())["loss"] != 3
    again = site.start("work", "--set", "work.loss=3", "--set", "work.steps=16", "--set", "work.seconds=0.5")
    assert len(set(done(site, again))) == 1
    assert "found in the work pool temper-gpu" in site.said()
    assert len(sent(site)) == before
    assert loss(site) == 3


def test_a_server_that_is_restarted_costs_nothing(site):
    run, _ = begun(site, 4)
    before, port = len(sent(site)), site.variables["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0]
    signal_tree(site.server, signal.SIGKILL)
    site.server = site.start_server(int(port))
    assert len(set(done(site, run))) == 1
    assert len(sent(site)) == before
    assert loss(site) == 4


def test_ctrl_c_stops_the_stage_where_it_runs_and_the_next_run_goes_on_from_its_checkpoint(site):
    run, name = begun(site, 5)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=PATIENCE) == 130, site.said()
    assert sent(site)[-1][0].state.is_cancelled()
    assert site.counted(name) >= 2
    other = next(one for one in WORKERS if one != name)
    signal_tree(site.workers[other], signal.SIGSTOP)  # so that the same worker takes it
    again = site.start("work", "--set", "work.loss=5", "--set", "work.steps=16", "--set", "work.seconds=0.5")
    assert len(set(done(site, again))) == 2
    signal_tree(site.workers[other], signal.SIGCONT)


def test_a_kind_without_a_live_worker_is_told_with_the_command_that_starts_one(site):
    run = site.start("lonely")
    wait_for(lambda: "no live worker of kind nowhere for" in site.said(), PATIENCE)
    assert f"PREFECT_API_URL={site.variables['PREFECT_API_URL']} temper worker nowhere" in site.said()
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=PATIENCE) == 130
