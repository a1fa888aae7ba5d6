"""The graph as DVC resolves it: edges, order, names, and every way in which dvc.yaml or dvc.lock can be wrong."""

import shutil
from pathlib import Path

import pytest

from flows.planning.graph import load_graph, missing_inputs
from flows.planning.overlay import effective_params
from tasks.runtime.params import UserError

EVERYTHING = ("gather", "each", "after")


@pytest.fixture
def root(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


class TestGraph:
    def test_edges_follow_paths_inside_and_around_outs(self, root):
        graph = load_graph(root, effective_params(root, None))
        assert graph.upstream("count") == ("words",)
        assert graph.upstream("gather") == ("words", "count", "each@one")
        assert graph.downstream("words") == ("count", "each@one", "each@two", "gather")

    def test_order_and_levels(self, root):
        graph = load_graph(root, effective_params(root, None))
        assert graph.order(["gather"]) == ["words", "count", "each@one", "gather"]
        assert graph.levels(["gather", "after"]) == [("words", "noise"), ("count", "after", "each@one"), ("gather",)]
        assert graph.levels([]) == []

    def test_stages_are_described_as_resolved(self, root):
        graph = load_graph(root, effective_params(root, None, ("count.lines=7",)))
        count = graph.stages["count"]
        assert "-n 7 " in count.cmd
        assert (count.deps, count.param_keys, count.module) == (("data/words/a.txt",), ("count",), None)
        assert [(out.path, out.kind) for out in graph.stages["gather"].outs] == [("gather.txt", "metric")]
        assert graph.stages["noise"].always_changed
        assert graph.templated == {"count", "items"}

    def test_a_command_of_several_stages_is_all_of_them(self, root):
        together = "cmd: python -m tasks.runtime.together -- toys.one --cell a --set k=1 -- toys.two --cell b --set k=2"
        edit(root, "dvc.yaml", "cmd: cat noise.txt > after.txt && echo after >> ran.log", together)
        after = load_graph(root, effective_params(root, None)).stages["after"]
        assert (after.module, after.sets) == ("toys.one", ("k=1",))
        assert after.further == (("toys.two", ("k=2",)),)
        assert after.labels == ("after@a", "after@b"), "a stage without params is called by its own name"

    def test_a_group_name_means_its_stages(self, root):
        graph = load_graph(root, effective_params(root, None))
        assert graph.select(["each"]) == ("each@one", "each@two")
        with pytest.raises(UserError, match="no stage 'gathr' in dvc.yaml; did you mean 'gather'"):
            graph.select(["gathr"])

    def test_an_input_that_nothing_makes_is_named(self, root):
        graph = load_graph(root, effective_params(root, None))
        (root / "src/b.txt").unlink()
        shutil.rmtree(root / "data")
        assert missing_inputs(graph, root, graph.select(EVERYTHING)) == [("noise", "src/b.txt")]


class TestDamage:
    def params_and_load(self, root):
        return load_graph(root, effective_params(root, None))

    def test_a_damaged_lock_is_refused_with_a_remedy(self, root):
        lock = root / "dvc.lock"
        lock.write_text(lock.read_text() + "<<<<<<< HEAD\n")
        with pytest.raises(UserError, match=r"dvc.lock: .*git checkout dvc.lock"):
            self.params_and_load(root)

    def test_a_lock_of_another_shape_is_refused(self, root):
        (root / "dvc.lock").write_text("stages: [words]\n")
        with pytest.raises(UserError, match=r"dvc\.lock: .*expected a dictionary"):
            self.params_and_load(root)

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("${count.lines}", "${count.line}", "count.line"),
            ("deps: [src]", "deps: [src", "line"),
            ("cmd: cat noise.txt", "comand: cat noise.txt", "comand"),
            ("deps: [noise.txt]", "deps: [noise.txt, after.txt]", ":after"),
            ("outs: [after.txt]", "outs: [noise.txt]", "noise.txt"),
            ("deps: [src/b.txt]", "deps: [src/b.txt, after.txt]", ":noise"),
        ],
    )
    def test_a_wrong_pipeline_is_refused_naming_the_place(self, root, old, new, said):
        edit(root, "dvc.yaml", old, new)
        with pytest.raises(UserError, match=rf"dvc\.yaml: .*({said})"):
            self.params_and_load(root)

    def test_a_folder_without_dvc_is_refused(self, root):
        shutil.rmtree(root / ".dvc")
        with pytest.raises(UserError, match="not a DVC checkout"):
            self.params_and_load(root)
