"""The recurrent state-space model (RSSM) with discrete states (paper Section 2.2, Eq. 1).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})        recurrent_step     "deter", deterministic memory
    z_t ~ p(z_t | h_t)                        prior              the prediction, without x_t
    z_t ~ q(z_t | h_t, x_t)                   posterior          the state after seeing x_t

Shapes: B batch, T time, N dream starts, H horizon, S categoricals, K classes, D size of h, Z = S*K flat z, P its
statistics, F = Z + D features, E embedding, A action. z is flat outside the latent classes: only they know S and K.
The one drawing of time is in `replay.py`; here `action[:, t]` is the action that LED INTO step t.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python rssm.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.rssm")

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .latents import CategoricalLatent as CategoricalLatent
from .latents import GaussianLatent as GaussianLatent  # re-exported: the design document has the latents here
from .latents import Latent as Latent
from .layers import CELLS, MLP, MLPOptions, Norm
from .ops import Combine, alone, free_bits, over_time, reset_where


class State(NamedTuple):
    """Latent state s_t = (h_t, z_t), with any leading axes."""

    deter: Tensor  # (..., D) recurrent state h_t
    stoch: Tensor  # (..., Z) sampled z_t, flat
    stats: Tensor  # (..., P) what z_t was drawn from (logits); the KL needs it

    @property
    def feat(self) -> Tensor:
        """What heads, actor and critic see: [z, h] (..., F), in the released code's order."""
        if not isinstance(self.stoch, Tensor):
            return self.stoch.join(self.deter)  # the fast path's z, see fast/rows.py
        return torch.cat([self.stoch, self.deter], -1)

    def detach(self) -> State:
        return State(*(x.detach() for x in self))

    def flatten(self) -> State:
        """(B, T, ...) -> (B*T, ...): every posterior state is the start of a dream (implementation-details.md#b24)."""
        return State(*(x.flatten(0, 1) for x in self))


class Dream(NamedTuple):
    """Right half of the drawing in `replay.py`: feat[:, 0] is the real start, action[:, k] leads from k to k + 1."""

    feat: Tensor  # (N, H + 1, F)
    action: Tensor  # (N, H, A)


