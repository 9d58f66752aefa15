"""Returns, weights, policies and the two losses of behaviour learning."""

import inspect
import math

import numpy as np
import pytest
import torch
from reference import slow
from torch.distributions import Independent, Normal, OneHotCategorical, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from reverie import actor_critic
from reverie.actor_critic import (
    Actor,
    Critic,
    EntropyWeight,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_lambda_returns,
)
from reverie.distributions import (
    POLICIES,
    OneHotPolicy,
    Part,
    ReleasedTruncatedNormalPolicy,
    TanhNormalPolicy,
    TruncatedNormalPolicy,
    entropy_range,
    entropy_share,
    make_policy,
    policy_noise,
    stats_dim,
)
from reverie.layers import MLPOptions

N, H, A = 5, 6, 3


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def even_noise(count):
    """Evenly spaced in (0, 1): a sample from it has no chance in it."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# ----------------------------------------------------------------------------------------------- lambda-returns (1.11)


def test_lambda_returns_of_the_hand_example():
    """implementation-details.md#fingerprints, gamma 0.9, lambda 0.95, r = [0, 0, 1], v = [.5, .4, .3], bootstrap 2, the
    end after state 2:

    G_2 = 1 + 0 = 1;  G_1 = 0.9 (0.05 * 0.3 + 0.95 * 1) = 0.8685;  G_0 = 0.9 (0.05 * 0.4 + 0.95 * 0.8685) = 0.7605675.
    """
    returns = compute_lambda_returns(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.5, 0.4, 0.3, 2.0]]),
        torch.tensor([[1.0, 1.0, 0.0]]),
        gamma=0.9,
        lambda_=0.95,
    )
    assert returns[0].tolist() == pytest.approx([0.7605675, 0.8685, 1.0], abs=1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_lambda_returns_equal_the_recursion_and_the_forward_view(lambda_):
    """The forward view is the definition: a mixture of n-step returns. It shares no line with the recursion."""
    rewards, values, continues = randn(N, H), randn(N, H + 1, seed=1), rand(N, H, seed=2)
    returns = compute_lambda_returns(rewards, values, continues, gamma=0.97, lambda_=lambda_)
    for n in range(N):
        arguments = (rewards[n].tolist(), values[n].tolist(), (0.97 * continues[n].double()).tolist(), lambda_)
        np.testing.assert_allclose(returns[n].numpy(), slow.lambda_return(*arguments), atol=1e-5)
        np.testing.assert_allclose(returns[n].numpy(), slow.lambda_return_forward(*arguments), atol=1e-5)


def test_lambda_zero_is_the_one_step_target():
    """G_k = r_k + gamma c_k v_{k+1}; implementation-details.md#b5: v_{k+2} or r_{k+1} in its place must fail."""
    rewards, values, continues = randn(N, H), randn(N, H + 1, seed=1), rand(N, H, seed=2)
    returns = compute_lambda_returns(rewards, values, continues, gamma=0.9, lambda_=0.0)
    torch.testing.assert_close(returns, rewards + 0.9 * continues * values[:, 1:])


def test_lambda_one_is_the_discounted_sum_with_the_bootstrap_and_no_other_value():
    """sum of gamma^i r_{k+i}, plus gamma^(H-k) v_H; the values before the last play no part."""
    rewards, values = randn(N, H), randn(N, H + 1, seed=1)
    returns = compute_lambda_returns(rewards, values, torch.ones(N, H), gamma=0.9, lambda_=1.0)
    for k in range(H):
        powers = 0.9 ** torch.arange(H - k)
        torch.testing.assert_close(returns[:, k], (rewards[:, k:] * powers).sum(1) + 0.9 ** (H - k) * values[:, -1])


@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_nothing_after_a_terminal_state_counts(lambda_):
    """continue 0 at state 2: G_2 = r_2, and G_0..G_2 ignore all later rewards and all values after state 2."""
    rewards, values, continues = randn(1, H), randn(1, H + 1, seed=1), torch.ones(1, H)
    continues[0, 2] = 0
    returns = compute_lambda_returns(rewards, values, continues, lambda_=lambda_)
    assert returns[0, 2] == rewards[0, 2]
    rewards[:, 3:], values[:, 3:] = 1e6, -1e6
    assert torch.equal(compute_lambda_returns(rewards, values, continues, lambda_=lambda_)[:, :3], returns[:, :3])


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_the_true_value_is_a_fixed_point(lambda_):
    """Constant reward 1 for ever is worth 1 / (1 - gamma) = 100: then every target is 100, at any lambda."""
    values = torch.full((1, H + 1), 100.0)
    returns = compute_lambda_returns(torch.ones(1, H), values, torch.ones(1, H), gamma=0.99, lambda_=lambda_)
    torch.testing.assert_close(returns, values[:, :-1])


