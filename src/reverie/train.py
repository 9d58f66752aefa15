"""The agent that learns: DreamerV2 owns the modules and their optimisers and makes one update at a time.

    train_world_model(batch)                 one step of the world model's optimiser       paper Eq. 2
    train_actor_critic(posterior, ended)     one step of the actor's and of the critic's   paper Eqs. 3-6
    act(...)                                 choose actions: train, eval or explore

The loop around it (collect, replay, evaluate, checkpoint, log) is in `loop.py`.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # python train.py: relative imports need the package
    raise SystemExit("Run it as a module of the package: python -m reverie.train")

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .actor_critic import (
    ReturnScale,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_lambda_returns,
    released_credit,
)
from .build import build_actor, build_critic, build_world_model, pick_device
from .config import Config
from .data.replay import Batch
from .distributions import Policy
from .envs.spaces import Spec
from .fast.cuda_graph import CapturedUpdate
from .fast.modes import apply_mode, pick_dtype, pick_mode
from .finite import FiniteGuard
from .ops import symexp, symlog
from .optim import LaProp, TensorAdamW, clip_adaptive_, keras_eps
from .player import Player, choose_action
from .rssm import Dream, State

__all__ = ["DreamerV2", "symexp", "symlog"]

Metrics = dict[str, Tensor]
Step = Callable[[str, Metrics], Metrics]


class DreamerV2(nn.Module):
    """World model, actor, critic, slow critic, and an Adam for each of the first three."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.device = pick_device(config.compute.device)
        self.world_model = build_world_model(config, spec)
        feat_dim = self.world_model.rssm.feat_dim
        self.actor = build_actor(config, spec, feat_dim)
        self.critic, self.slow_critic = build_critic(config, feat_dim), build_critic(config, feat_dim)
        self.return_scale = ReturnScale()
        self.to(self.device)
        self.mode = pick_mode(config.compute, self.device)
        self.dtype = pick_dtype(config.compute, self.mode, self.device)
        apply_mode(self, self.mode, self.dtype)
        self.slow_critic.copy_from(self.critic)  # the first targets must not come from an unrelated network
        self.slow_critic.requires_grad_(False)
        self.steps = {"world_model": 0, "actor": 0, "critic": 0}  # of each optimiser
        actor_grad: str = config.behavior.actor_grad
        if actor_grad == "auto":
            actor_grad = {"discrete": "reinforce", "box": "dynamics", "mixed": "per_part"}[spec.action.kind]
        self.actor_grad = actor_grad
        self.entropy_weight: float | Tensor = 0.0  # of this update
        self.is_choice = torch.from_numpy(spec.action.is_choice).to(self.device)
        self.optimizers = {
            "world_model": self._optimizer(self.world_model, config.model.world_model_lr),
            "actor": self._optimizer(self.actor, config.behavior.actor_lr),
            "critic": self._optimizer(self.critic, config.behavior.critic_lr),
        }
        self.lr_scale = 1.0  # halved by each rollback (recovery.py)
        self.guard = FiniteGuard(self.device, [self.return_scale.low, self.return_scale.high])
        self._captured: CapturedUpdate | None = None
        if self.mode == "graph":
            self.entropy_weight = torch.zeros((), device=self.device)
        for name in self.optimizers:
            self._schedule(name)

    @property
    def updates(self) -> int:
        """Complete updates so far: of the world model, the actor and the critic."""
        return self.steps["critic"]

    @updates.setter
    def updates(self, count: int) -> None:
        """Go on counting from here, after loading."""
        self.steps = dict.fromkeys(self.steps, count)

    def _optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        train = self.config.train
        betas = (0.9, train.adam_beta2)
        if self.mode == "graph" or train.optimizer == "laprop":
            kind = LaProp if train.optimizer == "laprop" else TensorAdamW
            return kind(module.parameters(), lr, betas=betas, eps=train.adam_eps, on_device=self.mode == "graph")
        return torch.optim.AdamW(module.parameters(), lr, betas=betas, eps=train.adam_eps, fused=True)

    def _schedule(self, name: str) -> None:
        """Set what changes from step to step: learning rate, epsilon and weight decay."""
        train, update = self.config.train, self.steps[name] + 1
        lr = {
            "world_model": self.config.model.world_model_lr,
            "actor": self.config.behavior.actor_lr,
            "critic": self.config.behavior.critic_lr,
        }[name]
        lr *= self.lr_scale * (min(1.0, update / train.lr_warmup) if train.lr_warmup else 1.0)
        lr *= 1 - 0.9 * min(1.0, update / train.lr_decay) if train.lr_decay else 1.0
        eps = train.adam_eps
        if train.adam_eps_mode == "keras":
            eps = keras_eps(eps, update, train.adam_beta2)
        # torch multiplies weights by 1 - lr * weight_decay; the released code by 1 - weight_decay (FACTS.md 1.9).
        decay = train.weight_decay / lr if train.weight_decay_mode == "per_update" else train.weight_decay
        for group in self.optimizers[name].param_groups:
            for key, value in (("lr", lr), ("eps", eps), ("weight_decay", decay)):
                if isinstance(group[key], Tensor):
                    group[key].fill_(value)
                else:
                    group[key] = value

    def autocast(self) -> AbstractContextManager[Any]:
        """The plain path multiplies in bfloat16 where torch says; on a CPU the fast path decides by itself."""
        if self.dtype == torch.float32 or (self.mode == "fast" and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=self.mode != "graph")

    def _gradients(self, name: str, loss: Tensor) -> list[nn.Parameter]:
        """Of exactly its own parameters, whatever else the loss touches, into their `grad`. -> these parameters."""
        parameters = [p for group in self.optimizers[name].param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient.contiguous()  # fused steps go through memory in order, whatever the strides say
        return parameters

    def _step(self, stage: str, losses: Metrics) -> Metrics:
        """One step of each loss's optimiser; of none if any number is no number. -> gradient norms before clipping."""
        parameters = {name: self._gradients(name, loss) for name, loss in losses.items()}
        limit, agc = self.config.train.grad_clip, self.config.train.agc
        clip = (lambda p: clip_adaptive_(p, agc)) if agc else (lambda p: nn.utils.clip_grad_norm_(p, limit))
        norms = {f"{name}/grad_norm": clip(owned) for name, owned in parameters.items()}
        optimizers = [self.optimizers[name] for name in losses]
        self.guard.check(stage, [*losses.values(), *norms.values()], optimizers)
        for optimizer, owned in zip(optimizers, parameters.values(), strict=True):
            optimizer.step()
            torch.autograd.graph.increment_version(owned)  # fused steps do not tell, and the fast path must know
        return norms

    def update(self, batch: Batch) -> Metrics:
        """One update of everything. Batch of tensors (B, T, ...) -> metrics, tensors on the device."""
        if self.mode != "graph":
            posterior, metrics = self.train_world_model(batch)
            metrics |= self.train_actor_critic(posterior, batch.is_terminal)
        else:
            self.guard.begin("world model", batch)
            with self._one("world_model"), self._one("actor", "critic"):
                self._captured = self._captured or CapturedUpdate(self._learn)
                metrics = self._captured(batch)
        self.guard.note(metrics)
        return metrics

    def _learn(self, batch: Batch) -> Metrics:
        """The device's share of an update: nothing in here waits for a number or counts."""
        posterior, metrics = self._learn_world(batch)
        return metrics | self._learn_behaviour(posterior, batch.is_terminal)

    @contextmanager
    def _one(self, *names: str) -> Iterator[None]:
        """The host's share of one update of these optimisers: schedules before, counting after."""
        options = self.config.behavior
        for name in names:
            self._schedule(name)
        if "actor" in names:
            if self.updates % options.slow_critic_every == 0:
                self.slow_critic.copy_from(self.critic, fraction=options.slow_critic_fraction)
            if isinstance(self.entropy_weight, Tensor):
                self.entropy_weight.fill_(self.entropy_scale())
            else:
                self.entropy_weight = self.entropy_scale()
        yield
        for name in names:
            self.steps[name] += 1

    # --------------------------------------------------------------------------------------------------- world model

    def train_world_model(self, batch: Batch) -> tuple[State, Metrics]:
        """One update of the world model, paper Eq. 2. Batch of tensors (B, T, ...) -> detached posterior, metrics."""
        self.guard.begin("world model", batch)
        with self._one("world_model"):
            return self._learn_world(batch)

    def _learn_world(self, batch: Batch, step: Step | None = None) -> tuple[State, Metrics]:
        """step: what is done with the losses; an autopsy only looks."""
        with self.autocast():
            loss, posterior, metrics = self.world_model.loss(batch)
        norms = (step or self._step)("world model", {"world_model": loss})
        return posterior.detach(), {f"world_model/{key}": value for key, value in metrics.items()} | norms

    # ------------------------------------------------------------------------------------------------------ behaviour

    def imagine(self, start: State) -> Dream:
        """Dream from every start with the current policy. start of (N, ...) -> Dream of horizon + 1 states.

        The actor's input is detached (FACTS.md 1.10); its sampled actions carry gradients into the dynamics.
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
        with self._one("actor", "critic"):
            return self._learn_behaviour(posterior, is_terminal)

    def _learn_behaviour(self, posterior: State, is_terminal: Tensor, step: Step | None = None) -> Metrics:
        """Who predicts what when: drawing in `replay.py`."""
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
            actor_loss, actor_metrics = self._actor_loss(
                states, dream.action, targets, baseline, weights * alive[:, None]
            )
            critic_loss, critic_metrics = compute_critic_loss(
                online,
                targets,
                weights if options.reward_index == "current" else weights * alive[:, None],
                nll=self._critic_nll(states, stats, targets.detach()),
            )
        norms = (step or self._step)("behaviour", {"actor": actor_loss, "critic": critic_loss})
        actor_metrics["loss"], critic_metrics["loss"] = actor_loss.detach(), critic_loss.detach()
        return (
            {f"actor/{key}": value for key, value in actor_metrics.items()}
            | {f"critic/{key}": value for key, value in critic_metrics.items()}
            | {"imagination/reward": rewards.detach().mean(), "imagination/continue": continues.detach().mean()}
            | norms
        )

    def _actor_loss(self, states: Tensor, *credit: Tensor) -> tuple[Tensor, Metrics]:
        """Eq. 6, drawing in `replay.py`. states (N, H, F); credit: action (N, H, A), targets, baseline, weights."""
        options = self.config.behavior
        action, targets, baseline, weights = credit
        if options.return_norm == "percentile":
            scale = self.return_scale(targets)
            targets, baseline = targets / scale, baseline / scale
        if options.advantage == "released":
            action, targets, baseline, weights = released_credit(action, targets, baseline, weights)
        return compute_actor_loss(
            self.policy(states[:, : action.shape[1]]),
            action,
            targets,
            baseline,
            weights,
            actor_grad=self.actor_grad,
            actor_grad_mix=options.actor_grad_mix,
            entropy_scale=self.entropy_weight,
        )

    def _critic_nll(self, states: Tensor, stats: Tensor, targets: Tensor) -> Tensor:
        """What the critic pays per state (N, H), its pull towards the slow critic included."""
        nll, weight = self.critic.nll(stats, targets), self.config.behavior.critic_regularizer
        return nll + weight * self.critic.nll(stats, self.slow_critic(states)) if weight else nll

    def entropy_scale(self) -> float:
        """The weight of the entropy now: constant, or on its linear way to `entropy_final` (the paper's schedules)."""
        options = self.config.behavior
        done = min(1.0, self.updates / options.entropy_decay) if options.entropy_decay else 0.0
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
        """Rewards (N, H), values (N, H + 1) and continues (N, H) of a dream's states (N, H + 1, F).

        reward_index "current": r_k and c_k belong to the state k (drawing in `replay.py`); "next", DreamerV3's: to the
        state that u_k leads to, so that a value does not include the reward of its own state.
        """
        critic, head = self.slow_critic if self.config.behavior.slow_critic else self.critic, self.world_model.head
        if self.config.behavior.reward_index == "next":
            return head("reward")(feat[:, 1:]), critic(feat), self.world_model.continues(feat[:, 1:])
        states = feat[:, :-1]
        continues = torch.cat([alive[:, None], self.world_model.continues(states[:, 1:])], 1)
        return head("reward")(states), critic(feat), continues

    # --------------------------------------------------------------------------------------------------------- acting

    @torch.no_grad()
    def act(
        self, obs: dict[str, Tensor], state: State, action: Tensor, is_first: Tensor, *, mode: str = "train"
    ) -> tuple[Tensor, State]:
        """Look, remember, choose. obs raw {key: (N, *shape)}; state, action of the last step -> action (N, A), State.

        mode: "train" samples, "eval" takes the most likely action, "explore" samples and adds `explore_noise`.
        """
        noise = self.config.behavior.explore_noise if mode == "explore" else 0.0
        return choose_action(self.world_model, self.actor, obs, state, action, is_first, mode=mode, explore_noise=noise)

    def player(self, *, num_envs: int | None = None, mode: str | None = None, seed: int = 0) -> Player:
        """A stateful callable for one's own loop, in `train.eval_mode` unless told otherwise; see `Player`."""
        mode = mode or self.config.train.eval_mode
        noise = self.config.behavior.explore_noise
        return Player(self.world_model, self.actor, self.spec, num_envs=num_envs, mode=mode, seed=seed, noise=noise)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters that need no gradients for now: what is computed with them keeps less, and backward does less."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def to_batch(batch: Batch, device: torch.device | str = "cpu") -> Batch:
    """A replay's arrays as tensors on a device; images stay uint8. Batch of (B, T, ...) -> Batch."""
    cuda = torch.device(device).type == "cuda"

    def move(value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(value)
        return (tensor.pin_memory() if cuda else tensor).to(device, non_blocking=True)  # pinned: nobody waits for it

    return Batch({key: move(value) for key, value in batch.obs.items()}, *(move(value) for value in batch[1:]))


def _random_batch(spec: Spec, batch: int, length: int) -> Batch:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, length, 16, 16, 3), dtype=np.uint8)
    action = spec.action.random(rng, batch * length).reshape(batch, length, -1)
    first, no = np.zeros((batch, length), bool), np.zeros((batch, length), bool)
    first[:, 0] = True
    action[first] = np.nan
    return to_batch(Batch({"image": image}, action, np.zeros((batch, length), np.float32), first, no, no))


def demo() -> None:
    """Overfit one small random batch for a few updates and check that all losses go down as they should."""
    from .config.presets import load_preset
    from .envs.actions import ActionSpec
    from .envs.spaces import ObsKey

    torch.manual_seed(0)
    spec = Spec({"image": ObsKey(("image",), "image", (16, 16, 3), (16, 16, 3), "hwc")}, ActionSpec.discrete(4))
    agent = DreamerV2(load_preset("debug", {"world_model_lr": 1e-3}), spec)
    batch = _random_batch(spec, 4, 8)
    for name, optimizer in agent.optimizers.items():
        print(f"{name:12} {sum(p.numel() for p in optimizer.param_groups[0]['params']):>9,} parameters")
    shown = ("world_model/obs/image_loss", "world_model/kl", "critic/loss")
    first: Metrics = {}
    for update in range(41):
        metrics = agent.update(batch)
        first = first or metrics
        if update % 10 == 0:
            print(f"update {update:3}  " + "  ".join(f"{key} {float(metrics[key]):8.3f}" for key in shown))
    if not metrics["world_model/obs/image_loss"] < 0.9 * first["world_model/obs/image_loss"]:
        raise AssertionError("the image loss of a single batch must fall")
    print(f"symlog(100) = {symlog(torch.tensor(100.0)):.4f}, symexp of it = {symexp(symlog(torch.tensor(100.0))):.4f}")
    print("ok: one batch is being learnt by heart")


if __name__ == "__main__":
    demo()
