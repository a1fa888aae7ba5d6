"""The pipeline through a real Prefect server and real DVC: what each stage's task ends as, in the result and on the page."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import httpx
import psutil
import pytest
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import sound
from flows.pipeline import Slots, Stages, run, threads_of
from flows.planning import history
from flows.planning.graph import RunResult, load_graph
from flows.planning.overlay import effective_params
from flows.planning.plan import plan
from flows.server import start_in_background
from flows.stage import Outcome
from tasks.runtime.imports import ROOT
from tests.flows.checkout import WORK_STAGE, command, environment, make_checkout, planned
from tests.flows.planning.test_studies import make_study
from tests.flows.test_stage import wait_for

FAILING = """\
  bad:
    cmd: echo "bad, mend section.key"; exit 2
    outs: [out/bad]
  after:
    cmd: cat out/bad > out/after
    deps: [out/bad]
    outs: [out/after]
  last:
    cmd: cat out/after out/work.json > out/last
    deps: [out/after, out/work.json]
    outs: [out/last]
"""
APART = """\
  apart:
    cmd: cat out/work.json > out/apart
    deps: [out/work.json]
    outs: [out/apart]
"""


class TestSlots:
    def test_heavy_stages_share_the_cores_and_light_ones_only_the_places(self):
        slots = Slots(cores=2, jobs=8)
        with ExitStack() as held:
            held.enter_context(slots.taken(1))
            held.enter_context(slots.taken(1))
            for _ in range(6):
                held.enter_context(slots.taken(0))
            late = Late(slots, 0)
            assert not late.got.wait(0.1), "all places are taken"
        assert late.got.wait(5)

    def test_a_heavy_stage_waits_for_its_threads_and_a_light_one_passes_it(self):
        slots = Slots(cores=2, jobs=8)
        with slots.taken(1):
            heavy, light = Late(slots, 2), Late(slots, 0)
            assert light.got.wait(5)
            assert not heavy.got.wait(0.1)
        assert heavy.got.wait(5)

    def test_more_threads_than_cores_means_all_cores(self):
        slots = Slots(cores=2, jobs=8)
        with slots.taken(64):
            assert not Late(slots, 1).got.wait(0.1)


@pytest.mark.parametrize(
    ("params", "cmd", "threads"),
    [
        ("work: {}", "", 0),
        ("work: {threads: 2}", "", 2),
        ("work: {threads: 2}", " --set threads=1", 1),
        ("work: {}", " --set steps=5 --set threads=1", 1),
    ],
)
def test_the_threads_of_a_stage_are_those_its_command_sets_or_else_its_section_names(tmp_path, params, cmd, threads):
    root = make_checkout(tmp_path / "c", WORK_STAGE.replace(" --out", f"{cmd} --out", 1), params)
    graph, _, given = planned(root)
    assert threads_of(graph.stages["work"], given) == threads


def test_unchanged_stages_without_number_are_in_the_summary_and_no_tasks(tmp_path, monkeypatch):
    graph, steps, params = planned(make_checkout(tmp_path / "c", WORK_STAGE + APART))
    monkeypatch.setattr("flows.pipeline.SHOWN", 0)
    stages = Stages(tmp_path / "c", graph, [replace(step, stale=step.stage.name == "apart") for step in steps], params)
    begun = []

    def submit(step, futures):
        begun.append(step.stage.name)
        stages.outcomes[step.stage.name] = Outcome("completed")
        future = Future()
        future.set_result(None)
        return SimpleNamespace(wrapped_future=future)

    monkeypatch.setattr(stages, "_submit", submit)
    stages._all()
    assert begun == ["apart"]
    assert [(row.stage, row.state) for row in stages.result().rows] == [("work", "cached"), ("apart", "completed")]


class Late(threading.Thread):
    """Somebody who wants a slot; `got` is set once it was had."""

    def __init__(self, slots: Slots, threads: int):
        super().__init__(daemon=True)
        self.slots, self.threads, self.got = slots, threads, threading.Event()
        self.start()

    def run(self):
        with self.slots.taken(self.threads):
            self.got.set()


class Page:
    """What the server knows of the newest flow run."""

    def __init__(self, api_url: str):
        self.api = httpx.Client(base_url=api_url, timeout=30)
        self.flow = self._all("flow_runs", {"sort": "START_TIME_DESC", "limit": 1})[0]
        mine = {"flow_runs": {"id": {"any_": [self.flow["id"]]}}}
        wait_for(lambda: all(task["end_time"] for task in self._all("task_runs", mine)))
        self.tasks = {task["name"]: task for task in self._all("task_runs", mine)}
        self.states = {name: task["state"]["name"] for name, task in self.tasks.items()}
        self.artifacts = {artifact["key"]: artifact for artifact in self._all("artifacts", mine)}
        self.logs = [log["message"] for log in self._all("logs", {"logs": {"flow_run_id": {"any_": [self.flow["id"]]}}})]

    def _all(self, what: str, asked: dict) -> list[dict]:
        return self.api.post(f"/{what}/filter", json=asked).raise_for_status().json()

    def needs(self, name: str) -> set[str]:
        """Return the names of the tasks that the page draws an edge from."""
        names = {task["id"]: other for other, task in self.tasks.items()}
        return {names[entry["id"]] for entry in self.tasks[name]["task_inputs"].get("wait_for", [])}

    def history(self, name: str) -> list[str]:
        """Return the names of all states a task has been in, in order."""
        states = self.api.get("/task_run_states/", params={"task_run_id": self.tasks[name]["id"]}).raise_for_status().json()
        return [state["name"] for state in sorted(states, key=lambda state: state["timestamp"])]


def states(result: RunResult) -> dict[str, str]:
    return {row.stage: row.state for row in result.rows}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One real server for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        server = start_in_background(tmp_path_factory.mktemp("prefect"))
        server.wait()
        patch.setenv("PREFECT_API_URL", server.api_url)
        yield server
        server.stop()


@pytest.mark.slow
class TestOneRunAndTheNext:
    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory):
        return make_checkout(
            tmp_path_factory.mktemp("pipeline") / "c", WORK_STAGE + FAILING + APART, "work: {steps: 3, seconds: 0.8}"
        )

    @pytest.fixture(scope="class")
    def first(self, server, root):
        result = run(root, *planned(root), profile=None, jobs=None)
        return result, Page(server.api_url)

    @pytest.fixture(scope="class")
    def second(self, first, server, root):
        (root / "work.py").write_text((root / "work.py").read_text() + "# changed\n")
        (root / "params.yaml").write_text("work: {steps: 3, loss: 0.75}\n")
        result = run(root, *planned(root, "work"), profile="other", jobs=1)
        return result, Page(server.api_url)

    @pytest.fixture(scope="class")
    def third(self, second, server, root):
        result = run(root, *planned(root, "apart", force=("apart",)))
        return result, Page(server.api_url)

    def test_every_stage_ends_as_it_should(self, first):
        result, page = first
        assert states(result) == {
            "work": "completed",
            "bad": "failed",
            "after": "blocked",
            "last": "blocked",
            "apart": "completed",
        }
        assert page.states == {"work": "Completed", "bad": "Failed", "after": "Blocked", "last": "Blocked", "apart": "Completed"}
        assert result.failed == ("bad",)

    def test_a_failed_stage_says_its_last_line(self, first):
        result, page = first
        assert next(row.detail for row in result.rows if row.stage == "bad") == "bad, mend section.key"
        assert page.tasks["bad"]["state"]["message"] == "bad, mend section.key"
        assert page.flow["state"]["type"] == "FAILED"
        assert page.flow["state"]["message"] == "bad: bad, mend section.key"

    def test_a_blocked_stage_names_the_stage_that_failed(self, first):
        _, page = first
        assert page.tasks["last"]["state"]["message"] == "not run: bad did not finish"

    def test_a_mistake_is_not_tried_again(self, first):
        assert first[1].history("bad") == ["Pending", "Running", "Failed"]

    def test_the_page_draws_the_edges_of_dvc_yaml(self, first):
        _, page = first
        assert page.needs("last") == {"after", "work"}
        assert page.needs("apart") == {"work"}
        assert page.needs("work") == set()

    def test_the_run_is_named_after_profile_and_commit(self, first, root):
        commit = command(root, "git", "rev-parse", "HEAD")[:8]
        assert first[1].flow["name"] == f"default {commit}"
        assert set(first[1].flow["tags"]) == {"default", first[1].flow["name"].split()[1]}

    def test_the_log_is_on_the_page_line_by_line(self, first):
        assert "> python -m work --out out/work.json --scores out/scores.json --curve out/curve.csv" in first[1].logs
        assert "bad, mend section.key" in first[1].logs

    def test_scores_plot_outs_progress_and_summary_are_on_the_page(self, first):
        _, page = first
        of_stages = {"work-scores", "work-plot-curve", "work-outs", "work-progress", "apart-outs"}
        assert set(page.artifacts) == of_stages | {"summary", "links"}
        scores = json.loads(page.artifacts["work-scores"]["data"])
        assert {"score": "skills.recall", "now": "0.25", "last run": "", "change": "new"} in scores
        assert page.artifacts["work-scores"]["task_run_id"] == page.tasks["work"]["id"]
        assert "data:image/png;base64," in page.artifacts["work-plot-curve"]["data"]
        assert page.artifacts["work-progress"]["data"] == 100
        assert [row["state"] for row in json.loads(page.artifacts["summary"]["data"])][:2] == ["completed", "failed"]

    def test_what_ran_is_written_down_with_its_time(self, first, root):
        assert history.last_completed(root, "work").seconds >= 2.4
        assert history.last(root, "bad").exit_code == 2
        assert history.last(root, "after") is None

    def test_scores_are_compared_with_the_last_run(self, second):
        result, page = second
        assert states(result) == {"work": "completed"}
        assert result.rows[0].scores["loss"] == 0.75
        assert json.loads(page.artifacts["work-scores"]["data"])[0] == {
            "score": "loss",
            "now": "0.75",
            "last run": "1",
            "change": "-0.25",
        }
        assert page.flow["name"].startswith("other ")
        assert page.flow["name"].endswith("+"), "a tracked file was changed"

    def test_unchanged_is_cached_and_starts_no_process_and_forced_runs(self, third, root):
        result, page = third
        assert states(result) == {"work": "cached", "apart": "completed"}
        assert page.states == {"work": "Cached", "apart": "Completed"}
        assert page.tasks["work"]["state"]["type"] == "COMPLETED"
        assert not any("Running stage 'work'" in line for line in page.logs)
        assert page.flow["state"]["message"] == "1 stage run, 1 unchanged"

    def test_nothing_of_the_results_is_stored(self, third, server):
        assert not list((server.log.parent / "storage").glob("*"))


@pytest.mark.slow
class TestWhenSomethingHappens:
    @pytest.mark.parametrize("how", ["killed", "preempted"])
    def test_a_killed_stage_is_tried_again_from_its_checkpoint(self, server, tmp_path, how):
        """Also one that a spot machine stops by SIGTERM: it ends with a code of its own."""
        root = make_checkout(tmp_path / "c", params=f"work: {{how: {how}, seconds: 0.1}}")
        result = run(root, *planned(root))
        page = Page(server.api_url)
        assert states(result) == {"work": "completed"}
        assert page.history("work") == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
        counted = json.loads((root / "out/work.json").read_text())
        assert counted[0] == counted[1] != counted[2]

    def test_a_stage_is_not_given_what_dvc_put_back_from_a_damaged_cache(self, server, tmp_path):
        root = make_checkout(tmp_path / "c", WORK_STAGE + APART)
        run(root, *planned(root))
        out = root / "out/work.json"
        kept = sound.cached(root, sound.md5(out))
        kept.chmod(0o644)
        kept.write_bytes(kept.read_bytes().replace(b"[", b"{"))
        kept.chmod(0o444)
        out.unlink()
        (root / "out/apart").unlink()  # the same bytes: it would serve as a sound copy
        command(root, "dvc", "checkout", "out/work.json")
        assert out.read_text().startswith("{"), "DVC has not noticed"
        result = run(root, *planned(root))
        assert states(result) == {"work": "cached", "apart": "failed"}
        assert "out/work.json is not what work made, and no copy of it is sound; run again" in result.rows[1].detail
        assert states(run(root, *planned(root)))["work"] == "completed"
        assert (root / "out/apart").read_text() == out.read_text()
        assert out.read_text().startswith("[")

    def test_it_is_not_tried_for_ever(self, server, tmp_path):
        root = make_checkout(tmp_path / "c", "  doomed:\n    cmd: echo try >> tries; kill -9 $$\n    outs: [o]\n")
        result = run(root, *planned(root))
        assert states(result) == {"doomed": "failed"}
        assert "killed by signal 9" in result.rows[0].detail
        assert (root / "tries").read_text().count("try") == 3

    def test_independent_stages_run_side_by_side(self, server, tmp_path):
        stages = "".join(f"  s{n}:\n    cmd: sleep 4; echo {n} > o{n}\n    outs: [o{n}]\n" for n in range(4))
        root = make_checkout(tmp_path / "c", stages)
        run(root, *planned(root))
        tasks = Page(server.api_url).tasks.values()
        assert max(task["start_time"] for task in tasks) < min(task["end_time"] for task in tasks)

    def test_what_speaks_to_the_lost_server_of_an_earlier_run_does_not_take_its_states(self, server, tmp_path):
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            emit_event("of an earlier run", {"prefect.resource.id": "earlier"})
        root = make_checkout(tmp_path / "c")
        run(root, *planned(root))
        assert Page(server.api_url).states == {"work": "Completed"}

    def test_cancelled_on_the_page_it_stops_with_a_checkpoint(self, server, tmp_path):
        root = make_checkout(tmp_path / "c", params="work: {steps: 300, seconds: 0.2}")

        def cancel() -> None:
            wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*/complete")), patience=60)
            api = httpx.Client(base_url=server.api_url)
            newest = api.post("/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()[0]["id"]
            api.post(f"/flow_runs/{newest}/set_state", json={"state": {"type": "CANCELLING"}, "force": True}).raise_for_status()

        threading.Thread(target=cancel).start()
        result = run(root, *planned(root))
        page = Page(server.api_url)
        assert result.failed == ("work",)
        assert "goes on from its last checkpoint" in result.rows[0].detail
        assert page.states == {"work": "Stopped"}
        assert page.flow["state"]["type"] == "CANCELLED"
        assert history.last(root, "work").exit_code == 75

    @pytest.fixture
    def own(self, tmp_path, monkeypatch):
        """A server that only this test uses, and a checkout whose first stage takes three seconds."""
        monkeypatch.delenv("PREFECT_API_URL")
        root = make_checkout(tmp_path / "c", WORK_STAGE + APART, "work: {seconds: 1.0}")
        own = start_in_background(root)
        own.wait()
        yield root, own
        own.stop()

    def once_at_work(self, root, act) -> None:
        """Call `act` from another thread when the first stage of `root` has begun."""

        def wait_and_act() -> None:
            wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*")), patience=120)
            act()

        threading.Thread(target=wait_and_act).start()

    def test_a_crashed_server_comes_back_and_knows_all(self, own, capfd):
        root, server = own
        self.once_at_work(root, lambda: os.kill(server.process.pid, signal.SIGKILL))
        assert states(run(root, *planned(root))) == {"work": "completed", "apart": "completed"}
        assert "starting it again" in capfd.readouterr().err
        page = Page(server.api_url)
        assert page.states == {"work": "Completed", "apart": "Completed"}
        assert page.flow["state"]["name"] == "Completed"
        assert "work-scores" in page.artifacts

    def test_a_lost_server_costs_the_view_and_not_the_work(self, own, capfd, tmp_path, monkeypatch):
        _, server = own
        root = make_checkout(tmp_path / "other", WORK_STAGE + APART, "work: {seconds: 1.0}")
        monkeypatch.setenv("PREFECT_API_URL", server.api_url)
        self.once_at_work(root, server.stop)
        result = run(root, *planned(root))
        assert states(result) == {"work": "completed", "apart": "completed"}
        assert "the Prefect server was lost" in capfd.readouterr().err
        assert "up to date" in command(root, "dvc", "status")


@pytest.mark.slow
class TestAStudy:
    def test_a_cell_that_fails_shows_its_error_and_costs_no_other(self, server, tmp_path):
        root = make_study(tmp_path / "c", params="work: {steps: 1}\nsweep: {losses: [0.5, 2.0, much]}")
        params = effective_params(root, None)
        graph = load_graph(root, params, ["sweep"])
        result = run(root, graph, plan(graph, root, params, graph.own), params)
        assert states(result) == {"work": "completed", "cell@0.5": "completed", "cell@2.0": "completed", "cell@much": "failed"}
        said = {row.stage: row.detail for row in result.rows}
        assert "work.loss: Input should be a valid number" in said["cell@much"]
        assert "work.loss: Input should be a valid number" in Page(server.api_url).tasks["cell@much"]["state"]["message"]


class TestAsAProcess:
    CODE = """
