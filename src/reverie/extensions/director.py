"""A hierarchy: a manager that sets goals, a worker that reaches them (Director, Hafner et al. 2022, arXiv 2206.04114).

    code  c ~ manager(f_0), every K steps          S one-hots of C classes
    goal  g = decoder(c)                           where h shall be in K steps
    action u_k ~ worker(f_k, g)                    rewarded with how alike h_{k+1} and g are, and with nothing else

    dream state k     0   1  ...  K-1   K   K+1 ...  2K       two windows of K steps, 2K + 1 states
    goal              g0  g0      g0 |  g1  g1       g1       g1 is set in state K
    worker's segment  0   1  ...  K-1   K                     K + 1 states: the last is scored against its own goal, g0
    manager's states  0                 K            2K       its reward of a window: the mean of the window's steps

`GoalActor` is the policy of both levels, `Hierarchy` the behaviour that teaches them, `GoalLearner` what the codes
learn with. Equations: docs/hierarchy.md. Shapes as in `actor_critic.py`; D size of h, W windows of K steps in a dream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..actor_critic import (
    Actor,
    Critic,
    EntropyWeight,
    Plan,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_lambda_returns,
)
from ..behavior import Behavior, Metrics
from ..data.replay import Batch
from ..distributions import Part, Policy, entropy_share
from ..latents import CategoricalLatent, class_usage, perplexity
from ..layers import MLP, MLPOptions, frozen
from ..ops import Combine
from ..rssm import DiscreteRSSM, Dream, State
from .ensemble import dense
from .learner import StateLearner


class GoalAutoencoder(nn.Module):
    """Between states h and codes of S one-hots: what a manager chooses from, instead of from all of h.

    Loss of a state: |sg(h) - dec(enc(sg(h)))|^2 + beta KL(enc(sg(h)) || uniform), straight-through (`KLWeight`: beta).
    """

    def __init__(self, deter_dim: int, *, variables: int = 8, classes: int = 8, mlp: MLPOptions = MLPOptions(4, 512)):
        super().__init__()
        self.code = CategoricalLatent(variables, classes)
        self.encoder = MLP(deter_dim, self.code.stats_dim, mlp)
        self.decoder = MLP(self.code.stoch_dim, deter_dim, mlp)
        self.kl_weight = KLWeight()

    def decode(self, code: Tensor) -> Tensor:
        """The state that a code means. code (..., S * C) -> (..., D)."""
        return self.decoder(code).float()

    def losses(self, deter: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """deter (..., D), noise (..., S) uniform -> squared error (...), summed over D, KL (...) in nats, stats."""
        deter = deter.detach().float()
        stats = self.encoder(deter)
        error = (self.decode(self.code.sample(stats, noise)) - deter).square().sum(-1)
        return error, self.code.kl(stats, torch.zeros_like(stats)), stats

    def novelty(self, deter: Tensor, noise: Tensor) -> Tensor:
        """How badly a state is known: its squared error, mean over D. deter (..., D), noise (..., S) -> (...)."""
        return (self.decode(self.code.sample(self.encoder(deter), noise)) - deter).square().mean(-1)


class KLWeight(nn.Module):
    """The weight of a KL that keeps it near a target: times 1 + speed above it, divided by that below.

    Director's code: target 10 nats, speed 0.1, a tolerance of 10 %, from 1e-5 to 1.
    """

    value: Tensor

    def __init__(self, *, speed: float = 0.1, tolerance: float = 0.1, least: float = 1e-5, most: float = 1.0) -> None:
        super().__init__()
        self.speed = speed
        self.tolerance = tolerance
        self.limits = least, most
        self.register_buffer("value", torch.tensor(0.1))

    def forward(self) -> Tensor:
        """The weight now, ()."""
        return self.value.clone()

    @torch.no_grad()
    def follow(self, nats: Tensor, target: float) -> None:
        """Take the mean KL () of a batch into account. One that is not finite changes nothing."""
        up, down = nats > target * (1 + self.tolerance), nats < target / (1 + self.tolerance)
        factor = torch.where(up, 1 + self.speed, torch.where(down, 1 / (1 + self.speed), 1.0))
        self.value.mul_(factor).clamp_(*self.limits)


class GoalLearner:
    """What the goal autoencoder learns from: the states of each batch (`extensions.learner.StateLearner`)."""

    name = "goals"

    def __init__(self, goals: GoalAutoencoder, *, kl_target: float = 10.0) -> None:
        self.goals = goals
        self.kl_target = kl_target

    @property
    def module(self) -> nn.Module:
        return self.goals

    @property
    def scales(self) -> list[Tensor]:
        return [self.goals.kl_weight.value]

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        return {}

    def join(self, mean: Combine, gather: Combine) -> None:
        """Nothing: a hierarchy is learnt by one process (`run.shards.require_shares`)."""

    def prepare(self, batch_size: int) -> None:
        """Nothing: what is drawn is drawn with the loss."""

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, Metrics]:
        """posterior of (B, T, ...) -> loss (), metrics."""
        goals = self.goals
        noise = goals.code.noise(*posterior.deter.shape[:-1], device=posterior.deter.device)
        error, nats, stats = goals.losses(posterior.deter, noise)
        weight = goals.kl_weight()
        loss = error.mean() + weight * nats.mean()
        goals.kl_weight.follow(nats.detach().mean(), self.kl_target)
        with torch.no_grad():
            used = perplexity(class_usage(goals.code.class_probs(stats))).mean().float()
            spread = posterior.deter.float().flatten(0, -2).var(0, correction=0).sum()
        return loss, {
            "loss": loss.detach(),
            "error": error.detach().mean() / spread.clamp(min=1e-8),
            "kl": nats.detach().mean(),
            "kl_weight": weight,
            "perplexity": used,
        }


class GoalActor(Actor):
    """The policy of both levels. Itself it is the worker, pi(u | f, g), with the manager and the goals inside.

    As a function of features alone it goes for the goal that the manager finds most likely there; `follow` keeps each
    goal for `every` steps.
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        *,
        goals: GoalAutoencoder,
        deter_dim: int,
        every: int = 8,
        **options: Any,
    ) -> None:
        """goals: maps codes to states of size deter_dim; options: as `Actor` takes them."""
        super().__init__(feat_dim + deter_dim, action_dim, **options)
        code, zero = goals.code, options.get("zero_init", False)
        parts = [Part("onehot", code.num_categories, code.num_categoricals)]
        mlp = options.get("mlp", MLPOptions())
        self.manager = Actor(feat_dim, code.stoch_dim, parts=parts, mlp=mlp, zero_init=zero)
        self.goals = goals
        self.deter_dim = deter_dim
        self.every = every

    def pursue(self, feat: Tensor, goal: Tensor, mask: Tensor | None = None) -> Policy:
        """The worker's policy. feat (..., F), goal (..., D), mask (..., A) or None -> Policy over (..., A)."""
        return super().forward(torch.cat([feat, goal], -1), mask)

    def forward(self, feat: Tensor, mask: Tensor | None = None) -> Policy:
        return self.pursue(feat, self.goals.decode(self.manager(feat).mode()).detach(), mask)

    def plan(self, count: int) -> Plan:
        """No goal yet: one is set at the next step. -> {"code": (N, S * C), "goal": (N, D), "step": (N,)}."""
        like = next(self.parameters())
        return {
            "code": like.new_zeros(count, self.goals.code.stoch_dim),
            "goal": like.new_zeros(count, self.deter_dim),
            "step": torch.zeros(count, dtype=torch.int64, device=like.device),
        }

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
        """A new goal where an episode or a window begins, else the one of before; `plan` of (N, ...)."""
        step = torch.where(is_first, 0, plan["step"])
        manager = self.manager(feat)
        drawn = manager.mode() if likely else manager.sample(manager.noise(generator))
        renewed = (step == 0)[:, None]
        code = torch.where(renewed, drawn.detach(), plan["code"])
        goal = torch.where(renewed, self.goals.decode(code).detach(), plan["goal"])
        policy = self.pursue(feat, goal, mask)
        return policy, {"code": code, "goal": goal, "step": (step + 1) % self.every}