class DiscreteRSSM(nn.Module):
    """The world's dynamics. `latent` other than None replaces the categoricals (GaussianLatent gives DreamerV1's).

    With compute.mode=fast, which "auto" means, `fast/scan.py` computes steps and rollouts, proven equal to the methods
    here. Change one of these methods (edit, subclass, monkey-patch), and it is the changed one that runs.
    """

    def __init__(
        self,
        action_dim: int,
        embed_dim: int,
        *,
        num_categoricals: int = 32,
        num_categories: int = 32,
        rnn_hidden_dim: int = 200,
        hidden_dim: int = 400,
        norm: Norm = True,
        gru_norm: Norm = True,
        cell: str = "norm_gru",
        activation: str = "elu",
        latent: Latent | None = None,
    ) -> None:
        super().__init__()
        self.latent = latent or CategoricalLatent(num_categoricals, num_categories)
        if not isinstance(self.latent, Latent):
            raise TypeError(f"a latent must be a subclass of reverie.latents.Latent, got {type(self.latent).__name__}")
        self.rnn_hidden_dim = rnn_hidden_dim
        self.feat_dim = self.latent.stoch_dim + rnn_hidden_dim

        def net(size: int, out: int | None) -> MLP:
            # Logits of classes are near 0, whatever the task: as an output of a large layer they may be rounded.
            return MLP(size, out, MLPOptions(1, hidden_dim, norm, activation), exact_output=False)

        self.input_net = net(self.latent.stoch_dim + action_dim, None)
        self.gru = CELLS[cell](hidden_dim, rnn_hidden_dim, norm=gru_norm)
        self.prior_net = net(rnn_hidden_dim, self.latent.stats_dim)
        self.posterior_net = net(rnn_hidden_dim + embed_dim, self.latent.stats_dim)

    def initial(self, batch_size: int) -> State:
        """The state before the first step: zeros, not learned. -> State of (B, ...)."""
        sizes = self.rnn_hidden_dim, self.latent.stoch_dim, self.latent.stats_dim
        return State(*(next(self.gru.parameters()).new_zeros(batch_size, size) for size in sizes))

    def recurrent_step(self, state: State, action: Tensor) -> Tensor:
        """h_t = f(h_{t-1}, z_{t-1}, a_{t-1}), Eq. 1. state of (B, ...), action (B, A) -> (B, D)."""
        return self.gru(self.input_net(torch.cat([state.stoch, action], -1)), state.deter)

    def prior(self, deter: Tensor, noise: Tensor | None = None) -> State:
        """z_t ~ p(z_t | h_t), Eq. 1: predicted without the observation. deter (..., D) -> State of (...)."""
        return self._state(deter, self.prior_net(deter), noise)

    def posterior(self, deter: Tensor, embed: Tensor, noise: Tensor | None = None) -> State:
        """z_t ~ q(z_t | h_t, x_t), Eq. 1. deter (..., D), embed (..., E) -> State of (...)."""
        return self._state(deter, self.posterior_net(torch.cat([deter, embed], -1)), noise)

    def _state(self, deter: Tensor, stats: Tensor, noise: Tensor | None) -> State:
        if noise is None:
            noise = self.latent.noise(*stats.shape[:-1], device=stats.device)
        return State(deter, self.latent.sample(stats, noise), stats)

    def observe(
        self, state: State, action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor | None = None
    ) -> State:
        """One filtering step. state of (B, ...), action (B, A) that led here, embed (B, E), is_first (B,) -> State.

        Where is_first, the past is erased, by mask: state AND action become zero (NaN too; drawing in `replay.py`).
        """
        state = State(*(reset_where(is_first, x) for x in state))
        deter = self.recurrent_step(state, reset_where(is_first, action))
        return self.posterior(deter, embed, noise)

    def rollout_observation(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        noise: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Filter recorded sequences: z_t ~ q(z_t | h_t, x_t), paper Eq. 1; drawing in `replay.py`.

        embed (B, T, E), action (B, T, A) where action[:, t] led into step t, is_first (B, T) bool, noise (B, T, S).
        Without `state` every sequence starts from zeros at its first step, also mid-episode, as in the released code.
        -> posterior State of (B, T, ...), prior stats (B, T, P).
        """
        batch, length = self.check_sequence(embed, action, is_first, noise)
        if state is None:
            state = self.initial(batch)
            is_first = torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], 1)
        if noise is None:
            noise = self.latent.noise(batch, length, device=embed.device)
        steps = []
        for embed_t, action_t, is_first_t, noise_t in over_time(embed, action, is_first, noise):
            state = self.observe(state, action_t, embed_t, is_first_t, noise_t)
            steps.append(state)
        posterior = State(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
        return posterior, self.prior_net(posterior.deter)  # the prior needs h only: one call for all steps

    @staticmethod
    def check_sequence(embed: Tensor, action: Tensor, is_first: Tensor, noise: Tensor | None) -> tuple[int, int]:
        """(B, T) of what is filtered. Raises ValueError where the parts disagree."""
        parts = {"embed": embed, "action": action, "is_first": is_first} | ({} if noise is None else {"noise": noise})
        shapes = {name: tuple(part.shape[:2]) for name, part in parts.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"all parts of a sequence must agree in (B, T), got {shapes}")
        return is_first.shape[0], is_first.shape[1]

    def rollout_imagination(
        self, policy: Callable[[Tensor], Tensor], start: State, horizon: int, noise: Tensor | None = None
    ) -> Dream:
        """Dream with the prior alone: s_{k+1} ~ p(s_{k+1} | s_k, u_k), Section 2.3; drawing in `replay.py`.

        policy: feat (N, F) -> action (N, A); start: State of (N, ...); noise (N, H, S) -> Dream of H + 1 states.
        Gradients flow if the caller lets them: wrap in `torch.no_grad()` when only REINFORCE will use the dream.
        """
        if noise is None:
            noise = self.latent.noise(start.deter.shape[0], horizon, device=start.deter.device)
        state, feats, actions = start, [start.feat], []
        for noise_k in noise.unbind(1):
            action = policy(state.feat)
            state = self.prior(self.recurrent_step(state, action), noise_k)
            actions.append(action)
            feats.append(state.feat)
        return Dream(torch.stack(feats, 1), torch.stack(actions, 1))

    def kl_loss(
        self,
        posterior: Tensor,
        prior: Tensor,
        *,
        kl_balance: float = 0.8,
        free_nats: float = 1.0,
        free_avg: bool = True,
        mode: str = "balanced",
        dyn_scale: float = 0.5,
        rep_scale: float = 0.1,
        shared: Combine = alone,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The KL term of the model loss (paper Eq. 2, Algorithm 2). posterior, prior: stats (B, T, P) -> (), metrics.

        balanced (the paper): a KL(sg(post) || prior) + (1 - a) KL(post || sg(prior)). One KL twice, so its value is
            the plain KL, but the prior gets the share a of the gradient and the encoder only 1 - a.
        free_nats: below this many nats (of the whole latent vector) a term is constant and gives no gradient;
            `free_avg` compares the mean over batch and time (released code), otherwise every state by itself.
        shared: as `free_bits` takes it.
        Other modes: `KL_VARIANTS`.
        """
        kl = self.latent.kl
        if mode == "balanced":
            terms = [(kl_balance, kl(posterior.detach(), prior)), (1 - kl_balance, kl(posterior, prior.detach()))]
        elif mode in KL_VARIANTS:
            terms = KL_VARIANTS[mode](kl, posterior, prior, kl_balance, dyn_scale, rep_scale)
        else:
            raise ValueError(f"kl mode must be one of balanced, {', '.join(KL_VARIANTS)}, got '{mode}'")
        paid = [weight * free_bits(nats, free_nats, average=free_avg, shared=shared) for weight, nats in terms]
        loss = torch.stack(paid).sum()
        return loss, self.kl_metrics(posterior.detach(), prior.detach(), free_nats=free_nats)

    @torch.no_grad()
    def kl_metrics(self, posterior: Tensor, prior: Tensor, *, free_nats: float) -> dict[str, Tensor]:
        """Both directions of the KL and the entropies, means in nats. posterior, prior (B, T, P) -> {name: ()}."""
        forward = self.latent.kl(posterior, prior)
        return {
            "kl": forward.mean(),
            "kl_reverse": self.latent.kl(prior, posterior).mean(),
            "kl_below_free": (forward < free_nats).float().mean(),
            "prior_entropy": self.latent.entropy(prior).mean(),
            "posterior_entropy": self.latent.entropy(posterior).mean(),
        }


#: Other forms of the KL loss: (kl, posterior, prior, kl_balance, dyn_scale, rep_scale) -> [(weight, nats (B, T))].
KL_VARIANTS: dict[str, Callable[..., list[tuple[float, Tensor]]]] = {
    # balanced, with a weight of its own for each side: DreamerV3's dynamics and representation losses
    "separate": lambda kl, post, prior, a, dyn, rep: [(dyn, kl(post.detach(), prior)), (rep, kl(post, prior.detach()))],
    # balanced, but of KL(prior || posterior): an option of the released code
    "forward": lambda kl, post, prior, a, dyn, rep: [(a, kl(prior, post.detach())), (1 - a, kl(prior.detach(), post))],
    # the design document's literal formula, without stop-gradients; the reverse term has no upper bound for a sharp
    # posterior (implementation-details.md#design-1)
    "bidirectional": lambda kl, post, prior, a, dyn, rep: [(a, kl(post, prior)), (1 - a, kl(prior, post))],
    # once, without stop-gradients: DreamerV1, and the released code at kl_balance 0.5
    "plain": lambda kl, post, prior, a, dyn, rep: [(1.0, kl(post, prior))],
}


def demo() -> None:
    """Filter a random sequence, dream from it, print shapes; check that KL balancing splits gradients 0.8 / 0.2."""
    torch.manual_seed(0)
    rssm = DiscreteRSSM(action_dim=3, embed_dim=64)
    embed, action, is_first = torch.randn(4, 10, 64), torch.randn(4, 10, 3), torch.zeros(4, 10, dtype=torch.bool)
    posterior, prior_stats = rssm.rollout_observation(embed, action, is_first)
    with torch.no_grad():
        dream = rssm.rollout_imagination(lambda feat: feat.new_zeros(feat.shape[0], 3), posterior.flatten(), 15)
    shapes = {"embed (B, T, E)": embed, "deter (B, T, D)": posterior.deter, "stoch (B, T, Z)": posterior.stoch}
    for name, value in (shapes | {"dream (N, H+1, F)": dream.feat}).items():
        print(f"{name:18}", tuple(value.shape))
    post, prior = posterior.stats.detach().requires_grad_(), prior_stats.detach().requires_grad_()
    plain = torch.autograd.grad(rssm.latent.kl(post, prior).mean(), (post, prior))
    loss, metrics = rssm.kl_loss(post, prior, kl_balance=0.8, free_nats=0.0)
    balanced = torch.autograd.grad(loss, (post, prior))
    shares = [(mine / whole).median().item() for mine, whole in zip(balanced, plain, strict=True)]
    print(f"kl {metrics['kl']:.3f} nats; gradient share: posterior {shares[0]:.2f}, prior {shares[1]:.2f}")
    if abs(shares[0] - 0.2) > 1e-3 or abs(shares[1] - 0.8) > 1e-3:
        raise AssertionError("KL balancing is broken (paper Algorithm 2)")
    print("ok: the KL's value is the plain KL, its gradient goes 0.8 to the prior and 0.2 to the posterior")


if __name__ == "__main__":
    demo()