from pathlib import Path
from flows.pipeline import run
from tests.flows.checkout import planned
print(run(Path().resolve(), *planned(Path().resolve())).failed)
"""

    @pytest.fixture
    def started(self, server, tmp_path):
        """A process that runs a pipeline of one long stage, which has written its first checkpoint."""
        root = make_checkout(tmp_path / "c", params="work: {steps: 60, seconds: 0.2}")
        given = environment(PREFECT_API_URL=server.api_url, PYTHONPATH=str(ROOT))
        process = subprocess.Popen([sys.executable, "-c", self.CODE], cwd=root, env=given, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*")), patience=120)
        yield root, process
        process.kill()
        process.communicate()

    def test_ctrl_c_lets_the_stage_write_its_checkpoint_and_cancels_the_run(self, started, server):
        root, process = started
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert said.strip().endswith("KeyboardInterrupt")
        assert "work: stopped by SIGTERM" in said
        assert Page(server.api_url).flow["state"]["type"] == "CANCELLED"
        assert history.last(root, "work").exit_code == 75

    def test_sigterm_does_the_same(self, started):
        root, process = started
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert "work: stopped by SIGTERM" in said
        assert history.last(root, "work").exit_code == 75

    def test_a_killed_run_leaves_no_orphan_and_the_next_goes_on(self, started, server):
        root, process = started
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        process.kill()
        process.wait()
        assert psutil.wait_procs(below, timeout=10)[1] == []
        assert states(run(root, *planned(root))) == {"work": "completed"}
        counted = json.loads((root / "out/work.json").read_text())
        assert len(counted) == 60
        assert len(set(counted)) == 2, "the steps of the killed process, then those of the next"
