"""The networks: sizes, initialisation, preprocessing, and each head's loss against its closed form."""

import math

import numpy as np
import pytest
import torch
from reference import slow
from torch import nn

from reverie import networks
from reverie.actor_critic import Actor, Critic
from reverie.layers import MLP, ChannelNorm, MLPOptions, NormGRUCell
from reverie.networks import ContinuePredictor, ConvDecoder, ConvEncoder, RewardPredictor, VectorDecoder, conv_sizes
from reverie.observations import ObservationEncoder, Standardizer, module_name, preprocess
from reverie.rssm import DiscreteRSSM


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def answer_always(mlp, value):
    """Make a network's last layer say `value`, whatever the input."""
    nn.init.zeros_(mlp[-1].weight)
    nn.init.constant_(mlp[-1].bias, value)


# -------------------------------------------------------------------------------------------- sizes and fingerprints


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64, [64, 31, 14, 6, 2]), (84, [84, 41, 19, 8, 3]), (28, [28, 13, 5, 1]), (4, [4, 1]), (3, [3])],
)
def test_conv_sizes_are_those_of_unpadded_4x4_stride_2(size, expected):
    """(n - 4) // 2 + 1, at most four times, while the kernel fits (implementation-details.md#networks for 64)."""
    assert conv_sizes(size) == expected