def test_the_released_numbers_are_the_defaults():
    """gamma 0.99 and lambda 0.95 (design document)."""
    parts = randn(N, H), randn(N, H + 1, seed=1), rand(N, H, seed=2)
    assert torch.equal(compute_lambda_returns(*parts), compute_lambda_returns(*parts, gamma=0.99, lambda_=0.95))
    assert torch.equal(compute_discount_weights(parts[2]), compute_discount_weights(parts[2], gamma=0.99))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3), (2, 3)), ((2, 3), (2, 4), (2, 4)), ((2, 4), (2, 4), (2, 3))])
def test_values_without_their_bootstrap_are_a_shape_error(shapes):
    with pytest.raises(ValueError, match=r"values \(N, H \+ 1\)"):
        compute_lambda_returns(*(torch.zeros(shape) for shape in shapes))


def test_gradients_flow_through_rewards_values_and_continues():
    """Dynamics gradients need all three (implementation-details.md#actor-loss). With lambda 1 the values before the
    last have none, by 1.11."""
    parts = [x.requires_grad_() for x in (randn(N, H), randn(N, H + 1, seed=1), rand(N, H, seed=2))]
    gradients = torch.autograd.grad(compute_lambda_returns(*parts).sum(), parts)
    assert (gradients[0] > 0).all()
    assert torch.equal(gradients[1][:, 0], torch.zeros(N)), "v_0 is in no target"
    assert (gradients[1][:, 1:] > 0).all()
    assert (gradients[2] != 0).all()


# ------------------------------------------------------------------------------------------- discount weights (1.10)


def test_discount_weights_of_the_hand_example():
    """implementation-details.md#fingerprints: d = [.9, .8, 0, .7] -> [1, .9, .72, 0]; with gamma 0.5 every step halves
    on top."""
    continues = torch.tensor([[0.9, 0.8, 0.0, 0.7]])
    assert compute_discount_weights(continues, gamma=1.0)[0].tolist() == pytest.approx([1, 0.9, 0.72, 0])
    assert compute_discount_weights(continues, gamma=0.5)[0].tolist() == pytest.approx([1, 0.45, 0.18, 0])


def test_discount_weights_equal_the_reference():
    continues = rand(N, H)
    weights = compute_discount_weights(continues, gamma=0.9)
    for row, expected in zip(weights, continues, strict=True):
        np.testing.assert_allclose(row.numpy(), slow.discount_weights(0.9 * expected.numpy()), rtol=1e-5)


def test_the_action_that_ends_the_episode_still_counts():
    """implementation-details.md#b6: the terminal state 2 has weight gamma^2, the action that led to it gamma; what
    follows 0."""
    weights = compute_discount_weights(torch.tensor([[1.0, 1.0, 0.0, 1.0]]), gamma=0.9)
    assert weights[0].tolist() == pytest.approx([1, 0.9, 0.81, 0])


def test_discount_weights_carry_no_gradient():
    assert not compute_discount_weights(rand(N, H).requires_grad_()).requires_grad


# ------------------------------------------------------------------------------------------------- discrete policies


def test_onehot_log_prob_and_entropy_equal_torch():
    logits, action = 2 * randn(N, H, A), torch.eye(A)[torch.arange(N * H).reshape(N, H) % A]
    policy, reference = OneHotPolicy(logits), OneHotCategorical(logits=logits)
    torch.testing.assert_close(policy.log_prob(action), reference.log_prob(action))
    torch.testing.assert_close(policy.entropy(), reference.entropy())


def test_onehot_entropy_of_a_new_actor_is_about_ln_a():
    """implementation-details.md#fingerprints: 2.89 nats for 18 actions."""
    assert OneHotPolicy(torch.zeros(18)).entropy().item() == pytest.approx(math.log(18), abs=1e-6)


def test_onehot_samples_follow_the_probabilities_and_are_one_hot():
    """Evenly spaced noise gives even shares: 2000, 5000 and 3000 of 10000."""
    policy = OneHotPolicy(torch.tensor([0.2, 0.5, 0.3]).log().expand(10000, 3))
    sample = policy.sample(even_noise(10000).float())
    assert (sample.sum(0) - torch.tensor([2000.0, 5000.0, 3000.0])).abs().max() <= 1
    assert set(sample.unique().tolist()) == {0.0, 1.0}


