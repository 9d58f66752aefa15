"""The agent that learns: DreamerV2 owns the modules and their optimisers and makes one update at a time.

    train_world_model(batch)                 one step of the world model's optimiser       paper Eq. 2
    train_actor_critic(posterior, ended)     one step of the actor's and of the critic's   paper Eqs. 3-6
    act(...)                                 choose actions: train, eval or explore

The loop around it (collect, replay, evaluate, checkpoint, log) is in `loop.py`.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python train.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.train")

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .actor_critic import (
    EntropyWeight,
    ReturnScale,
    center_by_depth,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_lambda_returns,
    released_credit,
)
from .build import build_actor, build_critic, build_optimizers, build_world_model, pick_device
from .config import Config
from .data.replay import Batch
from .distributions import Policy, entropy_share
from .envs.spaces import Spec
from .fast import plain_parts, set_fused
from .fast.cuda_graph import CapturedUpdate
from .fast.modes import Fused, apply_mode, autocast, pick_dtype, pick_fused, pick_mode
from .finite import FiniteGuard
from .layers import frozen
from .ops import symexp, symlog
from .player import Player, choose_action
from .rssm import Dream, State
from .world_model import to_batch as to_batch

__all__ = ["DreamerV2", "symexp", "symlog"]

Metrics = dict[str, Tensor]


class DreamerV2(nn.Module):
    """World model, actor, critic and slow critic, with an optimizer for each of the first three."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.device = pick_device(config.compute.device)
        self.world_model = build_world_model(config, spec)
        feat_dim = self.world_model.rssm.feat_dim
        self.actor = build_actor(config, spec, feat_dim)
        self.critic = build_critic(config, feat_dim)
        self.slow_critic = build_critic(config, feat_dim)
        self.return_scale = ReturnScale()
        self.auto_entropy = None
        if config.behavior.entropy_target:
            self.auto_entropy = EntropyWeight(least_weight=config.behavior.entropy_scale)
        self.to(self.device)
        self.mode = pick_mode(config.compute, self.device)
        self.dtype = pick_dtype(config, self.mode, self.device)
        self.fused = pick_fused(config.compute, self.mode, self.dtype, self.device)
        apply_mode(self, self.mode, self.dtype, fused=self.fused.on)
        self.slow_critic.copy_from(self.critic)  # the first targets must not come from an unrelated network
        self.slow_critic.requires_grad_(False)
        self.actor_grad: str = config.behavior.actor_grad
        if self.actor_grad == "auto":
            self.actor_grad = {"discrete": "reinforce", "box": "dynamics", "mixed": "per_part"}[spec.action.kind]
        self.is_choice = torch.from_numpy(spec.action.is_choice).to(self.device)
        graph = self.mode == "graph"
        learning = {"world_model": self.world_model, "actor": self.actor, "critic": self.critic}
        self.optimizers = build_optimizers(config, learning, on_device=graph)
        self.entropy_weight: float | Tensor = torch.zeros((), device=self.device) if graph else 0.0  # of this update
        scales = [self.return_scale.low, self.return_scale.high]
        scales += [] if self.auto_entropy is None else [self.auto_entropy.log_weight]
        self.guard = FiniteGuard(self.device, scales)
        self._captured: dict[bool, CapturedUpdate] = {}  # {with the actor's step: the update}

    @property
    def notes(self) -> list[str]:
        """A line for each part that is computed the plain way although a fast one was asked for, and why."""
        parts = plain_parts(self) if self.mode in ("fast", "graph") else []
        return [*parts, self.fused.note] if self.fused.note else parts

    def keep_fused(self, before: bool) -> None:
        """Run loops as an earlier part of this run did, where `compute.fused` is auto: it continues bit for bit."""
        if self.config.compute.fused != "auto" or before == self.fused.on:
            return
        if before:
            why = self.fused.note or "compiled loops are not used in this mode"
            self.fused = Fused(False, f"{why}; the run had them, so it does not continue bit for bit")
        else:
            set_fused(self, False)
            note = "compiled loops stay off, as this run began without them; compute.fused=on turns them on"
            self.fused = Fused(False, note)

    @property
    def updates(self) -> int:
        """Complete updates so far: of the world model, the actor and the critic."""
        return self.optimizers["critic"].updates

    @updates.setter
    def updates(self, count: int) -> None:
        """Continue counting from here, after loading."""
        for optimizer in self.optimizers.values():
            optimizer.updates = count

    @property
    def actor_learns(self) -> bool:
        """Are the updates over in which world model and critic learn alone?"""
        return self.updates >= self.config.behavior.actor_warmup

    def autocast(self) -> AbstractContextManager[Any]:
        """Within it, large products are made in the number type of the mode."""
        return autocast(self.mode, self.dtype, self.device)

    def update(self, batch: Batch) -> Metrics:
        """One update of everything. Batch of tensors (B, T, ...) -> metrics, tensors () on the device."""
        if self.mode != "graph":
            posterior, metrics = self.train_world_model(batch)
            metrics |= self.train_actor_critic(posterior, batch.is_terminal)
        else:  # the same as one CUDA graph
            self.guard.begin("world model", batch)
            self.prepare(*self.optimizers)
            if self.actor_learns not in self._captured:  # another graph when the actor begins to learn
                self._captured = {self.actor_learns: CapturedUpdate(self.compute_update)}
            metrics = self._captured[self.actor_learns](batch)
            self.optimizers.count(*self.optimizers)
        self.guard.note(metrics)
        return metrics

    def compute_update(self, batch: Batch) -> Metrics:
        """The device's share of an update; nothing in it waits. Batch of (B, T, ...) -> metrics."""
        posterior, metrics = self._update_world_model(batch)
        return metrics | self._update_behavior(posterior, batch.is_terminal)

    def prepare(self, *names: str) -> None:
        """The host's share before an update of these optimizers: schedules, the slow critic, the entropy's weight."""
        self.optimizers.schedule(*names)
        if "actor" in names:
            options = self.config.behavior
            if self.updates % options.slow_critic_every == 0:
                self.slow_critic.copy_from(self.critic, fraction=options.slow_critic_fraction)
            if isinstance(self.entropy_weight, Tensor):
                self.entropy_weight.fill_(self.entropy_scale())
            else:
                self.entropy_weight = self.entropy_scale()

    def _step(self, stage: str, losses: Metrics) -> Metrics:
        return self.optimizers.step(losses, partial(self.guard.check, stage))

    # --------------------------------------------------------------------------------------------------- world model

    def train_world_model(self, batch: Batch) -> tuple[State, Metrics]:
        """One update of the world model, paper Eq. 2. Batch of tensors (B, T, ...) -> detached posterior, metrics."""
        self.guard.begin("world model", batch)
        self.prepare("world_model")
        posterior, metrics = self._update_world_model(batch)
        self.optimizers.count("world_model")
        return posterior, metrics

    def _update_world_model(self, batch: Batch) -> tuple[State, Metrics]:
        loss, posterior, metrics = self.world_model_loss(batch)
        norms = self._step("world model", {"world_model": loss})
        return posterior.detach(), metrics | norms

    def world_model_loss(self, batch: Batch) -> tuple[Tensor, State, Metrics]:
        """Batch of tensors (B, T, ...) -> loss (), posterior of (B, T, ...), metrics."""
        with self.autocast():
            loss, posterior, metrics = self.world_model.loss(batch)
        return loss, posterior, {f"world_model/{key}": value for key, value in metrics.items()}

    # ------------------------------------------------------------------------------------------------------ behaviour

    def imagine(self, start: State) -> Dream:
        """Dream from every start with the current policy. start of (N, ...) -> Dream of horizon + 1 states.

        The actor's input is detached (implementation-details.md#imagination); its sampled actions carry gradients into
        the dynamics.
        """
        return self.world_model.rssm.rollout_imagination(
            self._dream_action, start, self.config.behavior.imagination_horizon
        )

    def _dream_action(self, feat: Tensor) -> Tensor:
        """feat (N, F) -> action (N, A); of hybrid actions only the numbers carry gradients (`compute_actor_loss`)."""
        action = self.policy(feat.detach()).sample()
        return torch.where(self.is_choice, action.detach(), action) if self.actor_grad == "per_part" else action

    def policy(self, feat: Tensor) -> Policy:
        """The actor's policy in imagined states, without the actions that the mask head holds for forbidden."""
        return self.actor(feat, self.world_model.action_mask(feat))

    def train_actor_critic(self, posterior: State, is_terminal: Tensor) -> Metrics:
        """One update of actor and critic inside a dream, paper Eqs. 3-6. posterior of (B, T, ...), is_terminal (B, T).

        The first continue of each dream is known, not predicted: 1 - is_terminal. From an ended episode there is
        nothing to act for, so those starts train the critic only.
        """
        self.guard.begin("behaviour", posterior=posterior, is_terminal=is_terminal)
        self.prepare("actor", "critic")
        metrics = self._update_behavior(posterior, is_terminal)
        self.optimizers.count("actor", "critic")
        return metrics

    def _update_behavior(self, posterior: State, is_terminal: Tensor) -> Metrics:
        losses, metrics = self.behavior_losses(posterior, is_terminal)
        if not self.actor_learns:
            del losses["actor"]
        return metrics | self._step("behaviour", losses)

    def behavior_losses(self, posterior: State, is_terminal: Tensor) -> tuple[Metrics, Metrics]:
        """Dream, and score the dream; who predicts what when: drawing in `replay.py`.

        posterior of (B, T, ...), is_terminal (B, T) -> {"actor": (), "critic": ()}, metrics.
        """
        options = self.config.behavior
        start, alive = self._starts(posterior, is_terminal)
        with self.autocast(), frozen(self.world_model):
            with torch.set_grad_enabled(self.actor_grad != "reinforce"):  # REINFORCE needs no gradient of the dream
                dream = self.imagine(start)
                rewards, values, continues = self._predict(dream.feat, alive)
                targets = compute_lambda_returns(
                    rewards, values, continues, gamma=options.gamma, lambda_=options.lambda_
                )
                weights = compute_discount_weights(continues, gamma=options.gamma)
            states = dream.feat[:, :-1].detach()
            stats = self.critic.stats(states)
            online = self.critic.mean(stats)
            baseline = (online if options.baseline == "online" else values[:, :-1]).detach()
            actor_loss, actor = self._actor_loss(states, dream.action, targets, baseline, weights * alive[:, None])
            critic_loss, critic = compute_critic_loss(
                online,
                targets,
                weights if options.reward_index == "current" else weights * alive[:, None],
                nll=self._critic_nll(states, stats, targets.detach()),
            )
        metrics = {f"actor/{key}": value for key, value in (actor | {"loss": actor_loss.detach()}).items()}
        metrics |= {f"critic/{key}": value for key, value in (critic | {"loss": critic_loss.detach()}).items()}
        metrics |= {"imagination/reward": rewards.detach().mean(), "imagination/continue": continues.detach().mean()}
        return {"actor": actor_loss, "critic": critic_loss}, metrics

    def _actor_loss(self, states: Tensor, *credit: Tensor) -> tuple[Tensor, Metrics]:
        """Eq. 6, drawing in `replay.py`. states (N, H, F); credit: action (N, H, A), targets, baseline, weights."""
        options = self.config.behavior
        action, targets, baseline, weights = credit
        if options.advantage_center == "depth":
            baseline = center_by_depth(targets, baseline, weights)
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
            share = entropy_share(entropy, self.actor.parts, mask).mean()
            self.auto_entropy.follow(share, self.entropy_weight)
            metrics["entropy_weight"] = weight
        return loss, metrics

    def _critic_nll(self, states: Tensor, stats: Tensor, targets: Tensor) -> Tensor:
        """What the critic pays per state (N, H), its pull towards the slow critic included."""
        nll, weight = self.critic.nll(stats, targets), self.config.behavior.critic_regularizer
        return nll + weight * self.critic.nll(stats, self.slow_critic(states)) if weight else nll

    def entropy_scale(self) -> float:
        """The weight of the entropy now: constant, or on its linear way to `entropy_final` (the paper's schedules)."""
        options = self.config.behavior
        done = min(1.0, self.updates / options.entropy_decay) if options.entropy_decay else 0.0
        if options.entropy_target:
            return options.entropy_target + done * (options.entropy_target_final - options.entropy_target)
        return options.entropy_scale + done * (options.entropy_final - options.entropy_scale)

    def _starts(self, posterior: State, is_terminal: Tensor) -> tuple[State, Tensor]:
        """f_0 of the drawing in `replay.py`: all states of the batch or some. -> State (N, ...), alive (N,)."""
        if self.config.behavior.start_states == "drop_last":
            posterior, is_terminal = State(*(x[:, :-1] for x in posterior)), is_terminal[:, :-1]
        start, alive = posterior.flatten(), 1 - is_terminal.flatten().float()
        count = self.config.behavior.imagination_starts
        if 0 < count < len(alive):
            chosen = torch.rand(len(alive), device=alive.device).argsort()[:count]
            start, alive = State(*(x[chosen] for x in start)), alive[chosen]
        return start, alive

    def _predict(self, feat: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards (N, H), values (N, H + 1) and continues (N, H) of a dream's states (N, H + 1, F): `dream_scores`."""
        critic = self.slow_critic if self.config.behavior.slow_critic else self.critic
        rewards, continues = self.world_model.dream_scores(feat, alive, self.config.behavior.reward_index)
        return rewards, critic(feat), continues

    # --------------------------------------------------------------------------------------------------------- acting

    @torch.no_grad()
    def act(
        self, obs: dict[str, Tensor], state: State, action: Tensor, is_first: Tensor, *, mode: str = "train"
    ) -> tuple[Tensor, State]:
        """One step of acting: filter the observation, then choose.

        obs raw {key: (N, *shape)}; state, action of the last step -> action (N, A), State.

        mode: "train" samples, "eval" takes the most likely action, "explore" samples and adds `explore_noise`.
        """
        noise = self.config.behavior.explore_noise if mode == "explore" else 0.0
        return choose_action(self.world_model, self.actor, obs, state, action, is_first, mode=mode, explore_noise=noise)

    def player(self, *, num_envs: int | None = None, mode: str | None = None, seed: int = 0) -> Player:
        """A stateful callable for your own loop, in `train.eval_mode` unless `mode` says otherwise; see `Player`."""
        mode = mode or self.config.train.eval_mode
        options = self.config.behavior
        return Player(
            self.world_model,
            self.actor,
            self.spec,
            num_envs=num_envs,
            mode=mode,
            seed=seed,
            noise=options.explore_noise,
            hold=options.explore_hold,
        )


def demo() -> None:
    """Overfit one small random batch for a few updates and check that the image loss falls."""
    from .config.presets import load_preset
    from .envs.actions import ActionSpec
    from .envs.spaces import ObsKey

    torch.manual_seed(0)
    spec = Spec({"image": ObsKey(("image",), "image", (16, 16, 3), (16, 16, 3), "hwc")}, ActionSpec.discrete(4))
    agent = DreamerV2(load_preset("debug", {"world_model_lr": 1e-3}), spec)
    image, never = torch.randint(0, 256, (4, 8, 16, 16, 3), dtype=torch.uint8), torch.zeros(4, 8, dtype=torch.bool)
    batch = Batch({"image": image}, torch.eye(4).repeat(4, 2, 1), torch.zeros(4, 8), never, never, never)
    falls = []
    for update in range(41):
        metrics = agent.update(batch)
        falls.append(float(metrics["world_model/obs/image_loss"]))
        if update % 10 == 0:
            print(f"update {update:3}  image loss {falls[-1]:8.3f}  KL {metrics['world_model/kl']:8.3f} nats")
    if falls[-1] > 0.9 * falls[0]:
        raise AssertionError("the image loss of a single batch must fall")
    print("ok: one batch is being learned by heart")


if __name__ == "__main__":
    demo()
