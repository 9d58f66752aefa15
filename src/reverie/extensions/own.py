"""Networks of the user's own: encoder, latent and heads from functions, checked by shape.

A configuration names them (`model.own_modules`), and only names them: what makes them is code, and a file from
elsewhere shall not choose what code runs. The program that wants them says so with `modules={...}`, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..latents import Latent
from ..networks import Head, MaskPredictor
from ..observations import ObservationEncoder

Factory = Callable[..., Any]
PLACES = ("encoder", "latent")

#: What programs of this process have given: name as in the configuration -> the function.
_GIVEN: dict[str, Factory] = {}


def register(modules: Mapping[str, Any], resolve: Callable[[str], Factory]) -> tuple[str, ...]:
    """Keep `modules={"encoder": f, "latent": g, "heads": {NAME: h}}` for this process. -> names for the configuration.

    A function may be given as text, MODULE:NAME, which `resolve` imports; the configuration then keeps that text.
    Raises UserError.
    """
    if not isinstance(modules, Mapping):
        raise UserError(f"modules must be a dict, got {str(modules)[:60]!r}.", "Its places: encoder, latent and heads.")
    heads = modules.get("heads", {})
    if not isinstance(heads, Mapping):
        raise UserError(f"modules['heads'] must be a dict of names and functions, got {str(heads)[:60]!r}.")
    unknown = [str(key) for key in modules if key not in (*PLACES, "heads")]
    if unknown:
        raise UserError(f"modules has no place '{unknown[0]}'.", "There are encoder, latent and heads.")
    given = {place: modules[place] for place in PLACES if place in modules}
    given |= {f"heads/{name}": factory for name, factory in heads.items()}
    names = []
    for place, factory in given.items():
        if any(letter in place for letter in ".=,") or not place.rpartition("/")[2]:
            raise UserError(f"modules: '{place}' is no name for a head.", "Write letters, digits and _.")
        text = factory if isinstance(factory, str) else f"custom:{getattr(factory, '__name__', type(factory).__name__)}"
        made = resolve(factory) if isinstance(factory, str) else factory
        if not callable(made):
            raise UserError(f"modules['{place}'] is {str(made)[:60]!r}, not a function.", "Give what makes the module.")
        names.append(f"{place}={text}")
        _GIVEN[names[-1]] = made
    return tuple(names)


class OwnModules:
    """The functions behind the names of a configuration."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises UserError for what no program of this process has given."""
        missing = [name for name in names if name not in _GIVEN]
        if missing:
            place, _, text = missing[0].partition("=")
            raise UserError(
                f"this agent has networks of its user's own ({place}: {text}), which are code and not in its files.",
                "In Python, give them: reverie.load(path, modules={...}), or Dreamer(..., modules={...}).",
            )
        self.places = {name.partition("=")[0]: _GIVEN[name] for name in names}

    def encoder(self, images: Mapping[str, Sequence[int]], vectors: Mapping[str, int]) -> OwnEncoder | None:
        """From `f(images={key: (C, H, W)}, vectors={key: size})`; None where it is the usual one. Raises UserError."""
        if "encoder" not in self.places:
            return None
        net = self._make("encoder", nn.Module, images=dict(images), vectors=dict(vectors))
        return OwnEncoder(net, images, vectors)

    def latent(self) -> Latent | None:
        """From `g()`; None where it is the usual one. Raises UserError."""
        if "latent" not in self.places:
            return None
        found: Latent = self._make("latent", Latent)
        check_latent(found)
        return found

    def heads(self, usual: Mapping[str, Head], feat_dim: int) -> dict[str, Head]:
        """The usual heads with those from `h(feat_dim)` in their places or beside them. Raises UserError."""
        heads = dict(usual)
        for place in self.places:
            kind, _, name = place.partition("/")
            if kind == "heads":
                heads[name] = self._make(place, Head, feat_dim)
                check_head(name, heads[name], usual, feat_dim)
        return heads

    def _make(self, place: str, kind: type, *arguments: Any, **options: Any) -> Any:
        try:
            made = self.places[place](*arguments, **options)
        except TypeError as error:
            raise UserError(f"modules: the function for {place} does not take what it is given ({error}).") from error
        if not isinstance(made, kind):
            wanted = f"{kind.__module__}.{kind.__name__}"
            raise UserError(f"modules: {place} must be a {wanted}, got a {type(made).__name__}.")
        return made


