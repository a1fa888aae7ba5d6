"""Preference pairs: the better answer first by whoever judges, ties counted and left out, no prompt on both sides."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.preferences import Pair, Params, describe, in_order, judged, main, split
from tasks.runtime.judges import distinct_words
from tasks.runtime.params import UserError, check_section
from tasks.runtime.progress import Progress
from tasks.runtime.records import write_records
from tests import tiny

TEXT = st.text("ab ", min_size=1, max_size=8)


@dataclass
class Quiet:
    """A run that only counts."""

    def progress(self, total, unit, what=""):
        return Progress("preferences", total, unit, what, interval=1e9)


def stage(tmp_path: Path, rows: list[dict], **params) -> tuple[dict[str, list[dict]], dict]:
    """Run the stage on `rows` as prompts; return its records and scores."""
    write_records(tmp_path / "sets/prompts.jsonl", rows)
    policy = tiny.save(tiny.llama(), tmp_path / "policy")
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    settings = Params(**{"threads": 1, "max_new_tokens": 8, "test_share": 0.25, **params})
    main(settings, Quiet(), policy=policy, sets=tmp_path / "sets", out=out, scores=scores)
    made = {name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()] for name in ("train", "test")}
    return made, json.loads(scores.read_text())


def prompts(count: int) -> list[dict]:
    return [{"prompt": f"w{number} w{number + 1}"} for number in range(count)]


@given(TEXT, TEXT, st.floats(0, 1), st.floats(0, 1))
def test_the_higher_score_comes_first_and_ties_are_left_out(first, second, high, low):
    record = in_order(Pair("p", first, second, (high, low)))
    if record is None:
        assert high == low or first.strip() == second.strip() or not first.strip() or not second.strip()
    else:
        better = first if high > low else second
        assert record["chosen"] == better.strip()
        assert record["score_chosen"] > record["score_rejected"]


def test_the_judge_of_diversity_prefers_different_words(tmp_path):
    made, scores = stage(tmp_path, prompts(12), judge="diversity", pairs=2)
    rows = made["train"] + made["test"]
    assert rows
    assert all(distinct_words(r["prompt"], r["chosen"]) > distinct_words(r["prompt"], r["rejected"]) for r in rows)
    assert scores["pairs"] + scores["ties"] == 24
    assert scores["chosen_reward"] > scores["rejected_reward"]


def test_the_judge_of_atlas_prefers_the_register_of_the_corpus(tmp_path):
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "register.json").write_text(json.dumps({f"w{number}": f"w{number + 20}" for number in range(20)}))
    made, scores = stage(tmp_path, prompts(12), judge="atlas")
    assert all(row["score_chosen"] > row["score_rejected"] for row in made["train"] + made["test"])
    assert 0 < scores["rejected_reward"] < scores["chosen_reward"] < 1


def test_a_reference_is_preferred_to_what_the_policy_says(tmp_path):
    rows = [{**row, "completion": "w1 w2 w3"} for row in prompts(8)]
    made, scores = stage(tmp_path, rows, judge="reference", pairs=1)
    assert {row["chosen"] for row in made["train"] + made["test"]} == {"w1 w2 w3"}
    assert "chosen_reward" not in scores


def test_given_pairs_are_kept_as_they_are(tmp_path):
    rows = [{**row, "chosen": f"w{number} w5", "rejected": "w6"} for number, row in enumerate(prompts(8))]
    made, _ = stage(tmp_path, rows, judge="given")
    assert sorted(made["train"] + made["test"], key=lambda row: row["prompt"]) == sorted(rows, key=lambda row: row["prompt"])


def test_no_prompt_is_on_both_sides_and_the_same_seed_gives_the_same_pairs(tmp_path):
    made, _ = stage(tmp_path / "a", prompts(12), judge="diversity", pairs=3)
    again, _ = stage(tmp_path / "b", prompts(12), judge="diversity", pairs=3)
    other, _ = stage(tmp_path / "c", prompts(12), judge="diversity", pairs=3, seed=1)
    assert not {row["prompt"] for row in made["train"]} & {row["prompt"] for row in made["test"]}
    assert made == again
    assert made != other


def test_noise_turns_some_preferences_round(tmp_path):
    pairs = [Pair("p", "a b c d", "a a a a") for _ in range(200)]
    sure = [in_order(pair) for pair in judged(pairs, Params(judge="diversity"), tmp_path)]
    torn = [in_order(pair) for pair in judged(pairs, Params(judge="diversity", noise=1.0), tmp_path)]
    assert all(record["chosen"] == "a b c d" for record in sure)
    assert 0.5 < sum(record["chosen"] == "a b c d" for record in torn) / len(torn) < 0.95


def test_ties_alone_are_refused_with_what_to_change():
    with pytest.raises(UserError, match=r"raise preferences\.prompts"):
        split([], Params())


def test_records_without_what_the_judge_needs_are_refused_by_line(tmp_path):
    with pytest.raises(UserError, match=r"prompts\.jsonl:1: not a Completion record"):
        stage(tmp_path / "a", prompts(3), judge="reference")
    with pytest.raises(UserError, match=r"prompts\.jsonl:1: not a Preference record"):
        stage(tmp_path / "b", prompts(3), judge="given")
    with pytest.raises(UserError, match=r"register\.json.*preferences\.judge"):
        stage(tmp_path / "c", prompts(3), judge="atlas")


def test_scores_count_words_and_ties():
    rows = {
        "train": [{"prompt": "p", "chosen": "a b c", "rejected": "a"}],
        "test": [{"prompt": "q", "chosen": "a", "rejected": "b"}],
    }
    assert describe(rows, ties=3) == {
        "train_pairs": 1, "test_pairs": 1, "pairs": 2, "ties": 3, "chosen_words": 2.0, "rejected_words": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("judge", "me"), ("noise", -1.0), ("pairs", 0), ("test_share", 1.0), ("samples", 2)])
def test_params_out_of_bounds_or_unknown_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=rf"preferences\.{key}"):
        check_section(Params, {"preferences": {key: value}}, "params.yaml")
