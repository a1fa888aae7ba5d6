"""Ratings go by the names in the model's config, equal those of each answer alone, and must share a scale."""

import pytest
import torch

from tasks.runtime.models import encode_completion, encode_prompt, save_model
from tasks.runtime.params import UserError
from tasks.runtime.rate import check_scale, load_rater, rate
from tests.tiny import config, judge, save, word_tokenizer

NAMES = ["helpfulness", "honesty", "verbosity"]
ANSWERS = [("w1 w2", "w3 w4 w5 w6"), ("w1", "w7"), ("w9 w8 w7", "w1 w2")]


def rater_folder(folder, order=(0, 1, 2)):
    """A random model of three outputs, its outputs and their names in `order`."""
    from transformers import LlamaForSequenceClassification

    shape = config(1)
    shape.id2label = {place: NAMES[number] for place, number in enumerate(order)}
    shape.label2id = {name: place for place, name in shape.id2label.items()}
    torch.manual_seed(5)
    model = LlamaForSequenceClassification(shape).eval()
    with torch.no_grad():
        model.score.weight.copy_(model.score.weight[list(order)])
    model.config.update({"rating_offset": 50.0, "rating_unit": 25.0})
    save_model(model, word_tokenizer(), folder, {"stage": "toy", "summary": "Three random ratings."})
    return folder


def test_every_rating_is_that_of_the_answer_alone(tmp_path):
    rater = load_rater(rater_folder(tmp_path), NAMES)
    for batch_size in (1, 2, 3):
        for (prompt, answer), found in zip(ANSWERS, rate(rater, ANSWERS, batch_size), strict=True):
            ids = encode_prompt(rater.tokenizer, prompt) + encode_completion(rater.tokenizer, answer)
            with torch.no_grad():
                outputs = rater.model(torch.tensor([ids])).logits[0]
            assert [found[name] for name in NAMES] == pytest.approx((50 + 25 * outputs).tolist(), abs=1e-3)


def test_permuting_outputs_together_with_their_names_changes_nothing(tmp_path):
    one = rate(load_rater(rater_folder(tmp_path / "one"), NAMES), ANSWERS, 3)
    other = load_rater(rater_folder(tmp_path / "other", (2, 0, 1)), NAMES)
    assert list(other.names) == ["verbosity", "helpfulness", "honesty"]
    for before, after in zip(one, rate(other, ANSWERS, 3), strict=True):
        assert before == pytest.approx(after, abs=1e-4)


def test_an_attribute_that_is_not_rated_is_named(tmp_path):
    with pytest.raises(UserError, match="rates helpfulness, honesty, verbosity, not safety"):
        load_rater(rater_folder(tmp_path), ["helpfulness", "safety"])
    with pytest.raises(UserError, match="rates LABEL_0"):
        load_rater(save(judge(), tmp_path / "nameless"), ["helpfulness"])


def test_a_rating_that_is_no_number_is_refused(tmp_path):
    rater = load_rater(rater_folder(tmp_path), NAMES)
    with torch.no_grad():
        rater.model.score.weight[1] = float("nan")
    with pytest.raises(UserError, match="'honesty': nan"):
        rate(rater, ANSWERS, 2)


def test_two_scales_stop_the_run_with_both_deviations_named():
    apart = [{"helpfulness": 10.0 * n, "verbosity": 1.0 * n} for n in range(3)]
    with pytest.raises(UserError, match=r"deviation 8\.16 of helpfulness but 0\.82 of verbosity"):
        check_scale(apart, ["helpfulness", "verbosity"], "here")
    alike = [{"helpfulness": 1.4 * n, "verbosity": -1.0 * n} for n in range(3)]
    assert check_scale(alike, ["helpfulness", "verbosity"], "here")["verbosity"] == pytest.approx((2 / 3) ** 0.5)
