"""DPO's rate is chosen by its own reward on other prompts than those it is reported on."""

import pytest

from tasks.evaluate.rival import choose, rates, table
from tasks.runtime.params import UserError


def row(model, true):
    return {"helpfulness": true, "verbosity": 9.0, "model_helpfulness": model, "model_verbosity": 1.0}


def test_the_validation_prompts_choose_whatever_is_reported():
    """At 0 degrees the reward is the helpfulness. The best rate on the reported prompts, and by the truth, is not taken."""
    seeds = [
        {
            "1e-05": {"validation": row(60, 0), "heldout": row(10, 10)},
            "0.001": {"validation": row(50 + seed, 90), "heldout": row(99, 90)},
        }
        for seed in range(3)
    ]
    swept = table(seeds, 0.0)
    assert swept["1e-05"] == pytest.approx({"validation": 60, "heldout_model": 10, "heldout_true": 10})
    assert swept["0.001"] == pytest.approx({"validation": 51, "heldout_model": 99, "heldout_true": 90})
    assert choose(swept) == "1e-05"


def test_of_equal_rates_the_gentlest_is_chosen():
    assert choose({"0.001": {"validation": 1.0}, "1e-05": {"validation": 1.0}, "0.0001": {"validation": 1.0}}) == "1e-05"


def test_rates_rise_and_what_is_no_rate_is_passed_over(tmp_path):
    for name in ("0.001", "1e-05", ".gitignore", "notes"):
        (tmp_path / name).mkdir()
    assert list(rates(tmp_path)) == ["1e-05", "0.001"]
    with pytest.raises(UserError, match="holds no RATE/SEED/iteration-K; run the stage dpa-dpo"):
        rates(tmp_path / "notes")
