"""Verdicts are given once: equal candidates are asked once, and what changes a verdict changes its key."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.prove.checker import Candidate, CheckerSettings, Verdict, open_checker
from tasks.prove.recorded import Recorded, Verdicts, key
from tasks.runtime.params import UserError

SETTINGS = CheckerSettings()


def candidate(number: int) -> Candidate:
    """One of many candidates."""
    return Candidate(f"t{number}", f"theorem t{number} : 1 = 1 :=", f"theorem t{number} : 1 = 1 := rfl")


class Asked:
    """A checker that counts what it is asked."""

    def __init__(self, reason="verified", detail="") -> None:
        self.times: list[int] = []
        self.reason, self.detail = reason, detail

    def __call__(self, candidates):
        self.times.append(len(candidates))
        verified = self.reason == "verified"
        return [Verdict(verified, self.reason, self.detail, (1, 2), 3.0, "lean-wasm", "4.28.0", "core") for _ in candidates]


@pytest.fixture
def verdicts(tmp_path):
    with Verdicts(tmp_path / "deep" / "verdicts.sqlite") as file:
        yield file


def test_a_second_identical_batch_is_answered_from_the_cache_in_under_a_second(verdicts):
    asked, batch = Asked(), [candidate(number) for number in range(3000)]
    checker = Recorded(verdicts, SETTINGS, "4.28.0", asked)
    first = checker.check(batch)
    begun = time.perf_counter()
    second = checker.check(batch)
    assert time.perf_counter() - begun < 1
    assert asked.times == [3000]
    assert second == [replace(verdict, seconds=0.0) for verdict in first]


def test_equal_candidates_are_checked_once_and_answered_in_order(verdicts):
    asked = Asked()
    checker = Recorded(verdicts, SETTINGS, "4.28.0", asked)
    assert len(checker.check([candidate(1), candidate(2), candidate(1)])) == 3
    assert asked.times == [2]
    assert checker.check([]) == []
    assert asked.times == [2], "nothing to ask, so nothing is started"


@pytest.mark.parametrize(
    ("reason", "detail", "kept"),
    [
        ("error", "unsolved goals", True),
        ("timeout", "(deterministic) timeout at `whnf`", True),
        ("timeout", "no answer within 30 s", False),
        ("crashed", "signal SIGKILL", False),
    ],
)
def test_what_depends_on_the_machines_mood_is_tried_again(verdicts, reason, detail, kept):
    asked = Asked(reason, detail)
    checker = Recorded(verdicts, SETTINGS, "4.28.0", asked)
    for _ in range(2):
        [verdict] = checker.check([candidate(1)])
        assert (verdict.reason, verdict.position) == (reason, (1, 2))
    assert len(asked.times) == (1 if kept else 2)


def test_everything_that_a_verdict_depends_on_is_in_its_key():
    base = candidate(1)
    others = [
        key(replace(base, name="u"), SETTINGS, "4.28.0"),
        key(replace(base, statement="theorem"), SETTINGS, "4.28.0"),
        key(replace(base, proof="theorem"), SETTINGS, "4.28.0"),
        key(base, SETTINGS, "4.29.0"),
        *(
            key(base, SETTINGS.model_copy(update=change), "4.28.0")
            for change in ({"heartbeats": 100}, {"header": "open Nat"}, {"library_commit": "abc"})
        ),
    ]
    assert len({key(base, SETTINGS, "4.28.0"), *others}) == len(others) + 1


def test_verdicts_survive_and_are_shared(tmp_path: Path):
    place = tmp_path / "verdicts.sqlite"
    with Verdicts(place) as one, Verdicts(place) as two:
        Recorded(one, SETTINGS, "4.28.0", Asked()).check([candidate(1)])
        Recorded(two, SETTINGS, "4.28.0", Asked()).check([candidate(2)])
    replay = CheckerSettings(backend="recorded", toolchain="4.28.0")
    with open_checker(replay, place) as checker:
        known, other, unknown = checker.check([candidate(1), candidate(2), candidate(3)])
    assert known.verified
    assert other.verified
    assert (unknown.verified, unknown.reason) == (False, "unknown")


def test_a_file_that_is_none_is_told(tmp_path):
    place = tmp_path / "verdicts.sqlite"
    place.write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(UserError, match="not a file of verdicts"), Verdicts(place):
        pass
    missing = CheckerSettings(backend="recorded")
    with pytest.raises(UserError, match="no such file of verdicts"), open_checker(missing, tmp_path / "none"):
        pass
