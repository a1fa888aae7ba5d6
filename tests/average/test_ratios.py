"""Ratios: in [0, 1], with the given mean, for any s; equal at the start; differentiable where the cap is active."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.average.ratios import penalty, project, ratios, reachable, simplex, start
from tasks.runtime.params import UserError

S = st.lists(st.floats(-40, 40), min_size=1, max_size=8)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(S, st.floats(0, 1), st.floats(0, 2))
@example([40.0, -40.0, -40.0], 0.6, 0.2)
@example([40.0, -40.0], 1.0, 0.0)
@example([40.0, -40.0], 0.0, 0.0)
def test_every_ratio_lies_between_0_and_1_and_their_mean_is_the_target(s, w_pre, eps):
    w_K = ratios(vector(*s), w_pre, eps)
    assert ((w_K >= 0) & (w_K <= 1)).all()
    assert w_K.mean().item() == pytest.approx(w_pre, abs=1e-9)


@pytest.mark.parametrize(("eps", "least", "most"), [(1.0, 0.6, 1.5), (0.2, 0.23, 2.25), (0.0, 0.0, 3.0)])
def test_the_range_of_three_parts_is_the_published_one(eps, least, most):
    """In units of the mean; without the factor K it would be a third of it."""
    up, down = (ratios(vector(s, -s, -s), 0.1, eps) / 0.1 for s in (40.0, -40.0))
    assert up[0].item() == pytest.approx(most, abs=0.005)
    assert down[0].item() == pytest.approx(least, abs=0.005)


def test_the_cap_moves_what_is_cut_off_to_the_others():
    assert project(vector(1.35, 0.225, 0.225), 0.6).tolist() == pytest.approx([1.0, 0.4, 0.4], abs=1e-12)
    assert ratios(vector(40, -40, -40), 0.6, 0.2).tolist() == pytest.approx([1.0, 0.4, 0.4], abs=1e-12)


@given(st.lists(st.floats(-1, 2), min_size=2, max_size=6), st.floats(0.05, 0.95))
def test_the_projection_is_the_nearest_feasible_point(w, w_pre):
    """Second way: no move of weight from one part to another that stays in the box comes nearer."""
    given_K = vector(*w)
    near_K = project(given_K, w_pre)
    distance = (near_K - given_K).square().sum()
    for source in range(len(w)):
        for sink in range(len(w)):
            moved_K = near_K.clone()
            moved_K[source] -= 1e-4
            moved_K[sink] += 1e-4
            if ((moved_K >= 0) & (moved_K <= 1)).all():
                assert (moved_K - given_K).square().sum() >= distance - 1e-12


@pytest.mark.parametrize("w_pre", [0.0, 0.2, 0.6, 1.0])
def test_a_feasible_point_stays_where_it_is(w_pre):
    point = vector(w_pre, w_pre * 0.5, min(1.0, w_pre * 1.5))
    mean = point.mean().item()
    torch.testing.assert_close(project(point, mean), point, rtol=0, atol=1e-12)


@pytest.mark.parametrize("w_pre", [-0.1, 1.1])
def test_a_mean_that_no_ratios_have_is_refused(w_pre):
    with pytest.raises(UserError, match="no ratios between 0 and 1 have the mean"):
        project(vector(0.2, 0.4), w_pre)


@pytest.mark.parametrize(("s", "w_pre"), [((0.3, -1.0, 0.8), 0.3), ((4.0, -1.0, -2.0), 0.6), ((3.0, 3.5, -4.0), 0.7)])
def test_gradients_are_those_of_finite_differences_also_under_the_cap(s, w_pre):
    assert torch.autograd.gradcheck(lambda s_K: ratios(s_K, w_pre, 0.2), vector(*s).requires_grad_(True))


@pytest.mark.parametrize("w_pre", [0.1, 0.37, 0.9])
def test_the_start_is_uniform(w_pre):
    assert ratios(start(w_pre, 5), w_pre, 0.2).tolist() == pytest.approx([w_pre] * 5, abs=1e-15)
    assert torch.sigmoid(start(w_pre, 5)).tolist() == pytest.approx([w_pre] * 5)


def test_the_regulariser_counts_every_part_once():
    assert penalty(vector(0.1, 0.2, 0.6), 0.3, "absolute").item() == pytest.approx(0.6)
    assert penalty(vector(0.1, 0.2, 0.6), 0.3, "square").item() == pytest.approx(0.14)


@pytest.mark.parametrize(("w_pre", "points"), [(0.1, 10), (0.2, 28), (0.3, 55), (0.4, 82), (0.5, 91)])
def test_the_grid_has_every_point_of_the_mean_once(w_pre, points):
    found = list(simplex(w_pre, 3, 0.1))
    assert len(found) == len({tuple(w) for w in found}) == points
    assert all(sum(w) == pytest.approx(3 * w_pre) and 0 <= min(w) <= max(w) <= 1 for w in found)


@pytest.mark.parametrize(("w_pre", "step"), [(0.25, 0.1), (0.2, 0.3)])
def test_a_grid_without_the_mean_is_refused(w_pre, step):
    with pytest.raises(UserError, match="choose another grid_step"):
        list(simplex(w_pre, 3, step))


@given(S.filter(lambda s: len(s) > 1), st.floats(0.05, 1), st.floats(0.01, 1))
def test_what_the_ratios_give_is_reachable_up_to_rounding(s, w_pre, eps):
    w = ratios(vector(*s), w_pre, eps).tolist()
    assert reachable(w, eps * (1 - 1e-6))


def test_eps_bounds_what_is_reachable():
    assert reachable([0.1, 0.3, 0.5], 0.2)
    assert not reachable([0.1, 0.3, 0.7], 0.2)
    assert not reachable([0.0, 0.3, 0.3], 0.0)
