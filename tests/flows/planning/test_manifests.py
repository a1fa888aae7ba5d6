"""Code behind a manifest: the plan names the module and the cells before anything runs, and DVC then does the same."""

from contextlib import chdir

import pytest
from dvc.repo import Repo

from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.planning.plan import plan
from tasks.runtime.params import UserError
from tests.flows.checkout import make_checkout

STAGES = """\
  code:
    cmd: python -m tasks.runtime.manifest --out code tasks.toy.one tasks.toy.two
    deps: [tasks/toy/one.py, tasks/toy/two.py, tasks/toy/shared.py]
    outs: [code/tasks.toy.one.json, code/tasks.toy.two.json]
  one:
    cmd: echo one >> ran.log && echo 1 > one.txt
    deps: [code/tasks.toy.one.json]
    outs: [one.txt]
  two:
    cmd: echo two >> ran.log && echo 2 > two.txt
    deps: [code/tasks.toy.two.json]
    outs: [two.txt]
  both:
    cmd: echo both >> ran.log && cat one.txt two.txt > both.txt
    deps: [one.txt, code/tasks.toy.one.json, code/tasks.toy.two.json]
    outs: [both.txt]
"""


@pytest.fixture
def root(tmp_path):
    """A checkout whose stages have run; tasks.toy.one reaches tasks.toy.shared, tasks.toy.two stands alone."""
    root = make_checkout(tmp_path / "c", STAGES, "{}")
    (root / "tasks/toy").mkdir(parents=True)
    (root / "tasks/toy/one.py").write_text("from tasks.toy.shared import X\n")
    (root / "tasks/toy/two.py").write_text("Y = 1\n")
    (root / "tasks/toy/shared.py").write_text("X = 1\n")
    assert {name for name, reasons in stale(root).items() if reasons} == {"code", "one", "two", "both"}
    assert reproduced(root) == ["one", "two", "both"]
    assert not any(stale(root).values())
    return root


def stale(root):
    params = effective_params(root, None)
    graph = load_graph(root, params)
    return {step.stage.name: step.reasons for step in plan(graph, root, params, tuple(graph.stages))}


def reproduced(root):
    """What `dvc repro` runs, in order; the stage `code` leaves no line."""
    (root / "ran.log").write_text("")
    with chdir(root), Repo() as repo:
        repo.reproduce()
    return (root / "ran.log").read_text().split()


def test_an_edited_module_makes_stale_what_reaches_it_and_nothing_else(root):
    (root / "tasks/toy/shared.py").write_text("X = 2\n")
    changed = ("code tasks/toy/shared.py changed",)
    assert stale(root) == {"code": changed, "one": changed, "two": (), "both": (*changed, "waits for one")}
    assert "one" in (ran := reproduced(root))
    assert "two" not in ran
    assert not any(stale(root).values())


def test_a_module_that_is_newly_reached_or_no_longer_is_named(root):
    (root / "tasks/toy/one.py").write_text("import tasks.toy.two\n")
    assert stale(root)["one"] == (
        "code tasks/toy/one.py changed",
        "code tasks/toy/shared.py is no longer reached",
        "code tasks/toy/two.py is new",
    )
    assert stale(root)["two"] == ()


def test_a_module_named_by_two_manifests_is_named_once(root):
    for name in ("one", "two"):
        (root / f"tasks/toy/{name}.py").write_text("from tasks.toy.shared import X\n# edited\n")
    reasons = stale(root)["both"]
    assert len(reasons) == len(set(reasons))
    assert "code tasks/toy/shared.py is new" in reasons


def test_a_cell_left_behind_by_a_run_that_stopped_still_tells_why(root):
    """The manifests are written anew before the cells run: what the cell ran with is in DVC's cache."""
    (root / "tasks/toy/two.py").write_text("Y = 2\n")
    with chdir(root), Repo() as repo:
        repo.reproduce("code", single_item=True)
    assert stale(root) == {"code": (), "one": (), "two": (changed := ("code tasks/toy/two.py changed",)), "both": changed}


def test_a_manifest_that_was_no_dep_before_is_called_new(root):
    old, new = "deps: [code/tasks.toy.two.json]", "deps: [code/tasks.toy.two.json, code/tasks.toy.one.json]"
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace(old, new))
    assert stale(root)["two"] == ("dep code/tasks.toy.one.json is new",)


def test_without_the_old_manifest_the_manifest_is_named(root):
    import shutil

    (root / "tasks/toy/two.py").write_text("Y = 2\n")
    shutil.rmtree(root / ".dvc/cache")
    assert "code in code/tasks.toy.two.json changed" in stale(root)["two"]


def test_an_edit_taken_back_makes_nothing_run(root):
    (root / "tasks/toy/shared.py").write_text("X = 2\n")
    reproduced(root)
    (root / "tasks/toy/shared.py").write_text("X = 1\n")
    assert reproduced(root) == []


def test_lost_manifests_are_written_again_without_running_the_cells(root):
    for file in (root / "code").iterdir():
        file.unlink()
    found = stale(root)
    assert {name for name, reasons in found.items() if reasons} == {"code"}
    assert reproduced(root) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "tasks/toy/shared.py").write_text("X = \n"), r"shared\.py:1: invalid syntax; correct it there"),
        (lambda root: (root / "tasks/toy/two.py").unlink(), "no module tasks.toy.two in .*correct the command in dvc.yaml"),
    ],
)
def test_code_that_cannot_be_read_is_named(root, spoil, said):
    spoil(root)
    with pytest.raises(UserError, match=said):
        stale(root)
