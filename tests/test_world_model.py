"""The model loss (paper Eq. 2) and the time alignment of what it learns."""

import math

import numpy as np
import pytest
import torch
from reference import slow

from reverie.data.replay import Batch
from reverie.layers import MLPOptions
from reverie.networks import ContinuePredictor, ConvDecoder, RewardPredictor, VectorDecoder
from reverie.observations import ObservationEncoder, module_name, preprocess
from reverie.rssm import DiscreteRSSM
from reverie.world_model import WorldModel

B, T, A, S, K, V = 3, 5, 2, 3, 4, 6
SMALL = {"mlp": MLPOptions(1, 12)}


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def make_model(images=True, vectors=True, with_continue=True, **options):
    torch.manual_seed(0)
    encoder = ObservationEncoder(
        {"camera": (3, 12, 10)} if images else {}, {"body": V} if vectors else {}, embed_dim=0, depth=2, **SMALL
    )
    rssm = DiscreteRSSM(A, encoder.output_dim, num_categoricals=S, num_categories=K, rnn_hidden_dim=8, hidden_dim=12)
    heads = {"reward": RewardPredictor(rssm.feat_dim, **SMALL)}
    if images:
        heads["obs/camera"] = ConvDecoder(rssm.feat_dim, (3, 12, 10), target="obs/camera", depth=2)
    if vectors:
        heads["obs/body"] = VectorDecoder(rssm.feat_dim, V, target="obs/body", **SMALL)
    if with_continue:
        heads["continue"] = ContinuePredictor(rssm.feat_dim, **SMALL)
    return WorldModel(encoder, rssm, heads, **({"kl": {"free_nats": 0.0}} | options))


def make_batch(seed=1):
    """Random windows; a reset inside the second one, with the NaN action that storage puts there."""
    generator = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[0, 0] = is_first[1, 3] = True
    is_terminal = torch.zeros(B, T, dtype=torch.bool)
    is_terminal[1, 2] = is_terminal[2, 4] = True
    action = torch.randn(B, T, A, generator=generator)
    action[is_first] = math.nan
    obs = {
        "camera": torch.randint(0, 256, (B, T, 12, 10, 3), dtype=torch.uint8, generator=generator),
        "body": torch.randn(B, T, V, generator=generator),
    }
    reward = 3 * torch.randn(B, T, generator=generator)
    return Batch(obs, action, reward, is_first, is_terminal, is_terminal)


def only(batch, *keys):
    return batch._replace(obs={key: batch.obs[key] for key in keys})


def test_loss_is_equation_2_summed_by_hand():
    """Filter step by step, add up -log p of every head and the KL of every state in float64, divide by B T.

    Scales 2, 3, 5, 7 and 0.5 tell the terms apart; every target is that of the SAME step as its state
    (implementation-details.md#time).
    """
    scales = {"obs/camera": 2.0, "obs/body": 3.0, "reward": 5.0, "continue": 7.0}
    model = make_model(scales=scales, kl_scale=0.5, kl={"free_nats": 0.3, "kl_balance": 0.8})
    batch, noise = make_batch(), torch.rand(B, T, S)
    loss, posterior, metrics = model.loss(batch, noise)
    total, kls = dict.fromkeys(scales, 0.0), []
    with torch.no_grad():
        pixels = batch.obs["camera"].double().permute(0, 1, 4, 2, 3) / 255 - 0.5
        embed = model.encoder({"camera": pixels.float(), "body": batch.obs["body"]})
        state = model.rssm.initial(B)
        for t in range(T):
            first = batch.is_first[:, t] | (t == 0)
            state = model.rssm.observe(state, batch.action[:, t], embed[:, t], first, noise[:, t])
            prior = model.rssm.prior_net(state.deter)
            for b in range(B):
                feat = state.feat[b]
                camera = model.heads["obs/camera"](feat).double() - pixels[b, t]
                body = model.heads["obs/body"](feat).double() - batch.obs["body"][b, t]
                reward = model.heads["reward"].mlp(feat).item() - slow.symlog(batch.reward[b, t].item())
                probability = model.heads["continue"](feat).item()
                total["obs/camera"] += 0.5 * (camera**2).sum().item()
                total["obs/body"] += 0.5 * (body**2).sum().item()
                total["reward"] += 0.5 * reward**2
                total["continue"] -= math.log(1 - probability if batch.is_terminal[b, t] else probability)
                groups = [x[b].double().numpy().reshape(S, K) for x in (state.stats, prior)]
                kls.append(slow.categorical_kl(*groups))
    means = {name: value / (B * T) for name, value in total.items()}
    expected = 0.5 * slow.free_nats_mean(kls, 0.3, True) + sum(scales[name] * means[name] for name in scales)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert metrics["kl"].item() == pytest.approx(np.mean(kls), rel=1e-4)
    for name, value in means.items():
        assert metrics[f"{name}_loss"].item() == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(posterior.deter[:, -1], state.deter)


