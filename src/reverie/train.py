"""The agent that learns: DreamerV2 owns the modules and their optimisers and makes one update at a time.

    train_world_model(batch)                 one step of the world model's optimiser       paper Eq. 2
    train_actor_critic(posterior, ended)     one step of the actor's and of the critic's   paper Eqs. 3-6
    act(...)                                 choose actions: train, eval or explore

The loop around it (collect, replay, evaluate, checkpoint, log) is in `loop.py`.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python train.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.train")

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .actor_critic import Actor, Critic, ReturnScale
from .behavior import Behavior, Metrics
from .build import build_behaviors, build_cloning, build_ensemble, build_optimizers, build_world_model, pick_device
from .config import Config
from .data.replay import Batch
from .distributions import Policy
from .envs.spaces import Spec
from .extensions.learner import StateLearner
from .fast import fused_step, plain_parts, set_types
from .fast.cuda_graph import CapturedUpdate
from .fast.modes import Fused, Precision, apply_mode, autocast, pick_dtype, pick_fused, pick_mode, pick_precision
from .fast.products import Types, said
from .finite import FiniteGuard
from .ops import symexp, symlog
from .player import Exploring, Player, choose_action
from .ranks import ALONE, Ranks
from .rssm import Dream, State
from .world_model import to_batch as to_batch

__all__ = ["DreamerV2", "symexp", "symlog"]


class DreamerV2(nn.Module):
    """The world model and the behaviours that learn in its dreams, with an optimizer for each part that learns."""

    actor: Actor  # of the task's behaviour, as are the next three
    critic: Critic
    slow_critic: Critic
    return_scale: ReturnScale

    ranks: Ranks = ALONE  # that share the batches
    kept_types = ""  # a note, where an earlier part of the run chose other number types

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.device = pick_device(config.compute.device)
        self.world_model = build_world_model(config, spec)
        self.ensemble = build_ensemble(config, spec, self.world_model)
        self.behaviors: list[Behavior] = build_behaviors(config, spec, self.world_model, self.ensemble)
        self.learners: list[StateLearner] = [] if self.ensemble is None else [self.ensemble]
        self.learners += [learner for behavior in self.behaviors for learner in behavior.learners]
        for behavior in self.behaviors:
            for name, part in behavior.parts.items():
                self.add_module(name, part)
        self.cloning = build_cloning(config, spec, self.world_model)  # last: the others' weights are drawn before
        self.learners += [] if self.cloning is None else [self.cloning]
        self.to(self.device)
        self.mode = pick_mode(config.compute, self.device)
        apply_mode(self, self.mode, torch.float32)
        self.use(pick_precision(config, self.mode, self.device, (self.world_model, self.actor)))
        graph = self.mode == "graph"
        learning: dict[str, nn.Module] = {"world_model": self.world_model}
        learning |= {learner.name: learner.module for learner in self.learners}
        scales = [scale for learner in self.learners for scale in learner.scales]
        for behavior in self.behaviors:
            learning |= behavior.learning
            scales += behavior.scales
            behavior.is_choice = behavior.is_choice.to(self.device)
            if graph:
                behavior.entropy_weight = torch.zeros((), device=self.device)
        self.optimizers = build_optimizers(config, learning, on_device=graph)
        self.optimizers.set_quick(fused_step if self.fused.on else None)
        stages = [*(learner.name for learner in self.learners), *(behavior.stage for behavior in self.behaviors)]
        self.guard = FiniteGuard(self.device, scales, stages)
        self._captured: dict[tuple[bool, int], CapturedUpdate] = {}  # {with the actor's step, steps ahead: the update}

    def join(self, ranks: Ranks) -> None:
        """Share batches with other ranks from now on: gradients are averaged, and what a batch is measured for is
        measured over all. Their weights must be the same."""
        self.ranks = self.optimizers.ranks = ranks
        self.world_model.join(ranks.mean, ranks.size)
        for learner in self.learners:
            learner.join(ranks.mean, ranks.gather)
        for behavior in self.behaviors:
            behavior.join(ranks)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Context in which this rank computes by itself, whatever the others do."""
        ranks = self.ranks
        self.join(ALONE)
        try:
            yield
        finally:
            self.join(ranks)

    @property
    def task(self) -> Behavior:
        """The behaviour that learns to do the task."""
        return self.behaviors[0]

    @property
    def learning(self) -> list[Behavior]:
        """The behaviours that are not only kept."""
        return [behavior for behavior in self.behaviors if behavior.learns]

    @property
    def collecting(self) -> Behavior:
        """The behaviour that acts while training: one that explores, if there is one."""
        return self.learning[-1]

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """Random streams of its own by name; all else is drawn from torch's."""
        return {name: stream for learner in self.learners for name, stream in learner.generators.items()}

    @property
    def notes(self) -> list[str]:
        """A line for each part that is computed the plain way although a fast one was asked for, and why."""
        parts = plain_parts(self) if self.mode in ("fast", "graph") else []
        return [*parts, *filter(None, (self.fused.note, self.kept_types))]

    def use(self, precision: Precision) -> None:
        """Make products in these number types from now on."""
        self.precision = precision
        self.dtype = precision.types.lowest
        self.fused = pick_fused(self.config.compute, self.mode, precision.types, self.device)
        set_types(self, precision.types, fused=self.fused.on)

    def keep_types(self, before: Types | None) -> None:
        """Make products in the types of an earlier part of this run, where `compute.precision` is auto: a run continues
        bit for bit, also on a machine that would choose others. None: it began before they were measured."""
        if self.config.compute.precision != "auto" or self.mode != "fast" or self.device.type != "cpu":
            return
        own = self.precision.types
        types = before or Types.all(pick_dtype(self.config, self.mode, self.device))
        if types != own:
            self.use(Precision(types, "as the run began"))
            self.kept_types = (
                f"products stay as the run began, {said(types)}; this machine would choose {said(own)}. "
                "compute.precision sets another type"
            )

    def keep_fused(self, before: bool) -> None:
        """Run loops as an earlier part of this run did, where `compute.fused` is auto: it continues bit for bit."""
        if self.config.compute.fused != "auto" or before == self.fused.on:
            return
        if before:
            why = self.fused.note or "compiled loops are not used in this mode"
            self.fused = Fused(False, f"{why}; the run had them, so it does not continue bit for bit")
        else:
            set_types(self, self.precision.types, fused=False)
            self.optimizers.set_quick(None)
            note = "compiled loops stay off, as this run began without them; compute.fused=on turns them on"
            self.fused = Fused(False, note)

    @property
    def updates(self) -> int:
        """Complete updates so far: of the world model and of all that follows it."""
        return self.optimizers[list(self.learning[-1].learning)[-1]].updates

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
            metrics |= self.train_learners(posterior, batch)
            metrics |= self.train_actor_critic(posterior, batch.is_terminal, batch)
        else:  # the same as one CUDA graph
            self.guard.begin("world model", batch)
            self.prepare(*self.optimizers)
            for learner in self.learners:
                learner.prepare(len(batch.reward))
            beyond = self.world_model.beyond
            kind = (self.actor_learns, beyond.depth_now if beyond is not None else 0)
            if kind not in self._captured:  # another graph when the actor begins to learn, or dreams get longer
                self._captured = {kind: CapturedUpdate(self.compute_update)}
            metrics = self._captured[kind](batch)
            self.optimizers.count(*self.optimizers)
        self.guard.note(metrics)
        return metrics

    def compute_update(self, batch: Batch) -> Metrics:
        """The device's share of an update; nothing in it waits. Batch of (B, T, ...) -> metrics."""
        posterior, metrics = self._update_world_model(batch)
        for learner in self.learners:
            metrics |= self._update_learner(learner, posterior, batch)
        for behavior in self.learning:
            metrics |= self._update_behavior(behavior, posterior, batch.is_terminal, batch)
        return metrics

    def prepare(self, *names: str) -> None:
        """The host's share before an update of these optimizers: schedules, and what behaviours do before theirs."""
        self.optimizers.schedule(*names)
        beyond = self.world_model.beyond
        if beyond is not None and "world_model" in names:
            beyond.prepare(self.updates)
        for behavior in self.learning:
            if behavior.learning.keys() <= set(names):
                behavior.prepare(self.updates)

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

    # --------------------------------------------------------------------------------- what learns beside (extensions/)

    def train_learners(self, posterior: State, batch: Batch) -> Metrics:
        """One update of each network that learns from the states of a batch. posterior and batch of (B, T, ...)."""
        metrics: Metrics = {}
        for learner in self.learners:
            self.guard.begin(learner.name, batch, posterior=posterior, is_terminal=batch.is_terminal)
            self.optimizers.schedule(learner.name)
            learner.prepare(len(batch.reward))
            metrics |= self._update_learner(learner, posterior, batch)
            self.optimizers.count(learner.name)
        return metrics

    def _update_learner(self, learner: StateLearner, posterior: State, batch: Batch) -> Metrics:
        loss, metrics = self.learner_loss(learner, posterior, batch)
        return metrics | self._step(learner.name, {learner.name: loss})

    def learner_loss(self, learner: StateLearner, posterior: State, batch: Batch) -> tuple[Tensor, Metrics]:
        """`StateLearner.loss`. posterior and batch of (B, T, ...) -> loss (), metrics."""
        with self.autocast():
            loss, metrics = learner.loss(posterior, batch)
        return loss, {f"{learner.name}/{key}": value for key, value in metrics.items()}

    # ----------------------------------------------------------------------------------------------------- behaviours

    def train_actor_critic(self, posterior: State, is_terminal: Tensor, batch: Batch | None = None) -> Metrics:
        """One update of actor and critic inside a dream, paper Eqs. 3-6. posterior of (B, T, ...), is_terminal (B, T).

        The first continue of each dream is known, not predicted: 1 - is_terminal. From an ended episode there is
        nothing to act for, so those starts train the critic only. Each further behaviour does the same in its dreams.
        batch (B, T, ...): what the states came from, for an actor that also imitates.
        """
        metrics: Metrics = {}
        for behavior in self.learning:
            self.guard.begin(behavior.stage, posterior=posterior, is_terminal=is_terminal)
            self.prepare(*behavior.learning)
            metrics |= self._update_behavior(behavior, posterior, is_terminal, batch)
            self.optimizers.count(*behavior.learning)
        return metrics

    def _update_behavior(
        self, behavior: Behavior, posterior: State, is_terminal: Tensor, batch: Batch | None
    ) -> Metrics:
        losses, metrics = self.behavior_losses(behavior, posterior, is_terminal, batch)
        if not self.actor_learns:
            losses = {name: loss for name, loss in losses.items() if name not in behavior.policies}
        return metrics | self._step(behavior.stage, losses)

    def behavior_losses(
        self, behavior: Behavior, posterior: State, is_terminal: Tensor, batch: Batch | None = None
    ) -> tuple[Metrics, Metrics]:
        """`Behavior.losses`, and imitation of the batch, if there is one.

        posterior and batch of (B, T, ...), is_terminal (B, T) -> {optimizer: loss ()}, metrics.
        """
        with self.autocast():
            losses, metrics = behavior.losses(posterior, is_terminal)
            if batch is not None:
                behavior.add_imitation(losses, metrics, posterior, batch)
            return losses, metrics

    def imagine(self, start: State) -> Dream:
        """Dream with the task's policy. start of (N, ...) -> Dream of horizon + 1 states."""
        return self.task.imagine(start)

    def policy(self, feat: Tensor) -> Policy:
        """The task's policy in imagined states. feat (..., F) -> Policy over (..., A)."""
        return self.task.policy(feat)

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
        chosen, state, _ = choose_action(
            self.world_model, self.actor, obs, state, action, is_first, mode=mode, explore_noise=noise
        )
        return chosen, state

    def player(self, *, num_envs: int | None = None, mode: str | None = None, seed: int = 0) -> Player:
        """A stateful callable for your own loop, in `train.eval_mode` unless `mode` says otherwise; see `Player`."""
        mode = mode or self.config.train.eval_mode
        return Player(
            self.world_model,
            self.collecting.actor if mode == "explore" else self.actor,
            self.spec,
            num_envs=num_envs,
            mode=mode,
            seed=seed,
            exploring=Exploring.of(self.config.behavior),
            ensemble=self.ensemble if mode != "explore" else None,  # collecting is not made slower
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