SHAPES = [
    (3, 64, 64),
    (1, 64, 64),
    (3, 84, 84),
    (3, 28, 28),
    (1, 35, 50),
    (3, 9, 12),
    (2, 7, 7),
    (3, 4, 5),
    (1, 16, 99),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encoder_gives_its_announced_size_and_the_decoder_mirrors_it(shape):
    """Grey and colour, odd, tiny and non-square images, with any leading axes."""
    encoder = ConvEncoder(shape, depth=2)
    assert encoder(torch.rand(2, 3, *shape)).shape == (2, 3, encoder.output_dim)
    decoder = ConvDecoder(5, shape, target="image", depth=2)
    assert decoder.start == (2 * 2 ** (len(encoder.heights) - 2), encoder.heights[-1], encoder.widths[-1])
    assert decoder(torch.rand(2, 3, 5)).shape == (2, 3, *shape)
    assert decoder(torch.rand(5)).shape == shape


def test_images_too_small_for_a_convolution_are_refused():
    with pytest.raises(ValueError, match="at least 4x4 pixels, got 3x64"):
        ConvEncoder((3, 3, 64))


def test_leading_axes_do_not_mix():
    """Encoding a batch of sequences equals encoding every image by itself."""
    torch.manual_seed(0)
    encoder, images = ConvEncoder((3, 16, 16), depth=2), torch.rand(2, 3, 3, 16, 16)
    one_by_one = torch.stack([torch.stack([encoder(image[None])[0] for image in row]) for row in images])
    torch.testing.assert_close(encoder(images), one_by_one)


@pytest.mark.parametrize("embed_dim", [0, 100])
def test_embedding_has_the_asked_for_size_or_the_natural_one(embed_dim):
    encoder = ObservationEncoder(
        {"a": (3, 16, 16), "b": (1, 8, 8)}, {"x": 2, "y": 3}, embed_dim=embed_dim, depth=2, mlp=MLPOptions(2, 6)
    )
    obs = {"a": torch.rand(4, 3, 16, 16), "b": torch.rand(4, 1, 8, 8), "x": torch.rand(4, 2), "y": torch.rand(4, 3)}
    # 16 -> 7 -> 2: 4 channels of 2x2 = 16.  8 -> 3: 2 channels of 3x3 = 18.  Vectors: 6.
    assert encoder.output_dim == (embed_dim or 16 + 18 + 6)
    assert encoder(obs).shape == (4, encoder.output_dim)


@pytest.mark.parametrize("key", ["a", "b", "x", "y"])
def test_every_observation_reaches_the_embedding(key):
    torch.manual_seed(0)
    encoder = ObservationEncoder({"a": (3, 16, 16), "b": (1, 8, 8)}, {"x": 2, "y": 3}, embed_dim=9, depth=2)
    obs = {"a": torch.rand(4, 3, 16, 16), "b": torch.rand(4, 1, 8, 8), "x": torch.rand(4, 2), "y": torch.rand(4, 3)}
    before = encoder(obs)
    assert (encoder(obs | {key: obs[key] + torch.rand_like(obs[key])}) - before).abs().max() > 1e-4


def test_an_encoder_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ObservationEncoder({}, {})


def test_module_names_are_accepted_by_torch():
    """Keys with dots, and keys that are attributes of a module, must not break a ModuleDict."""
    keys = ["agent.view", "train", "forward", "type"]
    assert len(nn.ModuleDict({module_name(key): nn.Identity() for key in keys})) == 4


@pytest.mark.parametrize("kernels", [(5, 5, 6, 6), ()])
def test_decoder_layers_are_linear_at_the_end_and_normalised_before(kernels):
    decoder = ConvDecoder(5, (3, 64, 64), target="image", depth=2, kernels=kernels)
    kinds = [type(layer) for layer in decoder.layers]
    assert kinds == [nn.ConvTranspose2d, ChannelNorm, nn.ELU] * 3 + [nn.ConvTranspose2d]


def test_released_decoder_kernels_give_64x64_only():
    """1 -> 5 -> 13 -> 30 -> 64: each (n - 1) * 2 + kernel (implementation-details.md#networks)."""
    assert ConvDecoder(5, (1, 64, 64), target="image", depth=1, kernels=(5, 5, 6, 6))(torch.rand(2, 5)).shape[1:] == (
        1,
        64,
        64,
    )
    with pytest.raises(ValueError, match="give 64x64 images, got 84x84"):
        ConvDecoder(5, (1, 84, 84), target="image", depth=1, kernels=(5, 5, 6, 6))


def released_code(channels, actions, hidden, continuous=False):
    """The released code's networks by name (implementation-details.md#networks, #rssm, #heads): depth 48, no norm but
    in the GRU, heads 4 x 400."""
    with torch.device("meta"):  # shapes only
        encoder = ObservationEncoder(
            {"image": (channels, 64, 64)}, {}, embed_dim=0, depth=48, conv_norm=False, mlp=MLPOptions(norm=False)
        )
        rssm = DiscreteRSSM(
            actions, encoder.output_dim, rnn_hidden_dim=hidden, hidden_dim=hidden, norm=False, gru_norm=True
        )
        feat = rssm.feat_dim
        return {
            "encoder": encoder,
            "rssm": rssm,
            "decoder": ConvDecoder(
                feat, (channels, 64, 64), target="image", depth=48, norm=False, kernels=(5, 5, 6, 6)
            ),
            "reward": RewardPredictor(feat, mlp=MLPOptions(norm=False)),
            "discount": ContinuePredictor(feat, mlp=MLPOptions(norm=False)),
            "actor": Actor(
                feat, actions, policy="trunc_normal" if continuous else "onehot", mlp=MLPOptions(norm=False)
            ),
            "critic": Critic(feat, mlp=MLPOptions(norm=False)),
        }


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("encoder", 1_549_776),
        ("rssm", 5_664_848),
        ("decoder", 10_497_553),
        ("reward", 1_131_601),
        ("discount", 1_131_601),
        ("actor", 1_138_418),
        ("critic", 1_131_601),
    ],
)
def test_atari_networks_have_the_released_parameter_counts(name, parameters):
    """implementation-details.md#fingerprints, grey, 18 actions, 600 units: every shape of the released code in one
    number each."""
    assert count(released_code(1, 18, 600)[name]) == parameters


@pytest.mark.parametrize(
    ("channels", "actions", "hidden", "heads", "total"),
    [
        (1, 18, 600, ("reward", "discount"), 19_975_379),
        (1, 6, 600, ("reward", "discount"), 19_968_179),  # Pong
        (3, 6, 200, ("reward",), 13_656_772),  # DMC vision has no discount head
    ],
)
def test_world_models_have_the_released_parameter_counts(channels, actions, hidden, heads, total):
    """implementation-details.md#fingerprints."""
    parts = released_code(channels, actions, hidden)
    assert count(*(parts[name] for name in ("encoder", "rssm", "decoder", *heads))) == total