def test_onehot_samples_carry_the_gradient_of_the_probabilities():
    """implementation-details.md#b7: without it dynamics gradients would leave a discrete actor with its entropy term
    only."""
    logits, c = randn(4, A).double().requires_grad_(), randn(4, A, seed=1)
    (OneHotPolicy(logits).sample(rand(4)) * c).sum().backward()
    p = slow.softmax(logits.detach().numpy())
    expected = p * (c.numpy() - (p * c.numpy()).sum(-1, keepdims=True))
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-6)


def test_onehot_mode_is_the_most_likely_action():
    assert OneHotPolicy(torch.tensor([[0.1, 3.0, 2.0], [5.0, 0.0, 1.0]])).mode().tolist() == [[0, 1, 0], [1, 0, 0]]


# ----------------------------------------------------------------------------------------------- continuous policies

RAW = [(0.0, 0.0), (0.7, -2.0), (-1.5, 1.0), (2.5, -6.0), (-0.4, 8.0)]  # mean and scale as the network gives them


def std_of(raw):
    """implementation-details.md#actor-loss."""
    return float(2 * slow.sigmoid(raw / 2) + 0.1)


def truncated(pairs=RAW):
    return TruncatedNormalPolicy(torch.tensor([[m for m, _ in pairs], [s for _, s in pairs]]).flatten())


@pytest.mark.parametrize(("raw", "std"), [(-200.0, 0.1), (0.0, 1.1), (200.0, 2.1)])
def test_continuous_policies_have_a_scale_between_a_tenth_and_2_1(raw, std):
    for kind in (TruncatedNormalPolicy, TanhNormalPolicy):
        assert kind(torch.tensor([0.3, raw])).std.item() == pytest.approx(std)


@pytest.mark.parametrize("x", [-0.999, -0.3, 0.0, 0.8])
@pytest.mark.parametrize(("m", "s"), RAW)
def test_truncated_normal_log_prob_equals_the_reference(m, s, x):
    policy = TruncatedNormalPolicy(torch.tensor([m, s]))
    expected = slow.truncated_normal_log_prob(x, math.tanh(m), std_of(s))
    assert policy.log_prob(torch.tensor([x])).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("m", "s"), RAW)
def test_truncated_normal_entropy_equals_the_integral(m, s):
    entropy = TruncatedNormalPolicy(torch.tensor([m, s])).entropy().item()
    assert entropy == pytest.approx(slow.truncated_normal_entropy(math.tanh(m), std_of(s)), abs=1e-4)


@pytest.mark.parametrize(("raw", "entropy"), [(0.0, 0.686), (200.0, 0.692), (-200.0, -0.884)])
def test_truncated_normal_entropy_has_the_published_numbers(raw, entropy):
    """implementation-details.md#continuous-actor: 0.686 at the start, -0.884 at std 0.1, at most ln 2 = 0.693."""
    value = TruncatedNormalPolicy(torch.tensor([0.0, raw])).entropy().item()
    assert value == pytest.approx(entropy, abs=1e-3)
    assert value < math.log(2)


@pytest.mark.parametrize(("m", "s"), RAW)
def test_truncated_normal_samples_invert_the_distribution_function(m, s):
    noise = [0.0001, 0.1, 0.5, 0.9, 0.9999]
    policy = TruncatedNormalPolicy(torch.tensor([m, s]).expand(len(noise), 2))
    sample = policy.sample(torch.tensor(noise)[:, None])
    assert sample.abs().max() < 1
    back = [slow.truncated_normal_cdf(x, math.tanh(m), std_of(s)) for x in sample[:, 0].double().tolist()]
    assert back == pytest.approx(noise, abs=1e-4)


@pytest.mark.parametrize("raw", [0.0, -200.0, 200.0])
@pytest.mark.parametrize("mean", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-24])
def test_truncated_normal_is_finite_and_inside_at_the_edges(mean, raw, noise):
    """Saturated means, smallest and largest scale, smallest and largest noise: values and gradients stay finite."""
    stats = torch.tensor([mean, raw], requires_grad=True)
    policy = TruncatedNormalPolicy(stats)
    sample = policy.sample(torch.tensor([noise]))
    assert sample.abs().item() < 1
    total = policy.log_prob(sample.detach()) + policy.entropy() + sample.sum()
    assert total.isfinite()
    assert torch.autograd.grad(total, stats)[0].isfinite().all()


