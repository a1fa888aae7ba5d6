"""The queue of stages: never one before what it needs, the plan's order otherwise, every one exactly once, and quickly."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flows.planning.ready import Ready
from tests.flows.simulation import lower_bound, simulate


@st.composite
def graphs(draw) -> dict[str, tuple[str, ...]]:
    """Stages that need some of those before them."""
    count = draw(st.integers(1, 12))
    return {
        f"s{n}": tuple(draw(st.lists(st.sampled_from([f"s{m}" for m in range(n)]), max_size=3, unique=True)) if n else ())
        for n in range(count)
    }


@given(graphs(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_no_stage_starts_before_what_it_needs_and_all_run_once(needs, workers, random):
    seconds = {name: random.choice([0.5, 1.0, 4.0]) for name in needs}
    ran = simulate(list(needs), needs, seconds, workers)
    assert sorted(ran.started) == sorted(needs)
    assert all(ran.ended[other] <= ran.started[name] for name, others in needs.items() for other in others)
    busy = sorted([(time, 1) for time in ran.started.values()] + [(time, -1) for time in ran.ended.values()])
    at_once = 0
    for _, change in sorted(busy):
        at_once += change
        assert at_once <= workers
    assert lower_bound(needs, seconds, workers) <= ran.makespan <= sum(seconds.values())


@given(graphs(), st.integers(1, 5))
def test_no_worker_rests_while_a_stage_is_ready(needs, workers):
    """So a run takes at most twice as long as the best one (Graham 1969: list scheduling is within 2 - 1/m)."""
    seconds = dict.fromkeys(needs, 1.0)
    assert simulate(list(needs), needs, seconds, workers).makespan <= (2 - 1 / workers) * lower_bound(needs, seconds, workers)


@given(graphs(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_knowing_how_long_stages_take_it_is_as_sound(needs, workers, random):
    seconds = {name: random.choice([0.5, 1.0, 4.0]) for name in needs}
    ran = simulate(list(needs), needs, seconds, workers, seconds)
    assert sorted(ran.started) == sorted(needs)
    assert all(ran.ended[other] <= ran.started[name] for name, others in needs.items() for other in others)
    assert ran.makespan <= (2 - 1 / workers) * lower_bound(needs, seconds, workers) + 1e-9


def test_the_head_of_the_longest_chain_starts_first():
    needs = {"short": (), "other": (), "head": (), "tail": ("head",)}
    seconds = {"short": 3.0, "other": 3.0, "head": 3.0, "tail": 6.0}
    assert list(simulate(list(needs), needs, seconds, 1, seconds).started) == ["head", "tail", "short", "other"]
    assert simulate(list(needs), needs, seconds, 2).makespan == 12.0
    assert simulate(list(needs), needs, seconds, 2, seconds).makespan == 9.0 == lower_bound(needs, seconds, 2)


def test_of_equal_chains_the_first_of_the_plan_starts_first():
    needs = {"b": (), "a": (), "c": ("b",), "d": ("a",)}
    ran = simulate(list(needs), needs, dict.fromkeys(needs, 1.0), 1, dict.fromkeys(needs, 1.0))
    assert list(ran.started) == ["b", "a", "c", "d"]


def test_alone_it_keeps_the_order_of_the_plan():
    needs = {"c": ("a",), "a": (), "b": (), "d": ("b",)}
    ready, given_out = Ready(["a", "b", "c", "d"], needs), []
    while (name := ready.take()) is not None:
        given_out.append(name)
        ready.ended(name)
    assert given_out == ["a", "b", "c", "d"]


def test_what_is_needed_from_outside_the_plan_is_there():
    assert Ready(["b"], {"b": ("a",)}).take() == "b"


def test_a_chain_of_thousands_needs_no_recursion():
    names = [f"s{n}" for n in range(5000)]
    needs = {names[0]: (), **{after: (before,) for before, after in pairwise(names)}}
    assert simulate(names, needs, dict.fromkeys(names, 1.0), 3).makespan == 5000