def goal_reward(goal: Tensor, deter: Tensor) -> Tensor:
    """Max-cosine, what the worker is rewarded with: g . h / max(|g|, |h|)^2. goal, deter (..., D) -> (...), up to 1.

    A cosine where both are of one length; a state that is much longer or shorter than the goal has not reached it.
    """
    lengths = [torch.linalg.vector_norm(x, dim=-1) for x in (goal, deter)]
    return (goal * deter).sum(-1) / torch.maximum(*lengths).clamp(min=1e-6).square()


def segments(states: Tensor, every: int) -> Tensor:
    """The windows of a dream with the state after each. states (N, W * K + 1, ...) -> (N * W, K + 1, ...).

    The last state of a segment is the first of the next one.
    """
    windows = states[:, :-1].unflatten(1, (-1, every))
    last = states[:, every::every].unsqueeze(2)
    return torch.cat([windows, last], 2).flatten(0, 1)


class Pursued(NamedTuple):
    """What the worker learns from, segment by segment (N * W, ...)."""

    rewards: Tensor  # (N * W, K + 1): how alike each state of a segment and the segment's goal are
    continues: Tensor  # (N * W, K): of the states that its actions lead to
    weights: Tensor  # (N * W, K): how likely, and how discounted, each state is reached


def pursued(deter: Tensor, goal: Tensor, continues: Tensor, *, every: int, gamma: float) -> Pursued:
    """deter (N, H + 1, D), goal (N, W, D), continues (N, H + 1) of the states -> Pursued.

    The reward of an action is that of the state which it leads to; the last state of a segment is compared with the
    segment's own goal. w_0 = c_0 of the segment's first state, w_k = w_0 prod_{1<=j<=k} gamma c_j.
    """
    going_on = segments(continues, every)
    rewards = goal_reward(goal.flatten(0, 1)[:, None], segments(deter, every))
    weights = going_on[:, :1].detach() * compute_discount_weights(going_on[:, 1:], gamma=gamma)
    return Pursued(rewards, going_on[:, 1:], weights)