def test_tanh_normal_log_prob_equals_torch():
    stats, action = randn(N, 2 * A), 0.99 * torch.tanh(randn(N, A, seed=1))
    policy = TanhNormalPolicy(stats)
    normal = Normal(5 * torch.tanh(stats[:, :A] / 5), 2 * torch.sigmoid(stats[:, A:] / 2) + 0.1)
    reference = Independent(TransformedDistribution(normal, [TanhTransform()]), 1)
    torch.testing.assert_close(policy.log_prob(action), reference.log_prob(action), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("m", "s"), RAW)
def test_tanh_normal_entropy_equals_the_integral(m, s):
    """15-point quadrature is exact to 0.001 nats for std up to 1 and to 0.01 up to its largest value, 2.1."""
    entropy = TanhNormalPolicy(torch.tensor([m, s])).entropy().item()
    tolerance = 1e-3 if std_of(s) < 1 else 1e-2
    assert entropy == pytest.approx(slow.tanh_normal_entropy(5 * math.tanh(m / 5), std_of(s)), abs=tolerance)


def test_tanh_normal_sample_is_the_squashed_gaussian():
    stats, noise = randn(N, 2 * A), randn(N, A, seed=1)
    policy = TanhNormalPolicy(stats)
    torch.testing.assert_close(policy.sample(noise), torch.tanh(policy.mean + policy.std * noise))
    torch.testing.assert_close(policy.mean, 5 * torch.tanh(stats[:, :A] / 5))


@pytest.mark.parametrize("kind", [TruncatedNormalPolicy, TanhNormalPolicy])
def test_continuous_densities_integrate_to_one_per_dimension(kind):
    """Also says that dimensions are multiplied: with two of them the double integral is 1."""
    policy = kind(torch.tensor([0.3, -0.8, -1.0, 0.0]))
    grid = (even_noise(400) * 2 - 1).float()
    points = torch.cartesian_prod(grid, grid)
    assert policy.log_prob(points).exp().mean().item() * 4 == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("kind", [TruncatedNormalPolicy, TanhNormalPolicy])
def test_continuous_sample_gradient_equals_the_finite_difference(kind):
    """Reparameterised (implementation-details.md#b8): with the noise held fixed the action moves with mean and
    scale."""
    stats, noise = torch.tensor([0.4, -0.6, -1.0, 1.5]), torch.tensor([0.3, 0.8])
    leaf = stats.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kind(leaf).sample(noise).sum(), leaf)
    for i in range(4):
        step = torch.zeros(4)
        step[i] = 1e-2
        difference = (kind(stats + step).sample(noise) - kind(stats - step).sample(noise)).sum().item() / 2e-2
        assert gradient[i].item() == pytest.approx(difference, abs=2e-3)
        assert abs(difference) > 1e-2


def test_gradient_passes_where_a_truncated_sample_is_clipped():
    """implementation-details.md#continuous-actor: clipped to +-(1 - 1e-6) with pass-through gradient. At mean -> 1 the
    largest noise meets the clip."""
    stats = torch.tensor([8.0, 0.0], requires_grad=True)
    sample = TruncatedNormalPolicy(stats).sample(torch.tensor([1 - 2**-24]))
    assert 0.9999 < sample.item() <= 1 - 1e-6 + 1e-7
    assert torch.autograd.grad(sample.sum(), stats)[0][1].abs() > 0


@pytest.mark.parametrize(("m", "s"), RAW)
def test_the_released_gradient_of_a_truncated_sample_ignores_the_cut(m, s):
    """As TensorFlow's op: d sample / d mean = 1, d sample / d std = (sample - mean) / std; the draws are the same."""
    stats = torch.tensor([m, s])
    noise = torch.tensor([0.1, 0.5, 0.8])[:, None]
    exact, released = (kind(stats.expand(3, 2)) for kind in (TruncatedNormalPolicy, ReleasedTruncatedNormalPolicy))
    assert torch.equal(exact.sample(noise), released.sample(noise))
    assert torch.equal(exact.entropy(), released.entropy())
    policy = ReleasedTruncatedNormalPolicy(stats.expand(3, 2))
    policy.mean, policy.std = policy.mean.detach().requires_grad_(), policy.std.detach().requires_grad_()
    sample = policy.sample(noise)
    to_mean, to_std = torch.autograd.grad(sample.sum(), [policy.mean, policy.std])
    assert torch.equal(to_mean, torch.ones(3, 1))
    torch.testing.assert_close(to_std, ((sample - policy.mean) / policy.std).detach(), rtol=1e-3, atol=1e-3)