def test_the_released_checkpoint_has_exactly_our_number_of_parameters():
    """implementation-details.md#fingerprints: HEAD defaults, RGB, 2 actions, slow critic and three scalar counters:
    32 333 580 in 85 tensors."""
    parts = released_code(3, 2, 1024)
    modules = [*parts.values(), parts["critic"]]
    assert count(*modules) + 3 == 32_333_580
    assert sum(len(list(module.parameters())) for module in modules) + 3 == 85


# ---------------------------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize(
    ("weight", "fans"),
    [
        (lambda: MLP(300, 200, MLPOptions(1, 500))[0].weight, 300 + 500),
        (lambda: MLP(300, 200, MLPOptions(1, 500))[-1].weight, 500 + 200),  # no special output layer
        (lambda: NormGRUCell(150, 100).gates.weight, 250 + 300),
        (lambda: ConvEncoder((3, 64, 64), depth=24).layers[3].weight, 16 * (24 + 48)),
        (lambda: ConvDecoder(50, (3, 64, 64), target="image", depth=24).layers[3].weight, 16 * (96 + 48)),
        (lambda: ConvDecoder(50, (3, 64, 64), target="image", depth=24).linear.weight, 50 + 4 * 192),
    ],
    ids=["hidden", "output", "gru", "conv", "transposed", "decoder_linear"],
)
def test_weights_are_glorot_uniform(weight, fans):
    """Variance 2 / (fan_in + fan_out), hence bounds of sqrt(3 variance); torch's own defaults differ
    (implementation-details.md#b13).

    The variance of a uniform sample of n has a relative deviation of sqrt(0.8 / n): below 1 % for n > 8000.
    """
    torch.manual_seed(0)
    weight = weight().detach()
    assert weight.numel() > 8000
    assert weight.var().item() == pytest.approx(2 / fans, rel=0.04)
    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.01)


def test_biases_start_at_zero_and_norms_at_identity():
    for module in (NormGRUCell(3, 4), ConvEncoder((3, 16, 16), depth=2), MLP(3, 4, MLPOptions(2, 5))):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            elif parameter.dim() == 1:
                assert (parameter == 1).all()


def test_every_layer_norm_has_keras_epsilon():
    """implementation-details.md#gru, #b13: 1e-3, where torch would take 1e-5."""
    modules = [
        ObservationEncoder({"a": (3, 16, 16)}, {"x": 2}, embed_dim=9, depth=2),
        DiscreteRSSM(2, 5, num_categoricals=2, num_categories=2),
        ConvDecoder(5, (3, 16, 16), target="a", depth=2),
        Critic(5),
    ]
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == (2 + 4 + 1) + (3 + 1) + 1 + 4
    assert {norm.eps for norm in norms} == {1e-3}


def test_norm_options_leave_no_norm_behind():
    modules = [
        ObservationEncoder(
            {"a": (3, 16, 16)}, {"x": 2}, embed_dim=9, depth=2, conv_norm=False, mlp=MLPOptions(norm=False)
        ),
        DiscreteRSSM(2, 5, num_categoricals=2, num_categories=2, norm=False, gru_norm=False),
        ConvDecoder(5, (3, 16, 16), target="a", depth=2, norm=False),
        Critic(5, mlp=MLPOptions(norm=False)),
    ]
    assert not [m for module in modules for m in module.modules() if isinstance(m, nn.LayerNorm)]


