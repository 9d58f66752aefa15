"""Networks and heads from named weights (1.5 - 1.7). A network is the dict of its weights, under torch's names.

Sections are those of implementation-details.md. x is (..., features); images are (..., C, H, W).
"""

import numpy as np

from . import slow


def part(weights, prefix):
    """The weights of one module: those whose names begin with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: w for name, w in weights.items() if name.startswith(f"{prefix}.")}


def _blocks(weights):
    """Weights "0.weight", "0.bias", "1.weight", ... -> [(dense or convolution, norm or {})] in order.

    A norm is what has a weight of one axis; it belongs to the layer before it.
    """
    blocks = []
    for place in sorted({int(name.split(".")[0]) for name in weights}):
        module = part(weights, str(place))
        if "weight" in module and module["weight"].ndim > 1:
            blocks.append((module, {}))
        else:
            blocks[-1] = (blocks[-1][0], part(module, "norm") or module)
    return blocks


def normalise(weights, x):
    """LayerNorm has scale and offset, RMSNorm has a scale alone; no weights, no norm."""
    if not weights:
        return x
    if "bias" in weights:
        return slow.layer_norm(x, weights["weight"], weights["bias"])
    return slow.rms_norm(x, weights["weight"])


def dense(weights, x):
    return x @ weights["weight"].T + weights["bias"]


def mlp(weights, x, activation, *, output=True):
    """Dense, norm, activation, again and again (1.5); with `output` the last Dense stands alone."""
    blocks = _blocks(weights)
    for i, (layer, norm) in enumerate(blocks):
        x = dense(layer, x)
        if not (output and i == len(blocks) - 1):
            x = slow.ACTIVATIONS[activation](normalise(norm, x))
    return x


def gru(weights, x, h):
    """One step of the recurrent cell that the weights are of, row by row. x (B, X), h (B, D)."""
    if "weight_hh" in weights:
        step, names = slow.standard_gru_step, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    else:
        step, names = slow.gru_step, ("gates.weight", "gates.bias", "norm.weight", "norm.bias")
    return np.stack([step(*row, *(weights.get(name) for name in names)) for row in zip(x, h, strict=True)])


# --------------------------------------------------------------------------------------------------------- images


def _channel_norm(weights, maps):
    """Each pixel by itself, over its channels."""
    return np.moveaxis(normalise(weights, np.moveaxis(maps, -3, -1)), -1, -3)


def convolution(layer, maps, kernel=4):
    """Stride 2, no padding (1.5). maps (..., C, H, W), weight (O, C, 4, 4) -> (..., O, H', W')."""
    height, width = ((size - kernel) // 2 + 1 for size in maps.shape[-2:])
    rows = [
        [
            np.einsum("...cij,ocij->...o", maps[..., 2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel], layer["weight"])
            for x in range(width)
        ]
        for y in range(height)
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + layer["bias"][:, None, None]


def transposed_convolution(layer, maps, size):
    """The other way: each place paints a 4x4 patch, two pixels apart. Rows that no patch reaches show the bias."""
    kernel = layer["weight"].shape[-1]
    canvas = np.zeros((*maps.shape[:-3], layer["weight"].shape[1], *size), np.result_type(maps, layer["weight"]))
    for y, x in np.ndindex(*maps.shape[-2:]):
        patch = np.einsum("...c,coij->...oij", maps[..., y, x], layer["weight"])
        canvas[..., 2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel] += patch
    return canvas + layer["bias"][:, None, None]


def conv_encoder(weights, image, activation):
    """Convolution, norm, activation after every layer, the last included; flattened (1.5)."""
    maps = image
    for layer, norm in _blocks(part(weights, "layers")):
        maps = slow.ACTIVATIONS[activation](_channel_norm(norm, convolution(layer, maps)))
    return maps.reshape((*image.shape[:-3], -1))


def sizes(size, count):
    """Sizes of the maps after each of `count` convolutions, the image's first."""
    found = [size]
    for _ in range(count):
        found.append((found[-1] - 4) // 2 + 1)
    return found


def conv_decoder(weights, feat, shape, activation):
    """The mirror of the encoder (design document, "symmetric decoder"): Dense, activation, then transposed
    convolutions back through the encoder's sizes. The last layer is linear and never normalised (1.5)."""
    blocks, act = _blocks(part(weights, "layers")), slow.ACTIVATIONS[activation]
    heights, widths = (sizes(size, len(blocks)) for size in shape[1:])
    maps = act(dense(part(weights, "linear"), feat))
    maps = maps.reshape((*feat.shape[:-1], -1, heights[-1], widths[-1]))
    for i, (layer, norm) in enumerate(blocks):
        back = len(blocks) - 1 - i
        maps = transposed_convolution(layer, maps, (heights[back], widths[back]))
        if back:
            maps = act(_channel_norm(norm, maps))
    return maps


# ---------------------------------------------------------------------------------------------------------- numbers


class Number:
    """What a head's outputs say about one number, a reward or a value (1.7, 1.13; two-hot is DreamerV3's).

    normal: one output, the mean on the squashed scale. twohot: a vote for each of 255 bins between -20 and 20 there.
    """

    def __init__(self, distribution, transform, bins=255, limit=20.0):
        self.bins = np.linspace(-limit, limit, bins) if distribution == "twohot" else None
        self.squash, self.unsquash = slow.TRANSFORMS[transform]

    def mean(self, stats):
        return self.unsquash(stats[..., 0] if self.bins is None else (slow.softmax(stats) * self.bins).sum(-1))

    def nats(self, stats, target):
        """How badly the target was foreseen: (..., P), (...) -> (...)."""
        target = self.squash(target)
        if self.bins is None:
            return 0.5 * (stats[..., 0] - target) ** 2
        votes = np.array([slow.two_hot(x, self.bins) for x in target.ravel()]).reshape(stats.shape)
        return -(votes * np.log(slow.softmax(stats))).sum(-1)
