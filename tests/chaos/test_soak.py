"""Killed at random moments, in every way, a small pipeline loses no result, no bit, and leaves no process and no lease behind."""

import json

import pytest

from tests.chaos.soak import KINDS, soak


@pytest.mark.slow
def test_a_few_kills(tmp_path):
    found = soak(tmp_path, kills=6, minutes=4, seed=3)
    assert found["faults"] == {}, found["said"]
    assert found["kills"] >= 1, "on however slow a machine"
    assert found["finished"] >= 1


@pytest.mark.soak
def test_two_hundred_kills(tmp_path):
    found = soak(tmp_path, kills=200, minutes=90, seed=0)
    print(json.dumps(found, indent=1))
    assert found["faults"] == {}, found["said"]
    assert found["kills"] == 200
    assert set(found["of"]) == set(KINDS)