def test_every_parameter_gets_a_gradient():
    model = make_model()
    model.loss(make_batch())[0].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_heads_and_kl_train_the_encoder_each_by_itself():
    """implementation-details.md#heads: decoder, reward and discount back-propagate into the state; and so does the KL's
    posterior side."""
    batch = make_batch()
    for chosen in ("obs/camera", "obs/body", "reward", "continue", "kl"):
        scales = {name: float(name == chosen) for name in ("obs/camera", "obs/body", "reward", "continue")}
        model = make_model(scales=scales, kl_scale=float(chosen == "kl"))
        gradient = torch.autograd.grad(model.loss(batch)[0], next(model.encoder.parameters()))[0]
        assert gradient.abs().max() > 0, chosen


def test_one_batch_can_be_learnt_by_heart():
    """Reward and continue of 15 states can be told from their pictures: both losses fall to a quarter and less."""
    model, batch = make_model(), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(150):
        loss, _, metrics = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(metrics)
    for name in ("reward_loss", "continue_loss", "obs/body_loss"):
        assert history[-1][name] < 0.25 * history[0][name], name
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (2, 0)])
def test_action_into_a_reset_does_not_reach_the_loss(place):
    """implementation-details.md#b2. The window start (2, 0) is in the middle of an episode: its action is not used
    either."""
    model, batch, noise = make_model(), make_batch(), torch.rand(B, T, S)
    losses = []
    for value in (math.nan, 0.0, 1e6):
        batch.action[place] = value
        losses.append(model.loss(batch, noise)[0].item())
    assert math.isfinite(losses[0])
    assert losses[0] == losses[1] == losses[2]


def test_a_nan_action_anywhere_else_is_not_hidden():
    """Storage marks missing actions by NaN, so that a forgotten reset mask is noticed at once."""
    model, batch = make_model(), make_batch()
    batch.action[0, 2] = math.nan
    assert model.loss(batch)[0].isnan()


@pytest.mark.parametrize("keys", [("camera",), ("body",), ("camera", "body")])
def test_images_and_vectors_alone_or_together(keys):
    model = make_model(images="camera" in keys, vectors="body" in keys)
    loss, posterior, metrics = model.loss(only(make_batch(), *keys))
    assert loss.isfinite()
    assert posterior.deter.shape == (B, T, 8)
    assert {name for name in metrics if name.startswith("obs/")} == {f"obs/{key}_loss" for key in keys}


def test_without_a_continue_head_every_dream_goes_on():
    model = make_model(with_continue=False)
    metrics = model.loss(make_batch())[2]
    assert "continue_loss" not in metrics
    assert torch.equal(model.continues(torch.rand(2, 3, model.rssm.feat_dim)), torch.ones(2, 3))


def test_continues_are_the_head_s_probabilities():
    model, feat = make_model(), torch.rand(2, 3, S * K + 8)
    torch.testing.assert_close(model.continues(feat), torch.sigmoid(model.heads["continue"].mlp(feat)[..., 0]))


def test_only_a_terminal_state_has_continue_target_zero():
    """implementation-details.md#environment-data, #a15: is_last by a time limit keeps target 1."""
    model, batch = make_model(), make_batch()
    batch = batch._replace(is_last=torch.ones(B, T, dtype=torch.bool))
    targets = model.targets(batch, model.preprocess(batch.obs))
    assert torch.equal(targets["continue"], (~batch.is_terminal).float())
    assert torch.equal(targets["reward"], batch.reward)