def test_the_exact_gradient_to_the_mean_is_a_quarter_at_the_start():
    """At std 1.1, on average over the draws; 0.07 at 2.1: what the entropy's weight is compared with."""
    for raw, share in ((0.0, 0.25), (200.0, 0.07)):
        stats = torch.tensor([0.0, raw]).expand(1001, 2).clone().requires_grad_()
        sample = TruncatedNormalPolicy(stats).sample(even_noise(1001)[:, None].float())
        (gradient,) = torch.autograd.grad(sample.mean(), stats)
        assert gradient[:, 0].sum().item() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("kind", "mode"), [(TruncatedNormalPolicy, math.tanh(0.5)), (TanhNormalPolicy, None)])
def test_continuous_mode_is_the_centre(kind, mode):
    expected = math.tanh(5 * math.tanh(0.1)) if mode is None else mode
    assert kind(torch.tensor([0.5, 1.0])).mode().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_share_one_contract(name):
    """Shapes, own noise, given noise decides, float32 from half-precision statistics."""
    kind = POLICIES[name]
    policy = kind(randn(N, H, kind.stats_dim(A)).bfloat16())
    noise = policy.noise(torch.Generator().manual_seed(3))
    sample = policy.sample(noise)
    assert sample.shape == policy.mode().shape == (N, H, A)
    assert policy.log_prob(sample).shape == policy.entropy().shape == (N, H)
    assert policy.log_prob(sample).dtype == policy.entropy().dtype == sample.dtype == torch.float32
    assert torch.equal(sample, policy.sample(policy.noise(torch.Generator().manual_seed(3))))
    assert not torch.equal(policy.sample(), policy.sample())


@pytest.mark.parametrize("name", POLICIES)
def test_score_function_has_mean_zero(name):
    """E[d log pi(u) / d parameters] = 0 when u is drawn from pi: sampling and log_prob belong together.

    Over 20000 evenly spaced (uniform) or quantile (normal) noises of one dimension.
    """
    kind, size = POLICIES[name], 3 if name == "onehot" else 1
    stats = torch.tensor([0.5, -0.3, 0.1])[: kind.stats_dim(size)].requires_grad_()
    noise = even_noise(20000)
    noise = torch.special.ndtri(noise) if name == "tanh_normal" else noise
    policy = kind(stats.expand(20000, -1))
    action = policy.sample(noise.float() if name == "onehot" else noise.float()[:, None]).detach()
    (gradient,) = torch.autograd.grad(policy.log_prob(action).mean(), stats)
    assert gradient.abs().max() < 5e-3
    (single,) = torch.autograd.grad(kind(stats.expand(1, -1)).log_prob(action[:1]).sum(), stats)
    assert single.abs().max() > 0.1


def test_actor_and_critic_shapes():
    feat = randn(N, H, 11)
    for name, kind in POLICIES.items():
        assert Actor(11, A, policy=name, mlp=MLPOptions(1, 4))(feat).sample().shape == (N, H, A)
        assert isinstance(Actor(11, A, policy=name, mlp=MLPOptions(1, 4))(feat), kind)
    assert Critic(11, mlp=MLPOptions(1, 4))(feat).shape == (N, H)


def test_copied_critic_is_equal_and_independent():
    first, second = Critic(4, mlp=MLPOptions(1, 4)), Critic(4, mlp=MLPOptions(1, 4))
    second.copy_from(first)
    feat = randn(N, 4)
    assert torch.equal(first(feat), second(feat))
    with torch.no_grad():
        first.mlp[-1].bias += 1
    torch.testing.assert_close(first(feat), second(feat) + 1)


# -------------------------------------------------------------------------------------------------- actor loss (1.12)


def loss_parts(seed=0):
    """logits (N, H, A), action one-hot, targets, baseline, weights."""
    logits = randn(N, H, A, seed=seed).requires_grad_()
    action = torch.eye(A)[torch.randint(A, (N, H), generator=torch.Generator().manual_seed(seed))]
    return logits, action, randn(N, H, seed=seed + 1), randn(N, H, seed=seed + 2), rand(N, H, seed=seed + 3)


