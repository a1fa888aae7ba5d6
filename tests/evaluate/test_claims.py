"""The claims ledger: a verdict follows from the interval alone, and each effect is what its metric says."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.claims import Params, main, read_scores
from tasks.evaluate.interval import Interval
from tasks.evaluate.ledger import LEDGER, Claim, each_seed
from tasks.evaluate.verdict import entry, ledger, verdict
from tasks.runtime.params import UserError

UP = Claim("Paper", "It rises.", "change", "up", "1 to 2", "evaluate", each_seed(lambda seed: seed["change"]))
DOWN = replace(UP, direction="down")
MEASURE = st.floats(-5, 5)


def row(reward, skill, distinct=0.5, **more):
    return {"reward": reward, "skill": skill, "distinct": distinct, **more}


def evaluation(shift=0.0, w_pre=0.2):
    """Three seeds of a textbook alignment tax: reward 0.3 to 0.7, skill 0.9 to 0.5; averaging gives 0.2 of it back."""
    seed = {
        "sft": row(0.3, 0.9, 0.8),
        "raft": [row(0.5 + shift, 0.7, iteration=1), row(0.7 + shift, 0.5, iteration=2)],
        "average": [row(0.68 + shift, 0.7, w_pre=w_pre)],
        "hypervolume": {"early_stopping": 0.5, "averaging": 0.6 + shift},
    }
    return {"seeds": {"0": seed, "1": seed | {"sft": row(0.31, 0.9, 0.8)}, "2": seed | {"sft": row(0.29, 0.91, 0.8)}}}


@pytest.mark.parametrize(
    ("interval", "up", "down"),
    [
        (Interval(0.2, 0.1, 0.3), "yes", "no"),
        (Interval(-0.2, -0.3, -0.1), "no", "yes"),
        (Interval(0.1, -0.1, 0.3), "not at this scale", "not at this scale"),
        (Interval(0.1, 0.0, 0.2), "not at this scale", "not at this scale"),
        (Interval(0.0, 0.0, 0.0), "not at this scale", "not at this scale"),
        (Interval(0.9, None, None), "not at this scale", "not at this scale"),
        (None, "not at this scale", "not at this scale"),
    ],
)
def test_the_rule(interval, up, down):
    assert (verdict(UP, interval), verdict(DOWN, interval)) == (up, down)


@given(MEASURE, st.floats(0, 5), st.floats(0, 5))
def test_a_claim_and_its_opposite_never_both_hold(mean, below, above):
    interval = Interval(mean, mean - below, mean + above)
    assert {verdict(UP, interval), verdict(DOWN, interval)} in ({"yes", "no"}, {"not at this scale"})


def test_every_claim_of_a_textbook_tax_holds():
    found = ledger(LEDGER, {"evaluate": evaluation()}, 0.95)
    assert {each["claim"]: each["verdict"] for each in found["claims"]} == {claim.claim: "yes" for claim in LEDGER}
    assert (found["yes"], found["no"], found["not_at_this_scale"]) == (len(LEDGER), 0, 0)


def test_effects_are_what_their_metrics_say():
    scores = evaluation()
    first = {claim.claim.split(":")[0][:34]: claim.effects(scores)[0] for claim in LEDGER}
    assert first == {
        "Learning the best of its own samples"[:34]: pytest.approx(0.4),
        "As RAFT raises the reward, answers"[:34]: pytest.approx(-0.3),
        "RLHF costs abilities the model had"[:34]: pytest.approx(-0.4),
        "Along RLHF, skills fall as the reward"[:34]: pytest.approx(-1),
        "Averaging with the model before RLHF"[:34]: pytest.approx(0.1),
        "Averaging at w_pre 0.2 gives skills"[:34]: pytest.approx(0.2),
        "Averaging at w_pre 0.2 keeps the reward"[:34]: pytest.approx(0.68 - 0.3 - 0.9 * 0.4),
    }


def test_a_reward_that_falls_refutes_the_claim():
    """Nothing in the ledger can turn a measured opposite into a yes."""
    found = {each["claim"]: each["verdict"] for each in ledger(LEDGER, {"evaluate": evaluation(-0.6)}, 0.95)["claims"]}
    assert found["Learning the best of its own samples raises a policy's reward."] == "no"
    assert found["Averaging with the model before RLHF trades better than stopping early."] == "no"


def test_what_was_not_measured_is_told_as_such():
    found = ledger(LEDGER, {"evaluate": evaluation(w_pre=0.5)}, 0.95)
    missing = [each for each in found["claims"] if "w_pre" in each["claim"]]
    assert len(missing) == 2
    assert all((each["effects"], each["mean"], each["verdict"]) == ([], None, "not at this scale") for each in missing)


def test_a_skill_that_never_moves_has_no_rank_correlation():
    scores = evaluation()
    for seed in scores["seeds"].values():
        for each in (seed["sft"], *seed["raft"]):
            each["skill"] = 0.5
    [claim] = [claim for claim in LEDGER if "Spearman" in claim.metric]
    assert claim.effects(scores) == [0, 0, 0]


def test_a_claim_is_added_by_adding_data():
    scores = {"evaluate": {"seeds": {"0": {"change": 1.0}, "1": {"change": 1.2}, "2": {"change": 1.1}}}}
    told = ledger([UP], scores, 0.95)["claims"]
    assert told == [entry(UP, [1.0, 1.2, 1.1], 0.95)]
    assert told[0] | {"mean": 0, "low": 0, "high": 0} == {
        "paper": "Paper",
        "claim": "It rises.",
        "metric": "change",
        "direction": "up",
        "published": "1 to 2",
        "effects": [1.0, 1.2, 1.1],
        "mean": 0,
        "low": 0,
        "high": 0,
        "verdict": "yes",
    }


def test_a_lower_confidence_decides_more():
    scores = {"evaluate": {"seeds": {str(number): {"change": change} for number, change in enumerate((0.1, 0.3, 0.6))}}}
    assert [ledger([UP], scores, level)["claims"][0]["verdict"] for level in (0.95, 0.8)] == ["not at this scale", "yes"]


def test_the_stage_reads_scores_and_publishes_the_ledger(tmp_path):
    (tmp_path / "evaluate.json").write_text(json.dumps(evaluation()))
    main(Params(), None, evaluation=tmp_path / "evaluate.json", out=tmp_path / "claims.json")
    assert json.loads((tmp_path / "claims.json").read_text()) == ledger(LEDGER, {"evaluate": evaluation()}, 0.95)


def test_scores_that_are_not_json_are_refused(tmp_path):
    (tmp_path / "evaluate.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluate\.json: not JSON"):
        read_scores(tmp_path / "evaluate.json")
