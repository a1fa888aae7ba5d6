"""Rounds of proof writing by a prover and a checker whose every word is known: what grows, what stops, what a kill leaves."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.prove.checker import Verdict
from tasks.prove.rounds import Course, course_scores, overlapped, percent, write_proofs
from tasks.prove.sampling import Sample
from tasks.runtime.checkpoint import MARKER, Checkpoints
from tasks.runtime.progress import Progress
from tests.theorems import chain

QUIET = Progress("prove", 1e9, "theorems", interval=1e9)


class Script:
    """Proves theorem n in round r if n is in `knows[r]`, or if a proof of n - 1 is in the pool it is shown."""

    def __init__(self, knows):
        self.knows, self.pools, self.asked = knows, [], []

    def encode(self, pool):
        self.pools.append([one.Name for one in pool])
        return []

    def sample(self, theorems, pool, encoded, round_):
        self.asked += [(round_, one.Name) for _, one in theorems]
        shown = {one.Name for one in pool}
        known = [number in self.knows.get(round_, ()) or f"chain_{number - 1}" in shown for number, _ in theorems]
        return [[Sample(" by no", 0.7, [], True), Sample(" by exact h" if k else " by no", 0.7, [], True)] for k in known]


class Judge:
    """Accepts one proof; can die at a given call."""

    def __init__(self, dies_at=None):
        self.calls, self.dies_at = 0, dies_at

    def check(self, candidates):
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        assert all(one.proof.startswith(one.statement) for one in candidates)
        good = [one.proof.endswith("exact h") for one in candidates]
        return [Verdict(g, "verified" if g else "error", "" if g else "no", None, 0.1, "recorded", "4", "core") for g in good]


THEOREMS = [chain(number) for number in range(6)]


def course() -> Course:
    return Course(THEOREMS, [chain(50)])


def write(prover, checker, place, rounds=4, portion=2, made=None):
    made = made or course()
    options = {"rounds": rounds, "portion": portion, "place": Checkpoints(place), "progress": QUIET}
    return write_proofs(prover, checker, made, **options)


def test_a_verified_proof_is_an_example_of_the_next_round(tmp_path):
    """Theorem 2 is proved in round 1, so 3 in round 2, 4 in round 3: each from the proof before it."""
    prover = Script({1: [2]})
    found = write(prover, Judge(), tmp_path)
    assert found.proved == {"chain_2": 1, "chain_3": 2, "chain_4": 3, "chain_5": 4}
    assert prover.pools == [
        ["chain_50"],
        ["chain_50", "chain_2"],
        ["chain_50", "chain_2", "chain_3"],
        ["chain_50", "chain_2", "chain_3", "chain_4"],
    ]
    assert found.pool[1].Proof == THEOREMS[2].Statement + " by exact h", "the proof that was found, not the one that was known"


def test_what_is_proved_is_not_asked_again(tmp_path):
    prover = Script({1: [2]})
    write(prover, Judge(), tmp_path, rounds=2)
    assert (2, "chain_2") not in prover.asked
    assert {name for round_, name in prover.asked if round_ == 2} == {f"chain_{n}" for n in (0, 1, 3, 4, 5)}


@pytest.mark.parametrize(("knows", "rounds"), [({}, 1), ({1: range(6)}, 1), ({1: [5]}, 2)])
def test_it_stops_when_nothing_is_new_or_nothing_is_left(tmp_path, knows, rounds):
    assert write(Script(knows), Judge(), tmp_path).rounds == rounds


@settings(max_examples=25)
@given(st.dictionaries(st.integers(1, 4), st.sets(st.integers(0, 5))), st.integers(1, 4), st.integers(1, 7))
def test_the_proved_set_never_shrinks_and_every_pool_holds_the_one_before(tmp_path_factory, knows, rounds, portion):
    prover = Script(knows)
    found = write(prover, Judge(), tmp_path_factory.mktemp("c"), rounds, portion)
    for before, after in zip(prover.pools, prover.pools[1:], strict=False):
        assert after[: len(before)] == before
        assert len(after) > len(before)
    for round_, pool in enumerate(prover.pools, 1):
        assert set(pool[1:]) == {name for name, first in found.proved.items() if first < round_}
    shares = course_scores(found)["cumulative_percent"]
    assert shares == sorted(shares)
    assert len({id(one) for one in course().theorems}) == len(THEOREMS), "nothing given is changed"
    assert THEOREMS[2].Proof == chain(2).Proof


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_killed_after_any_portion_it_goes_on_to_the_same_attempts(tmp_path, dies_at):
    whole = write(Script({1: [2]}), Judge(), tmp_path / "whole", portion=1)
    with pytest.raises(KeyboardInterrupt):
        write(Script({1: [2]}), Judge(dies_at), tmp_path / "killed", portion=1)
    sealed = len(list((tmp_path / "killed").glob(f"round-*/step-*/{MARKER}")))
    assert sealed >= dies_at - 1
    again = Script({1: [2]})
    found = write(again, Judge(), tmp_path / "killed", portion=1)
    assert found.attempts == whole.attempts
    assert found.proved == whole.proved
    assert len(again.asked) == len(whole.attempts) // 2 - sealed, "what was checked is not sampled again"


def test_a_portion_is_checked_while_the_next_is_sampled():
    sampled_second, order = threading.Event(), []

    def made():
        yield 0, "first"
        order.append("second is sampled")
        sampled_second.set()
        yield 1, "second"

    def use(number, value):
        if number == 0:
            assert sampled_second.wait(10), "the first check ends only after the second was sampled"
        order.append(f"{value} is checked")

    overlapped(made(), use)
    assert order == ["second is sampled", "first is checked", "second is checked"]


def test_what_breaks_in_the_checker_is_raised():
    def use(number, value):
        raise OSError("the checker is gone")

    with pytest.raises(OSError, match="the checker is gone"):
        overlapped(iter([(0, 1), (1, 2)]), use)


def test_accuracy_counts_over_all_theorems_with_two_decimals():
    assert [percent(count, 244) for count in (85, 89, 76, 82)] == [34.84, 36.48, 31.15, 33.61]


def test_the_scores_count_what_happened(tmp_path):
    found = course_scores(write(Script({1: [2]}), Judge(), tmp_path, rounds=2))
    assert (found["theorems"], found["proved"], found["samples"], found["verified_samples"]) == (6, 2, 22, 2)
    assert found["cumulative_percent"] == [16.67, 33.33]
    assert found["reasons"] == {"error": 20, "verified": 2}
