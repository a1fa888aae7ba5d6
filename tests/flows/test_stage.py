"""One stage through DVC: what its log and exit code are taken to mean, and that it can be stopped and killed."""

import json
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.planning.graph import Stage, load_graph
from flows.planning.overlay import effective_params
from flows.stage import LOGS, Children, Transcript, account, attempt
from tasks.runtime.stage import FINISHED, PREEMPTED, WORK
from tests.flows.checkout import WORK_STAGE, command, environment, make_checkout

CMD = "python -m work --out out"


def transcript(*lines: str) -> Transcript:
    made = Transcript()
    for line in lines:
        made.add(line)
    return made


def failed_with(code: int, *said: str) -> Transcript:
    """What DVC logs when the command of a stage ends with `code`."""
    return transcript(
        "Running stage 'work':", f"> {CMD}", *said, f"ERROR: failed to reproduce 'work': failed to run: {CMD}, exited with {code}"
    )


class TestHowItEnded:
    def test_a_mistake_of_the_user_is_final_and_its_own_line_is_the_reason(self):
        ended = account(255, failed_with(2, "loading", "work: params.yaml: work.how: refused"), 1.5)
        assert (ended.ending, ended.code, ended.detail) == ("failed", 2, "work: params.yaml: work.how: refused")
        assert ended.ran

    def test_an_error_is_final(self):
        assert account(255, failed_with(1, "work: RuntimeError: it broke"), 1.0).ending == "failed"

    @pytest.mark.parametrize("code", [PREEMPTED, -signal.SIGKILL, -signal.SIGSEGV, 128 + signal.SIGKILL, 128 + signal.SIGTERM])
    def test_a_lost_process_is_worth_another_attempt(self, code):
        assert account(255, failed_with(code, "step 7"), 1.0).ending == "preempted"

    def test_a_killed_process_is_said_to_be_killed(self):
        assert (
            "signal 9: out of memory, or killed by hand; last line: step 7" in account(255, failed_with(-9, "step 7"), 1.0).detail
        )

    def test_dvc_itself_killed_is_worth_another_attempt(self):
        assert account(-9, transcript("Running stage 'work':", f"> {CMD}"), 1.0).ending == "preempted"

    def test_a_failure_of_dvc_itself_is_told_in_its_words(self):
        ended = account(255, transcript("ERROR: failed to reproduce 'work': missing data 'source': in"), 0.5)
        assert (ended.ending, ended.ran) == ("failed", False)
        assert "missing data 'source': in" in ended.detail

    @pytest.mark.parametrize(
        "said", ["Stage 'work' didn't change, skipping", "Stage 'work' is cached - skipping run, checking out outputs"]
    )
    def test_what_dvc_does_not_run_is_cached(self, said):
        ended = account(0, transcript(said, "Use `dvc push` to send your updates to remote storage."), 0.5)
        assert (ended.ending, ended.detail, ended.ran) == ("cached", said, False)

    def test_a_stop_explains_every_failure(self):
        assert account(255, failed_with(PREEMPTED, "work: stopped by SIGTERM"), 1.0, stopping=True).ending == "stopped"

    def test_done_is_done_even_while_stopping(self):
        assert account(0, transcript("Running stage 'work':", f"> {CMD}", "work: done"), 1.0, stopping=True).ending == "completed"

    @given(st.integers(1, 127).filter(lambda code: code != PREEMPTED), st.text(st.characters(categories=["L", "N"]), min_size=1))
    def test_no_other_exit_code_is_retried(self, code, said):
        ended = account(255, failed_with(code, said), 1.0)
        assert (ended.ending, ended.code, ended.detail) == ("failed", code, said)


