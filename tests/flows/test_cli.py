"""The command line from outside: exit codes, messages with a remedy, output for people and for programs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import cli
from flows.planning.overlay import BEFORE, REPLACED, RUN_LEASE
from flows.server import PATIENCE, start_in_background
from flows.show import why
from tasks.runtime.lease import Lease

COMMANDS = ("plan", "run", "serve", "report", "methods", "doctor", "profile list", "profile show", "profile use")
PROFILE = "# More lines.\ncount: {lines: 3}\n"


@pytest.fixture
def root(build, tmp_path, monkeypatch):
    root = build(tmp_path / "checkout")
    (root / "flows/profiles").mkdir(parents=True)
    (root / "flows/profiles/more.yaml").write_text(PROFILE)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def temper(monkeypatch, capsys):
    """Run `temper ARGUMENTS` in this process; return its exit code, stdout and stderr."""

    def _temper(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["temper", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code or 0, *capsys.readouterr())

    return _temper


def reproduce(root: Path) -> None:
    """Bring everything up to date with DVC; `noise` always runs, so it is taken out first."""
    text = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text.replace("    always_changed: true\n", ""))
    with chdir(root), Repo() as repo:
        repo.reproduce()


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_an_example_and_its_exit_codes(self, temper, command):
        code, said, _ = temper(*command.split(), "--help")
        assert code == 0
        assert f"temper {command.split()[0]}" in said.split("Example:")[1]

    def test_exit_codes_are_documented(self, temper):
        _, said, _ = temper("--help")
        assert all(
            text in " ".join(said.split()) for text in ("1 a stage failed", "2 bad input", "3 another run", "130 interrupted")
        )

    def test_the_version(self, temper):
        assert temper("--version") == (0, f"temper {version('temper')}\n", "")

    def test_help_loads_nothing_heavy(self):
        script = "import sys; import flows.cli; print(sorted({'prefect', 'dvc', 'torch', 'pydantic', 'rich'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestPlan:
    def test_it_says_what_would_run_and_why(self, root, temper):
        reproduce(root)
        code, said, _ = temper("plan", "gather", "--set", "count.lines=2")
        lines = said.splitlines()
        assert code == 0
        assert lines[0].split() == ["stage", "plan", "last", "why"]
        assert lines[1].split()[:4] == ["words", "up", "to", "date"]
        assert lines[2].split(maxsplit=2) == ["count", "run", "command: 1 -> 2; param count.lines: 1 -> 2"]
        assert lines[4].split(maxsplit=2) == ["gather", "run", "waits for count"]
        assert lines[5] == "2 of 4 stages to run"

    def test_json_holds_the_same_for_programs(self, root, temper):
        reproduce(root)
        code, said, _ = temper("plan", "--json", "--profile", "more")
        plan = json.loads(said)
        assert code == 0
        assert plan["stale"] == 2
        count = next(row for row in plan["stages"] if row["stage"] == "count")
        assert count["reasons"] == ["command: 1 -> 3", "param count.lines: 1 -> 3"]
        assert (count["stale"], count["needs"], count["outs"], count["last_seconds"]) == (
            True,
            ["words"],
            ["data/count.txt"],
            None,
        )

    def test_what_dvc_restores_is_called_so(self, root, temper):
        reproduce(root)
        (root / "gather.txt").unlink()
        _, said, _ = temper("plan", "gather")
        assert said.splitlines()[4].split()[:2] == ["gather", "restore"]
        assert said.splitlines()[5] == "0 of 4 stages to run, 1 to restore from DVC's cache"

    def test_it_works_from_a_folder_below(self, root, temper, monkeypatch):
        monkeypatch.chdir(root / "src")
        assert temper("plan")[0] == 0

    def test_long_lists_are_shortened(self):
        assert why(["never run", "waits for a", "waits for b"]) == "never run; waits for a, b"
        assert why([f"waits for {name}" for name in "abcde"]) == "waits for a, b, c and 2 more stages"
        assert why([f"param a.{name}: 1 -> 2" for name in "bcde"]).endswith("; param a.d: 1 -> 2 and 1 more params")

    def test_plain_output_holds_no_colours_and_no_wrapped_lines(self, root, temper):
        _, said, _ = temper("plan", "--set", "count.lines=2")
        assert "\x1b" not in said
        assert len(said.splitlines()) == 1 + 7 + 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("plan", "gathr"), "no stage 'gathr' in dvc.yaml; did you mean 'gather'"),
            (("plan", "--profile", "mor"), "no profile 'mor'; did you mean 'more'"),
            (("plan", "--set", "count.lines"), "wants section.key=value"),
            (("run", "--set", "cuont.lines=1"), "no section 'cuont'; did you mean 'count'"),
            (("run", "--set", "count.lines=[1"), "not valid YAML"),
            (("plan", "--sett", "x"), "No such option"),
            (("run", "--jobs", "0"), "--jobs"),
            (("profile", "show", "nope"), "no profile 'nope'"),
            (("report",), "there is no report yet; make one with `temper run`"),
        ],
    )
    def test_bad_input_is_2_with_a_remedy_and_no_traceback(self, root, temper, arguments, said):
        code, _, error = temper(*arguments)
        assert code == 2
        assert said in error
        assert "Traceback" not in error

    def test_outside_a_checkout(self, temper, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, _, error = temper("plan")
        assert code == 2
        assert "not inside a Temper checkout" in error

    def test_an_input_that_no_stage_makes(self, root, temper):
        (root / "src/b.txt").unlink()
        code, _, error = temper("run", "after")
        assert code == 2
        assert "stage noise needs src/b.txt, which is not there and which no stage makes" in error

    def test_a_damaged_lock(self, root, temper):
        (root / "dvc.lock").write_text("<<<<<<< HEAD\n")
        code, _, error = temper("plan")
        assert code == 2
        assert "git checkout dvc.lock" in error

    @pytest.mark.parametrize("command", [("run",), ("profile", "use", "more")])
    def test_a_second_run_in_one_checkout_is_3_and_names_the_holder(self, root, temper, command):
        with Lease(root / RUN_LEASE, "this checkout"):
            code, _, error = temper(*command)
        assert code == 3
        assert f"pid {os.getpid()}" in error

    def test_a_plan_can_be_made_while_a_run_goes_on(self, root, temper):
        with Lease(root / RUN_LEASE, "this checkout"):
            assert temper("plan")[0] == 0


class TestNothingStale:
    def test_run_starts_neither_server_nor_process(self, root):
        reproduce(root)
        script = textwrap.dedent("""
            import sys
            started = []
            events = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "socket.bind")
            sys.addaudithook(lambda event, arguments: started.append((event, arguments)) if event in events else None)
            from flows import cli
            sys.argv = ["temper", "run"]
            try:
                cli.main()
            except SystemExit as end:
                print("code", end.code)
            print("started", started, "prefect" in sys.modules)
        """)
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["nothing to do: 7 stages are up to date", "code 0", "started [] False"]
        assert not (root / ".temper/prefect").exists()


def test_a_killed_run_is_told_of_and_mended(root, temper):
    original = (root / "params.yaml").read_text()
    (root / BEFORE).parent.mkdir()
    (root / BEFORE).write_text(original)
    (root / "params.yaml").write_text(original.replace("lines: 1", "lines: 7"))
    code, said, error = temper("plan", "--json", "count")
    assert code == 0
    assert "your own values are back" in error
    assert "head -n 1 " in json.loads(said)["stages"][1]["cmd"]
    assert (root / "params.yaml").read_text() == original


class TestProfiles:
    def test_list_show_use(self, root, temper):
        assert temper("profile", "list")[1].splitlines()[1] == "more     More lines."
        assert temper("profile", "show", "more")[1].splitlines()[1].split() == ["count.lines", "1", "3"]
        _, said, _ = temper("profile", "use", "more")
        assert "git checkout params.yaml" in said
        assert "lines: 3      # of a.txt" in (root / "params.yaml").read_text()
        assert "lines: 1      # of a.txt" in (root / REPLACED).read_text()
        assert "held profile more already" in temper("profile", "use", "more")[1]


@pytest.fixture(scope="module")
def api_url(tmp_path_factory):
    """The address of a real Prefect server that all runs of this file share."""
    server = start_in_background(tmp_path_factory.mktemp("server"))
    server.wait()
    yield server.api_url
    server.stop()


@pytest.mark.slow
class TestRealRuns:
    """With Prefect, its server and DVC as they are."""

    @pytest.fixture(autouse=True)
    def _api_url(self, api_url):
        self.api_url = api_url

    def start(self, root: Path, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PREFECT_API_URL": self.api_url}
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def test_an_overlay_is_used_and_taken_back(self, root):
        original = (root / "params.yaml").read_text()
        done = self.start(root, "run", "gather", "--profile", "more")
        said, error = done.communicate(timeout=300)
        assert done.returncode == 0, error
        assert (root / "data/count.txt").read_text().count("\n") == 3
        assert (root / "params.yaml").read_text() == original
        assert "4 of 4 stages to run" in said

    def test_a_failing_stage_is_1_and_named(self, root):
        text = (root / "dvc.yaml").read_text()
        (root / "dvc.yaml").write_text(text.replace("cmd: head -n ${count.lines}", "cmd: cat /nowhere && head -n ${count.lines}"))
        done = self.start(root, "run", "gather", "--set", "count.lines=2")
        said, error = done.communicate(timeout=300)
        assert done.returncode == 1, error
        assert "failed: count" in error
        assert [line.split()[:2] for line in said.splitlines() if line.startswith("gather ")][-1] == ["gather", "blocked"]
        assert "lines: 1 " in (root / "params.yaml").read_text()

    def test_a_server_that_should_be_up_is_not_waited_for_as_long_as_our_own(self, root):
        self.api_url = "http://127.0.0.1:9/api"
        done = self.start(root, "run", "words")
        _, error = done.communicate(timeout=PATIENCE - 30)
        assert done.returncode == 1
        assert "no Prefect server answers at http://127.0.0.1:9/api" in error
        assert "Traceback" not in error

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
    def test_params_come_back_however_a_run_is_stopped(self, root, temper, number, code):
        original = (root / "params.yaml").read_text()
        text = (root / "dvc.yaml").read_text()
        (root / "dvc.yaml").write_text(text.replace("cmd: head", "cmd: touch started && sleep 60 && head"))
        done = self.start(root, "run", "count", "--set", "count.lines=2")
        deadline = time.monotonic() + 200
        while not (root / "started").exists():
            assert time.monotonic() < deadline
            assert done.poll() is None, done.communicate()
            time.sleep(0.1)
        assert "lines: 2 " in (root / "params.yaml").read_text()
        done.send_signal(number)
        _, error = done.communicate(timeout=100)
        assert done.returncode == code, error
        if number == signal.SIGKILL:
            assert "your own values are back" in temper("plan", "words")[2]
        assert (root / "params.yaml").read_text() == original
