"""The interval of a mean over seeds."""

import numpy as np
import pytest
from scipy import stats

from tasks.evaluate.interval import Interval, t_interval


def test_it_is_the_t_interval_of_scipy():
    values = [0.3, 0.5, 0.35, 0.41]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = t_interval(values, 0.9)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.mean == pytest.approx(sum(values) / 4)


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [t_interval(list(rng.normal(2, 1, 3)), 0.8) for _ in range(2000)]
    assert np.mean([each.low < 2 < each.high for each in found]) == pytest.approx(0.8, abs=0.03)


def test_one_seed_has_no_interval_and_equal_seeds_have_a_point():
    assert t_interval([0.4], 0.95) == Interval(0.4, None, None)
    assert t_interval([0.5, 0.5, 0.5], 0.95) == Interval(0.5, 0.5, 0.5)
