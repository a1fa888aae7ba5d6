"""The plan against DVC itself: what `dvc status` calls changed, and what `dvc repro` then runs, restores or leaves alone."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.planning import history
from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.planning.plan import check, plan

STAGES = ("words", "count", "noise", "after", "each@one", "each@two", "gather")
EVERYTHING = ("gather", "each", "after")


def planned(root: Path, sets: tuple[str, ...] = (), force: tuple[str, ...] = ()) -> dict:
    params = effective_params(root, None, sets)
    graph = load_graph(root, params)
    return {step.stage.name: step for step in plan(graph, root, params, graph.select(EVERYTHING), force)}


def reproduced(root: Path) -> tuple[set[str], set[str]]:
    """Run everything with DVC; return the stages it did not skip, and those whose command really ran."""
    (root / "ran.log").write_text("")
    with chdir(root), Repo() as repo:
        touched = {stage.addressing for stage in repo.reproduce()}
    return touched, set((root / "ran.log").read_text().split())


def status(root: Path) -> set[str]:
    with chdir(root), Repo() as repo:
        return set(repo.status())


@pytest.fixture(scope="module")
def twice(build, tmp_path_factory) -> Path:
    """A checkout in which everything has run once, and once more with other params and sources."""
    root = build(tmp_path_factory.mktemp("graph") / "finished")
    first = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(first.replace("lines: 1", "lines: 2"))
    reproduced(root)
    (root / "params.yaml").write_text(first)
    reproduced(root)
    return root


@pytest.fixture
def root(twice, tmp_path) -> Path:
    return Path(shutil.copytree(twice, tmp_path / "copy"))


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


EDITS = {
    "source of one": lambda root: (root / "src/a.txt").write_text("other\nlines\n"),
    "source of all": lambda root: (root / "src/b.txt").write_text("five\n"),
    "new source": lambda root: (root / "src/c.txt").write_text("unread\n"),
    "param": lambda root: edit(root, "params.yaml", "lines: ", "lines: 1"),
    "param of each": lambda root: edit(root, "params.yaml", "scale: ", "scale: 1"),
    "param back": lambda root: (root / "params.yaml").write_text(
        (root / "params.yaml").read_text().replace("lines: 1 ", "lines: 2 ")
    ),
    "command": lambda root: edit(root, "dvc.yaml", "> gather.txt", "- < params.yaml > gather.txt"),
    "another item": lambda root: edit(root, "params.yaml", "items: [", "items: [three, "),
    "out deleted": lambda root: (root / "data/count.txt").unlink(missing_ok=True),
    "folder out deleted": lambda root: shutil.rmtree(root / "data/words", ignore_errors=True),
    "out edited": lambda root: overwrite(root / "each-one.txt", "by hand\n"),
    "lock lost": lambda root: (root / "dvc.lock").unlink(missing_ok=True),
    "cache lost": lambda root: shutil.rmtree(root / ".dvc/cache/files", ignore_errors=True),
    "run cache lost": lambda root: shutil.rmtree(root / ".dvc/cache/runs", ignore_errors=True),
}


def overwrite(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.sampled_from(sorted(EDITS)), max_size=4, unique=True), alone=st.sampled_from(STAGES))
def test_the_plan_says_what_dvc_then_does(twice, tmp_path_factory, edits, alone):
    root = Path(shutil.copytree(twice, tmp_path_factory.mktemp("edits") / "copy"))
    for name in edits:
        EDITS[name](root)
    steps = planned(root)
    params = effective_params(root, None)
    graph = load_graph(root, params)
    assert check(graph, root, params, alone).stale == (alone in status(root))

    touched, ran = reproduced(root)
    stale = {name for name, step in steps.items() if step.stale}
    waiting = {name for name, step in steps.items() if any(reason.startswith("waits for") for reason in step.reasons)}
    restored = {name for name, step in steps.items() if step.restored}
    assert touched <= stale, "a stage that was called fresh was not"
    assert stale - waiting <= touched, "a stage that was called stale, with nothing to wait for, was skipped"
    assert restored <= touched - ran, "a stage that was to be restored ran"
    assert (stale - waiting - restored) <= ran, "a stage that was to run was restored"
    assert status(root) == {"noise"}


def test_nothing_is_written(root):
    def contents() -> dict[Path, bytes]:
        hidden = (root / ".git", root / ".dvc/tmp")
        files = [path for path in root.rglob("*") if path.is_file() and not any(path.is_relative_to(h) for h in hidden)]
        return {path: path.read_bytes() for path in files}

    before = contents()
    planned(root, ("count.lines=3", "items=[one, four]"))
    assert contents() == before


@pytest.mark.parametrize(
    ("sets", "stage", "reason"),
    [
        (("count.lines=3",), "count", "param count.lines: 1 -> 3"),
        (("each.scale=2.5",), "each@two", "param each.scale: 1.0 -> 2.5"),
        (("count.lines=3",), "count", "command: 1 -> 3"),
        (("count.tail=3",), "count", "param count.tail: (none) -> 3"),
        (("items=[one, four]",), "each@four", "never run"),
    ],
)
def test_params_given_in_memory_are_compared_with_the_lock(root, sets, stage, reason):
    assert reason in planned(root, sets)[stage].reasons


def test_every_reason_is_named(root):
    (root / "src/a.txt").write_text("other\n")
    shutil.rmtree(root / "data/words")
    (root / "each-one.txt").unlink()
    steps = planned(root, force=("after",))
    assert steps["words"].reasons == ("dep src changed", "out data/words is missing")
    assert steps["count"].reasons == ("waits for words",)
    assert steps["each@one"].reasons == ("out each-one.txt is missing", "waits for words")
    assert steps["noise"].reasons == ("always run",)
    assert steps["after"].reasons == ("forced", "waits for noise")
    assert steps["after"].forced


def test_what_dvc_restores_is_told_from_what_runs(root):
    steps = planned(root, ("count.lines=2",))
    assert steps["count"].restored
    assert steps["gather"].reasons == ("waits for count",), "its dep is a folder around the foreseen file"
    shutil.rmtree(root / ".dvc/cache/files")
    assert not planned(root, ("count.lines=2",))["count"].restored


def test_a_remote_is_hinted_at_for_a_missing_out(root):
    (root / "each-one.txt").unlink()
    with (root / ".dvc/config").open("a") as config:
        config.write("[core]\n    remote = store\n['remote \"store\"']\n    url = /nowhere\n")
    assert planned(root)["each@one"].reasons == ("out each-one.txt is missing (`dvc pull each-one.txt` may bring it from store)",)


def test_a_changed_module_is_called_code(build, tmp_path):
    pipeline = "stages:\n  one:\n    cmd: cat stage.py > out.txt\n    deps: [stage.py]\n    outs: [out.txt]\n"
    root = build(tmp_path / "code", pipeline, "items: []\n")
    (root / "stage.py").write_text("# first\n")
    reproduced(root)
    (root / "stage.py").write_text("# second\n")
    params = effective_params(root, None)
    (step,) = plan(load_graph(root, params), root, params, ["one"])
    assert step.reasons == ("code stage.py changed",)


def test_the_first_stale_stage_is_announced_once(root):
    params = effective_params(root, None, ("count.lines=9",))
    graph = load_graph(root, params)
    calls = []
    plan(graph, root, params, ["gather"], on_stale=lambda: calls.append(1))
    assert len(calls) == 1
    plan(graph, root, effective_params(root, None), ["gather"], on_stale=lambda: calls.append(2))
    assert len(calls) == 1


def test_the_last_completed_run_gives_the_duration(root):
    history.record(root, "count", 12.5, 0, {"lines": 1})
    history.record(root, "count", 0.5, 1, {"lines": 1})
    assert planned(root)["count"].last_seconds == 12.5
    assert history.last(root, "count").exit_code == 1
    assert planned(root)["words"].last_seconds is None


def test_a_damaged_history_counts_as_none(root):
    history.record(root, "count", 12.5, 0, {})
    place = root / history.FOLDER / "count.json"
    place.write_text(place.read_text()[:-20])
    assert history.last(root, "count") is None
    place.write_text(json.dumps({"last": {"stage": "count"}}))
    assert history.last(root, "count") is None
