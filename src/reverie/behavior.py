"""A behaviour: a policy, and all that it learns with in dreams of its own (paper Section 2.3, Eqs. 3-6).

`DreamerV2` loops over its behaviours as the world model does over its heads. The first is the task's. Another one has
a reward of its own and a prefix, with which its weights, optimizers and metrics are named: "explore_actor/entropy".
Shapes and times as in `actor_critic.py`; the drawing is in `replay.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .actor_critic import (
    Actor,
    Critic,
    EntropyWeight,
    ReturnScale,
    center_by_depth,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_imitation_loss,
    compute_lambda_returns,
    released_credit,
)
from .config import BehaviorConfig
from .data.replay import Batch
from .distributions import Policy, entropy_share
from .layers import frozen
from .ops import Combine
from .ranks import ALONE, Ranks
from .rssm import Dream, State
from .world_model import WorldModel

Metrics = dict[str, Tensor]


class RewardSource(Protocol):
    """What a behaviour is rewarded with instead of the rewards that the world model predicts."""

    gather: Combine  # what it measures over all ranks is joined by this

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What checkpoints keep of it."""

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers () that computing changes."""

    def __call__(self, dream: Dream, predicted: Tensor) -> tuple[Tensor, Metrics]:
        """A dream and the rewards predicted in it (N, H) -> rewards (N, H), metrics."""


class Behavior:
    """Actor, critic and slow critic, what they are rewarded with, and the two losses of their dreams.

    No module itself: the agent keeps `parts` under their names, and has an optimizer for each of `learning`.
    """

    def __init__(
        self,
        world_model: WorldModel,
        actor: Actor,
        critic: Critic,
        slow_critic: Critic,
        options: BehaviorConfig,
        *,
        actor_grad: str,
        is_choice: Tensor,
        prefix: str = "",
        share: float = 1.0,
        reward: RewardSource | None = None,
        learns: bool = True,
    ) -> None:
        """actor_grad: as `compute_actor_loss` takes it. is_choice (A,): which numbers of an action are one-hot.

        prefix: in front of every name, "" for the task's behaviour. share: the part of the batch's states that start
        its dreams. reward: None for the rewards that the world model predicts. learns: False for one that is only kept.
        """
        self.world_model = world_model
        self.actor = actor
        self.critic = critic
        self.slow_critic = slow_critic
        self.options = options
        self.actor_grad = actor_grad
        self.is_choice = is_choice
        self.prefix = prefix
        self.share = share
        self.reward = reward
        self.learns = learns
        self.return_scale = ReturnScale()
        self.auto_entropy: EntropyWeight | None = None
        if options.entropy_target:
            self.auto_entropy = EntropyWeight(least_weight=options.entropy_scale)
        self.ranks = ALONE  # that share the batch
        self.entropy_weight: float | Tensor = 0.0  # of this update; a tensor () where a CUDA graph reads it
        slow_critic.copy_from(critic)  # the first targets must not come from an unrelated network
        slow_critic.requires_grad_(False)

    def join(self, ranks: Ranks) -> None:
        """Measure returns and rewards over all ranks from now on."""
        self.ranks = ranks
        self.return_scale.gather = ranks.gather
        if self.reward is not None:
            self.reward.gather = ranks.gather

    @property
    def stage(self) -> str:
        """The name of its share of an update."""
        return f"{self.prefix.rstrip('_')} behaviour".strip()

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All that it keeps, by the names of checkpoints."""
        found: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "slow_critic": self.slow_critic,
            "return_scale": self.return_scale,
        }
        found |= {} if self.auto_entropy is None else {"auto_entropy": self.auto_entropy}
        found |= {} if self.reward is None else self.reward.parts
        return {self.prefix + name: part for name, part in found.items()}

    @property
    def learning(self) -> dict[str, nn.Module]:
        """What its losses are for, by the names of the optimizers."""
        return {self.prefix + "actor": self.actor, self.prefix + "critic": self.critic}

    @property
    def learners(self) -> list[Any]:
        """What learns from the states of each batch for it, before it (`extensions.learner.StateLearner`)."""
        return []

    @property
    def policies(self) -> list[str]:
        """The names among `learning` that wait for `behavior.actor_warmup`."""
        return [self.prefix + "actor"]

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers that computing the losses changes, each ()."""
        found = [self.return_scale.low, self.return_scale.high]
        found += [] if self.auto_entropy is None else [self.auto_entropy.log_weight]
        return found + ([] if self.reward is None else self.reward.scales)

    def prepare(self, updates: int) -> None:
        """The host's share before an update, after so many: the slow critic, the entropy's weight."""
        options = self.options
        if updates % options.slow_critic_every == 0:
            self.slow_critic.copy_from(self.critic, fraction=options.slow_critic_fraction)
        if isinstance(self.entropy_weight, Tensor):
            self.entropy_weight.fill_(self.entropy_scale(updates))
        else:
            self.entropy_weight = self.entropy_scale(updates)

    def entropy_scale(self, updates: int) -> float:
        """The weight of the entropy after so many updates: constant, or on its linear way to `entropy_final`."""
        options = self.options
        done = min(1.0, updates / options.entropy_decay) if options.entropy_decay else 0.0
        if options.entropy_target:
            return options.entropy_target + done * (options.entropy_target_final - options.entropy_target)
        return options.entropy_scale + done * (options.entropy_final - options.entropy_scale)

    # --------------------------------------------------------------------------------------------------------- dreams

    def imagine(self, start: State) -> Dream:
        """Dream from every start with the current policy. start of (N, ...) -> Dream of horizon + 1 states.

        The actor's input is detached (implementation-details.md#imagination); its sampled actions carry gradients into
        the dynamics.
        """
        return self.world_model.rssm.rollout_imagination(self.dream_action, start, self.options.imagination_horizon)

    def pilot(self, generator: torch.Generator | None = None, *, likely: bool = False) -> Callable[[Tensor], Tensor]:
        """A policy for a dream from its first state on, feat (N, F) -> action (N, A), without gradients of interest.

        likely: take the most likely action. generator: what is drawn with it is drawn on the CPU.
        """

        def act(feat: Tensor) -> Tensor:
            policy = self.policy(feat)
            return policy.mode() if likely else policy.sample(policy.noise(generator).to(feat.device))

        return act

    def goals_of(self, pilot: Callable[[Tensor], Tensor], feat: Tensor) -> Tensor | None:
        """The goal in force in each state of a dream, as features, to be decoded; None where there are no goals.

        pilot: of `pilot`, which may have acted in it; feat (N, H + 1, F) from its first state on -> (N, H + 1, F).
        """
        return None

    def dream_action(self, feat: Tensor) -> Tensor:
        """feat (N, F) -> action (N, A); of hybrid actions only the numbers carry gradients (`compute_actor_loss`)."""
        action = self.policy(feat.detach()).sample()
        return torch.where(self.is_choice, action.detach(), action) if self.actor_grad == "per_part" else action

    def policy(self, feat: Tensor) -> Policy:
        """The actor's policy in imagined states (N, F), without the actions that the mask head holds for forbidden."""
        return self.actor(feat, self.world_model.action_mask(feat))

    def starts(self, posterior: State, is_terminal: Tensor) -> tuple[State, Tensor]:
        """f_0 of the drawing in `replay.py`: all states of the batch or some. -> State (N, ...), alive (N,)."""
        if self.options.start_states == "drop_last":
            posterior, is_terminal = State(*(x[:, :-1] for x in posterior)), is_terminal[:, :-1]
        start, alive = posterior.flatten(), 1 - is_terminal.flatten().float()
        wanted = -(-self.options.imagination_starts // self.ranks.size) or len(alive)
        count = max(1, round(self.share * min(wanted, len(alive))))
        if count < len(alive):
            chosen = torch.rand(len(alive), device=alive.device).argsort()[:count]
            start, alive = State(*(x[chosen] for x in start)), alive[chosen]
        return start, alive

    def predict(self, feat: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards (N, H), values (N, H + 1) and continues (N, H) of a dream's states (N, H + 1, F): `dream_scores`."""
        critic = self.slow_critic if self.options.slow_critic else self.critic
        rewards, continues = self.world_model.dream_scores(feat, alive, self.options.reward_index)
        return rewards, critic(feat), continues

    # --------------------------------------------------------------------------------------------------------- losses

    def losses(self, posterior: State, is_terminal: Tensor) -> tuple[Metrics, Metrics]:
        """Dream, and score the dream; who predicts what when: drawing in `replay.py`.

        posterior of (B, T, ...), is_terminal (B, T) -> losses () by the names of `learning`, metrics.
        """
        options = self.options
        start, alive = self.starts(posterior, is_terminal)
        with frozen(self.world_model):
            with torch.set_grad_enabled(self.actor_grad != "reinforce"):  # REINFORCE needs no gradient of the dream
                dream = self.imagine(start)
                rewards, values, continues = self.predict(dream.feat, alive)
                rewards, extra = (rewards, {}) if self.reward is None else self.reward(dream, rewards)
                targets = compute_lambda_returns(
                    rewards, values, continues, gamma=options.gamma, lambda_=options.lambda_
                )
                weights = compute_discount_weights(continues, gamma=options.gamma)
            states = dream.feat[:, :-1].detach()
            stats = self.critic.stats(states)
            online = self.critic.mean(stats)
            baseline = (online if options.baseline == "online" else values[:, :-1]).detach()
            actor_loss, actor = self.actor_loss(states, dream.action, targets, baseline, weights * alive[:, None])
            critic_loss, critic = compute_critic_loss(
                online,
                targets,
                weights if options.reward_index == "current" else weights * alive[:, None],
                nll=self.critic_nll(states, stats, targets.detach()),
            )
        extra |= {"reward": rewards.detach().mean(), "continue": continues.detach().mean()}
        groups = {
            "actor": actor | {"loss": actor_loss.detach()},
            "critic": critic | {"loss": critic_loss.detach()},
            "imagination": extra,
        }
        metrics = {f"{self.prefix}{group}/{key}": x for group, found in groups.items() for key, x in found.items()}
        return {self.prefix + "actor": actor_loss, self.prefix + "critic": critic_loss}, metrics

    def actor_loss(self, states: Tensor, *credit: Tensor) -> tuple[Tensor, Metrics]:
        """Eq. 6, drawing in `replay.py`. states (N, H, F); credit: action (N, H, A), targets, baseline, weights."""
        options = self.options
        action, targets, baseline, weights = credit
        if options.advantage_center == "depth":
            baseline = center_by_depth(targets, baseline, weights, shared=self.ranks.mean)
        if options.return_norm == "percentile":
            scale = self.return_scale(targets)
            targets, baseline = targets / scale, baseline / scale
        if options.advantage == "released":
            action, targets, baseline, weights = released_credit(action, targets, baseline, weights)
        weight: Any = self.entropy_weight if self.auto_entropy is None else self.auto_entropy()
        states = states[:, : action.shape[1]]
        mask = self.world_model.action_mask(states)
        policy = self.actor(states, mask)
        loss, metrics = compute_actor_loss(
            policy,
            action,
            targets,
            baseline,
            weights,
            actor_grad=self.actor_grad,
            actor_grad_mix=options.actor_grad_mix,
            entropy_scale=weight,
        )
        if self.auto_entropy is not None:
            entropy = metrics["entropy"] if mask is None else policy.entropy().detach()
            share = self.ranks.mean(entropy_share(entropy, self.actor.parts, mask).mean())
            self.auto_entropy.follow(share, self.entropy_weight)
            metrics["entropy_weight"] = weight
        return loss, metrics

    def add_imitation(self, losses: Metrics, metrics: Metrics, posterior: State, batch: Batch) -> None:
        """Let the actor also imitate what the batch did (`behavior.bc_scale`); without it, change nothing.

        The action that leaves a stored step is stored with the next one: drawing in `replay.py`. posterior and batch of
        (B, T, ...); losses and metrics () are changed in place.
        """
        if not self.options.bc_scale:
            return
        loss = imitation_loss(self.actor, self.world_model.mask_key, posterior, batch)
        losses[self.prefix + "actor"] = losses[self.prefix + "actor"] + self.options.bc_scale * loss
        metrics[f"{self.prefix}actor/imitation"] = loss.detach()

    def critic_nll(self, states: Tensor, stats: Tensor, targets: Tensor) -> Tensor:
        """What the critic pays per state, its pull towards the slow critic included.

        states (N, H, F), stats (N, H, P), targets (N, H) -> (N, H).
        """
        nll, weight = self.critic.nll(stats, targets), self.options.critic_regularizer
        return nll + weight * self.critic.nll(stats, self.slow_critic(states)) if weight else nll


def imitation_loss(actor: Actor, mask_key: str, posterior: State, batch: Batch) -> Tensor:
    """`compute_imitation_loss` of stored steps: drawing in `replay.py`. posterior and batch of (B, T, ...) -> ().

    With demonstrations in the batch only theirs are imitated, and the loss counts by their share of the steps: it fades
    as they do.
    """
    feat = State(*(x[:, :-1] for x in posterior)).feat.detach()
    policy = actor(feat, batch.obs[mask_key][:, :-1] if mask_key else None)
    action, first = batch.action[:, 1:], batch.is_first[:, 1:]
    if batch.demo is None:
        return compute_imitation_loss(policy, action, first)
    shown = ~first & batch.demo[:, 1:]
    return compute_imitation_loss(policy, action, ~shown) * shown.sum() / (~first).sum().clamp(min=1)
