"""What is said of a front of directions follows from its rows: worked by hand on small fronts."""

import json
import math

import pytest

from tasks.evaluate.dpa import (
    Params,
    area,
    check_angles,
    directional,
    dominance,
    judge_round,
    judge_seed,
    reward,
    rounds,
    spearman,
    summary,
)
from tasks.runtime.params import UserError

ANGLES = [-45.0, 0.0, 45.0]
PARAMS = Params(angles=ANGLES, unseen=[0.0])


def row(angle, helpfulness, verbosity, number=0, by_model=0.0):
    """A row whose model adds `by_model` to both ratings."""
    said = {"helpfulness": helpfulness, "verbosity": verbosity}
    said |= {f"model_{name}": value + by_model for name, value in said.items()}
    return {"round": number, "angle": angle, "unseen": int(angle == 0), **said, "length": verbosity / 6.25, "distinct": 1.0}


FLAT = [row(angle, 40.0, 50.0) for angle in ANGLES]
LED = [row(-45.0, 70.0, 20.0, 1, 10.0), row(0.0, 80.0, 50.0, 1, 10.0), row(45.0, 70.0, 80.0, 1, 10.0)]
FOUND = {"rows": FLAT + LED, "scalar": row(0.0, 75.0, 40.0), "dpo": row(0.0, 85.0, 40.0)}


def test_the_reward_of_a_row_is_along_its_own_angle():
    assert reward(LED[0], "true") == pytest.approx(50 / math.sqrt(2))
    assert reward(LED[1], "model") == pytest.approx(90)


def test_the_table_scores_every_condition_along_every_direction():
    table = directional(LED, "true")
    expected = [[50, 30, -10], [70 * 2**0.5, 80 * 2**0.5, 70 * 2**0.5], [90, 130, 150]]
    assert [[value * 2**0.5 for value in line] for line in table] == [pytest.approx(line) for line in expected]
    assert dominance(table) == [0, 0, 0]
    assert dominance([[1, 2, 3], [3, 2, 1], [3, 2, 1]]) == [2, 1, 2]


def test_a_round_says_its_gain_its_gap_and_its_gain_where_nothing_was_trained():
    found = judge_round(LED, FLAT, PARAMS)
    gains = [(50 + 10) / 2**0.5, 40.0, (150 - 90) / 2**0.5]
    assert found["front_gain"]["true"] == pytest.approx(sum(gains) / 3)
    assert found["hacking_gap"] == pytest.approx((0 + 10 + 20 / 2**0.5) / 3)
    assert found["gain_unseen"] == pytest.approx(40)
    assert found["gain_seen"] == pytest.approx((gains[0] + gains[2]) / 2)
    assert found["spearman"] == 1.0


def test_a_policy_that_does_not_heed_the_angle_is_not_steerable():
    assert judge_round(FLAT, FLAT, PARAMS)["spearman"] == 0.0
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_both_hypervolumes_are_worked_by_hand():
    """More words: corners (80, 50), (70, 80). Fewer: the heights above -100 are 80 at 70, 50 at 80."""
    assert area(LED, "true", "more") == pytest.approx(80 * 50 + 70 * 30)
    assert area(LED, "true", "fewer") == pytest.approx(80 * 50 + 70 * 30)
    assert area(FLAT, "true", "more") == pytest.approx(40 * 50)


def test_baselines_stand_beside_the_nearest_angle():
    found = judge_seed(FOUND, PARAMS)["baselines"]
    assert found["scalar"]["dpa_lead"] == pytest.approx(5)
    assert found["dpo"]["dpa_lead"] == pytest.approx(-5)


def test_the_summary_is_the_mean_over_seeds_and_can_be_written():
    seeds = {"0": judge_seed(FOUND, PARAMS), "1": judge_seed({**FOUND, "rows": FLAT + [{**r, "round": 1} for r in FLAT]}, PARAMS)}
    found = json.loads(json.dumps(summary(seeds, PARAMS), allow_nan=False))
    assert found["spearman"] == 0.5
    assert found["front_gain"] == pytest.approx(seeds["0"]["rounds"][1]["front_gain"]["true"] / 2)
    assert found["table"]["true"][1][1] == pytest.approx(60)
    assert [round_["round"] for round_ in found["seeds"]["0"]["rounds"]] == [0, 1]


def test_rounds_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"iteration-{number}").mkdir()
    assert [place.name for place in rounds(tmp_path)] == ["iteration-1", "iteration-2", "iteration-10"]
    with pytest.raises(UserError, match="holds no iteration-K"):
        rounds(tmp_path / "iteration-1")


@pytest.mark.parametrize(("values", "said"), [({"angles": [0.0, -1.0, 2.0]}, "must rise"), ({"unseen": [7.0]}, "not among")])
def test_angles_that_make_no_sense_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_angles(Params(**values))