@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_actor_loss_equals_the_reference(mode):
    logits, action, targets, baseline, weights = loss_parts()
    policy = OneHotPolicy(logits)
    loss, metrics = compute_actor_loss(
        policy, action, targets, baseline, weights, actor_grad=mode, actor_grad_mix=0.3, entropy_scale=0.7
    )
    reference = OneHotCategorical(logits=logits.detach().double())
    parts = [x.double().numpy() for x in (reference.log_prob(action), reference.entropy(), targets, baseline, weights)]
    assert loss.item() == pytest.approx(slow.actor_loss(*parts, mode=mode, mix=0.3, entropy_scale=0.7), rel=1e-4)
    assert metrics["entropy"].item() == pytest.approx(parts[1].mean(), rel=1e-5)
    assert metrics["advantage"].item() == pytest.approx((parts[2] - parts[3]).mean(), abs=1e-6)


def test_reinforce_gradient_is_the_policy_gradient():
    """d -log pi(u) A / d logits = (p - u) A, by hand, weighted and averaged."""
    logits, action, targets, baseline, weights = loss_parts()
    loss, _ = compute_actor_loss(OneHotPolicy(logits), action, targets, baseline, weights, entropy_scale=0.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    scale = (weights * (targets - baseline) / (N * H))[..., None]
    torch.testing.assert_close(gradient, scale * (logits.detach().softmax(-1) - action))


def test_an_action_better_than_expected_becomes_more_likely():
    logits = torch.zeros(1, 2, A, requires_grad=True)
    action = torch.eye(A)[1].expand(1, 2, A)
    one = torch.ones(1, 2)
    loss, _ = compute_actor_loss(OneHotPolicy(logits), action, 2 * one, one, one, entropy_scale=0.0)
    step = -torch.autograd.grad(loss, logits)[0][0, 0]
    assert step[1] > 0 > step[0]


@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_which_gradients_the_actor_loss_lets_through(mode):
    """implementation-details.md#actor-loss, #a2. Never: the sampled action in the score (also in `both`), the baseline,
    the weights.

    The targets: not at all in reinforce, -w / (N H) in dynamics, `mix` of that in both.
    """
    logits, action, targets, baseline, weights = loss_parts()
    inputs = [x.clone().requires_grad_() for x in (action, targets, baseline, weights)]
    loss, _ = compute_actor_loss(OneHotPolicy(logits), *inputs, actor_grad=mode, actor_grad_mix=0.3, entropy_scale=0.1)
    to_logits, to_action, to_targets, *others = torch.autograd.grad(loss, [logits, *inputs], allow_unused=True)
    assert to_logits.abs().max() > 0
    assert to_action is None
    assert others == [None, None]
    share = {"reinforce": 0.0, "dynamics": 1.0, "both": 0.3}[mode]
    if mode == "reinforce":
        assert to_targets is None
    else:
        torch.testing.assert_close(to_targets, -share * weights / (N * H))


def test_score_of_a_sample_does_not_leak_into_earlier_steps():
    """implementation-details.md#a2: a straight-through action is a function of earlier logits; the score must not see
    that path."""
    earlier = randn(N, H, A, seed=9).requires_grad_()
    action = OneHotPolicy(earlier).sample()
    logits, _, targets, baseline, weights = loss_parts()
    loss, _ = compute_actor_loss(
        OneHotPolicy(logits), action, targets, baseline, weights, actor_grad="both", actor_grad_mix=0.1
    )
    assert torch.autograd.grad(loss, earlier, allow_unused=True)[0] is None


def test_dynamics_mode_uses_the_policy_for_its_entropy_only():
    """Without entropy its value is -mean(w G): log pi and the baseline play no part."""
    logits, action, targets, baseline, weights = loss_parts()
    loss, _ = compute_actor_loss(
        OneHotPolicy(logits), action, targets, baseline, weights, actor_grad="dynamics", entropy_scale=0.0
    )
    torch.testing.assert_close(loss, -(weights * targets).mean())


@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_slope_in_the_entropy_scale_is_minus_the_weighted_entropy(mode):
    """implementation-details.md#b9: once, not twice, with the weights, and rewarding entropy: d loss / d scale =
    -mean(w H(pi))."""
    logits, action, targets, baseline, weights = loss_parts()
    scale = torch.tensor(0.3, requires_grad=True)
    loss, _ = compute_actor_loss(
        OneHotPolicy(logits), action, targets, baseline, weights, actor_grad=mode, entropy_scale=scale
    )
    expected = -(weights * OneHotCategorical(logits=logits).entropy()).mean()
    torch.testing.assert_close(torch.autograd.grad(loss, scale)[0], expected.detach())


def test_the_entropy_term_alone_pushes_towards_uniform():
    logits = torch.tensor([3.0, 0.0, -1.0]).repeat(1, 2, 1).requires_grad_()
    zero, one, action = torch.zeros(1, 2), torch.ones(1, 2), torch.eye(A)[0].expand(1, 2, A)
    loss, _ = compute_actor_loss(OneHotPolicy(logits), action, zero, zero, one, entropy_scale=1.0)
    moved = logits - 0.1 * torch.autograd.grad(loss, logits)[0]
    assert (OneHotPolicy(moved).entropy() > OneHotPolicy(logits).entropy()).all()


def test_exact_critic_on_a_deterministic_chain_gives_no_advantage():
    """implementation-details.md#a1: r = [0, 1, 0], gamma 0.9, exact values [.9, 1, 0], bootstrap 0. G_k - v_k = 0
    everywhere.

    The latest released code scores u_k by G_{k+1} - v_k and gets +0.1 and -1.0 here; that form must be told apart.
    """
    rewards, values = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.9, 1.0, 0.0, 0.0]])
    targets = compute_lambda_returns(rewards, values, torch.ones(1, 3), gamma=0.9, lambda_=0.95)
    torch.testing.assert_close(targets, values[:, :3])
    released = targets[:, 1:] - values[:, :2]
    assert released[0].tolist() == pytest.approx([0.1, -1.0])
    logits = randn(1, 3, A).requires_grad_()
    loss, metrics = compute_actor_loss(
        OneHotPolicy(logits), torch.eye(A)[None, :], targets, values[:, :3], torch.ones(1, 3), entropy_scale=0.0
    )
    assert metrics["advantage"].item() == pytest.approx(0, abs=1e-7)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-7