def test_channel_norm_normalises_the_channels_of_each_pixel():
    torch.manual_seed(0)
    norm, x = ChannelNorm("layer", 5), torch.randn(2, 5, 3, 4)
    nn.init.normal_(norm.norm.weight)
    nn.init.normal_(norm.norm.bias)
    scale, offset = (p.detach().double().numpy() for p in (norm.norm.weight, norm.norm.bias))
    out = norm(x).detach().numpy()
    for n, i, j in np.ndindex(2, 3, 4):
        expected = slow.layer_norm(x[n, :, i, j].double().numpy(), scale, offset)
        np.testing.assert_allclose(out[n, :, i, j], expected, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- preprocessing


def test_pixels_become_minus_half_to_half_with_channels_first():
    """implementation-details.md#preprocessing: x / 255 - 0.5, for black, white and one value between; (H, W, C) -> (C,
    H, W)."""
    image = torch.zeros(1, 2, 3, 4, 3, dtype=torch.uint8)  # B, T, H, W, C
    image[0, 1, 2, 3, 1], image[0, 0, 0, 1, 2] = 255, 51
    before = image.clone()
    out = preprocess({"image": image}, ["image"], vector_transform="none")["image"]
    assert out.shape == (1, 2, 3, 3, 4)
    assert out[0, 1, 1, 2, 3].item() == pytest.approx(0.5)
    assert out[0, 0, 2, 0, 1].item() == pytest.approx(51 / 255 - 0.5, abs=1e-6)
    assert (out == -0.5).sum() == out.numel() - 2
    assert torch.equal(image, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_images_that_are_not_bytes_are_refused(dtype):
    """implementation-details.md#b1: a float image in 0..255 would silently skip the scaling."""
    with pytest.raises(ValueError, match="must be uint8"):
        preprocess({"image": torch.zeros(1, 4, 4, 3, dtype=dtype)}, ["image"], vector_transform="none")


@pytest.mark.parametrize(("transform", "expected"), [("none", 99.0), ("symlog", math.log(100)), ("standardize", 99.0)])
def test_vectors_are_transformed_only_if_asked(transform, expected):
    """`preprocess` leaves the standardising to the module that has the measurements."""
    vector = torch.tensor([[99.0, -99.0]], dtype=torch.float64)
    out = preprocess({"x": vector}, [], vector_transform=transform)["x"]
    assert out.dtype == torch.float32
    assert out[0].tolist() == pytest.approx([expected, -expected])
    assert vector.tolist() == [[99.0, -99.0]]


def test_standardizer_brings_measured_data_to_mean_zero_and_deviation_one():
    """Deviation of 1, 2, 3 is 1, of 10, 30, 50 is 20; a dimension that never moves keeps deviation 1."""
    data = torch.tensor([[1.0, 10.0, 7.0], [2.0, 30.0, 7.0], [3.0, 50.0, 7.0]])
    standardizer = Standardizer(3)
    torch.testing.assert_close(standardizer(data), data.clamp(-10, 10))
    standardizer.fit(data)
    assert standardizer(data).tolist() == [[-1, -1, 0], [0, 0, 0], [1, 1, 0]]
    assert standardizer(torch.tensor([1e9, -1e9, 7.5])).tolist() == [10, -10, 0.5]
    assert set(standardizer.state_dict()) == {"mean", "deviation"}


# -------------------------------------------------------------------------------------------------------------- heads


def test_image_loss_is_summed_over_pixels():
    """implementation-details.md#b19: a constant error e costs e^2 H W C / 2, here 0.3^2 * 16 * 16 * 3 / 2 = 34.56
    nats."""
    decoder = ConvDecoder(5, (3, 16, 16), target="image", depth=2)
    for parameter in decoder.parameters():
        nn.init.zeros_(parameter)
    loss = decoder.loss(torch.rand(2, 4, 5), torch.full((2, 4, 3, 16, 16), 0.3))
    torch.testing.assert_close(loss, torch.full((2, 4), 34.56))


def test_vector_loss_is_summed_over_dimensions():
    """Errors 1, 2, 3 cost (1 + 4 + 9) / 2 = 7 nats."""
    head = VectorDecoder(5, 3, target="x", mlp=MLPOptions(1, 4))
    answer_always(head.mlp, 1.0)
    assert head(torch.rand(2, 4, 5)).shape == (2, 4, 3)
    loss = head.loss(torch.rand(2, 4, 5), torch.tensor([2.0, 3.0, 4.0]).expand(2, 4, 3))
    torch.testing.assert_close(loss, torch.full((2, 4), 7.0))


@pytest.mark.parametrize("head", [ConvDecoder, VectorDecoder])
def test_observation_losses_are_a_unit_gaussian_up_to_its_constant(head):
    """implementation-details.md#model-loss: -log N(target; mean, 1) = loss + 0.9189 per number."""
    torch.manual_seed(0)
    shape = (1, 9, 8) if head is ConvDecoder else 6
    event = (1, 9, 8) if head is ConvDecoder else (6,)
    module, feat, target = head(5, shape, target="x"), torch.randn(2, 3, 5), torch.randn(2, 3, *event)
    exact = -torch.distributions.Normal(module(feat), 1).log_prob(target).flatten(2).sum(-1)
    torch.testing.assert_close(module.loss(feat, target), exact - math.prod(event) * 0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize(
    ("transform", "said", "planned", "reward", "error"),
    [
        ("symlog", math.log(6), 5.0, 5.0, 0.0),  # symexp(ln 6) = 5
        ("symlog", 0.0, 0.0, math.e - 1, 1.0),  # symlog(e - 1) = 1
        ("tanh", 0.5, 0.5, math.atanh(0.5), 0.0),  # planned with as it is (implementation-details.md#imagination)
        ("tanh", 0.0, 0.0, 100.0, 1.0),
        ("sign", 0.25, 0.25, -7.0, -1.25),
        ("none", 3.0, 3.0, 5.0, 2.0),
    ],
)
def test_reward_head_is_trained_on_the_transform_and_answers_in_the_planning_space(
    transform, said, planned, reward, error
):
    head = RewardPredictor(5, transform=transform, mlp=MLPOptions(1, 4))
    answer_always(head.mlp, said)
    feat = torch.rand(2, 3, 5)
    torch.testing.assert_close(head(feat), torch.full((2, 3), planned), atol=1e-5, rtol=0)
    expected = torch.full((2, 3), 0.5 * error**2)
    torch.testing.assert_close(head.loss(feat, torch.full((2, 3), reward)), expected, atol=1e-5, rtol=0)


def test_continue_head_gives_a_probability_and_a_fair_coin_costs_ln_2():
    """implementation-details.md#fingerprints: 0.693 at the start."""
    head = ContinuePredictor(5, mlp=MLPOptions(1, 4))
    answer_always(head.mlp, 0.0)
    feat, target = torch.rand(2, 3, 5), torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 1.0]])
    assert torch.equal(head(feat), torch.full((2, 3), 0.5))
    torch.testing.assert_close(head.loss(feat, target), torch.full((2, 3), math.log(2)))


