"""The pure functions that everything else stands on."""

import math

import numpy as np
import pytest
import torch
from reference import slow

from reverie import ops

LARGEST_UNIFORM = 1 - 2**-24  # what torch.rand can give at most in float32: 0.99999994


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------------ symlog and symexp


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.0, 0.0), (math.e - 1, 1.0), (1 - math.e, -1.0), (99.0, math.log(100)), (-999.0, -math.log(1000))],
)
def test_symlog_has_the_values_of_its_formula(x, expected):
    assert ops.symlog(torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)
    assert slow.symlog(x) == pytest.approx(expected, abs=1e-12)


def test_symexp_undoes_symlog_over_many_magnitudes():
    x = torch.cat([s * torch.logspace(-6, 6, 200, dtype=torch.float64) for s in (-1.0, 1.0)])
    torch.testing.assert_close(ops.symexp(ops.symlog(x)), x, rtol=1e-9, atol=0)


@pytest.mark.parametrize("x", [-20.0, -1.0, 1e-6, 3.0])
def test_symlog_slope_is_one_over_one_plus_magnitude(x):
    """d/dx ln(1 + x) = 1 / (1 + x); the same on the negative side, so small values pass unsquashed."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    ops.symlog(leaf).backward()
    assert leaf.grad.item() == pytest.approx(1 / (1 + abs(x)), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "squashed", "planned"),
    [("symlog", math.log(3), 2.0), ("tanh", math.tanh(2), math.tanh(2)), ("sign", 1.0, 1.0), ("none", 2.0, 2.0)],
)
def test_reward_transform_learns_and_plans_in_the_documented_space(name, squashed, planned):
    """A reward of 2: symlog is undone for planning; tanh and sign are not, as in the released code
    (implementation-details.md#imagination)."""
    squash, unsquash = ops.SCALAR_TRANSFORMS[name]
    target = squash(torch.tensor(2.0))
    assert target.item() == pytest.approx(squashed, rel=1e-6)
    assert unsquash(target).item() == pytest.approx(planned, rel=1e-6)


# ---------------------------------------------------------- discrete draws (implementation-details.md#straight-through)


def test_straight_through_value_is_exactly_the_sample():
    """Exactly, not to rounding: sample + probs - probs.detach() in another order is off by 6e-8 now and then."""
    probs = torch.rand(2000, 32).softmax(-1).requires_grad_()
    sample = torch.eye(32)[torch.arange(2000) % 32]
    assert torch.equal(ops.straight_through(sample, probs), sample)


def test_straight_through_gradient_is_that_of_the_probabilities():
    """d sum(c z) / d probs = c; through the softmax d / d logits = p (c - p.c), the sample playing no part."""
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    c = torch.randn(5, 4, dtype=torch.float64)
    probs = logits.softmax(-1)
    probs.retain_grad()
    sample = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 0])].requires_grad_()
    (ops.straight_through(sample.detach(), probs) * c).sum().backward()
    p = slow.softmax(logits.detach().numpy())
    torch.testing.assert_close(probs.grad, c, rtol=0, atol=0)
    expected = p * (c.numpy() - (p * c.numpy()).sum(-1, keepdims=True))
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)


def test_sample_index_draws_each_class_as_often_as_its_probability():
    """Evenly spaced noise must give exactly even shares: 1000, 2000, 3000, 4000 of 10000, up to one at each border."""
    uniform = (torch.arange(10000) + 0.5) / 10000
    index = ops.sample_index(torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(10000, 4), uniform)
    counts = torch.bincount(index, minlength=4)
    assert (counts - torch.tensor([1000, 2000, 3000, 4000])).abs().max() <= 1


