"""The list of methods: every paper is in the documentation, every state is worked out from the pipeline as it is."""

import pytest

from flows.methods import LIST, Method, read_methods, state
from flows.planning.graph import Step, load_graph
from flows.planning.overlay import effective_params
from tasks.runtime.imports import ROOT


def test_every_paper_is_in_the_documentation_with_its_stages():
    rows = [line for line in (ROOT / "docs/papers.md").read_text().splitlines() if line.startswith("|")]
    for method in read_methods():
        (row,) = [row for row in rows if method.paper in row]
        assert all(f"`{stage}`" in row for stage in method.stages)


def test_every_stage_named_is_in_the_pipeline():
    for method in read_methods(LIST):
        graph = load_graph(ROOT, effective_params(ROOT, None), [method.study] if method.study else [])
        assert all(graph.members(stage) for stage in method.stages)


@pytest.mark.parametrize(
    ("stages", "reasons", "said"),
    [
        (("words", "count"), {}, "up to date"),
        (("words", "count"), {"words": ("never run",), "count": ("never run", "waits for words")}, "not run: words, count"),
        (("words", "count"), {"count": ("param count.lines: 1 -> 2",)}, "stale: count"),
        (("words", "prompts"), {}, "planned: prompts not in dvc.yaml"),
    ],
)
def test_the_state_is_worked_out(build, tmp_path, stages, reasons, said):
    root = build(tmp_path / "checkout")
    graph = load_graph(root, effective_params(root, None))
    steps = {name: Step(stage, name in reasons, reasons.get(name, ())) for name, stage in graph.stages.items()}
    assert state(Method("A paper", stages), graph, steps) == said