@pytest.mark.slow
class TestARealStage:
    @pytest.fixture
    def run(self):
        """Attempt the stage `work` of a checkout; return its outcome, the lines said and the progress seen."""

        def _run(root, children=None, *, force=False, name="work"):
            said, seen = [], []
            stage = Stage(name, "", "work", "work", (), (), ("work",))
            watch = lambda percent, note: seen.append((percent, note))  # noqa: E731
            return attempt(root, stage, children or Children(), force=force, say=said.append, watch=watch), said, seen

        return _run

    def test_it_runs_then_is_unchanged_then_is_forced(self, run, tmp_path):
        root = make_checkout(tmp_path / "c")
        first, said, _ = run(root)
        assert (first.ending, first.ran) == ("completed", True)
        assert any(line.startswith("work: done in") for line in said)
        assert "git add" not in "\n".join(said), "hints for those who run DVC by hand"
        assert run(root)[0].ending == "cached"
        before = (root / "out/work.json").read_text()
        assert run(root, force=True)[0].ending == "completed"
        assert (root / "out/work.json").read_text() != before, "another process has written it"

    def test_what_dvc_has_run_before_is_restored_not_run(self, run, tmp_path):
        root = make_checkout(tmp_path / "c")
        run(root)
        (root / "params.yaml").write_text("work: {steps: 4}\n")
        assert run(root)[0].ending == "completed"
        (root / "params.yaml").write_text("work: {}\n")
        restored = run(root)[0]
        assert (restored.ending, restored.ran) == ("cached", False)
        assert len(json.loads((root / "out/work.json").read_text())) == 3

    def test_its_whole_log_is_kept(self, run, tmp_path):
        root = make_checkout(tmp_path / "c", params="work: {how: fail}")
        ended, said, _ = run(root)
        kept = (root / LOGS / "work.log").read_text().splitlines()
        assert [line for line in kept if line in said] == said
        assert (ended.ending, ended.code, ended.detail) == ("failed", 1, "work: RuntimeError: it broke")

    def test_a_refusal_is_recognised(self, run, tmp_path):
        ended, _, _ = run(make_checkout(tmp_path / "c", params="work: {how: refuse}"))
        assert (ended.ending, ended.code) == ("failed", 2)
        assert ended.detail == "work: params.yaml: work.how: refused; choose another"

    def test_a_killed_stage_goes_on_from_its_checkpoint(self, run, tmp_path):
        root = make_checkout(tmp_path / "c", params="work: {how: killed}")
        ended, _, _ = run(root)
        assert (ended.ending, ended.code) == ("preempted", -signal.SIGKILL)
        assert run(root)[0].ending == "completed"
        first, second, third = json.loads((root / "out/work.json").read_text())
        assert first == second != third, "two steps of the killed process, one of the next"

    def test_progress_is_seen_while_it_runs(self, run, tmp_path):
        _, _, seen = run(make_checkout(tmp_path / "c", params="work: {steps: 4, seconds: 1.2}"))
        assert seen
        assert all(0 < percent <= 100 and "of 4, " in note for percent, note in seen)

    def test_of_several_commands_the_last_progress_is_seen_and_no_checkpoint_stays(self, tmp_path):
        words = "work --cell {0} --set steps={1} --out out/{0} --scores out/{0}.json --curve out/{0}.csv"
        commands = " -- ".join(["python -m tasks.runtime.together", words.format("a", 3), words.format("b", 2)])
        outs = "out/a, out/a.json, out/a.csv, out/b, out/b.json, out/b.csv"
        root = make_checkout(tmp_path / "c", f"  two:\n    cmd: {commands}\n    params: [work]\n    outs: [{outs}]\n")
        stage, seen = load_graph(root, effective_params(root, None)).stages["two"], []
        ended = attempt(root, stage, Children(), force=False, say=print, watch=lambda _, note: seen.append(note))
        assert ended.ending == "completed"
        assert "2 of 2, " in seen[-1]
        assert list((root / WORK / FINISHED).iterdir()) == []

    def test_a_stop_lets_it_write_its_checkpoint(self, run, tmp_path):
        root = make_checkout(tmp_path / "c", params="work: {steps: 200, seconds: 0.2}")
        children = Children()
        thread = threading.Timer(
            0, lambda: (wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*"))), children.stop())
        )
        thread.start()
        ended, _, _ = run(root, children)
        thread.join()
        assert (ended.ending, ended.code, ended.ran) == ("stopped", PREEMPTED, True)
        assert "stopped by SIGTERM" in ended.detail
        assert run(root, children)[0].detail == "not started: the run was stopped"

    def test_a_stage_that_does_not_listen_is_killed_after_the_grace(self, run, tmp_path):
        root = make_checkout(tmp_path / "c", "  deaf:\n    cmd: \"trap '' TERM; echo up; sleep 60; true\"\n    outs: [o]\n")
        children = Children()
        log = root / LOGS / "deaf.log"
        thread = threading.Timer(
            0, lambda: (wait_for(lambda: log.exists() and "\nup\n" in log.read_text()), children.stop(grace=1))
        )
        thread.start()
        started = time.monotonic()
        assert run(root, children, name="deaf")[0].ending == "stopped"
        thread.join()
        assert time.monotonic() - started < 30

    @pytest.mark.parametrize("commanded", ["sleep 321", "sleep 321; true", "python -m work --out o --scores p --curve q"])
    def test_a_killed_runner_leaves_no_orphan(self, tmp_path, commanded):
        root = make_checkout(
            tmp_path / "c", f"  long:\n    cmd: {commanded}\n    outs: [o]\n", "work: {steps: 900, seconds: 1.0}"
        )
        code = "from pathlib import Path; from flows.stage import *; from flows.planning.graph import Stage; "
        code += "attempt(Path(), Stage('long', '', None, None, (), (), ()), Children(), force=False, say=print, watch=print)"
        runner = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment(), stdout=subprocess.DEVNULL)
        wait_for(lambda: len(psutil.Process(runner.pid).children(recursive=True)) >= 2)
        started = psutil.Process(runner.pid).children(recursive=True)
        runner.kill()
        runner.wait()
        assert psutil.wait_procs(started, timeout=10)[1] == []

    def test_two_stages_side_by_side_both_keep_their_work(self, run, tmp_path):
        stages = "".join(f"  s{n}:\n    cmd: sleep 0.5; echo {n} > o{n}\n    outs: [o{n}]\n" for n in range(3))
        root = make_checkout(tmp_path / "c", WORK_STAGE + stages)
        threads = [threading.Thread(target=run, args=(root,), kwargs={"name": f"s{n}"}) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(f"s{n}:" in (root / "dvc.lock").read_text() for n in range(3))
        assert "'s1' didn't change" in command(root, "dvc", "repro", "--single-item", "s1")


def wait_for(true, patience: float = 30) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
