"""The reward model of several outputs: absent ratings weigh nothing, and attributes go by name."""

import json
import math

import pytest
import torch

from tasks.runtime.params import UserError
from tasks.runtime.rate import load_rater, rate
from tasks.runtime.records import write_records
from tasks.train import ratings_reward
from tasks.train.ratings_reward import Params, Row, collate, encode, summed_error
from tests.tiny import judge, word_tokenizer
from tests.train.stages import INPUTS, SMALL, curve_of

INPUTS["dpa-reward"] = {"base": "base", "ratings": "ratings"}
SMALL["dpa-reward"] = {"epochs": 8, "batch_size": 8}


@pytest.fixture
def rated(world):
    """Answers whose helpfulness is told by their first word and whose verbosity by their last, each absent in a third."""

    def rows(count):
        for number in range(count):
            good, long = number % 2, number // 2 % 2
            ratings = {"helpfulness": 30.0 + 40 * good, "verbosity": 30.0 + 40 * long}
            absent = [None, "helpfulness", "verbosity"][number % 3]
            text = f"w{30 + good} w{number % 7} w{34 + long}"
            yield {"prompt": "w1", "response": text, "ratings": ratings | ({absent: None} if absent else {}), "source": "s"}

    write_records(world / "ratings/ratings.jsonl", rows(96))
    write_records(world / "ratings/ratings-test.jsonl", rows(48))
    return world / "ratings"


def batch(targets):
    return collate([Row([1, 2, 3], row) for row in targets], pad_id=0)


def test_the_loss_is_that_of_the_present_ratings_alone():
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    made = batch([[0.5, None], [None, 1.0], [None, None]])
    assert summed_error(outputs, made["targets"], made["labels"]).item() == 0.5**2 + 3.0**2
    assert (made["labels"] != -100).sum() == 2, "what the mean is taken over"


def test_an_absent_rating_gives_its_head_no_gradient():
    model = judge()
    model.score = torch.nn.Linear(32, 2, bias=False)
    model.config.num_labels = 2
    made = batch([[0.5, None]])
    outputs = model(made["input_ids"], attention_mask=made["attention_mask"]).logits
    summed_error(outputs, made["targets"], made["labels"]).backward()
    assert model.score.weight.grad[1].abs().max() == 0
    assert model.score.weight.grad[0].abs().max() > 0


def test_the_trainer_divides_by_the_ratings_that_are_there(run, rated):
    """The first loss, of untrained outputs near the middle, is the mean of ((30 or 70) - 50)^2 / 25^2 over present entries."""
    out = run(ratings_reward, epochs=1, batch_size=96, learning_rate=1e-9)
    rater = load_rater(out / "model", ["helpfulness", "verbosity"])
    rows = [json.loads(line) for line in (rated / "ratings.jsonl").open()]
    found = rate(rater, [(row["prompt"], row["response"]) for row in rows], 96)
    squares = [
        ((ours[name] - given) / 25) ** 2
        for ours, row in zip(found, rows, strict=True)
        for name, given in row["ratings"].items()
        if given is not None
    ]
    assert curve_of(out)[0]["loss"] == pytest.approx(math.fsum(squares) / len(squares), rel=1e-4)


def test_it_learns_both_attributes_and_names_them_in_its_config(run, rated):
    out = run(ratings_reward)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["helpfulness"]["mse"] < 60
    assert scores["verbosity"]["mse"] < 60
    config = json.loads((out / "model/config.json").read_text())
    assert config["id2label"] == {"0": "helpfulness", "1": "verbosity"}
    assert (config["rating_offset"], config["rating_unit"]) == (50.0, 25.0)


def test_the_order_of_attributes_changes_no_target(rated):
    one, other = (
        encode(word_tokenizer(), rated / "ratings.jsonl", Params(attributes=names))
        for names in (["helpfulness", "verbosity"], ["verbosity", "helpfulness"])
    )
    assert [row.targets for row in one] == [row.targets[::-1] for row in other]


def test_attributes_on_two_scales_end_the_run_and_nothing_is_published(run, rated, world):
    rows = [json.loads(line) for line in (rated / "ratings.jsonl").open()]
    for row in rows:
        if row["ratings"]["verbosity"] is not None:
            row["ratings"]["verbosity"] = 50 + (row["ratings"]["verbosity"] - 50) / 10
    write_records(rated / "ratings.jsonl", rows)
    with pytest.raises(UserError, match=r"standard deviation \d+\.\d+ of helpfulness but \d+\.\d+ of verbosity"):
        run(ratings_reward)
    assert not (world / "out/model").exists()


def test_an_attribute_that_nobody_rates_is_named(rated):
    with pytest.raises(UserError, match="no answer has a rating of 'honesty'"):
        encode(word_tokenizer(), rated / "ratings.jsonl", Params(attributes=["helpfulness", "honesty"]))
