"""Difficulty is the number of lines that hold code of the tactic block."""

import json
from collections import Counter

import pytest

from tasks.runtime.lean.difficulty import count_steps


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("by\n  simp", 1),
        ("by simp", 1),
        ("by\n  -- first\n\n  intro x -- then\n  /- two\n  lines -/\n  simp", 2),
        ('by\n  exact f "-- a string\n  of two lines"', 2),
        ("rfl", 1),
        ("by\n  -- nothing", 0),
        ("", 0),
    ],
)
def test_steps(body, steps):
    assert count_steps(body) == steps


@pytest.mark.real
def test_the_histogram_of_the_released_rows_is_that_of_the_specification(real_data):
    rows = json.loads((real_data / "data/lean/minif2f_valid_commented.json").read_text(encoding="utf-8"))
    bodies = [row["Proof"].removeprefix(row["Statement"]).strip(" ") for row in rows if "Commented_proof" in row]
    assert Counter(map(count_steps, bodies)) == {1: 37, 2: 32, 3: 8, 4: 9, 5: 3, 7: 1, 8: 1, 9: 1, 10: 1}