class OwnEncoder(ObservationEncoder):
    """A user's network with what the world model asks an encoder for. {key: (..., *shape)} -> (..., output_dim)."""

    def __init__(self, net: nn.Module, images: Mapping[str, Sequence[int]], vectors: Mapping[str, int]) -> None:
        nn.Module.__init__(self)  # none of the usual networks
        self.net = net
        self.image_keys, self.vector_keys, self.vector_sizes = sorted(images), sorted(vectors), dict(vectors)
        shapes = {key: tuple(shape) for key, shape in images.items()} | {key: (size,) for key, size in vectors.items()}
        sizes = [_shape_for(net, {key: torch.zeros(*lead, *s) for key, s in shapes.items()}) for lead in ((2, 3), (4,))]
        if len(sizes[0]) != 3 or sizes[0][:2] != (2, 3) or sizes[1] != (4, sizes[0][2]):
            raise UserError(
                f"modules: the encoder makes {sizes[0]} of observations (2, 3, ...) and {sizes[1]} of (4, ...).",
                "It must keep the leading axes, whatever they are, and give one vector: (..., E).",
            )
        self.output_dim = sizes[0][2]

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        return self.net(obs)


@torch.no_grad()
def _shape_for(net: nn.Module, obs: Mapping[str, Tensor]) -> tuple[int, ...]:
    try:
        out = net(obs)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in obs.items())
        raise UserError(f"modules: the encoder fails on {shapes} ({str(error).splitlines()[0]}).") from error
    return tuple(out.shape) if isinstance(out, Tensor) else ()


@torch.no_grad()
def check_latent(latent: Latent) -> None:
    """Shapes of a latent's methods at statistics (2, 3, P). Raises UserError."""
    name = type(latent).__name__
    if not all(isinstance(getattr(latent, size, None), int) for size in ("stoch_dim", "stats_dim")):
        raise UserError(f"modules: the latent {name} has no stoch_dim or no stats_dim.", "Set both to whole numbers.")
    stats = torch.zeros(2, 3, latent.stats_dim)
    one, flat = (2, 3, latent.stoch_dim), (2, 3)
    try:
        found = {
            "sample": (latent.sample(stats, latent.noise(2, 3)), one),
            "mode": (latent.mode(stats), one),
            "kl": (latent.kl(stats, stats), flat),
            "entropy": (latent.entropy(stats), flat),
        }
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        shape = 2, 3, latent.stats_dim
        raise UserError(f"modules: the latent {name} fails on statistics {shape} ({error}).") from error
    for method, (value, wanted) in found.items():
        if tuple(value.shape) != wanted:
            raise UserError(f"modules: {name}.{method} gives {tuple(value.shape)} where {wanted} is needed.")


@torch.no_grad()
def check_head(name: str, head: Head, usual: Mapping[str, Head], feat_dim: int) -> None:
    """A head that replaces another predicts what that one does; a new one has a target. Raises UserError."""
    feat = torch.zeros(2, 3, feat_dim)
    if name not in usual:
        if head.target not in {*usual, "reward", "continue"} and type(head).target_of is Head.target_of:
            raise UserError(
                f"modules: nothing is known as the target '{head.target}' of the head {name}.",
                "Set `target` to reward, continue or obs/KEY, or write `target_of`.",
            )
        return
    if isinstance(usual[name], MaskPredictor) and not isinstance(head, MaskPredictor):
        raise UserError(f"modules: the head {name} says which actions are allowed; it must be a MaskPredictor.")
    head.target = head.target or usual[name].target
    wanted = tuple(usual[name](feat).shape)
    try:
        shape = tuple(head(feat).shape)
        loss: tuple[int, ...] = (2, 3)
        if shape == wanted:
            loss = tuple(head.loss(feat, torch.zeros(wanted)).shape)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"modules: the head {name} fails on features (2, 3, {feat_dim}) ({error}).") from error
    if (shape, loss) != (wanted, (2, 3)):
        odd = f"predicts {shape}, needed is {wanted}" if shape != wanted else f"has a loss of {loss}, needed is (2, 3)"
        raise UserError(f"modules: the head {name} {odd}, from features (2, 3, {feat_dim}).")
