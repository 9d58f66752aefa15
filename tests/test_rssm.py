"""The recurrent state-space model: transition, resets, dreams, and the KL with its two sides."""

import copy
import math

import numpy as np
import pytest
import torch
from reference import slow
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence

from reverie import rssm as rssm_module
from reverie.layers import NormGRUCell
from reverie.rssm import CategoricalLatent, DiscreteRSSM, GaussianLatent, State

B, T, A, E, S, K, D = 3, 6, 2, 5, 3, 4, 7
Z = S * K


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def make_rssm(latent=None, **options):
    torch.manual_seed(0)
    return DiscreteRSSM(
        A, E, num_categoricals=S, num_categories=K, rnn_hidden_dim=D, hidden_dim=8, latent=latent, **options
    )


def make_sequence(seed=1):
    """embed, action, is_first (only at 0), noise."""
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(B, T, E, generator=generator)
    action = torch.randn(B, T, A, generator=generator)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    return embed, action, is_first, torch.rand(B, T, S, generator=generator)


def filtered(rssm):
    """Posterior states of (B, T, ...)."""
    embed, action, is_first, noise = make_sequence()
    return rssm.rollout_observation(embed, action, is_first, noise=noise)[0]


def random_stats(seed, scale=1.5, shape=(B, T, Z)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_states_equal(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


def assert_one_hot(stoch):
    grouped = stoch.reshape(*stoch.shape[:-1], S, K)
    assert set(grouped.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(grouped.sum(-1), torch.ones(grouped.shape[:-1]))


# ---------------------------------------------------------------------------------------------------- recurrent cell


@pytest.mark.parametrize("norm", [True, False])
def test_gru_step_equals_the_float64_reference(norm):
    torch.manual_seed(2)
    cell = NormGRUCell(5, 4, norm=norm)
    for parameter in cell.parameters():  # also biases, scales and offsets away from their initial values
        torch.nn.init.normal_(parameter)
    x, h = torch.randn(6, 5), torch.randn(6, 4)
    numbers = [p.detach().double().numpy() for p in cell.parameters()]  # weight, bias[, scale, offset]
    expected = [
        slow.gru_step(x_i, h_i, *numbers) for x_i, h_i in zip(x.double().numpy(), h.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(cell(x, h).detach().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_gru_with_zero_weights_keeps_73_percent_of_its_state(norm):
    """implementation-details.md#fingerprints: candidate tanh(0) = 0, update = sigmoid(-1) = 0.2689, h' = 0.7311 h (B13:
    without bias 0.5)."""
    cell = NormGRUCell(5, 4, norm=norm)
    torch.nn.init.zeros_(cell.gates.weight)
    h = torch.randn(6, 4)
    torch.testing.assert_close(cell(torch.randn(6, 5), h), h * (1 - 1 / (1 + math.e)))


# ------------------------------------------------------------------------------------------------ shapes and wiring


def test_shapes_of_filtering_and_dreaming():
    rssm = make_rssm()
    embed, action, is_first, _ = make_sequence()
    posterior, prior = rssm.rollout_observation(embed, action, is_first)
    assert posterior.deter.shape == (B, T, D)
    assert posterior.stoch.shape == posterior.stats.shape == prior.shape == (B, T, Z)
    assert posterior.feat.shape == (B, T, Z + D)
    assert rssm.feat_dim == Z + D
    dream = rssm.rollout_imagination(lambda feat: torch.zeros(len(feat), A), posterior.flatten(), 4)
    assert dream.feat.shape == (B * T, 5, Z + D)
    assert dream.action.shape == (B * T, 4, A)


def test_features_are_stoch_then_deter():
    state = State(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0]]), torch.zeros(1, 3))
    assert state.feat.tolist() == [[3, 4, 5, 1, 2]]


def test_flatten_lists_all_times_of_a_sequence_before_the_next_sequence():
    """implementation-details.md#b24: every state starts a dream; the order must be that of is_terminal.flatten()."""
    index = torch.arange(B * T).reshape(B, T, 1)
    assert State(index, index, index).flatten().deter[:, 0].tolist() == list(range(B * T))


def test_initial_state_is_zero_and_not_learned():
    for part in make_rssm().initial(4):
        assert len(part) == 4
        assert not part.any()
        assert not part.requires_grad


def test_action_at_t_leads_into_step_t():
    """implementation-details.md#time, #b4: action[:, t] changes h_t and what follows, nothing before."""
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    changed = action.clone()
    changed[:, 3] += 1
    left = rssm.rollout_observation(embed, action, is_first, noise=noise)[0].deter
    right = rssm.rollout_observation(embed, changed, is_first, noise=noise)[0].deter
    differs = [bool((left[:, t] - right[:, t]).abs().max() > 1e-4) for t in range(T)]
    assert differs == [False, False, False, True, True, True]


def test_prior_at_t_has_not_seen_the_observation_at_t():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    embed.requires_grad_()
    posterior, prior = rssm.rollout_observation(embed, action, is_first, noise=noise)
    to_prior = torch.autograd.grad(prior[:, 3].sum(), embed, retain_graph=True)[0].abs().sum((0, 2))
    to_posterior = torch.autograd.grad(posterior.stats[:, 3].sum(), embed)[0].abs().sum((0, 2))
    assert (to_prior > 0).tolist() == [True, True, True, False, False, False]
    assert (to_posterior > 0).tolist() == [True, True, True, True, False, False]


def test_prior_statistics_belong_to_the_deter_of_the_same_step():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    posterior, prior = rssm.rollout_observation(embed, action, is_first, noise=noise)
    for t in range(T):
        torch.testing.assert_close(prior[:, t], rssm.prior(posterior.deter[:, t]).stats)


def test_filtering_equals_the_equations_done_by_hand():
    """Eq. 1, step by step: x = net([z, a]), h = GRU(x, h), logits = net([h, embed]), z = the drawn one-hot."""
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    posterior, _ = rssm.rollout_observation(embed, action, is_first, noise=noise)
    h, z = torch.zeros(B, D), torch.zeros(B, Z)
    for t in range(T):
        a = torch.zeros(B, A) if t == 0 else action[:, t]
        h = rssm.gru(rssm.input_net(torch.cat([z, a], -1)), h)
        logits = rssm.posterior_net(torch.cat([h, embed[:, t]], -1))
        cumulative = logits.reshape(B, S, K).softmax(-1).cumsum(-1)
        index = torch.searchsorted(cumulative.detach(), noise[:, t, :, None].contiguous(), right=True)[..., 0]
        z = torch.eye(K)[index].flatten(1)
        assert_states_equal([x[:, t] for x in posterior], [h, z, logits])


def test_samples_are_exactly_one_hot_awake_and_dreaming():
    rssm = make_rssm()
    posterior = filtered(rssm)
    assert_one_hot(posterior.stoch)
    dream = rssm.rollout_imagination(lambda feat: torch.zeros(len(feat), A), posterior.flatten(), 4)
    assert_one_hot(dream.feat[..., :Z])


def test_noise_decides_the_draw_and_is_new_by_default():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    same = [rssm.rollout_observation(embed, action, is_first, noise=noise)[0].stoch for _ in range(2)]
    fresh = [rssm.rollout_observation(embed, action, is_first)[0].stoch for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(*fresh)


def test_arguments_are_not_changed():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    is_first[:, 0], is_first[1, 3], action[1, 3] = False, True, math.nan
    state = State(torch.randn(B, D), torch.randn(B, Z), torch.randn(B, Z))
    for start in (None, state):
        arguments = [embed, action, is_first, start, noise]
        before = copy.deepcopy(arguments)
        with torch.no_grad():
            rssm.rollout_observation(*arguments)
            rssm.rollout_imagination(lambda feat: feat[:, :A], state, T, noise)
        for was, now in zip(before, arguments, strict=True):
            for a, b in zip(was or (), now or (), strict=True) if isinstance(was, State) else [(was, now)]:
                if a is not None:
                    torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wrong", ["embed", "action", "is_first"])
def test_sequences_of_different_lengths_are_refused(wrong):
    parts = dict(zip(("embed", "action", "is_first"), make_sequence(), strict=False))
    parts[wrong] = parts[wrong][:, :-1]
    with pytest.raises(ValueError, match="must agree"):
        make_rssm().rollout_observation(**parts)


# ------------------------------------------------------------------------------------------------- resets, chunks


@pytest.mark.parametrize("garbage", [5.0, math.nan])
def test_reset_hides_the_past_state_and_action(garbage):
    """implementation-details.md#b2: at is_first neither the old state nor the action may matter; elsewhere both
    must."""
    rssm = make_rssm()
    embed, noise = torch.randn(2, E), torch.rand(2, S)
    state = State(torch.randn(2, D), torch.eye(K)[torch.randint(K, (2, S))].flatten(1), torch.randn(2, Z))
    action = torch.randn(2, A)
    dirty = State(*(part.clone() for part in state))
    dirty_action = action.clone()
    for part in (*dirty, dirty_action):
        part[0] = garbage
    is_first = torch.tensor([True, False])
    out = rssm.observe(dirty, dirty_action, embed, is_first, noise)
    fresh = rssm.observe(rssm.initial(2), torch.zeros(2, A), embed, torch.zeros(2, dtype=torch.bool), noise)
    running = rssm.observe(state, action, embed, torch.zeros(2, dtype=torch.bool), noise)
    assert_states_equal([x[0] for x in out], [x[0] for x in fresh])
    assert_states_equal([x[1] for x in out], [x[1] for x in running])
    assert (out.deter[1] - fresh.deter[1]).abs().max() > 1e-3, "a row that was not reset forgot its past"


def test_reset_inside_a_window_starts_anew():
    """What follows a reset at step 3 equals a sequence that begins there, whatever came before, NaN action included."""
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    is_first[:, 3], action[:, 3], action[:, 0] = True, math.nan, math.nan
    whole, prior = rssm.rollout_observation(embed, action, is_first, noise=noise)
    tail, tail_prior = rssm.rollout_observation(embed[:, 3:], action[:, 3:], is_first[:, 3:], noise=noise[:, 3:])
    assert_states_equal([x[:, 3:] for x in whole], tail)
    torch.testing.assert_close(prior[:, 3:], tail_prior)


def test_no_gradient_crosses_a_reset():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    is_first[:, 3], action[:, 3] = True, math.nan
    embed.requires_grad_()
    posterior, _ = rssm.rollout_observation(embed, action, is_first, noise=noise)
    gradient = torch.autograd.grad(posterior.feat[:, 3:].sum(), embed)[0].abs().sum((0, 2))
    assert (gradient > 0).tolist() == [False, False, False, True, True, True]


def test_window_start_counts_as_reset_without_a_state():
    """implementation-details.md#replay: a window from the middle of an episode begins at the zero state; its first
    action is not used."""
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    expected, _ = rssm.rollout_observation(embed, action, is_first, noise=noise)
    action[:, 0] = math.nan
    out, _ = rssm.rollout_observation(embed, action, torch.zeros_like(is_first), noise=noise)
    assert_states_equal(out, expected)


def test_two_chunks_with_carried_state_equal_the_whole():
    rssm = make_rssm()
    embed, action, is_first, noise = make_sequence()
    is_first[1, 4] = True
    whole, whole_prior = rssm.rollout_observation(embed, action, is_first, noise=noise)
    first, prior_1 = rssm.rollout_observation(embed[:, :2], action[:, :2], is_first[:, :2], noise=noise[:, :2])
    carried = State(*(x[:, -1] for x in first))
    second, prior_2 = rssm.rollout_observation(embed[:, 2:], action[:, 2:], is_first[:, 2:], carried, noise[:, 2:])
    assert_states_equal([torch.cat(pair, 1) for pair in zip(first, second, strict=True)], whole)
    torch.testing.assert_close(torch.cat([prior_1, prior_2], 1), whole_prior)


# --------------------------------------------------------------------------------------------------------- dreams


def test_dream_equals_prior_steps_done_by_hand():
    """State 0 is the start itself; action k is chosen from state k and leads to state k + 1 (Section 2.3)."""
    rssm = make_rssm()
    start = filtered(rssm).flatten()
    noise = torch.rand(B * T, 4, S)
    dream = rssm.rollout_imagination(lambda feat: torch.tanh(feat[:, :A] - feat[:, -A:]), start, 4, noise)
    h, z = start.deter, start.stoch
    torch.testing.assert_close(dream.feat[:, 0], torch.cat([z, h], -1))
    for k in range(4):
        feat = torch.cat([z, h], -1)
        action = torch.tanh(feat[:, :A] - feat[:, -A:])
        h = rssm.gru(rssm.input_net(torch.cat([z, action], -1)), h)
        z = rssm.latent.sample(rssm.prior_net(h), noise[:, k])
        torch.testing.assert_close(dream.action[:, k], action)
        torch.testing.assert_close(dream.feat[:, k + 1], torch.cat([z, h], -1))


def test_gradient_of_a_dream_reaches_the_first_action_and_the_start():
    """Straight-through: d state_H / d u_0 is not zero although every state between was sampled
    (implementation-details.md#b7)."""
    rssm = make_rssm()
    start = rssm.initial(2)
    start = State(start.deter.requires_grad_(), start.stoch.requires_grad_(), start.stats)
    actions = [torch.randn(2, A, requires_grad=True) for _ in range(3)]
    queue = iter(actions)
    dream = rssm.rollout_imagination(lambda feat: next(queue), start, 3)
    last_stoch = (dream.feat[:, -1, :Z] * torch.randn(Z)).sum()
    for gradient in torch.autograd.grad(last_stoch, [actions[0], start.deter, start.stoch]):
        assert gradient.abs().max() > 0


# ------------------------------------------------------------------------------------------------------------- KL


def test_categorical_kl_of_a_hand_example():
    """With u = (1/2, 1/2), q = (1/4, 3/4): KL(u||q) = (ln 2 + ln 2/3) / 2 = 0.1438, KL(q||u) = 0.1308. Twice."""
    half, quarter = torch.zeros(4), torch.tensor([0.25, 0.75] * 2).log()
    latent = CategoricalLatent(2, 2)
    assert latent.kl(half, quarter).item() == pytest.approx(2 * 0.5 * math.log(4 / 3), abs=1e-6)
    reverse = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert latent.kl(quarter, half).item() == pytest.approx(2 * reverse, abs=1e-6)


def test_categorical_kl_equals_the_reference_and_torch():
    latent, left, right = CategoricalLatent(S, K), random_stats(1), random_stats(2)
    kl = latent.kl(left, right)
    groups = [x.double().numpy().reshape(B, T, S, K) for x in (left, right)]
    for b in range(B):
        for t in range(T):
            assert kl[b, t].item() == pytest.approx(slow.categorical_kl(groups[0][b, t], groups[1][b, t]), abs=1e-5)
    p, q = (Independent(OneHotCategorical(logits=x.reshape(B, T, S, K)), 1) for x in (left, right))
    torch.testing.assert_close(kl, kl_divergence(p, q))


def test_categorical_entropy_is_that_of_torch_and_at_most_s_ln_k():
    """implementation-details.md#fingerprints: 32 ln 32 = 110.9 nats for the full-size latent."""
    latent, stats = CategoricalLatent(S, K), random_stats(1)
    expected = Independent(OneHotCategorical(logits=stats.reshape(B, T, S, K)), 1).entropy()
    torch.testing.assert_close(latent.entropy(stats), expected)
    assert CategoricalLatent(32, 32).entropy(torch.zeros(1024)).item() == pytest.approx(110.9, abs=0.01)


def test_kl_of_nearly_deterministic_states_is_finite_with_finite_gradient():
    left, right = torch.tensor([80.0, 0, 0, -80]), torch.tensor([-80.0, 0, 0, 80], requires_grad=True)
    kl = CategoricalLatent(1, 4).kl(left, right)
    assert kl.item() == pytest.approx(160, rel=1e-4)
    assert torch.autograd.grad(kl, right)[0].isfinite().all()


def test_latent_is_float32_for_half_precision_statistics():
    latent, stats = CategoricalLatent(S, K), random_stats(1)
    assert latent.kl(stats.bfloat16(), stats).dtype == torch.float32
    assert latent.sample(stats.bfloat16(), torch.rand(B, T, S)).dtype == torch.float32


def test_mode_is_the_most_likely_class_of_each_variable():
    stats = torch.tensor([0.0, 2.0, 1.0, 5.0, -1.0, 0.0])
    assert CategoricalLatent(2, 3).mode(stats).tolist() == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("free_avg", [True, False])
@pytest.mark.parametrize("free_nats", [0.0, 2.0])
@pytest.mark.parametrize("balance", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_balanced_kl_has_the_value_of_the_plain_kl(balance, free_nats, free_avg):
    """implementation-details.md#kl-balancing: one KL twice, so its value cannot depend on the balance (0.5 included:
    A9)."""
    post, prior = random_stats(1), random_stats(2)
    groups = [x.double().numpy().reshape(B * T, S, K) for x in (post, prior)]
    values = [slow.categorical_kl(p, q) for p, q in zip(*groups, strict=True)]
    assert min(values) < 2.0 < np.mean(values), "free_nats 2 must bite for some states and not for the mean"
    loss, metrics = make_rssm().kl_loss(post, prior, kl_balance=balance, free_nats=free_nats, free_avg=free_avg)
    assert loss.item() == pytest.approx(slow.free_nats_mean(values, free_nats, free_avg), rel=1e-5)
    assert metrics["kl"].item() == pytest.approx(np.mean(values), rel=1e-5)
    assert metrics["kl_below_free"].item() == pytest.approx(np.mean([v < free_nats for v in values]))


@pytest.mark.parametrize("balance", [0.8, 0.5, 0.1])
def test_balanced_kl_gradient_goes_to_the_prior_by_balance_and_to_the_posterior_by_the_rest(balance):
    """Against the derivative worked out by hand: balance * d KL / d prior, (1 - balance) * d KL / d posterior."""
    post, prior = random_stats(1).requires_grad_(), random_stats(2).requires_grad_()
    loss, _ = make_rssm().kl_loss(post, prior, kl_balance=balance, free_nats=0.0)
    gradients = torch.autograd.grad(loss, (post, prior))
    groups = [x.detach().double().numpy().reshape(B * T, S, K) for x in (post, prior)]
    expected = [slow.categorical_kl_gradients(p, q) for p, q in zip(*groups, strict=True)]
    for gradient, side, share in zip(gradients, (0, 1), (1 - balance, balance), strict=True):
        by_hand = share * np.array([pair[side] for pair in expected]) / (B * T)
        np.testing.assert_allclose(gradient.reshape(B * T, S, K).numpy(), by_hand, atol=1e-7)


def test_bidirectional_kl_is_the_literal_formula_without_stop_gradients():
    """Design document: a KL(post || prior) + (1 - a) KL(prior || post), both sides receiving both gradients."""
    post, prior = random_stats(1).requires_grad_(), random_stats(2).requires_grad_()
    loss, metrics = make_rssm().kl_loss(post, prior, kl_balance=0.7, free_nats=0.0, mode="bidirectional")
    gradients = torch.autograd.grad(loss, (post, prior))
    value, to_post, to_prior, reverse = 0.0, [], [], 0.0
    groups = [x.detach().double().numpy().reshape(B * T, S, K) for x in (post, prior)]
    for p, q in zip(*groups, strict=True):
        value += (0.7 * slow.categorical_kl(p, q) + 0.3 * slow.categorical_kl(q, p)) / (B * T)
        reverse += slow.categorical_kl(q, p) / (B * T)
        (p_forward, q_forward), (q_back, p_back) = (
            slow.categorical_kl_gradients(p, q),
            slow.categorical_kl_gradients(q, p),
        )
        to_post.append((0.7 * p_forward + 0.3 * p_back) / (B * T))
        to_prior.append((0.7 * q_forward + 0.3 * q_back) / (B * T))
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert metrics["kl_reverse"].item() == pytest.approx(reverse, rel=1e-5)
    for gradient, by_hand in zip(gradients, (to_post, to_prior), strict=True):
        np.testing.assert_allclose(gradient.reshape(B * T, S, K).numpy(), by_hand, atol=1e-7)


def two_states(kls):
    """Posterior and prior statistics (1, 2, Z) whose two states have these KLs, the same in both directions.

    The posterior prefers class 0 by l, the prior class 1 by l; l by bisection.
    """

    def pair(size):
        left, right = np.zeros((S, K)), np.zeros((S, K))
        left[0, 0] = right[0, 1] = size
        return left, right

    rows = []
    for wanted in kls:
        low, high = 0.0, 50.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if slow.categorical_kl(*pair(middle)) < wanted else (low, middle)
        rows.append(pair(low))
    return (
        torch.tensor(np.array([x]), dtype=torch.float32).flatten(2).requires_grad_() for x in zip(*rows, strict=True)
    )


@pytest.mark.parametrize("mode", ["balanced", "bidirectional"])
@pytest.mark.parametrize(
    ("kls", "free_avg", "open_states"),
    [
        ((0.2, 0.4), True, (False, False)),  # mean 0.3 < 1: nothing is pushed
        ((0.2, 2.8), True, (True, True)),  # mean 1.5 > 1: both are pushed, also the one below
        ((0.2, 1.3), True, (False, False)),  # mean 0.75 < 1: nothing, although one is above
        ((0.2, 2.8), False, (False, True)),  # each by itself
        ((0.2, 1.3), False, (False, True)),
    ],
)
def test_free_nats_leave_exactly_no_gradient_below_the_threshold(kls, free_avg, open_states, mode):
    """implementation-details.md#b11, #kl-balancing: compared with the mean, or with every state by itself."""
    post, prior = two_states(kls)
    loss, _ = make_rssm().kl_loss(post, prior, free_nats=1.0, free_avg=free_avg, mode=mode)
    for gradient in torch.autograd.grad(loss, (post, prior)):
        assert tuple((gradient.abs().sum(-1)[0] > 0).tolist()) == open_states


def test_unknown_kl_mode_is_refused():
    with pytest.raises(ValueError, match="balanced"):
        make_rssm().kl_loss(random_stats(1), random_stats(2), mode="backward")


# ------------------------------------------------------------------------------------------------ Gaussian variant


def test_gaussian_scale_is_between_a_tenth_and_2_1():
    """implementation-details.md#gaussian-latent: std = 2 sigmoid(raw / 2) + 0.1: 0.1, 1.1 and 2.1 for raw of minus
    infinity, 0, infinity."""
    mean, std = GaussianLatent(3).mean_std(torch.tensor([4.0, 5.0, 6.0, -200.0, 0.0, 200.0]))
    assert mean.tolist() == [4, 5, 6]
    assert std.tolist() == pytest.approx([0.1, 1.1, 2.1])


def test_gaussian_kl_and_entropy_equal_the_reference_and_torch():
    latent, left, right = GaussianLatent(6), random_stats(1), random_stats(2)
    (m1, s1), (m2, s2) = latent.mean_std(left), latent.mean_std(right)
    kl = latent.kl(left, right)
    parts = [x.double().reshape(B * T, 6).numpy() for x in (m1, s1, m2, s2)]
    by_hand = [slow.gaussian_kl(*row) for row in zip(*parts, strict=True)]
    np.testing.assert_allclose(kl.flatten().numpy(), by_hand, rtol=1e-5)
    p, q = Independent(Normal(m1, s1), 1), Independent(Normal(m2, s2), 1)
    torch.testing.assert_close(kl, kl_divergence(p, q))
    torch.testing.assert_close(latent.entropy(left), p.entropy())


def test_gaussian_sample_is_mean_plus_std_times_noise_with_gradients():
    latent, stats, noise = GaussianLatent(6), random_stats(1).requires_grad_(), torch.randn(B, T, 6)
    mean, std = latent.mean_std(stats.detach())
    sample = latent.sample(stats, noise)
    torch.testing.assert_close(sample, mean + std * noise)
    assert torch.equal(latent.mode(stats), mean)
    to_mean, to_raw = torch.autograd.grad(sample.sum(), stats)[0].chunk(2, -1)
    assert torch.equal(to_mean, torch.ones(B, T, 6))
    half = torch.sigmoid(stats.detach()[..., 6:] / 2)
    torch.testing.assert_close(to_raw, noise * half * (1 - half))  # d std / d raw = sigmoid'(raw / 2)


def test_gaussian_latent_fits_in_the_rssm():
    rssm = make_rssm(GaussianLatent(6))
    embed, action, is_first, _ = make_sequence()
    action[:, 0] = math.nan
    posterior, prior = rssm.rollout_observation(embed, action, is_first)
    assert posterior.stoch.shape == (B, T, 6)
    assert posterior.stats.shape == prior.shape == (B, T, 12)
    assert rssm.feat_dim == 6 + D
    dream = rssm.rollout_imagination(lambda feat: feat[:, :A], posterior.flatten(), 3)
    assert dream.feat.isfinite().all()
    loss, metrics = rssm.kl_loss(posterior.stats, prior, free_nats=0.0)
    torch.testing.assert_close(loss.detach(), metrics["kl"])


def test_the_demo_runs(capsys):
    rssm_module.demo()
    assert "ok: " in capsys.readouterr().out
