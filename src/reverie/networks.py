"""Encoder, decoder and prediction heads: observations to embeddings, features to predictions.

Shapes (used in every file): B batch, T time, E embedding, F features [stoch, deter], "..." any leading axes. Images
are (..., C, H, W) floats in [-0.5, 0.5] inside the networks and (..., H, W, C) uint8 everywhere else.
Everything here takes plain arguments: no configuration object, no batch, no environment.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python networks.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.networks")

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributions import SCALARS, Part, one_by_one
from .layers import ACTIVATIONS, MLP, ChannelNorm, MLPOptions, Norm, init_glorot, make_linear, zero_output
from .ops import MetricDoc, squared_error

# ---------------------------------------------------------------------------------------------------- observations -> E


def conv_sizes(size: int, *, kernel: int = 4, stride: int = 2, layers: int = 4) -> list[int]:
    """Sizes after each unpadded convolution, at most `layers`, stopping before the map is smaller than the kernel.

    64 -> [64, 31, 14, 6, 2]; 28 -> [28, 13, 5, 1]. Images below 4 pixels do not fit one layer.
    """
    sizes = [size]
    while len(sizes) <= layers and sizes[-1] >= kernel:
        sizes.append((sizes[-1] - kernel) // stride + 1)
    return sizes


def deconv_size(kernels: Sequence[int]) -> int:
    """Side of the image that stride-2 transposed convolutions make from 1x1. (5, 5, 6, 6) -> 64."""
    size = 1
    for kernel in kernels:
        size = (size - 1) * 2 + kernel
    return size


class ConvEncoder(nn.Module):
    """Image to vector: unpadded 4x4 convolutions of stride 2, channels depth x (1, 2, 4, 8), activation after each.

    image (..., C, H, W) -> (..., output_dim). Four layers at 64x64 (implementation-details.md#networks); fewer for
    small images.
    """

    def __init__(
        self, shape: Sequence[int], *, depth: int = 32, norm: Norm = True, activation: str = "elu", layers: int = 4
    ) -> None:
        super().__init__()
        channels, height, width = shape
        heights, widths = conv_sizes(height, layers=layers), conv_sizes(width, layers=layers)
        count = min(len(heights), len(widths)) - 1
        if count < 1:
            raise ValueError(f"images must be at least 4x4 pixels, got {height}x{width}")
        modules: list[nn.Module] = []
        for i in range(count):
            modules.append(nn.Conv2d(channels, depth * 2**i, 4, 2))
            if norm:
                modules.append(ChannelNorm(norm, depth * 2**i))
            modules.append(ACTIVATIONS[activation]())
            channels = depth * 2**i
        self.layers = nn.Sequential(*modules)
        self.heights, self.widths = heights[: count + 1], widths[: count + 1]
        self.output_dim = channels * self.heights[-1] * self.widths[-1]
        self.apply(init_glorot)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.layers(image.flatten(0, -4))
        return maps.reshape((*image.shape[:-3], self.output_dim))


# ----------------------------------------------------------------------------------------------------- F -> predictions


class Head(nn.Module):
    """Anything that predicts from features. A new one is a class with `forward` and `loss` and a line in `build.py`.

    `target` names what it is trained on: "obs/KEY", "reward" or "continue" (`WorldModel.targets`); a head with another
    target has `target_of`. The model loss logs `world_model/NAME_loss` for a head NAME; `metrics_doc` explains that
    number and those of `metrics`, under "loss" and their own names.

    Heads get their features as a tensor; with compute.mode=fast those of this file as indices, which is faster.
    """

    target: str = ""
    indexed: ClassVar[bool] = False  #: of exactly this class: `feat` may be a `Feat`, z as indices (fast/rows.py)
    metrics_doc: ClassVar[Mapping[str, MetricDoc]] = {}

    def target_of(self, batch: Any, obs: Mapping[str, Tensor]) -> Tensor | None:
        """The head's own target (B, T, *event), or None for the one that `target` names.

        batch: a `Batch` of tensors (B, T, ...); obs: its observations as network inputs.
        """
        return None

    def metrics(self, feat: Tensor, target: Tensor) -> dict[str, Tensor]:
        """More numbers to log, () each, as world_model/NAME_KEY. feat (B, T, F), target (B, T, *event)."""
        return {}

    def forward(self, feat: Tensor) -> Tensor:
        """The prediction (its mean). feat (..., F) -> (..., *event)."""
        raise NotImplementedError

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood in nats, up to a constant. feat (B, T, F), target (B, T, *event) -> (B, T)."""
        raise NotImplementedError


class ConvDecoder(Head):
    """Features to image; unit-variance Gaussian. feat (..., F) -> (..., C, H, W).

    Without `kernels` it mirrors the encoder layer by layer (the design document's "symmetric decoder"), for any size.
    With kernels (5, 5, 6, 6) it is the released code's: Linear to 1x1x(32 depth), then transposed convolutions of
    stride 2, which give 64x64 only. The last layer is linear and never normalised.
    """

    indexed = True

    def __init__(
        self,
        feat_dim: int,
        shape: Sequence[int],
        *,
        target: str,
        depth: int = 32,
        norm: Norm = True,
        activation: str = "elu",
        kernels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.target, self.shape = target, tuple(shape)
        channels, height, width = shape
        if kernels:
            plan = self._fixed_plan(kernels, depth, channels, (height, width))
            self.start = (32 * depth, 1, 1)
        else:
            plan, self.start = self._mirror_plan(depth, channels, height, width)
        self.linear = make_linear(feat_dim, math.prod(self.start))
        modules: list[nn.Module] = []
        size = self.start[0]
        for i, (out, kernel, padding) in enumerate(plan):
            modules.append(nn.ConvTranspose2d(size, out, kernel, 2, output_padding=padding))
            if i < len(plan) - 1:
                if norm:
                    modules.append(ChannelNorm(norm, out))
                modules.append(ACTIVATIONS[activation]())
            size = out
        self.layers = nn.Sequential(*modules)
        # The mirrored decoder's Linear stands for the encoder's last feature map, which had an activation.
        self.activation = nn.Identity() if kernels else ACTIVATIONS[activation]()
        self.apply(init_glorot)

    @staticmethod
    def _fixed_plan(
        kernels: Sequence[int], depth: int, channels: int, size: tuple[int, int]
    ) -> list[tuple[int, int, tuple[int, int]]]:
        reached = deconv_size(kernels)
        if size != (reached, reached):
            raise ValueError(
                f"decoder kernels {tuple(kernels)} give {reached}x{reached} images, got {size[0]}x{size[1]}; "
                "leave them empty for a decoder that mirrors the encoder at any size"
            )
        outs = [depth * 2 ** (len(kernels) - 2 - i) for i in range(len(kernels) - 1)] + [channels]
        return [(out, kernel, (0, 0)) for out, kernel in zip(outs, kernels, strict=True)]

    @staticmethod
    def _mirror_plan(
        depth: int, channels: int, height: int, width: int
    ) -> tuple[list[tuple[int, int, tuple[int, int]]], tuple[int, int, int]]:
        heights, widths = conv_sizes(height), conv_sizes(width)
        count = min(len(heights), len(widths)) - 1
        plan = []
        for i in reversed(range(count)):
            # A stride-2 convolution drops a row of an even-odd mismatch; output_padding gives it back.
            padding = [sizes[i] - ((sizes[i + 1] - 1) * 2 + 4) for sizes in (heights, widths)]
            plan.append((depth * 2 ** (i - 1) if i else channels, 4, (padding[0], padding[1])))
        return plan, (depth * 2 ** (count - 1), heights[count], widths[count])

    def forward(self, feat: Tensor) -> Tensor:
        maps = self.activation(self.linear(feat)).reshape((-1, *self.start))
        return self.layers(maps).reshape(feat.shape[:-1] + self.shape)

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return squared_error(self(feat), target, event_dims=3)


class VectorDecoder(Head):
    """Features to a vector observation; unit-variance Gaussian. feat (..., F) -> (..., V)."""

    indexed = True

    def __init__(
        self,
        feat_dim: int,
        size: int,
        *,
        target: str,
        mlp: MLPOptions = MLPOptions(),
    ) -> None:
        super().__init__()
        self.target = target
        self.mlp = MLP(feat_dim, size, mlp)

    def forward(self, feat: Tensor) -> Tensor:
        return self.mlp(feat)

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return squared_error(self(feat), target, event_dims=1)


class SharedVectorDecoder(Head):
    """As `VectorDecoder`, with hidden layers that the decoders of several vectors share: the released code's decoder.

    trunk: the hidden layers, of which each decoder has an output layer of its own; `keeps`: they are this head's part
    of checkpoints (of one of them). feat (..., F) -> (..., V).
    """

    indexed = True

    def __init__(self, trunk: MLP, size: int, *, target: str, keeps: bool) -> None:
        super().__init__()
        self.target = target
        self.output = nn.Linear(trunk.output_dim, size)
        self.output.apply(init_glorot)
        self.trunk = trunk if keeps else None
        self._shared = [trunk]  # in a list, so that it is no module of every head

    def forward(self, feat: Tensor) -> Tensor:
        return self.output(self._shared[0](feat))

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return squared_error(self(feat), target, event_dims=1)


class CategoricalDecoder(Head):
    """Features to discrete observations, one-hots of `sizes` side by side. feat (..., F) -> probabilities (..., V).

    A unit-variance Gaussian charges 0.375 nats for not knowing one of 4 symbols, of which the KL costs 1.39 nats: at
    weight 1 it pays not to look. By cross-entropy, knowing a symbol is worth exactly the nats that it takes.
    """

    indexed = True

    def __init__(self, feat_dim: int, sizes: Sequence[int], *, target: str, mlp: MLPOptions = MLPOptions()) -> None:
        super().__init__()
        self.target, self.sizes = target, tuple(sizes)
        self.mlp = MLP(feat_dim, sum(sizes), mlp)

    def forward(self, feat: Tensor) -> Tensor:
        return self._log_probs(feat).exp()

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        """In nats, summed over the numbers. feat (..., F), target (..., V) of one-hots -> (...)."""
        return -(target * self._log_probs(feat)).sum(-1)

    def _log_probs(self, feat: Tensor) -> Tensor:
        logits = self.mlp(feat).float()
        if len(set(self.sizes)) == 1:
            return logits.unflatten(-1, (-1, self.sizes[0])).log_softmax(-1).flatten(-2)
        return torch.cat([part.log_softmax(-1) for part in logits.split(self.sizes, -1)], -1)


class RewardPredictor(Head):
    """Features to reward; trained on transform(r_t). feat (..., F) -> (...).

    `forward` answers in the space that the actor plans in: raw rewards for symlog (its mean is taken through symexp)
    and none, squashed ones for tanh and sign, as in the released code. `distribution`: see `distributions.py`.
    """

    indexed = True
    target = "reward"

    def __init__(
        self,
        feat_dim: int,
        *,
        transform: str = "symlog",
        distribution: str = "normal",
        mlp: MLPOptions = MLPOptions(),
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.scalar = SCALARS[distribution](transform)
        size = self.scalar.stats_dim
        self.mlp = MLP(feat_dim, size, mlp)
        if zero_init:
            zero_output(self.mlp)

    def forward(self, feat: Tensor) -> Tensor:
        return self.scalar.mean(self.mlp(feat))

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return self.scalar.nll(self.mlp(feat), target)


class ContinuePredictor(Head):
    """Features to the probability that the episode continues after this state. feat (..., F) -> (...) in [0, 1].

    Target 1 - is_terminal: a time limit is not an end (implementation-details.md#environment-data). With `discount` d
    other than 1 it is d times that, as in the released code: the network then learns gamma and the end in one number,
    and `forward` takes d out again (so that it may exceed 1 by rounding up to 1 / d).
    """

    indexed = True
    target = "continue"

    def __init__(
        self,
        feat_dim: int,
        *,
        discount: float = 1.0,
        mlp: MLPOptions = MLPOptions(),
    ) -> None:
        super().__init__()
        self.discount = discount
        self.mlp = MLP(feat_dim, 1, mlp)

    def forward(self, feat: Tensor) -> Tensor:
        return torch.sigmoid(self.mlp(feat).squeeze(-1).float()) / self.discount

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        logit = self.mlp(feat).squeeze(-1).float()
        return F.binary_cross_entropy_with_logits(logit, self.discount * target, reduction="none")


class MaskPredictor(Head):
    """Features to the probability that each action is allowed. feat (..., F) -> (..., A) in [0, 1].

    Trained like the continue predictor, by binary cross-entropy; numbers (parts that are no choice) are always allowed.
    """

    indexed = True

    def __init__(
        self,
        feat_dim: int,
        parts: Sequence[Part],
        *,
        target: str,
        mlp: MLPOptions = MLPOptions(),
    ) -> None:
        super().__init__()
        self.target, self.parts = target, tuple(parts)
        self.sizes = [part.size * part.copies for part in parts]
        self.mlp = MLP(feat_dim, sum(self.sizes), mlp)

    def forward(self, feat: Tensor) -> Tensor:
        return torch.sigmoid(self.mlp(feat).float())

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        """In nats, summed over choices. feat (..., F), target (..., A) of 0 and 1 -> (...)."""
        error = F.binary_cross_entropy_with_logits(self.mlp(feat).float(), target.float(), reduction="none")
        pieces = torch.split(error, self.sizes, -1)
        choices = [x.sum(-1) for x, part in zip(pieces, self.parts, strict=True) if part.policy == "onehot"]
        return torch.stack(choices).sum(0)

    @torch.no_grad()
    def allowed(self, feat: Tensor) -> Tensor:
        """The mask to dream with: what is more likely allowed than not, and always the likeliest of a choice.

        feat (..., F) -> (..., A) of 0 and 1.
        """
        out = []
        for probs, part in zip(torch.split(self(feat), self.sizes, -1), self.parts, strict=True):
            if part.policy == "onehot":
                each = one_by_one(probs, part)
                best = F.one_hot(each.argmax(-1), part.size).bool()
                out.append(((each > 0.5) | best).float().flatten(-2))
            else:
                out.append(torch.ones_like(probs))
        return torch.cat(out, -1)


def demo() -> None:
    """Print the shape of everything for a 64x64 colour image, and check that the decoder mirrors odd sizes."""
    torch.manual_seed(0)
    image = torch.randint(0, 256, (2, 5, 64, 64, 3), dtype=torch.uint8)
    pixels = image.movedim(-1, -3) / 255 - 0.5
    encoder = ConvEncoder((3, 64, 64))
    embed = encoder(pixels)
    feat = torch.randn(2, 5, 1224)
    print("image     ", tuple(image.shape), "uint8 ->", tuple(pixels.shape), "in [-0.5, 0.5]")
    print("embed     ", tuple(embed.shape), f"  encoder {sum(p.numel() for p in encoder.parameters()):,} parameters")
    heads: dict[str, Head] = {
        "ConvDecoder": ConvDecoder(1224, (3, 64, 64), target="image"),
        "VectorDecoder": VectorDecoder(1224, 7, target="position"),
        "RewardPredictor": RewardPredictor(1224),
        "ContinuePredictor": ContinuePredictor(1224),
    }
    for name, head in heads.items():
        print(f"{name:18}", tuple(feat.shape), "->", tuple(head(feat).shape))
    for height, width in [(64, 64), (28, 28), (35, 50), (84, 84), (9, 12)]:
        shape = ConvDecoder(8, (1, height, width), target="image", depth=4)(torch.zeros(1, 8)).shape
        if shape != (1, 1, height, width):
            raise AssertionError(f"decoder made {shape} for {height}x{width}")
    print("ok: the decoder returns the size that the encoder was given, odd sizes included")


if __name__ == "__main__":
    demo()
