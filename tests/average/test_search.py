"""The search: it moves, in bounds, towards ratios known to be right; the uniform start is a floor; the grid agrees."""

import random
from dataclasses import replace

import pytest
import torch

from tasks.average.likelihood import encode, logprob, negative_logprob
from tasks.average.merged import Merged
from tasks.average.ratios import ratios, reachable, start
from tasks.average.search import Proxy, SearchParams, Space, best, grid, search, update
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tests.average.world import BOUNDS, RIGHT, examples, pair
from tests.tiny import word_tokenizer

FEW = {"learning_rate": 0.1, "batch": 48, "check_every": 5, "validation": 0.1, "patience": 100}
HALF = Space(0.5, BOUNDS)


@pytest.fixture(scope="module")
def merged():
    return Merged(*pair(), BOUNDS)


@pytest.fixture(scope="module")
def proxy():
    return Proxy.of(examples(*pair()), 0.1, random.Random(0))


@pytest.fixture(scope="module")
def points(merged, proxy):
    return search(merged, proxy, HALF, SearchParams(**FEW, steps=40), random.Random(0))


def test_the_parts_differ_after_twenty_steps_in_the_order_that_is_right(points):
    at_20 = next(point for point in points if point.step == 20)
    assert at_20.w[0] < at_20.w[1] < at_20.w[2]
    assert max(at_20.w) - min(at_20.w) > 0.3


def test_it_finds_the_ratios_that_the_answers_come_from(points):
    """The answers were sampled from the merge with these, so their likelihood is highest there but for the sample's noise."""
    assert best(points).w == pytest.approx(RIGHT, abs=0.15)
    assert best(points).proxy_ll > points[0].proxy_ll + 0.1


def test_every_point_has_the_mean_and_lies_in_the_box(points):
    for point in points:
        assert sum(point.w) / 3 == pytest.approx(0.5, abs=1e-6)
        assert all(0 <= w <= 1 for w in point.w)


def test_it_is_no_worse_than_the_best_point_of_the_grid_that_it_can_reach(merged, proxy, points):
    tried = grid(merged, proxy, HALF, 0.1, 48)
    assert len(tried) == 91
    best_within = max(value for w, value in tried if reachable(w, 0.2))
    assert best(points).proxy_ll >= best_within - 0.02  # nats per answer of about 30: the search ends within 0.1 of a ratio


def test_the_start_is_uniform_and_a_floor_when_every_step_is_wrong(merged, proxy):
    """Answers that the uniform merge itself gives leave nothing to gain, and a huge rate overshoots."""
    for seed in range(2):
        wild = search(merged, proxy, HALF, SearchParams(**FEW | {"learning_rate": 1.0, "batch": 1}, steps=6), random.Random(seed))
        assert wild[0].w == [0.5, 0.5, 0.5]
        assert best(wild).proxy_ll >= wild[0].proxy_ll
    worse = [replace(wild[0], step=1, objective=wild[0].objective - 1), replace(wild[0], step=2)]
    assert best([wild[0], *worse]).step == 0


def test_one_step_moves_each_number_by_about_the_rate_and_the_next_forward_sees_it(merged, proxy):
    params = SearchParams(**FEW)
    s_K = start(0.5, 3).requires_grad_(True)
    optimizer = torch.optim.Adam([s_K], lr=params.learning_rate)
    assert [parameter.numel() for group in optimizer.param_groups for parameter in group["params"]] == [3]
    losses, seen = [], []
    for _ in range(2):
        losses.append(update(merged, proxy.fit[:32], HALF, params, s_K, optimizer))
        seen.append(merged._ratios["model.layers.0.mlp.up_proj.weight"])
    assert seen[0] == 0.5 > seen[1]  # the first part is the one to go down
    assert losses[1] < losses[0]
    first = search(merged, proxy, HALF, SearchParams(**FEW | {"check_every": 1}, steps=1), random.Random(0))[1]
    assert 0 < first.movement <= 0.1 * 1.001


