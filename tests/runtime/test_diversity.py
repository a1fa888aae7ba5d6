"""distinct-n by hand."""

import pytest

from tasks.runtime.diversity import distinct


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [(["a b", "a b"], 1, 0.5), (["a b", "a b"], 2, 0.5), (["a b c"], 2, 1.0), (["a a a"], 2, 0.5), (["a", ""], 2, 0.0)],
)
def test_distinct_n(texts, n, expected):
    assert distinct(texts, n) == expected
