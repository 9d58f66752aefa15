"""Behaviour learned inside the dream: actor, critic, lambda-returns and the two losses (paper Section 2.3, Eqs. 3-6).

Shapes: N dreams, H horizon, F features, A action; "..." any leading axes. Alignment (drawing in `replay.py`):

    dream state k     0     1    ...   H-1   H
    action out of k   u0    u1         u_{H-1}          log pi(u_k | f_k) is scored by G_k - v_k
    reward, continue  r0    r1         r_{H-1}          predicted FROM state k; G_k includes r_k
    value             v0    v1         v_{H-1} v_H      v_H only bootstraps
    target            G0    G1         G_{H-1}
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python actor_critic.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.actor_critic")

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .distributions import POLICIES, SCALARS, Part, Policy, make_policy, stats_dim
from .layers import MLP, MLPOptions, zero_output
from .ops import Combine, alone

#: What a policy remembers besides the state, for each environment: {name: (N, ...)}. A plain one: nothing.
Plan = dict[str, Tensor]


class Actor(nn.Module):
    """pi(u_k | f_k), Eq. 3: features to a policy. feat (..., F), mask (..., A) or None -> Policy over (..., A).

    `parts` describes an action that is more than one choice or one stretch of numbers; without it the whole of it
    follows `policy`. `unimix` mixes that share of random actions into choices (DreamerV3).
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        *,
        policy: str = "onehot",
        parts: Sequence[Part] = (),
        mlp: MLPOptions = MLPOptions(),
        unimix: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.parts = tuple(parts) or (Part(policy, action_dim),)
        self.unimix = unimix
        self.mlp = MLP(feat_dim, stats_dim(self.parts), mlp)
        if zero_init:
            zero_output(self.mlp)

    def forward(self, feat: Tensor, mask: Tensor | None = None) -> Policy:
        return make_policy(self.mlp(feat).float(), self.parts, mask=mask, unimix=self.unimix)

    def plan(self, count: int) -> Plan:
        """What it remembers before the first step of so many environments."""
        return {}

    def follow(
        self,
        feat: Tensor,
        plan: Plan,
        is_first: Tensor,
        *,
        mask: Tensor | None = None,
        likely: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Policy, Plan]:
        """The policy of one step of acting, and what is remembered of it. feat (N, F), plan and is_first of (N, ...).

        likely: whatever has to be drawn for the plan is taken as most likely.
        """
        return self(feat, mask), plan


class Critic(nn.Module):
    """v(f_k), Eq. 3: the expected lambda-return from a state, its own reward included. feat (..., F) -> (...).

    `distribution` and `transform`: how the number is described and on which scale it is learned (`distributions.py`).
    """

    def __init__(
        self,
        feat_dim: int,
        *,
        mlp: MLPOptions = MLPOptions(),
        zero_init: bool = False,
        distribution: str = "normal",
        transform: str = "none",
    ) -> None:
        super().__init__()
        self.scalar = SCALARS[distribution](transform)
        size = self.scalar.stats_dim
        self.mlp = MLP(feat_dim, size, mlp)
        if zero_init:
            zero_output(self.mlp)

    def stats(self, feat: Tensor) -> Tensor:
        """What `mean` and `nll` start from, so that a network runs once for both. feat (..., F) -> (..., P)."""
        return self.mlp(feat)

    def mean(self, stats: Tensor) -> Tensor:
        """The value. stats (..., P) -> (...)."""
        return self.scalar.mean(stats)

    def nll(self, stats: Tensor, target: Tensor) -> Tensor:
        """How badly the target was foreseen, in nats; 0.5 squared error in DreamerV2. (..., P), (...) -> (...)."""
        return self.scalar.nll(stats, target)

    def forward(self, feat: Tensor) -> Tensor:
        return self.mean(self.stats(feat))

    @torch.no_grad()
    def copy_from(self, other: Critic, *, fraction: float = 1.0) -> None:
        """Go a `fraction` of the way to the other one's weights; 1 is an exact copy.

        How the slow critic follows, every `slow_critic_every` updates (implementation-details.md#critic); DreamerV3:
        0.02 at each one.
        """
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs) if fraction == 1 else mine.lerp_(theirs, fraction)


def compute_imitation_loss(policy: Policy, action: Tensor, is_first: Tensor) -> Tensor:
    """Behaviour cloning: -log pi(a | f), mean over the steps that an action led into. policy over (..., A) at the state
    before, action (..., A), is_first (...) of the step that it led into -> (), nats; 0 where there is no such step."""
    nll = -policy.log_prob(torch.where(is_first[..., None], torch.zeros_like(action), action))
    return torch.where(is_first, torch.zeros_like(nll), nll).sum() / (~is_first).sum().clamp(min=1)


