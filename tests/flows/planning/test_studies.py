"""Studies: a dvc.yaml beside the pipeline's, planned and run as one graph with it, one stage a cell."""

import pytest

from flows.planning.dvcrepo import opened
from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.planning.plan import plan
from flows.planning.sections import check_sections
from flows.planning.studies import asked, read_by_studies, study_names
from flows.stage import Children, attempt
from tasks.runtime.params import UserError
from tests.flows.checkout import command, make_checkout

SWEEP = """\
stages:
  cell:
    matrix:
      loss: ${sweep.losses}
    wdir: ../../..
    cmd: >-
      python -m work --cell ${item.loss} --set loss=${item.loss} --out out/${item.loss}.json --scores out/s${item.loss}.json
      --curve out/${item.loss}.csv
    params: [work]
    deps: [out/work.json, work.py]
    outs: ["out/${item.loss}.json", "out/${item.loss}.csv"]
    metrics: [{"out/s${item.loss}.json": {cache: true}}]
"""
PARAMS = "work: {steps: 1}\nsweep: {losses: [0.5, 2.0]}"


def make_study(place, params: str = PARAMS):
    """A checkout with the study `sweep` beside its pipeline."""
    root = make_checkout(place, params=params)
    folder = root / "flows/studies/sweep"
    folder.mkdir(parents=True)
    (folder / "dvc.yaml").write_text("vars: [../../../params.yaml]\n" + SWEEP)
    return root


@pytest.fixture
def root(tmp_path):
    return make_study(tmp_path / "c")


def graph_of(root, *studies):
    params = effective_params(root, None)
    return load_graph(root, params, studies), params


def test_a_name_means_a_study_with_and_without_its_suffix(root):
    assert study_names(root) == ["sweep"]
    assert asked(root, ["sweep"]) == asked(root, ["sweep-study"]) == (["sweep"], [])
    assert asked(root, ["sweep", "cell@0.5"]) == (["sweep"], ["cell@0.5"])
    assert asked(root, ["work"]) == ([], ["work"])
    with pytest.raises(UserError, match="no study 'swep' in flows/studies; there are sweep"):
        asked(root, ["swep-study"])


def test_the_graph_holds_both_and_knows_whose_a_stage_is(root):
    graph, _ = graph_of(root, "sweep")
    assert list(graph.stages) == ["work", "cell@0.5", "cell@2.0"]
    assert graph.own == ("cell@0.5", "cell@2.0")
    assert graph.needs["cell@2.0"] == ("work",)
    assert graph.stages["cell@2.0"].target == "flows/studies/sweep/dvc.yaml:cell@2.0"
    assert graph.stages["cell@2.0"].sets == ("loss=2.0",)
    assert graph_of(root)[0].own == ("work",)


def test_several_studies_run_side_by_side_and_share_no_name(root):
    again = root / "flows/studies/again/dvc.yaml"
    again.parent.mkdir()
    text = (root / "flows/studies/sweep/dvc.yaml").read_text()
    again.write_text(text)
    assert asked(root, ["again", "sweep-study", "again", "work"]) == (["again", "sweep"], ["work"])
    with pytest.raises(UserError, match="sweep/dvc.yaml: flows/studies/again/dvc.yaml has a stage 'cell@0.5' too"):
        graph_of(root, "again", "sweep")
    again.write_text(text.replace("cell", "other").replace("out/${item", "out/o${item").replace("out/s${item", "out/t${item"))
    graph, _ = graph_of(root, "again", "sweep")
    assert graph.own == ("other@0.5", "other@2.0", "cell@0.5", "cell@2.0")


def test_sections_that_only_a_study_reads_are_known_and_its_settings_are_checked(root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    assert read_by_studies(root) == {"work", "sweep"}
    graph, params = graph_of(root)
    check_sections(graph, root, params, graph.own)
    (root / "params.yaml").write_text(PARAMS.replace("2.0", "much") + "\nswep: {}\n")
    graph, params = graph_of(root, "sweep")
    with pytest.raises(UserError) as refused:
        check_sections(graph, root, params, graph.own)
    assert "no stage reads section 'swep'; did you mean 'sweep'?" in str(refused.value)
    assert "work.loss: Input should be a valid number, got 'much'" in str(refused.value)


def test_a_stage_of_both_names_is_refused(root):
    (root / "flows/studies/sweep/dvc.yaml").write_text("stages: {work: {cmd: 'true', outs: [x]}}\n")
    with pytest.raises(UserError, match="dvc.yaml has a stage 'work' too"), opened(root, effective_params(root, None), ["sweep"]):
        pass


def test_its_cells_run_and_are_then_unchanged(root):
    def step(name):
        graph, params = graph_of(root, "sweep")
        return next(step for step in plan(graph, root, params, graph.own) if step.stage.name == name)

    assert step("cell@0.5").reasons == ("never run", "waits for work")
    for name in ("work", "cell@0.5"):
        said = []
        outcome = attempt(root, step(name).stage, Children(), force=False, say=said.append, watch=lambda *_: None)
        assert outcome.ending == "completed", said
    assert not step("cell@0.5").stale
    assert step("cell@2.0").stale
    assert '"loss": 0.5' in (root / "out/s0.5.json").read_text()
    assert "up to date" in command(root, "dvc", "status", "flows/studies/sweep/dvc.yaml:cell@0.5")