def test_sample_index_inverts_the_cumulative_distribution():
    """Borders at 0.25 and 0.75, each belonging to the class above it."""
    probs = torch.tensor([0.25, 0.5, 0.25]).expand(6, 3)
    uniform = torch.tensor([0.0, 0.24, 0.25, 0.74, 0.75, LARGEST_UNIFORM])
    assert ops.sample_index(probs, uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_sample_index_does_not_need_probabilities_that_sum_to_one():
    probs, uniform = torch.rand(500, 7), torch.rand(500)
    assert torch.equal(ops.sample_index(probs / 4, uniform), ops.sample_index(probs, uniform))


@pytest.mark.parametrize("noise", [0.0, 0.5, LARGEST_UNIFORM])
@pytest.mark.parametrize("zeros", [[0], [3], [0, 3], [1, 2], [0, 1, 3]], ids=str)
def test_a_class_of_probability_zero_is_never_drawn(noise, zeros):
    """At the first, at the last place and in between, also for the smallest and the largest noise there is."""
    probs = torch.rand(300, 4) + 0.01
    probs[:, zeros] = 0
    probs = probs / probs.sum(-1, keepdim=True)
    index = ops.sample_index(probs, torch.full((300,), noise))
    assert (probs.gather(-1, index[:, None]) > 0).all()


def test_the_largest_noise_stays_inside_the_classes():
    """The sum of 32 float32 probabilities is below 1 now and then; the index must not become 32."""
    probs = torch.randn(5000, 32).softmax(-1)
    assert (probs.cumsum(-1)[:, -1] < 1).any(), "the case that this test is about does not occur"
    assert ops.sample_index(probs, torch.full((5000,), LARGEST_UNIFORM)).max() <= 31


def test_one_hot_sample_is_exactly_one_hot_of_the_drawn_index():
    probs, uniform = torch.randn(400, 3, 5).softmax(-1).requires_grad_(), torch.rand(400, 3)
    expected = torch.eye(5)[ops.sample_index(probs.detach(), uniform)]
    assert torch.equal(ops.one_hot_sample(probs, uniform), expected)


@pytest.mark.parametrize("draw", [lambda p: ops.one_hot_sample(p, torch.tensor([0.7, 0.1])), ops.one_hot_mode])
def test_one_hot_draws_carry_the_gradient_of_the_probabilities(draw):
    probs = torch.tensor([[0.2, 0.8], [0.6, 0.4]], requires_grad=True)
    c = torch.tensor([[1.0, -2.0], [3.0, 5.0]])
    (draw(probs) * c).sum().backward()
    assert torch.equal(probs.grad, c)


def test_one_hot_mode_is_the_most_likely_class():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    assert ops.one_hot_mode(probs).tolist() == [[0, 1, 0], [1, 0, 0]]


# ------------------------------------------------------------------------------------------------------- the others


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
def test_reset_where_erases_even_nan_and_only_the_marked_rows(shape):
    x = torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    kept = x.clone()
    x[1] = math.nan
    out = ops.reset_where(torch.tensor([False, True, False]), x)
    assert torch.equal(out[1], torch.zeros_like(kept[1]))
    assert torch.equal(out[[0, 2]], kept[[0, 2]])
    assert x[1].isnan().all(), "the argument was changed"


def test_reset_where_cuts_the_gradient_of_marked_rows_only():
    x = torch.tensor([[1.0, 2.0], [math.nan, 3.0]], requires_grad=True)
    ops.reset_where(torch.tensor([False, True]), x).sum().backward()
    assert x.grad.tolist() == [[1, 1], [0, 0]]


def test_over_time_walks_along_the_second_axis():
    a, b = torch.arange(6).reshape(2, 3), torch.arange(12).reshape(2, 3, 2)
    steps = list(ops.over_time(a, b))
    assert len(steps) == 3
    assert steps[1][0].tolist() == [1, 4]
    assert steps[1][1].tolist() == [[2, 3], [8, 9]]


@pytest.mark.parametrize(("event_dims", "shape", "numbers"), [(0, (2,), 1), (1, (2,), 3), (3, (2,), 3 * 4 * 5)])
def test_squared_error_is_half_the_square_summed_over_the_event(event_dims, shape, numbers):
    """A constant error e over n numbers costs n e^2 / 2: summed, not averaged (implementation-details.md#b19)."""
    event = {0: (), 1: (3,), 3: (3, 4, 5)}[event_dims]
    out = ops.squared_error(torch.full((*shape, *event), 1.5), torch.ones(*shape, *event), event_dims=event_dims)
    torch.testing.assert_close(out, torch.full(shape, numbers * 0.5 * 0.25))


def test_squared_error_is_float32_for_half_precision_predictions():
    """1000.5 - 1000 = 0.5 survives only if the difference is taken in float32 (bfloat16 has 8 bits)."""
    out = ops.squared_error(torch.tensor([1000.0], dtype=torch.bfloat16), torch.tensor([1000.5]), event_dims=0)
    assert out.dtype == torch.float32
    assert out.item() == 0.125


def test_two_hot_cross_entropy_equals_the_sum_over_all_bins():
    bins = (torch.arange(255) - 127.0) * (20 / 127)
    x = torch.cat([torch.linspace(-25, 25, 401), bins]).reshape(2, -1)
    log_probs = torch.randn(*x.shape, 255).log_softmax(-1)
    votes = np.array([slow.two_hot(float(value), bins.numpy().astype(float)) for value in x.ravel()]).reshape(
        log_probs.shape
    )
    dense = -(torch.from_numpy(votes) * log_probs).sum(-1)
    assert torch.allclose(ops.two_hot_nll(log_probs, x, bins).double(), dense, atol=1e-4)


def test_rows_draw_anew_at_their_own_rates():
    """The first row at every step, the last at one of eight, the others between."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.stack([ops.renewed(torch.rand(4, generator=generator), 8.0).float() for _ in range(20000)]).mean(0)
    assert rates.tolist() == pytest.approx([1.0, 0.5, 0.25, 0.125], abs=0.015)
    assert ops.renewed(torch.tensor([0.34]), 8.0).tolist() == [True]  # one row: between the two
    assert ops.renewed(torch.tensor([0.36]), 8.0).tolist() == [False]
    assert ops.renewed(torch.rand(5), 1.0).all()