class ReturnScale(nn.Module):
    """The range of returns, by which DreamerV3 divides advantages: one entropy weight then fits all tasks.

    A moving average of the 5 % and 95 % quantiles, not below `limit`: small returns are not blown up.
    """

    low: Tensor
    high: Tensor

    def __init__(self, *, decay: float = 0.99, low: float = 0.05, high: float = 0.95, limit: float = 1.0) -> None:
        super().__init__()
        self.decay, self.quantiles, self.limit = decay, (low, high), limit
        self.gather: Combine = alone  # of several ranks: the returns of all
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def forward(self, returns: Tensor) -> Tensor:
        """Take new returns into account. (...) -> (), without gradient."""
        flat = self.gather(returns.detach().float().flatten())
        for mine, quantile in zip((self.low, self.high), self.quantiles, strict=True):
            moved = mine.lerp(flat.quantile(quantile), 1 - self.decay)
            mine.copy_(torch.where(moved.isfinite(), moved, mine))  # a bad update must leave nothing behind
        return (self.high - self.low).clamp(min=self.limit)


class EntropyWeight(nn.Module):
    """The weight of the entropy that keeps it at a target or above (Haarnoja et al. 2018, SAC, Section 5).

    It rises while the policy is less random than the target, and falls back to `least_weight` while it is more:
    whatever the size of rewards and advantages, and also of those that are nothing but errors of an early critic.
    """

    log_weight: Tensor

    def __init__(self, *, least_weight: float, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.limits = math.log(max(least_weight, 1e-6)), math.log(10.0)
        self.register_buffer("log_weight", torch.tensor(self.limits[0]))

    def forward(self) -> Tensor:
        """The weight now, ()."""
        return self.log_weight.exp()

    @torch.no_grad()
    def follow(self, share: Tensor, target: float | Tensor) -> None:
        """Go towards the weight that gives `target`; both are shares of what is possible (`entropy_share`), ()."""
        moved = (self.log_weight + self.rate * (target - share)).clamp(*self.limits)
        self.log_weight.copy_(torch.where(moved.isfinite(), moved, self.log_weight))


def compute_lambda_returns(
    rewards: Tensor, values: Tensor, continues: Tensor, *, gamma: float = 0.99, lambda_: float = 0.95
) -> Tensor:
    """TD(lambda) targets, paper Eq. 4:  G_k = r_k + gamma c_k ((1 - lambda) v_{k+1} + lambda G_{k+1}).

    rewards (N, H), continues (N, H), values (N, H + 1) whose last column only bootstraps (drawing above) -> (N, H).
    lambda 0 is the one-step target, lambda 1 the Monte-Carlo return cut off by the bootstrap. Raises ValueError when
    values lack their bootstrap: an off-by-one is a shape error here, not a worse agent.
    """
    if rewards.shape != continues.shape or values.shape[1] != rewards.shape[1] + 1:
        raise ValueError(
            f"rewards and continues must be (N, H) and values (N, H + 1), got {tuple(rewards.shape)}, "
            f"{tuple(continues.shape)} and {tuple(values.shape)}"
        )
    discounts = gamma * continues
    one_step = rewards + discounts * (1 - lambda_) * values[:, 1:]
    future, returns = values[:, -1], []
    for one_step_k, discount_k in zip(reversed(one_step.unbind(1)), reversed(discounts.unbind(1)), strict=True):
        future = one_step_k + discount_k * lambda_ * future
        returns.append(future)
    return torch.stack(returns[::-1], 1)


def compute_discount_weights(continues: Tensor, *, gamma: float = 0.99) -> Tensor:
    """How likely, and how discounted, state k is reached at all: w_k = prod_{j<k} gamma c_j, so w_0 = 1.

    continues (N, H) -> (N, H), without gradient. The continue of k itself is not in w_k: with it, the action that
    reaches the goal would get no gradient (implementation-details.md#b6; drawing above).
    """
    discounts = gamma * continues.detach()
    return torch.cat([torch.ones_like(discounts[:, :1]), discounts[:, :-1]], 1).cumprod(1)


def compute_actor_loss(
    policy: Policy,
    action: Tensor,
    targets: Tensor,
    baseline: Tensor,
    weights: Tensor,
    *,
    actor_grad: str = "reinforce",
    actor_grad_mix: float = 0.1,
    entropy_scale: float | Tensor = 1e-3,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The actor's loss, paper Eq. 6. policy over (N, H, A); action (N, H, A); the rest (N, H) -> (), metrics.

    reinforce: -log pi(u_k | f_k) sg(G_k - v_k), unbiased, for discrete actions.
    dynamics:  -G_k, differentiated through the dream (rewards, values, dynamics, sampled actions), low variance.
    both:      mix * dynamics + (1 - mix) * reinforce.
    minus entropy_scale * entropy, all weighted by how likely state k is reached, averaged over N and H.
    per_part, for actions of choices and numbers: `hybrid_objective`.
    """
    advantage = (targets - baseline).detach()
    if actor_grad == "reinforce":
        objective = policy.log_prob(action.detach()) * advantage
    elif actor_grad == "dynamics":
        objective = targets
    elif actor_grad == "both":
        reinforce = policy.log_prob(action.detach()) * advantage
        objective = actor_grad_mix * targets + (1 - actor_grad_mix) * reinforce
    elif actor_grad == "per_part":
        objective = hybrid_objective(policy, action, targets, advantage)
    else:
        raise ValueError(f"actor_grad must be 'reinforce', 'dynamics', 'both' or 'per_part', got '{actor_grad}'")
    entropy = policy.entropy()
    loss = -(weights.detach() * (objective + entropy_scale * entropy)).mean()
    spread = advantage.std(correction=0)
    return loss, {"entropy": entropy.detach().mean(), "advantage": advantage.mean(), "advantage_std": spread}


def compute_critic_loss(
    values: Tensor, targets: Tensor, weights: Tensor, *, nll: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The critic's squared error to the lambda-returns, paper Eq. 5. All (N, H) -> (), metrics.

    Weighted by how likely state k is reached; no gradient into the targets. `nll` (N, H): what a critic that is not a
    Gaussian pays for the targets instead (`Critic.nll`).
    """
    error = values - targets.detach()
    loss = (weights.detach() * (0.5 * error**2 if nll is None else nll)).mean()
    with torch.no_grad():
        metrics = {"value": values.mean(), "target": targets.mean(), "error": error.abs().mean()}
    return loss, metrics


# ------------------------------------------------------------------------------------------------------------ variants


def hybrid_objective(policy: Policy, action: Tensor, targets: Tensor, advantage: Tensor) -> Tensor:
    """Of actions with choices and numbers: REINFORCE for the choices (the dream detaches them), dynamics for the rest.

    action (N, H, A), targets and advantage (N, H) -> (N, H).
    """
    return policy.choice_log_prob(action.detach()) * advantage + targets


def center_by_depth(targets: Tensor, baseline: Tensor, weights: Tensor, *, shared: Combine = alone) -> Tensor:
    """A baseline that leaves, at each depth k, a mean advantage of 0 over the dreams: no common push on all actions.

    b_k(n) = v_k(n) + sum_m w_k(m) (G_k(m) - v_k(m)) / sum_m w_k(m). Of the other dreams m the added term is independent
    of the action u_k(n), so it changes no expected gradient; the dream's own share scales its advantage by
    1 - w_k(n) / sum_m w_k(m), below 1 in 400 for 400 dreams. When the critic has caught up, the mean is 0 and nothing
    changes. targets, baseline, weights (N, H); depth k is the column of the drawing above -> (N, H), without gradient.
    shared: the mean over ranks, if each has a share of the dreams.
    """
    weights = weights.detach()
    late = shared((weights * (targets - baseline).detach()).sum(0)) / shared(weights.sum(0)).clamp(min=1e-8)
    return baseline + late


def released_credit(
    action: Tensor, targets: Tensor, baseline: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score u_k by G_{k+1} - v_k, as the last released code does, not by the paper's G_k - v_k (drawing above).

    Unbiased too, but off-centre by (1 - d_k) G_{k+1} - r_k. action (N, H, A), the rest (N, H) -> the same, H - 1 long.
    """
    return action[:, :-1], targets[:, 1:], baseline[:, :-1], weights[:, :-1]


def demo() -> None:
    """Print shapes, then the returns of a three-step example that can be checked by hand
    (implementation-details.md#fingerprints)."""
    torch.manual_seed(0)
    feat = torch.randn(6, 15, 1224)
    for name in POLICIES:
        policy = Actor(1224, 4, policy=name)(feat)
        print(f"{name:13} feat {tuple(feat.shape)} -> action {tuple(policy.sample().shape)}, ", end="")
        print(f"entropy {policy.entropy().mean():.3f} nats")
    print(f"critic        feat {tuple(feat.shape)} -> value {tuple(Critic(1224)(feat).shape)}")
    returns = compute_lambda_returns(
        rewards=torch.tensor([[0.0, 0.0, 1.0]]),
        values=torch.tensor([[0.5, 0.4, 0.3, 2.0]]),
        continues=torch.tensor([[1.0, 1.0, 0.0]]),
        gamma=0.9,
        lambda_=0.95,
    )
    print("lambda-returns", [round(x, 7) for x in returns[0].tolist()])
    if not torch.allclose(returns, torch.tensor([[0.7605675, 0.8685, 1.0]]), atol=1e-6):
        raise AssertionError("lambda-returns are broken (paper Eq. 4)")
    print("ok: equal to the numbers worked out by hand; the bootstrap 2.0 is cut off by the terminal state")


if __name__ == "__main__":
    demo()