def test_the_live_numbers_decide_the_logits(merged):
    ids = torch.arange(4, 16)[None]
    logits = []
    for s in ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)):
        merged.set(HALF.recipe(ratios(torch.tensor(s, dtype=torch.float64), 0.5, 0.2).tolist()))
        with torch.no_grad():
            logits.append(merged.model(ids).logits)
    assert torch.equal(logits[0], logits[1])
    assert (logits[2] - logits[0]).abs().max() > 0.01


def test_prompt_labels_do_not_count(merged, proxy):
    """Whatever a prompt's tokens are labelled is masked by `encode`; a loss over the prompts would be another one."""
    merged.set(HALF.recipe(HALF.uniform))
    ids, labels = proxy.fit[0]
    assert list(labels[:2]) == [IGNORED, IGNORED]
    assert list(labels[2:]) == list(ids[2:])
    with torch.no_grad():
        logprobs = merged.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        answer = sum(logprobs[place - 1, ids[place]].item() for place in range(2, len(ids)))
        assert -negative_logprob(merged.model, [proxy.fit[0]]).item() == pytest.approx(answer, rel=1e-5)
        assert -negative_logprob(merged.model, [(ids, ids)]).item() != pytest.approx(answer, rel=1e-3)


def test_the_likelihood_of_many_answers_is_the_mean_of_each(merged, proxy):
    each = [logprob(merged.model, [example], 1) for example in proxy.fit[:7]]
    assert logprob(merged.model, proxy.fit[:7], 3) == pytest.approx(sum(each) / 7, rel=1e-5)


@pytest.mark.parametrize("penalty", ["absolute", "square"])
def test_a_strong_regulariser_keeps_the_ratios_at_their_mean(merged, proxy, points, penalty):
    held = search(merged, proxy, HALF, SearchParams(**FEW, steps=10, reg=1e3, penalty=penalty), random.Random(0))
    assert max(abs(w - 0.5) for w in best(held).w) < 0.02
    assert best(held).proxy_ll >= points[0].proxy_ll


@pytest.mark.parametrize("w_pre", [0.0, 1.0])
def test_where_only_one_point_has_the_mean_nothing_is_searched(merged, proxy, w_pre):
    found = search(merged, proxy, Space(w_pre, BOUNDS), SearchParams(**FEW), random.Random(0))
    assert [point.w for point in found] == [[w_pre] * 3]


def test_one_part_is_homogeneous_averaging(proxy):
    whole = Space(0.3, [0, 3])
    found = search(Merged(*pair(), [0, 3]), proxy, whole, SearchParams(**FEW), random.Random(0))
    assert [point.w for point in found] == [[0.3]]


def test_it_ends_when_the_held_answers_gain_nothing(merged, proxy):
    params = SearchParams(**FEW | {"patience": 2, "check_every": 1}, steps=50, flat=1e6)
    assert [point.step for point in search(merged, proxy, HALF, params, random.Random(0))] == [0, 1, 2]


def test_the_fitted_and_the_held_answers_are_different_ones():
    some = [([number], [number]) for number in range(10)]
    proxy = Proxy.of(some, 0.2, random.Random(0))
    assert (len(proxy.fit), len(proxy.held)) == (8, 2)
    assert sorted([*proxy.fit, *proxy.held]) == some
    alone = Proxy.of(some[:1], 0.9, random.Random(0))
    assert list(alone.fit) == list(alone.held) == some[:1]


def test_a_projected_search_keeps_the_mean(merged, proxy):
    """At a mean of 0.8 the cap is active as soon as the parts differ much."""
    params = SearchParams(**FEW | {"learning_rate": 1.0}, steps=10)
    found = search(merged, proxy, Space(0.8, BOUNDS), params, random.Random(0))
    assert max(max(point.w) for point in found) == 1.0
    assert all(sum(point.w) / 3 == pytest.approx(0.8, abs=1e-6) for point in found)


def test_an_answer_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match="have 12 tokens, the model's context is 10"):
        encode(word_tokenizer(), [("w1 w2", " ".join(["w3"] * 9))], 10)