def test_states_that_are_not_reached_do_not_train_the_actor():
    logits, action, targets, baseline, weights = loss_parts()
    weights[:, 3:] = 0
    loss, _ = compute_actor_loss(OneHotPolicy(logits), action, targets, baseline, weights, entropy_scale=0.5)
    moved = torch.autograd.grad(loss, logits)[0].abs().sum((0, 2)) > 0
    assert moved.tolist() == [True, True, True, False, False, False]


def test_unknown_actor_gradient_is_refused():
    with pytest.raises(ValueError, match="'reinforce', 'dynamics', 'both' or 'per_part', got 'score'"):
        compute_actor_loss(OneHotPolicy(torch.zeros(1, 1, A)), *loss_parts()[1:], actor_grad="score")


def test_actor_loss_defaults_are_the_documented_numbers():
    parameters = inspect.signature(compute_actor_loss).parameters
    names = ("actor_grad", "actor_grad_mix", "entropy_scale")
    assert [parameters[name].default for name in names] == ["reinforce", 0.1, 1e-3]


# ------------------------------------------------------------------------------------------------- critic loss (1.13)


def test_critic_loss_of_a_hand_example():
    """Errors 1, -2 with weights 1, 0.5: (0.5 * 1 + 0.5 * 0.5 * 4) / 2 = 0.75."""
    loss, metrics = compute_critic_loss(
        torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 0.5]])
    )
    assert loss.item() == 0.75
    assert {name: value.item() for name, value in metrics.items()} == {"value": 2.0, "target": 2.5, "error": 1.5}


def test_critic_loss_equals_the_reference():
    parts = randn(N, H), randn(N, H, seed=1), rand(N, H, seed=2)
    expected = slow.critic_loss(*(x.double().numpy() for x in parts))
    assert compute_critic_loss(*parts)[0].item() == pytest.approx(expected, rel=1e-5)


def test_critic_loss_moves_values_only():
    """w (v - G) / (N H) into the values, nothing into targets and weights."""
    values, targets, weights = randn(N, H), randn(N, H, seed=1), rand(N, H, seed=2)
    inputs = [x.clone().requires_grad_() for x in (values, targets, weights)]
    gradient, *others = torch.autograd.grad(compute_critic_loss(*inputs)[0], inputs, allow_unused=True)
    torch.testing.assert_close(gradient, weights * (values - targets) / (N * H))
    assert others == [None, None]


def test_the_demo_runs(capsys):
    actor_critic.demo()
    assert "ok: " in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- the entropy's own weight