def abstract(rewards: Tensor, continues: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """What windows pay and whether they are survived: rewards, continues (N, W * K) -> (N, W) each.

    R_w = mean_i (prod_{j<i} c_{wK+j}) r_{wK+i},   C_w = prod_i c_{wK+i}: a step counts as far as it is reached.
    """
    steps, going_on = rewards.unflatten(1, (-1, every)), continues.unflatten(1, (-1, every))
    reached = torch.cat([torch.ones_like(going_on[..., :1]), going_on[..., :-1]], -1).cumprod(-1)
    return (reached * steps).mean(-1), going_on.prod(-1)


def goal_feat(rssm: DiscreteRSSM, goal: Tensor) -> Tensor:
    """Features to decode a goal by: it has no z, so the prior's most likely one. goal (..., D) -> (..., F)."""
    return torch.cat([dense(rssm.latent.mode(rssm.prior_net(goal))), goal], -1)


class RunningMoments(nn.Module):
    """Mean and standard deviation of numbers, moving averages over updates without a bias towards 0."""

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, *, decay: float, least: float) -> None:
        """least: the smallest deviation that is answered."""
        super().__init__()
        self.decay = decay
        self.least = least
        for name in ("mean", "square", "count"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take new values (...) into account. -> mean (), deviation (), without gradient."""
        values = values.detach().float()
        new = values.mean(), values.square().mean()
        good = torch.stack(new).isfinite().all()  # a bad update must leave nothing behind
        for mine, value in zip((self.mean, self.square), new, strict=True):
            mine.copy_(torch.where(good, mine.lerp(value, 1 - self.decay), mine))
        self.count.add_(good)
        known = (1 - self.decay**self.count).clamp(min=1e-8)
        mean = self.mean / known
        return mean, (self.square / known - mean.square()).clamp(min=0).sqrt().clamp(min=self.least)


class Judge(nn.Module):
    """A critic with its slow copy, and the scale of what it judges: returns and advantages (Director's `Normalize`)."""

    def __init__(self, critic: Critic, slow_critic: Critic) -> None:
        super().__init__()
        self.critic = critic
        self.slow_critic = slow_critic
        self.returns = RunningMoments(decay=0.999, least=1e-2)
        self.advantages = RunningMoments(decay=0.99, least=1e-8)
        slow_critic.copy_from(critic)
        slow_critic.requires_grad_(False)

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers () that judging changes."""
        return [*self.returns.buffers(), *self.advantages.buffers()]

    def judge(
        self, feat: Tensor, rewards: Tensor, continues: Tensor, weights: Tensor, *, gamma: float, lambda_: float
    ) -> tuple[Tensor, Tensor, Metrics]:
        """feat (N, H + 1, F), the rest (N, H) -> advantages (N, H) in their deviations, the critic's loss (), metrics.

        Gradients reach the advantages through rewards and states, and none the critic.
        """
        targets = compute_lambda_returns(rewards, self.slow_critic(feat), continues, gamma=gamma, lambda_=lambda_)
        stats = self.critic.stats(feat[:, :-1].detach())
        online = self.critic.mean(stats)
        loss, metrics = compute_critic_loss(online, targets, weights, nll=self.critic.nll(stats, targets.detach()))
        advantages = (targets - online.detach()) / self.returns(targets)[1]
        mean, deviation = self.advantages(advantages)
        return (advantages - mean) / deviation, loss, metrics | {"loss": loss.detach()}


class Windows(NamedTuple):
    """A dream and the goals in it."""

    dream: Dream
    code: Tensor  # (N, W, S * C)
    goal: Tensor  # (N, W, D)


class Pursuit:
    """A policy for dreams, feat (N, F) -> action (N, A), that sets a goal every K calls and keeps what it set."""

    def __init__(self, hierarchy: Hierarchy, generator: torch.Generator | None = None, *, likely: bool = False) -> None:
        """likely: take the most likely code and action. generator: what is drawn with it is drawn on the CPU."""
        self.hierarchy = hierarchy
        self.generator = generator
        self.likely = likely
        self.codes: list[Tensor] = []
        self.goals: list[Tensor] = []
        self.steps = 0

    def __call__(self, feat: Tensor) -> Tensor:
        actor, feat = self.hierarchy.actor, feat.detach()
        if self.steps % actor.every == 0:
            code = self._chosen(actor.manager(feat)).detach()
            self.codes.append(code)
            self.goals.append(actor.goals.decode(code).detach())
        self.steps += 1
        return self._chosen(actor.pursue(feat, self.goals[-1], self.hierarchy.world_model.action_mask(feat)))

    def _chosen(self, policy: Policy) -> Tensor:
        if self.likely:
            return policy.mode()
        if self.generator is None:
            return policy.sample()
        noise = policy.noise(self.generator)
        return policy.sample(noise.to(next(self.hierarchy.actor.parameters()).device))


class Hierarchy(Behavior):
    """Manager and worker, and the losses of both in one dream of W windows.

    `actor` acts, `critic` is the manager's for the task: values of windows, in mean rewards of their steps. A second
    critic of the manager judges what is new to the goals, a third one what the worker reaches.
    """

    actor: GoalActor

    def __init__(
        self,
        *args: Any,
        novelty: Judge,
        reach: Judge,
        windows: int = 2,
        novelty_weight: float = 0.1,
        task_weight: float = 1.0,
        manager_entropy: float = 0.5,
        worker_entropy: float = 0.5,
        kl_target: float = 10.0,
        **options: Any,
    ) -> None:
        """As `Behavior`, with a `GoalActor`; novelty, reach: the two further critics. Entropies: shares to keep."""
        super().__init__(*args, **options)
        self.goal_learner = GoalLearner(self.actor.goals, kl_target=kl_target)
        self.task_judge = Judge(self.critic, self.slow_critic)
        self.novelty = novelty
        self.reach = reach
        self.horizon = windows * self.actor.every
        self.novelty_weight = novelty_weight
        self.task_weight = task_weight
        self.targets = {"manager": manager_entropy, "actor": worker_entropy}
        self.entropies = nn.ModuleDict({name: EntropyWeight(least_weight=1e-5) for name in self.targets})
        for weight in self.entropies.buffers():  # advantages are of size 1 from the first update on: begin random
            weight.fill_(0.0)  # its logarithm

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All that it keeps, by the names of checkpoints."""
        found: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "slow_critic": self.slow_critic,
            "return_scale": self.task_judge.returns,
            "advantage_scale": self.task_judge.advantages,
            "novelty": self.novelty,
            "reach": self.reach,
            "entropies": self.entropies,
        }
        return {self.prefix + name: part for name, part in found.items()}

    @property
    def learning(self) -> dict[str, nn.Module]:
        """What its losses are for, by the names of the optimizers."""
        found = {
            "manager": self.actor.manager,
            "actor": self.actor.mlp,
            "novelty_critic": self.novelty.critic,
            "reach_critic": self.reach.critic,
            "critic": self.critic,
        }
        return {self.prefix + name: part for name, part in found.items()}

    @property
    def learners(self) -> list[StateLearner]:
        """The goals."""
        return [self.goal_learner]

    @property
    def policies(self) -> list[str]:
        """The names among `learning` that wait for `behavior.actor_warmup`."""
        return [self.prefix + "manager", self.prefix + "actor"]

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers that computing the losses changes, each ()."""
        judges = (self.task_judge, self.novelty, self.reach)
        return [scale for judge in judges for scale in judge.scales] + list(self.entropies.buffers())

    def prepare(self, updates: int) -> None:
        """The host's share before an update, after so many: the slow critics."""
        super().prepare(updates)
        if updates % self.options.slow_critic_every == 0:
            for judge in (self.novelty, self.reach):
                judge.slow_critic.copy_from(judge.critic, fraction=self.options.slow_critic_fraction)

    # --------------------------------------------------------------------------------------------------------- dreams

    def pilot(self, generator: torch.Generator | None = None, *, likely: bool = False) -> Pursuit:
        """A policy for a dream of any length, which begins with a new goal."""
        return Pursuit(self, generator, likely=likely)

    @torch.no_grad()
    def goals_of(self, pilot: Callable[[Tensor], Tensor], feat: Tensor) -> Tensor:
        """The goals that `pilot` set, or else those that the manager finds most likely where windows begin."""
        if not (isinstance(pilot, Pursuit) and pilot.goals):
            pilot = self.pilot(likely=True)
            for state in dense(feat)[:, :-1].unbind(1):
                pilot(state)
        goal = torch.stack(pilot.goals, 1).repeat_interleave(self.actor.every, 1)[:, : feat.shape[1] - 1]
        return goal_feat(self.world_model.rssm, torch.cat([goal, goal[:, -1:]], 1))

    def dream(self, start: State) -> Windows:
        """start of (N, ...) -> dream of W * K + 1 states, with its goals."""
        pursuit = self.pilot()

        def act(feat: Tensor) -> Tensor:
            action = pursuit(feat)
            return torch.where(self.is_choice, action.detach(), action) if self.actor_grad == "per_part" else action

        dream = self.world_model.rssm.rollout_imagination(act, start, self.horizon)
        return Windows(dream, torch.stack(pursuit.codes, 1), torch.stack(pursuit.goals, 1))

    def imagine(self, start: State) -> Dream:
        """start of (N, ...) -> Dream of W * K + 1 states."""
        return self.dream(start).dream

    # --------------------------------------------------------------------------------------------------------- losses

    def losses(self, posterior: State, is_terminal: Tensor) -> tuple[Metrics, Metrics]:
        """posterior of (B, T, ...), is_terminal (B, T) -> losses () by the names of `learning`, metrics."""
        start, alive = self.starts(posterior, is_terminal)
        with frozen(self.world_model), frozen(self.actor.goals):
            with torch.set_grad_enabled(self.actor_grad != "reinforce"):
                found = self.dream(start)
                continues = torch.cat([alive[:, None], self.world_model.continues(found.dream.feat[:, 1:])], 1)
            worker, of_worker = self.worker_losses(found, continues)
            manager, of_manager = self.manager_losses(found, continues.detach(), alive)
        losses = {self.prefix + name: loss for name, loss in (worker | manager).items()}
        named = {f"{self.prefix}{name}": value for name, value in (of_worker | of_manager).items()}
        return {name: losses[name] for name in self.learning}, named

    def deter(self, feat: Tensor) -> Tensor:
        """h of features. feat (..., F) -> (..., D)."""
        return feat[..., -self.actor.deter_dim :] if isinstance(feat, Tensor) else feat.deter  # fast/rows.py

    def worker_losses(self, found: Windows, continues: Tensor) -> tuple[Metrics, Metrics]:
        """continues (N, H + 1) of the dream's states -> losses, metrics."""
        every, options = self.actor.every, self.options
        states = segments(dense(found.dream.feat), every)
        goal = found.goal.flatten(0, 1)[:, None].expand(-1, every + 1, -1)
        terms = pursued(self.deter(found.dream.feat), found.goal, continues, every=every, gamma=options.gamma)
        action = found.dream.action.unflatten(1, (-1, every)).flatten(0, 1)
        advantage, critic_loss, critic = self.reach.judge(
            torch.cat([states, goal], -1),
            terms.rewards[:, 1:],
            terms.continues,
            terms.weights,
            gamma=options.gamma,
            lambda_=options.lambda_,
        )
        inputs = states[:, :-1].detach()
        mask = self.world_model.action_mask(inputs)
        policy = self.actor.pursue(inputs, goal[:, :-1], mask)
        loss, metrics = self.policy_loss(
            "actor", policy, action, advantage, terms.weights, self.actor.parts, mask, grad=self.actor_grad
        )
        logged = {f"actor/{key}": value for key, value in metrics.items()}
        logged |= {f"reach_critic/{key}": value for key, value in critic.items()}
        logged["imagination/goal_start"] = terms.rewards[:, 0].detach().mean()
        logged["imagination/goal_reached"] = terms.rewards[:, -1].detach().mean()
        return {"actor": loss, "reach_critic": critic_loss}, logged

    def manager_losses(self, found: Windows, continues: Tensor, alive: Tensor) -> tuple[Metrics, Metrics]:
        """continues (N, H + 1), alive (N,) -> losses, metrics; without gradients of the dream."""
        feat, every, options = found.dream.feat.detach(), self.actor.every, self.options
        arriving = options.reward_index == "next"
        places = slice(1, None) if arriving else slice(0, -1)
        with torch.no_grad():
            predicted = self.world_model.predict_reward(feat[:, places])
            deter = self.deter(feat[:, places])
            noise = self.actor.goals.code.noise(*deter.shape[:-1], device=deter.device)
            new = self.actor.goals.novelty(deter, noise)
        states = feat[:, ::every]
        paid, going_on = abstract(predicted, continues[:, places], every)
        weights = compute_discount_weights(going_on, gamma=options.gamma)
        reached = weights * alive[:, None]
        rates = {"gamma": options.gamma, "lambda_": options.lambda_}
        of_critic = reached if arriving else weights
        task, task_loss, of_task = self.task_judge.judge(states, paid, going_on, of_critic, **rates)
        curious, new_loss, of_new = self.novelty.judge(
            states, abstract(new, continues[:, places], every)[0], going_on, of_critic, **rates
        )
        shares = self.task_weight * task, self.novelty_weight * curious
        policy = self.actor.manager(states[:, :-1])
        loss, metrics = self.policy_loss(
            "manager", policy, found.code, sum(shares), reached, self.actor.manager.parts, None, grad="reinforce"
        )
        sizes = [share.detach().abs().mean() for share in shares]
        logged = {f"manager/{key}": value for key, value in metrics.items()}
        logged["manager/task_share"] = sizes[0] / (sizes[0] + sizes[1]).clamp(min=1e-8)
        logged |= {f"critic/{key}": value for key, value in of_task.items()}
        logged |= {f"novelty_critic/{key}": value for key, value in of_new.items()}
        logged |= {"imagination/reward": predicted.mean(), "imagination/novelty": new.mean()}
        logged["imagination/continue"] = continues[:, places].mean()
        return {"manager": loss, "critic": task_loss, "novelty_critic": new_loss}, logged

    def policy_loss(
        self,
        name: str,
        policy: Policy,
        action: Tensor,
        advantage: Any,
        weights: Tensor,
        parts: Any,
        mask: Tensor | None,
        *,
        grad: str,
    ) -> tuple[Tensor, Metrics]:
        """A level's loss, whose entropy keeps its share of what is possible. All (N, H) -> (), metrics."""
        entropy = cast(EntropyWeight, self.entropies[name])
        weight = entropy()
        loss, metrics = compute_actor_loss(
            policy,
            action,
            advantage,
            torch.zeros_like(advantage),
            weights,
            actor_grad=grad,
            actor_grad_mix=self.options.actor_grad_mix,
            entropy_scale=weight,
        )
        nats = metrics["entropy"] if mask is None else policy.entropy().detach()
        share = entropy_share(nats, parts, mask).mean()
        entropy.follow(share, self.targets[name])
        return loss, metrics | {"loss": loss.detach(), "entropy_weight": weight}
