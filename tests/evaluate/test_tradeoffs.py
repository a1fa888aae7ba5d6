"""The alignment-tax study gathered: fronts from cells, areas compared only between equals, claims by the rule, and its page."""

import csv
import json
from pathlib import Path

import pytest

from tasks.evaluate.models import below
from tasks.evaluate.page.study import render
from tasks.evaluate.tax_claims import TAX, above_most_baselines, area_gain, tax_grows
from tasks.evaluate.tradeoffs import Params, main, read_fronts
from tasks.runtime.params import UserError

SEEDS = ("0", "1", "2")
PARAMS = Params(algorithms=["raft", "dpo"], parts=[0, 2], mitigations=["l2-0.1"])
BEFORE = {"reward": 0.2, "skill": 0.8}


def write(path: Path, rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


@pytest.fixture
def cells(tmp_path):
    """Two algorithms; stopping early loses 0.2 skill for 0.2 reward, averaging 0.1, a penalty nothing, by construction."""
    write(tmp_path / "cells/pre/model.json", {"model": BEFORE})
    for nudge, seed in enumerate(SEEDS):
        for algorithm in ("raft", "dpo"):
            steps = {f"iteration-{k}": {"reward": 0.2 + 0.2 * k, "skill": 0.8 - 0.2 * k - 0.01 * nudge} for k in (1, 2)}
            write(tmp_path / f"cells/early_stopping/{algorithm}/{seed}.json", steps)
            for method in ("averaging", "hma", *(("part-0", "part-2") if algorithm == "raft" else ())):
                write(tmp_path / f"cells/{method}/{algorithm}/{seed}.json", {"w_pre-0.5": {"reward": 0.45, "skill": 0.7}})
            fitted = {"means": {"0.5": {"w": [0.4, 0.5, 0.6]}}}
            write(tmp_path / f"ratios/{algorithm}/{seed}.json", fitted)
        write(tmp_path / f"cells/free/none/{seed}.json", {"model": {"reward": 0.6, "skill": 0.4}})
        write(tmp_path / f"cells/regularised/l2-0.1/{seed}.json", {"model": {"reward": 0.5, "skill": 0.8}})
    return tmp_path


@pytest.fixture
def told(cells):
    return gather(cells)


def gather(place: Path) -> dict:
    outs = {"scores": place / "scores.json", "fronts": place / "fronts.csv"}
    main(PARAMS, None, cells=place / "cells", ratios=place / "ratios", **outs)
    return json.loads(outs["scores"].read_text())


def test_every_front_runs_from_the_model_before_to_the_one_after(cells):
    fronts = {(front.algorithm, front.method, front.seed): front.points for front in read_fronts(cells / "cells", PARAMS)}
    assert len(fronts) == 3 * (5 + 3 + 1)
    for points in fronts.values():
        assert points[0][1] == BEFORE
        assert points[-1][1]["reward"] == pytest.approx(0.6)
    assert [strength for strength, _ in fronts["dpo", "early_stopping", "1"]] == [0, 1, 2]
    assert [strength for strength, _ in fronts["raft", "averaging", "1"]] == [1, 0.5, 0]
    assert [strength for strength, _ in fronts["raft", "l2", "1"]] == [None, 0.1, None]


@pytest.mark.parametrize(("method", "order"), [("l2", [10, 1, 0.1]), ("lora", [1, 2, 16])])
def test_a_regularised_front_begins_where_it_is_held_most(cells, method, order):
    """A weight holds back more the larger it is, a rank less; text would sort 16 before 2."""
    mitigations = [f"{method}-{strength:g}" for strength in sorted(order)]
    for mitigation in mitigations:
        for seed in SEEDS:
            write(cells / f"cells/regularised/{mitigation}/{seed}.json", {"model": {"reward": 0.5, "skill": 0.8}})
    fronts = read_fronts(cells / "cells", PARAMS.model_copy(update={"mitigations": mitigations}))
    points = next(front.points for front in fronts if front.method == method)
    assert [strength for strength, _ in points] == [None, *order, None]


def test_areas_are_those_of_the_points(told):
    early = told["hypervolume"]["raft"]["early_stopping"]
    assert early["points"] == 3
    assert early["seeds"]["0"] == pytest.approx(0.2 * 0.8 + 0.2 * 0.6 + 0.2 * 0.4)
    gain = told["areas"]["raft"]["averaging"]["gain"]
    assert gain["mean"] > 0
    assert gain["low"] < gain["mean"] < gain["high"]


def test_fronts_of_different_sizes_are_not_compared(cells):
    for seed in SEEDS:
        rows = {f"w_pre-{w}": {"reward": 0.45, "skill": 0.7} for w in (0.3, 0.5)}
        write(cells / f"cells/averaging/raft/{seed}.json", rows)
    main(
        Params(), None, cells=cells / "cells", ratios=cells / "ratios", scores=cells / "scores.json", fronts=cells / "fronts.csv"
    )
    told = json.loads((cells / "scores.json").read_text())
    assert told["areas"]["raft"]["averaging"]["gain"] is None
    assert area_gain("raft", "averaging", "early_stopping")(told) == []


def test_seeds_with_different_points_are_refused(cells):
    write(cells / "cells/averaging/raft/1.json", {f"w_pre-{w}": {"reward": 0.4, "skill": 0.7} for w in (0.3, 0.5)})
    with pytest.raises(UserError, match="averaging of raft: seed 1 has 4 points, the others 3"):
        gather(cells)


def test_cells_of_an_earlier_matrix_are_not_read(cells):
    write(cells / "cells/regularised/l2-9/0.json", {"model": {"reward": 0.9, "skill": 0.9}})
    assert len(list(read_fronts(cells / "cells", PARAMS))) == 3 * (5 + 3 + 1)


def test_a_missing_or_damaged_cell_is_named(cells):
    (cells / "cells/hma/dpo/1.json").write_text("{")
    with pytest.raises(UserError, match=r"hma/dpo/1.json: not JSON"):
        list(read_fronts(cells / "cells", PARAMS))
    (cells / "cells/pre/model.json").unlink()
    with pytest.raises(UserError, match=r"pre/model.json: no such file"):
        list(read_fronts(cells / "cells", PARAMS))


def test_claims_follow_from_the_scores(told):
    assert len(told["claims"]["claims"]) == len(TAX)
    verdicts = {claim["claim"]: claim["verdict"] for claim in told["claims"]["claims"]}
    assert verdicts["The tax grows with the reward along RAFT."] == "yes"
    assert tax_grows("raft")(told) == pytest.approx([-1, -1, -1])
    assert tax_grows("ppo")(told) == []
    assert verdicts["The tax grows with the reward along PPO."] == "not at this scale"
    assert verdicts["Averaging trades better than stopping RAFT early."] == "yes"
    assert all(value < 0 for value in above_most_baselines(told)), "the penalty of this world loses nothing"


def test_the_table_of_points_is_whole(cells, told):
    with (cells / "fronts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (5 + 3 + 1) * 3
    assert {row["method"] for row in rows} == {"early_stopping", "averaging", "hma", "part-0", "part-2", "l2"}


def test_the_page_shows_every_method_area_and_claim_and_runs_nothing(cells, told):
    with (cells / "fronts.csv").open() as file:
        page = render("The <tax>", told, list(csv.DictReader(file)))
    assert "The &lt;tax&gt;" in page
    assert "<script" not in page
    for said in ("HMA, learned ratios", "Part 1 alone", "L2 to the start", "Averaging lies above most regularised rivals."):
        assert said in page
    assert page.count("<svg") >= 4 + 2 + 1 + 2


def test_models_are_found_wherever_they_lie_below_a_cell(tmp_path):
    for place in ("0/iteration-1", "0/iteration-2"):
        write(tmp_path / place / "config.json", {})
    assert set(below(tmp_path)) == {"0/iteration-1", "0/iteration-2"}
    assert set(below(tmp_path / "0/iteration-1")) == {"model"}
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no model folder"):
        below(tmp_path / "none")