@pytest.mark.parametrize("transform", ["none", "symlog", "standardize"])
def test_acting_and_training_see_the_same_inputs(transform):
    """implementation-details.md#b1: the same frame enters the encoder with the same numbers, images within [-0.5,
    0.5]."""
    model, batch = make_model(vector_transform=transform), make_batch()
    model.fit_observations({"body": 3 * batch.obs["body"].flatten(0, 1) + 1})
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model.loss(batch)
    frame = {key: value[:, 2] for key, value in batch.obs.items()}
    is_first = torch.zeros(B, dtype=torch.bool)
    model.observe(frame, torch.zeros(B, A), is_first, model.rssm.initial(B), torch.rand(B, S))
    training, acting = seen
    for key in ("camera", "body"):
        assert torch.equal(training[key][:, 2], acting[key])
    assert acting["camera"].min() >= -0.5
    assert acting["camera"].max() <= 0.5
    assert acting["camera"].max() - acting["camera"].min() > 0.9, "scaled twice?"
    same = torch.equal(acting["body"], frame["body"])
    assert same == (transform == "none")


def test_acting_step_equals_the_filter_of_training():
    """Played step by step or filtered as a sequence: the same states from the same noise."""
    model, batch, noise = make_model(), make_batch(), torch.rand(B, T, S)
    batch.is_first[:, 0] = True
    posterior = model.loss(batch, noise)[1]
    state = model.rssm.initial(B)
    for t in range(T):
        frame = {key: value[:, t] for key, value in batch.obs.items()}
        state = model.observe(frame, batch.action[:, t], batch.is_first[:, t], state, noise[:, t])
        for one, many in zip(state, posterior, strict=True):
            torch.testing.assert_close(one, many[:, t], rtol=1e-4, atol=1e-5)


def test_vectors_are_standardised_as_they_were_measured():
    """Values 1 and 3 have mean 2 and deviation sqrt 2: (3 - 2) / sqrt 2 = 0.707."""
    model = make_model(images=False, vector_transform="standardize")
    model.fit_observations({"body": torch.tensor([[1.0] * V, [3.0] * V])})
    out = model.preprocess({"body": torch.full((1, V), 3.0)})["body"]
    torch.testing.assert_close(out, torch.full((1, V), 0.5**0.5))


def test_reconstruction_undoes_preprocessing():
    """A decoder that answers with the encoder's input gives back the very bytes, and clips what is beyond them."""
    model = make_model()
    image = torch.randint(0, 256, (2, 12, 10, 3), dtype=torch.uint8)
    inputs = preprocess({"camera": image}, ["camera"], vector_transform="none")["camera"]
    head = model.heads[module_name("camera")]
    for answer, expected in [(inputs, image), (inputs * 0 + 7, image * 0 + 255), (inputs * 0 - 7, image * 0)]:
        head.forward = lambda feat, answer=answer: answer
        assert torch.equal(model.reconstruct(torch.rand(2, S * K + 8))["camera"], expected)


def echo_batch(generator, size=16, length=8):
    """A world where an observation is the one-hot of the action that led to it, and the reward its first number."""
    index = torch.randint(0, A, (size, length), generator=generator)
    action = torch.eye(A)[index]
    obs = torch.zeros(size, length, V)
    obs[..., :A] = action
    is_first = torch.zeros(size, length, dtype=torch.bool)
    is_first[:, 0] = True
    obs[is_first], action[is_first] = 0, math.nan
    no = torch.zeros_like(is_first)
    return Batch({"body": obs}, action, obs[..., 0], is_first, no, no), index


def test_prior_predicts_the_observation_from_the_action_that_leads_to_it():
    """implementation-details.md#b4: with action and observation paired off by one the losses look fine, but the prior
    can only guess.

    Trained on random actions, then asked without looking: the predicted observation must name the action every time.
    """
    model = make_model(images=False, kl={"free_nats": 0.0}, scales={"obs/body": 10.0, "reward": 10.0})
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(150):
        loss = model.loss(echo_batch(generator)[0])[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, index = echo_batch(generator)
    posterior = model.loss(batch)[1]
    guess = model.rssm.prior(posterior.deter)
    told = model.heads["obs/body"](guess.feat)[:, 1:, :A].argmax(-1)
    assert (told == index[:, 1:]).float().mean() > 0.97
    rewarded = model.heads["reward"](guess.feat)[:, 1:] > 0.5
    assert (rewarded == (index[:, 1:] == 0)).float().mean() > 0.97
