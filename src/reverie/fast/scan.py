"""Filtering and dreaming with as little in the loops as possible, for categorical latents.

What does not depend on h_t is computed for all steps at once, before or after the loop: the projections of embedding
and action, the prior. Backward is written out by hand: autograd would record some forty small operations a step. Its
loop carries only what flows from step to step; the gradients of weights follow as one product over all steps each.

    pre = W_z z + W_a a + b     x = elu(norm(pre))      gates = W_g [x, h] + b      h' = gru(norm(gates), h)
    pre = W_h h' + W_e e + b    y = elu(norm(pre))      stats = W_s y + b           z' ~ softmax(stats)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..latents import CategoricalLatent
from ..layers import MLP, ExactLinear, NormGRUCell
from ..ops import reset_where
from ..rssm import DiscreteRSSM, Dream, State
from . import fused
from .definitions import PARTS, Watch, changed
from .dense import LINEAR, FastMLP, Prepared, Weights, is_float32, is_hooked, is_standard, signature, worth_fusing
from .products import layer_dtype, linear, outer, product_dtype
from .rows import Feat, OneHots, by_class, rows_gradient
from .steps import Kept, Normed, NormElu, Product, Recurrence, norm_of

#: What is not called here: replaced on one instance, it must take effect.
INNER = {"initial", "recurrent_step", "prior", "posterior", "_state", "observe"}
LATENT = {"sample", "logits", "noise"}
#: Which module of the RSSM a layer is in, and at which place there.
LAYERS = {"input": ("input_net", 0), "gates": ("gru", 0), "look": ("posterior_net", 0), "answer": ("posterior_net", -1),
          "foresee": ("prior_net", 0), "foretell": ("prior_net", -1)}  # fmt: skip
MLP_FORWARD = vars(FastMLP)["forward"]
WATCH = Watch(PARTS["DiscreteRSSM"])


class FastRSSM(DiscreteRSSM):
    """`DiscreteRSSM` by faster arithmetic, for the networks of DreamerV2; with others it is the plain one."""

    product_dtype: torch.dtype
    runs_fused: bool

    def prepared(self, name: str) -> Prepared:
        """Of a layer, by its name here."""
        net, at = LAYERS[name]
        layers = list(self._modules[net]._modules.values())  # type: ignore[union-attr]
        layer = cast(nn.Linear, layers[at])
        known = self.__dict__.setdefault("_prepared", {})
        prepared = known.get(name)
        if prepared is None or prepared.layer is not layer:  # the first call, or the layer was replaced
            prepared = known[name] = Prepared(layer)
        return cast(Prepared, prepared)

    def weights(self, name: str, rows: int, size: int) -> Weights:
        """Of a layer, in the number type for `rows` inputs at a time; kept until the layer changes."""
        prepared = self.prepared(name)
        return prepared(layer_dtype(prepared.layer, rows, self.product_dtype), size)

    def is_fused(self, x: Tensor) -> bool:
        """Are the loops run by compiled code (fused.py), where this file is used at all? x (N, ...): of each row."""
        if not self.runs_fused or x.device.type != "cpu" or not is_float32(self):
            return False
        return worth_fusing(len(x), self.prepared("gates").layer.weight)

    def parts(self, head: str, answer: str) -> fused.Parts:
        """For fused.py: "look" and "answer", the posterior's layers, or "foresee" and "foretell", the prior's."""
        latent, size, depth = cast(CategoricalLatent, self.latent), self.latent.stoch_dim, self.rnn_hidden_dim
        first, cell, net = self.prepared("input"), cast(NormGRUCell, self.gru), self.prior_net
        net = self.posterior_net if head == "look" else net
        width, last = first.layer.out_features, self.prepared(answer)
        tensors = (
            first(torch.float32, size).columns, first.packed(slice(size, None)), first.layer.bias,
            self.prepared("gates").packed(slice(None)), cell.gates.bias,
            self.prepared(head).packed(slice(depth)), None if head == "look" else self.prepared(head).layer.bias,
            last.packed(slice(None)), last.layer.bias,
        )  # fmt: skip
        sizes = (first.layer.in_features - size, width, depth, last.layer.in_features)
        norms = (norm_of(self.input_net), cell.norm, norm_of(net))
        return fused.Parts((*sizes, latent.num_categoricals, latent.num_categories), tensors, norms)

    def recurrence(self, rows: int) -> Recurrence:
        """The recurrent step, prepared for many steps of `rows` states."""
        size = self.latent.stoch_dim
        first, cell = cast(nn.Linear, self.input_net[0]), cast(NormGRUCell, self.gru)
        weights, gates = self.weights("input", rows, size), self.weights("gates", rows, 0)
        return Recurrence(first, weights, gates, norm_of(self.input_net), cell.norm, size=size)

    def misfit(self) -> str:
        """What keeps it from being computed by this file, "" if nothing does; in one clause.

        Written out here are straight-through draws without unimix, LayerNorm or none, ELU, and the V2 cell.
        """
        latent = self.latent
        if type(latent) is not CategoricalLatent or not LATENT.isdisjoint(vars(latent)):
            return f"the latent is {type(latent).__name__}, or has methods of its own"
        if latent.unimix or not latent.through:
            return f"unimix is {latent.unimix:g}" if latent.unimix else "gradients end at the draw"
        if type(self.gru) is not NormGRUCell or type(self.gru.norm) not in (nn.LayerNorm, nn.Identity):
            norm = getattr(self.gru, "norm", None)
            return f"the recurrent cell is {type(self.gru).__name__}" + (f" with {type(norm).__name__}" if norm else "")
        norms = [] if type(self.gru.norm) is nn.Identity else [self.gru.norm]
        if not all(is_standard(layer) for layer in (self.gru.gates, *norms)):
            return "the recurrent cell has layers with options, hooks or types of their own"
        odd = _odd_net("input_net", self.input_net) or _odd_net("posterior_net", self.posterior_net)
        if odd:
            return odd
        if type(self) is not FastRSSM or not INNER.isdisjoint(vars(FastRSSM).keys() - {"observe"}):
            return "methods of the fast RSSM were replaced"
        if vars(FastMLP)["forward"] is not MLP_FORWARD:
            return "MLP.forward was changed"
        if not INNER.isdisjoint(vars(self)):
            return f"{min(INNER & vars(self).keys())} was replaced"
        if is_hooked(self.gru) or is_hooked(self.gru.norm):
            return "the recurrent cell has a hook or a forward of its own"
        return "" if WATCH.intact() else changed(PARTS["DiscreteRSSM"]) or "a function was changed or has a global hook"

    def fits(self) -> bool:
        """Is it computed by this file? What stops it later than at the start is reported once."""
        latent, own = self.latent, self.__dict__
        now = (
            signature(self),
            latent,
            vars(latent).copy(),
            INNER.isdisjoint(own),
            [vars(FastRSSM).get(x) for x in INNER],
        )
        if own.get("_fitting") == now and vars(FastMLP)["forward"] is MLP_FORWARD and WATCH.intact():
            return True
        reason = self.misfit()
        own["_fitting"] = None if reason else now
        if reason and not self.__dict__.get("_said") and not WATCH.intact():
            self.__dict__["_said"] = True
            warnings.warn(f"{reason}: plain arithmetic for the RSSM from now on", stacklevel=3)
        return not reason

    def observe(
        self, state: State, action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor | None = None
    ) -> State:
        """As `DiscreteRSSM.observe`; a scan of one step where no gradients are needed (acting)."""
        if torch.is_grad_enabled() or embed.device.type != "cpu" or not self.fits():
            return super().observe(state, action, embed, is_first, noise)
        if noise is None:
            noise = self.latent.noise(len(embed), device=embed.device)
        past = reset_where(is_first, action)
        if self.is_fused(embed):
            return self._observe_fused(state, past, embed, is_first, noise)
        scan = _Scan(self, past.unsqueeze(1), is_first.unsqueeze(1), noise.unsqueeze(1))
        deter, stats, _, index = scan.forward(embed.unsqueeze(1), state)
        stoch = OneHots(index.squeeze(1), None, self.latent.stoch_dim).dense()
        return State(deter.squeeze(1), stoch, stats.squeeze(1))

    def _observe_fused(self, state: State, past: Tensor, embed: Tensor, first: Tensor, noise: Tensor) -> State:
        """past (B, A): the action, zero where an episode begins; the rest as in `observe`."""
        latent, size = cast(CategoricalLatent, self.latent), self.latent.stoch_dim
        parts, look = self.parts("look", "answer"), self.prepared("look")
        packed = look.packed(slice(self.rnn_hidden_dim, None))
        sizes = look.layer.in_features - self.rnn_hidden_dim, look.layer.out_features
        layer = fused.Dense(*sizes, packed, cast(Tensor, look.layer.bias), None, None, False)
        seen = fused.Net([layer], 0).forward(embed.float().contiguous(), None)[0]
        z, deter = (x.float().contiguous() for x in (state.stoch, state.deter))
        index = fused.ones(z, latent.num_categoricals)
        from_z = (
            linear(z, self.prepared("input")(torch.float32, size).columns.t()).contiguous() if index is None else None
        )
        given = (past.float().contiguous(), seen, first.unsqueeze(1).contiguous(), noise.float().contiguous())
        found = fused.scan(parts, *given, deter=deter, index=index, from_z=from_z)
        stoch = OneHots(found.drawn.squeeze(1), None, size).dense()
        return State(found.deter.squeeze(1), stoch, found.stats.squeeze(1))

    def rollout_observation(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        noise: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """As the plain one; the posterior's stoch is `OneHots`."""
        if state is not None or not self.fits():
            return super().rollout_observation(embed, action, is_first, state, noise)
        batch, length = self.check_sequence(embed, action, is_first, noise)
        is_first = torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], 1)
        if noise is None:
            noise = self.latent.noise(batch, length, device=embed.device)
        scan = self.scan_of(embed)(self, reset_where(is_first, action), is_first, noise)
        deter, stats, probs, index = cast(Any, _Observe.apply(embed, scan, *scan.parameters()))
        stoch = OneHots(index, probs if torch.is_grad_enabled() else None, self.latent.stoch_dim)
        return State(deter, cast(Tensor, stoch), stats), self.prior_net(deter)

    def rollout_imagination(
        self, policy: Callable[[Tensor], Tensor], start: State, horizon: int, noise: Tensor | None = None
    ) -> Dream:
        """As the plain one; the dream's features are a `Feat`. With gradients: to states and actions, not to weights
        (where those are wanted too, it is the plain one)."""
        weights = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if weights or isinstance(start.stoch, Tensor) or not self.fits():
            dense = cast(Any, start.stoch) if isinstance(start.stoch, Tensor) else cast(OneHots, start.stoch).dense()
            return super().rollout_imagination(policy, State(start.deter, dense, start.stats), horizon, noise)
        count, size = len(start.deter), self.latent.stoch_dim
        if noise is None:
            noise = self.latent.noise(count, horizon, device=start.deter.device)
        if not torch.is_grad_enabled() and self.is_fused(start.deter) and not self.fused_misfit():
            return self._fused_dream(policy, start, noise)
        deter, stoch, actions = start.deter, cast(OneHots, start.stoch), list[Tensor]()
        advance = self._advance_fused() if self.is_fused(deter) and not self.fused_misfit() else self._advance(count)
        steps: list[tuple[Tensor, OneHots]] = [(deter, stoch)]
        for noise_k in noise.unbind(1):
            action = policy(cast(Tensor, Feat(stoch, deter)))
            deter, probs, index = advance(deter, stoch, action, noise_k)
            stoch = OneHots(index, probs if torch.is_grad_enabled() else None, size)
            actions.append(action)
            steps.append((deter, stoch))
        deters = torch.stack([deter for deter, _ in steps], 1)
        index = torch.stack([stoch.index for _, stoch in steps], 1)
        joined = None
        if torch.is_grad_enabled():
            zeros = torch.zeros(count, size, device=deters.device)
            joined = torch.stack([zeros if stoch.probs is None else stoch.probs for _, stoch in steps], 1)
        return Dream(cast(Tensor, Feat(OneHots(index, joined, size), deters)), torch.stack(actions, 1))

    def _advance(self, rows: int) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """(deter, stoch, action, noise) -> the next h, the probabilities of its z, the indices of a draw."""
        step = self.recurrence(rows)

        def advance(deter: Tensor, stoch: OneHots, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            deter = cast(Tensor, _Transition.apply(deter, stoch.probs, action, stoch.index, step))
            return deter, *self.draw(self.prior_net(deter), noise)

        return advance

    def _advance_fused(self) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """As `_advance`, by compiled code both ways."""
        parts, weights = self.parts("foresee", "foretell"), self.weights_back("foresee", "foretell")
        first = cast(nn.Linear, self.input_net[0]).weight.detach()

        def advance(deter: Tensor, stoch: OneHots, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            given = (deter, stoch.probs, action, stoch.index, noise)
            return cast(Any, _FusedTransition.apply(*given, parts, weights, first))

        return advance

    def weights_back(self, head: str, answer: str) -> list[Tensor]:
        """For the way back in fused.py: those of answer, head, gates and W_z; names as in `parts`."""
        columns = {answer: slice(None), head: slice(self.rnn_hidden_dim), "gates": slice(None)}
        columns["input"] = slice(self.latent.stoch_dim)
        return [self.prepared(name).packed(part, back=True) for name, part in columns.items()]

    def scan_of(self, embed: Tensor) -> type[_Scan]:
        """The kind of scan to filter with."""
        return _FusedScan if self.is_fused(embed) else _Scan

    def fused_misfit(self) -> str:
        """What keeps dreams from being run by compiled code where this file runs them, "" if nothing does."""
        return _odd_net("prior_net", self.prior_net)

    def _fused_dream(self, policy: Callable[[Tensor], Tensor], start: State, noise: Tensor) -> Dream:
        size = self.latent.stoch_dim
        dreaming = fused.Dreaming(
            self.parts("foresee", "foretell"), start.deter, cast(OneHots, start.stoch).index, noise.float()
        )
        actions = []
        for deter, index in list(zip(dreaming.deters, dreaming.index, strict=True))[:-1]:
            action = policy(cast(Tensor, Feat(OneHots(index, None, size), deter)))
            dreaming.step(action.float().contiguous())
            actions.append(action)
        deters, index = (x.transpose(0, 1).contiguous() for x in (dreaming.deters, dreaming.index))
        return Dream(cast(Tensor, Feat(OneHots(index, None, size), deters)), torch.stack(actions, 1))

    def draw(self, stats: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same draw as `CategoricalLatent.sample`. stats (N, P), noise (N, S) -> probs (N, Z), index (N, S)."""
        latent = cast(CategoricalLatent, self.latent)
        probs = latent.logits(stats).softmax(-1)
        cumulative = probs.detach().cumsum(-1)
        threshold = noise.unsqueeze(-1) * cumulative[..., -1:]
        index = torch.searchsorted(cumulative, threshold, right=True, out_int32=True).squeeze(-1)
        index.clamp_(max=latent.num_categories - 1)
        index += torch.arange(0, latent.stoch_dim, latent.num_categories, dtype=torch.int32, device=stats.device)
        return probs.flatten(-2), index


def _odd_net(name: str, net: nn.Sequential) -> str:
    """What keeps a network of the RSSM from being written out here, "" if nothing does; in one clause."""
    if type(net) not in (MLP, FastMLP) or is_hooked(net):
        return f"{name} has a type, a hook or a forward of its own"
    kinds = [nn.Linear if type(x) in LINEAR else type(x) for x in net if type(x) is not nn.LayerNorm]
    order = [nn.Linear, nn.ELU] if name == "input_net" else [nn.Linear, nn.ELU, nn.Linear]
    normed = [type(layer) is nn.LayerNorm for layer in net]
    if kinds != order or sum(normed) > 1 or (any(normed) and not normed[1]):
        return f"{name} has other layers than one Linear, LayerNorm and ELU"
    if not all(is_standard(layer) for layer in net):
        return f"a layer of {name} has options, a hook or a type of its own"
    return ""


class _Transition(torch.autograd.Function):
    """One recurrent step of a dream, with gradients to h, to the probabilities of z and to the action."""

    @staticmethod
    def forward(
        ctx: Any, deter: Tensor, probs: Tensor | None, action: Tensor, index: Tensor, step: Recurrence
    ) -> Tensor:
        from_action = F.linear(action, step.action_weight, step.action_bias)
        deter, ctx.kept = step.forward(OneHots(index, None, step.size), deter, from_action)
        ctx.step = step
        return deter

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        step, (wants_deter, wants_probs, wants_action, *_) = ctx.step, ctx.needs_input_grad
        to_deter, to_pre, *_ = step.back(ctx.kept, gradients[0])
        to_probs = step.from_stoch.back(to_pre) if wants_probs else None
        to_action = to_pre @ step.action_weight if wants_action else None
        return to_deter if wants_deter else None, to_probs, to_action, None, None


class _FusedTransition(torch.autograd.Function):
    """One step of a dream and its draw, with gradients as `_Transition` and the prior give them."""

    @staticmethod
    def forward(
        ctx: Any, deter: Tensor, probs: Tensor | None, action: Tensor, index: Tensor, noise: Tensor,
        parts: fused.Parts, weights: list[Tensor], first: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.parts, ctx.weights, ctx.first = parts, weights, first
        given = (x.float().contiguous() for x in (action, noise))
        ctx.kept = fused.transition(parts, deter.contiguous(), index.contiguous(), *given)
        found = ctx.kept.deter.squeeze(1), ctx.kept.probs.squeeze(1), ctx.kept.drawn.squeeze(1)
        ctx.mark_non_differentiable(found[2])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        to_deter, to_probs = (None if g is None else g.float().contiguous() for g in gradients[:2])
        never = torch.zeros(len(ctx.kept.pre), 1, dtype=torch.bool)
        found = fused.scan_back(ctx.parts, ctx.weights, ctx.kept, never, (to_deter, None, to_probs), learns=False)
        size, pre = ctx.parts.sizes[4] * ctx.parts.sizes[5], found.pre.squeeze(1)
        wants = ctx.needs_input_grad
        return (
            found.before if wants[0] else None,
            linear(pre, ctx.first[:, :size].t()) if wants[1] else None,
            linear(pre, ctx.first[:, size:].t()) if wants[2] else None,
            *[None] * 5,
        )


class _Scan:
    """Filtering of whole sequences: forward keeps, backward uses up."""

    def __init__(self, rssm: FastRSSM, action: Tensor, is_first: Tensor, noise: Tensor) -> None:
        """action (B, T, A), is_first (B, T) and noise (B, T, S) have no gradients."""
        self.rssm, self.action, self.noise = rssm, action.detach(), noise
        first, rows = is_first.t().unsqueeze(-1), len(action)
        some = is_first.any(0).tolist() if is_first.device.type == "cpu" else [True] * is_first.shape[1]
        self.first = [mask if there else None for mask, there in zip(first, some, strict=True)]
        self.is_first = is_first
        self.step = rssm.recurrence(rows)
        size = rssm.rnn_hidden_dim
        self.look = Product(rssm.weights("look", rows, size).columns.t())
        of_embed, answer = rssm.weights("look", is_first.numel(), size), rssm.weights("answer", rows, 0)
        self.embed, self.answer = Product(of_embed.rest, of_embed.bias), Product(answer.rest, answer.bias)
        self.norm_y = NormElu(norm_of(rssm.posterior_net))
        self.kept: list[tuple[Kept, Normed, Tensor | OneHots, Tensor]] = []

    def parameters(self) -> list[Tensor | None]:
        """In the order of `gradients`: weight, bias, norm's weight, norm's bias of input, cell, posterior; the head."""
        rssm, found = self.rssm, list[Tensor | None]()
        layers = [rssm.input_net[0], cast(NormGRUCell, rssm.gru).gates, rssm.posterior_net[0]]
        parts = [self.step.norm_x, self.step.norm_gates, self.norm_y]
        for layer, part in zip(cast(list[nn.Linear], layers), parts, strict=True):
            norm = part.norm
            found += [layer.weight, layer.bias, *((None, None) if norm is None else (norm.weight, norm.bias))]
        last = cast(nn.Linear, rssm.posterior_net[-1])
        return [*found, last.weight, last.bias]

    def forward(self, embed: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """From a state of (B, ...) or the beginning.

        embed (B, T, E) -> deter (B, T, D), stats (B, T, P), probs (B, T, Z), index (B, T, S).
        """
        (batch, length), step = embed.shape[:2], self.step
        actions = F.linear(self.action, step.action_weight, step.action_bias).unbind(1)
        embeds = self.embed(embed.reshape(batch * length, -1)).reshape(batch, length, -1).unbind(1)
        if state is None:  # whatever it is: the first step erases it
            zeros = torch.zeros(self.noise[:, 0].shape, dtype=torch.int32, device=embed.device)
            state = State(
                embed.new_zeros((batch, self.rssm.rnn_hidden_dim)).float(),
                cast(Tensor, OneHots(zeros, None, step.size)),
                embed,
            )
        deter, last = state.deter, cast(Tensor | OneHots, state.stoch)
        found = []
        for t in range(length):
            deter, kept = step.forward(last, deter, actions[t], self.first[t])
            y = self.norm_y(self.look(deter).add_(embeds[t]))
            stats = self.answer(y.y)
            probs, index = self.rssm.draw(stats, self.noise[:, t])
            self.kept.append((kept, y, last, probs))
            found.append((deter, stats, probs, index))
            last = OneHots(index, None, step.size)
        return tuple(torch.stack(parts, 1) for parts in zip(*found, strict=True))

    def back(self, embed: Tensor, deters: Tensor, *gradients: Tensor | None) -> list[Tensor | None]:
        """The outputs' gradients (deter, stats, probs; None for none) -> that of embed, then of `parameters`."""
        to_deter, to_stats, to_probs = (None if g is None else g.unbind(1) for g in gradients)
        step, latent = self.step, cast(CategoricalLatent, self.rssm.latent)
        shape = (-1, latent.num_categoricals, latent.num_categories)
        carry_deter = carry_probs = None
        rows: list[tuple[Tensor, ...]] = []
        for t in reversed(range(len(self.kept))):
            kept, y, _, probs = self.kept[t]
            g_probs = _sum(None if to_probs is None else to_probs[t], carry_probs)
            g_stats = None if to_stats is None else to_stats[t]
            if g_probs is not None:
                g_stats = _sum(g_stats, self._through_softmax(g_probs, probs, shape))
            g_stats = torch.zeros_like(probs) if g_stats is None else g_stats
            to_look, normed_y = self.norm_y.back(self.answer.back(g_stats), y)
            g = _sum(self.look.back(to_look), _sum(None if to_deter is None else to_deter[t], carry_deter))
            carry_deter, to_pre, *of_cell = step.back(kept, cast(Tensor, g))
            rows.append((g_stats, to_look, normed_y, to_pre, *of_cell))
            if t:
                carry_probs = step.from_stoch.back(to_pre)
                first = self.first[t]
                if first is not None:
                    carry_deter, carry_probs = carry_deter.masked_fill(first, 0), carry_probs.masked_fill(first, 0)
        return self._weights(embed, deters, [list(x) for x in zip(*reversed(rows), strict=True)])

    @staticmethod
    def _through_softmax(g: Tensor, probs: Tensor, shape: tuple[int, ...]) -> Tensor:
        back = torch.ops.aten._softmax_backward_data
        return back(g.reshape(shape), probs.reshape(shape), -1, torch.float32).flatten(-2)

    def _weights(self, embed: Tensor, deters: Tensor, rows: list[list[Tensor]]) -> list[Tensor | None]:
        """Gradients of embed and of the weights. Rows are (T * B, ...), time first."""
        kept, ys, lasts, _ = zip(*self.kept, strict=True)
        flat = [torch.cat(x) for x in rows]
        normed = [(self.norm_y, flat[2], ys), (self.step.norm_x, flat[4], [x.x for x in kept])]
        normed.append((self.step.norm_gates, flat[6], [x.gates for x in kept]))
        y, x, gates = (norm.weights(g, _flat(found)) for norm, g, found in normed)
        index = torch.cat([cast(OneHots, last).index for last in lasts])
        g_stats, to_look, _, to_pre, _, to_gates, _ = flat
        first, action = self.is_first.t().reshape(-1, 1), self.action.transpose(0, 1).flatten(0, 1)
        inputs = (torch.cat([x.joined for x in kept]), torch.cat([x.y for x in ys]))
        seen = [x.transpose(0, 1).flatten(0, 1) for x in (deters, embed)]
        to_embed, of_weights = self.products(
            (g_stats, to_look, to_pre, to_gates), first, index, action, inputs, seen, (x, gates, y)
        )
        batch, length = embed.shape[:2]
        return [to_embed.reshape(length, batch, -1).transpose(0, 1).to(embed.dtype), *of_weights]

    def products(
        self,
        gradients: tuple[Tensor, ...],
        first: Tensor,
        index: Tensor,
        action: Tensor,
        inputs: tuple[Tensor, Tensor],
        seen: list[Tensor],
        norms: tuple[tuple[Tensor | None, Tensor | None], ...],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """One product over all N = B * T steps for each weight, in any order of the steps.

        gradients (N, ...) of stats, look, pre and gates; first (N, 1); index (N, S) and action (N, A) of the past;
        inputs: of the gates (N, X + D) and of the answer (N, Y); seen: deter (N, D) and embed (N, E); norms: the
        gradients of the norms' weights. -> that of embed (N, E), those of `parameters`.
        """
        net = self.rssm.posterior_net
        layers = cast(list[nn.Linear], [net[0], cast(NormGRUCell, self.rssm.gru).gates, net[-1]])
        stats, look, pre, gates = gradients
        past = pre.masked_fill(first, 0)  # what a first step did not see gets no gradient
        of_stoch, of_action = self._of_stoch(index, past), self._outer(None, pre, action)
        of_look = [self._outer(layers[0], look, x) for x in seen]
        x, cell, y = norms
        return self.embed.back(look), [
            torch.cat([of_stoch, of_action], 1), pre.sum(0), *x,
            self._outer(layers[1], gates, inputs[0]), gates.sum(0), *cell,
            torch.cat(of_look, 1), look.sum(0), *y,
            self._outer(layers[2], stats, inputs[1]), stats.sum(0),
        ]  # fmt: skip

    def _outer(self, layer: nn.Linear | None, g: Tensor, x: Tensor) -> Tensor:
        """Gradient of a layer's weight, or of some of its columns, in the layer's number type (None: float32).

        g (N, out), x (N, in) -> (out, in).
        """
        dtype = torch.float32
        if layer is not None and not isinstance(layer, ExactLinear):
            dtype = product_dtype(g.shape[1], x, self.rssm.product_dtype)
        return outer(g.to(dtype), x.to(dtype)).float()

    def _of_stoch(self, index: Tensor, g: Tensor) -> Tensor:
        """index (N, S), g (N, X) -> (X, Z)."""
        size = self.step.size
        if self.step.dense:
            return g.t() @ OneHots(index, None, size).dense()
        return rows_gradient(by_class(index, size), g).t()


def _flat(steps: Sequence[Normed]) -> Normed:
    """All steps, one after the other."""
    return Normed(*(torch.cat([step[i] for step in steps]) for i in range(4)))


class _FusedScan(_Scan):
    """`_Scan` by compiled code, both ways."""

    def _outer(self, layer: nn.Linear | None, g: Tensor, x: Tensor) -> Tensor:
        return fused.outer(g, x.float().contiguous())

    def _of_stoch(self, index: Tensor, g: Tensor) -> Tensor:
        return fused.rows_gradient(index, g, self.step.size).t()

    def forward(self, embed: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """As `_Scan.forward`, from the beginning."""
        batch, length = embed.shape[:2]
        look = self.embed(embed.reshape(batch * length, -1)).reshape(batch, length, -1).contiguous()
        self.action, self.noise = self.action.float().contiguous(), self.noise.float().contiguous()
        self.is_first, self.parts = self.is_first.contiguous(), self.rssm.parts("look", "answer")
        found = fused.scan(self.parts, self.action, look, self.is_first, self.noise)
        # what is returned gets a history that leads here: kept as it is, neither could ever be freed
        ours = {name: getattr(found, name).detach() for name in ("deter", "stats", "probs", "drawn")}
        self.found = found._replace(**ours)
        return found.deter, found.stats, found.probs, found.drawn

    def back(self, embed: Tensor, deters: Tensor, *gradients: Tensor | None) -> list[Tensor | None]:
        """As `_Scan.back`."""
        rssm, found = self.rssm, self.found
        weights = rssm.weights_back("look", "answer")
        dense = [None if g is None else g.float().contiguous() for g in gradients]
        of = fused.scan_back(self.parts, weights, found, self.is_first, dense)
        last = torch.cat([torch.zeros_like(found.drawn[:, :1]), found.drawn[:, :-1]], 1)
        to_embed, of_weights = self.products(
            (_rows(of.stats), _rows(of.look), _rows(of.pre), _rows(of.gates)),
            self.is_first.reshape(-1, 1),
            _rows(last),
            _rows(self.action),
            (_rows(found.joined), _rows(found.seen)),
            [_rows(deters), _rows(embed)],
            tuple((sums.gamma, sums.beta) for sums in reversed(of.sums)),
        )
        return [to_embed.reshape(embed.shape).to(embed.dtype), *of_weights]


def _rows(x: Tensor) -> Tensor:
    """(B, T, n) -> (B * T, n)."""
    return x.flatten(0, 1)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


class _Observe(torch.autograd.Function):
    """`_Scan` as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, embed: Tensor, scan: _Scan, *_: Tensor) -> tuple[Tensor, ...]:
        deter, stats, probs, index = scan.forward(embed)
        ctx.save_for_backward(embed, deter)
        ctx.scan = scan
        ctx.mark_non_differentiable(index)
        ctx.set_materialize_grads(False)
        return deter, stats, probs, index

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        embed, deter = ctx.saved_tensors
        to_embed, *of_weights = ctx.scan.back(embed, deter, *gradients[:3])
        return to_embed, None, *of_weights