@pytest.mark.parametrize(("target", "cost"), [(1.0, -math.log(0.8)), (0.0, -math.log(0.2))])
def test_continue_loss_is_the_negative_log_probability(target, cost):
    """logit ln 4 says 0.8."""
    head = ContinuePredictor(5, mlp=MLPOptions(1, 4))
    answer_always(head.mlp, math.log(4))
    feat = torch.rand(1, 1, 5)
    assert head(feat).item() == pytest.approx(0.8)
    assert head.loss(feat, torch.full((1, 1), target)).item() == pytest.approx(cost, rel=1e-5)


@pytest.mark.parametrize(("gamma", "floor"), [(0.999, 0.0079), (0.995, 0.0315), (0.99, 0.0560)])
def test_continue_head_is_best_at_its_soft_target_not_at_one(gamma, floor):
    """implementation-details.md#b14, #fingerprints: at p = gamma the gradient is zero and the loss is the coin's
    entropy H(gamma)."""
    head = ContinuePredictor(5, mlp=MLPOptions(1, 4)).double()
    answer_always(head.mlp, math.log(gamma / (1 - gamma)))
    loss = head.loss(torch.rand(1, 1, 5, dtype=torch.float64), torch.full((1, 1), gamma))  # the head answers float32
    (gradient,) = torch.autograd.grad(loss.sum(), head.mlp[-1].bias)
    assert abs(gradient.item()) < 1e-6
    assert loss.item() == pytest.approx(floor, abs=6e-5)


def test_the_demo_runs(capsys):
    networks.demo()
    assert "ok: " in capsys.readouterr().out