def settle(weight, respond, target, rounds=400):
    """Let weight and entropy answer each other. -> the entropy's share of what is possible in the end."""
    share = 1.0
    for _ in range(rounds):
        share = respond(float(weight()))
        weight.follow(torch.tensor(share), target)
    return share


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
def test_the_entropy_reaches_its_target_whatever_the_size_of_advantages(size):
    """A policy that answers a weight w with entropy w / (w + size / 100), as one between two actions roughly does."""
    weight = EntropyWeight(least_weight=1e-6)
    found = settle(weight, lambda w: w / (w + size / 100), 0.5)
    assert found == pytest.approx(0.5, abs=0.02)
    assert float(weight()) == pytest.approx(size / 100, rel=0.1)


def test_a_policy_that_is_random_enough_gets_the_least_weight():
    weight = EntropyWeight(least_weight=1e-3)
    weight.log_weight.fill_(0.0)
    settle(weight, lambda w: 0.9, 0.5)
    assert float(weight()) == pytest.approx(1e-3)


def test_a_policy_that_is_certain_gets_more_weight_up_to_a_limit():
    weight = EntropyWeight(least_weight=1e-3)
    before = float(weight())
    weight.follow(torch.tensor(0.0), 0.5)
    assert float(weight()) > before
    settle(weight, lambda w: 0.0, 0.5, rounds=2000)
    assert float(weight()) == pytest.approx(10.0)


def test_a_broken_entropy_leaves_the_weight_as_it_is():
    weight = EntropyWeight(least_weight=1e-3)
    before = float(weight())
    weight.follow(torch.tensor(float("nan")), 0.5)
    assert float(weight()) == before


def test_the_range_of_entropies_is_that_of_the_policies():
    parts = [Part("onehot", 3, 2), Part("trunc_normal", 2)]
    least, most = entropy_range(parts)
    assert most == pytest.approx(2 * math.log(3) + 2 * math.log(2))
    sharp = make_policy(torch.tensor([[0.0, 0.0, -60.0, -60.0]]), [Part("trunc_normal", 2)]).entropy()
    assert least == pytest.approx(float(sharp), abs=1e-3)
    wide = make_policy(torch.zeros(1, 6), [Part("onehot", 3, 2)]).entropy()
    assert float(wide) == pytest.approx(2 * math.log(3))


def test_of_what_a_mask_forbids_no_randomness_is_expected():
    parts = [Part("onehot", 4, 2), Part("trunc_normal", 1)]
    mask = torch.ones(3, 9)
    mask[1, 2:4] = 0  # two of four choices in the first one-hot
    mask[2, 1:4] = 0  # one each
    mask[2, 5:8] = 0
    policy = make_policy(torch.zeros(3, 10), parts, mask=mask)
    numbers = make_policy(torch.zeros(1, 2), [Part("trunc_normal", 1)]).entropy()
    least, most = entropy_range([Part("trunc_normal", 1)])
    share = entropy_share(policy.entropy(), parts, mask)
    free = float((numbers - least) / (most - least))
    assert float(share[2]) == pytest.approx(free, abs=1e-4)  # only the number is left
    assert entropy_share(policy.entropy()[:1], parts).item() == pytest.approx(float(share[0]))
    choices = make_policy(torch.zeros(2, 3), [Part("onehot", 3)], mask=torch.tensor([[1.0, 1, 0], [0, 1, 0]]))
    shares = entropy_share(choices.entropy(), [Part("onehot", 3)], torch.tensor([[1.0, 1, 0], [0, 1, 0]]))
    assert shares.tolist() == pytest.approx([1.0, 1.0])


def test_a_policy_that_starts_at_zero_gives_every_choice_the_same_chance():
    feat = torch.randn(5, 8)
    actor = Actor(8, 4, mlp=MLPOptions(2, 16), zero_init=True)
    assert torch.equal(actor(feat).log_probs, torch.full((5, 4), -math.log(4)))
    numbers = Actor(8, 2, policy="trunc_normal", mlp=MLPOptions(2, 16), zero_init=True)(feat)
    assert torch.equal(numbers.mean, torch.zeros(5, 2))


def test_held_draws_are_those_of_the_policy():
    """Inverse-CDF sampling: a draw that is kept gives the same action as long as the policy stays the same."""
    generator = torch.Generator().manual_seed(0)
    for parts in ([Part("onehot", 3)], [Part("trunc_normal", 2)], [Part("onehot", 3, 2), Part("tanh_normal", 1)]):
        policy = make_policy(torch.randn(64, stats_dim(parts)), parts)
        draw = policy_noise(parts, 64, generator)
        assert draw.shape == policy.noise().shape
        assert torch.equal(policy.sample(draw), policy.sample(draw))
