"""The interface for Python programs: make an agent, learn, evaluate, save, load, play."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoint
from .build import build_actor, build_ensemble, build_world_model, require_device
from .config import build
from .config.presets import load_preset
from .config.validation import names_code
from .errors import UserError
from .fast import accelerate, plain_parts, set_types
from .fast.modes import pick_fused, pick_precision, usual_switches
from .fast.products import Types
from .files import absolute, read_json, sound
from .player import Exploring, Player

if TYPE_CHECKING:  # a player is loaded without training code and without Gymnasium
    import gymnasium as gym
    import torch

    from .config import Config
    from .envs import EnvLike
    from .run.evaluation import Evaluation
    from .train import DreamerV2


class Dreamer:
    """A DreamerV2 agent for one task.

        agent = Dreamer("CartPole-v1", preset="vector", run="runs/cartpole", seed=0, gamma=0.98)
        agent.learn(env_steps=10_000)

    env: an id, a function that makes an environment, its name (FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0), or an
    instance. Settings are keyword arguments by their
    short name, or {"group.name": value} in `settings`. fresh: begin again, as in `learn`.
    Raises UserError for anything that does not fit.
    """

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str = "auto",
        run: str | Path | None = None,
        fresh: bool = False,
        settings: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        chosen = dict(settings or {}) | overrides
        if isinstance(env, str):
            chosen["env.id"] = env
        elif env is not None:
            chosen["env.id"] = f"custom:{getattr(env, '__name__', type(env).__name__)}"
        from .envs.names import maker_of
        from .run.auto import default_run

        plain = load_preset(preset, chosen)  # what does not fit is said at once; preset `auto` chooses later
        self.env = maker_of(env) if isinstance(env, str) else env
        # absolute from the start: an environment may change the working directory
        self.run = absolute(run or default_run(plain, preset))
        self._config: Config | None = None
        self._asked: tuple[str, dict[str, Any]] = (preset, chosen)
        self._reasons: list[str] = []  # of what `auto` chose, until they are printed
        self.agent: DreamerV2 | None = None
        self._fresh = fresh
        self._weights: Path | None = None

    @property
    def config(self) -> Config:
        """The settings. Preset `auto` chooses when they are first asked for, by `learn` at the latest."""
        if self._config is None:
            from .run.auto import config_for

            self._config, self._reasons = config_for(*self._asked, self.run, self.env, fresh=self._fresh)
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        """Other settings than those that were asked for."""
        self._config = config

    def learn(
        self,
        env_steps: int | None = None,
        *,
        minutes: float | None = None,
        fresh: bool = False,
        quiet: bool = False,
    ) -> Dreamer:
        """Train until the run has seen `env_steps` steps in all, or for `minutes` of training time in all.

        The run is kept in its directory: the same call again finds it done, a larger number continues it. fresh: begin
        again, for instance after an edit of the environment; the old run is kept under another name. -> self.

        Ctrl-C, SIGTERM and SIGHUP end the training with a checkpoint and then the program: KeyboardInterrupt for
        Ctrl-C, SystemExit for the others. Catch it to use the agent as far as it is; `learn` again continues the run.
        """
        self._fresh = self._fresh or fresh
        limits = {"train.env_steps": env_steps, "train.minutes": minutes}
        given = {key: value for key, value in limits.items() if value is not None}
        if env_steps is not None and minutes is None:
            given["train.minutes"] = 0.0  # of an earlier call: it would end this one at once
        if self._config is None:
            self._asked[1].update(given)  # `auto` chooses for this budget
        self._config = build(given, base=self.config, where="learn:")
        from .guard.interrupts import end_program
        from .run.loop import Run
        from .run.progress import Progress

        progress = Progress(quiet=quiet)
        run = Run(self.config, self.run, self.env, weights=self._weights, fresh=self._fresh)
        self._fresh = False
        while self._reasons:
            progress.say(self._reasons.pop(0))
        self.agent = run.train(progress)
        if run.state.stopping.signal:
            end_program(run.state.stopping.signal, self.run)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the agent (settings, spaces, weights; no replay) to a directory that `load` reads. -> the directory."""
        path = absolute(path)
        checkpoint.save_agent(path, self._trained())
        return path

    def player(self, *, num_envs: int | None = None, mode: str | None = None, seed: int = 0) -> Player:
        """A stateful function from observations to actions, for your own loop; see `Player`.

        mode "eval" takes the most likely action, "train" samples; by default what `train.eval_mode` says.
        """
        from .envs.repeatable import require_seed

        require_seed(seed)
        return self._trained().player(num_envs=num_envs, mode=mode, seed=seed)

    def evaluate(self, episodes: int = 20, *, mode: str | None = None, seed: int = 0, film: bool = False) -> Evaluation:
        """Play whole episodes in fresh environments, in `train.eval_mode` unless `mode` says otherwise.

        -> scores, lengths, and with `film` the frames of the first one.
        """
        from .envs import is_instance
        from .envs.repeatable import require_seed
        from .guard.memory import enough_memory
        from .run.evaluation import SlowEvaluation, Warned, evaluate
        from .run.tasks import copy_env, make_envs, spec_of

        require_seed(seed)
        count = 1 if is_instance(self.env) else min(8, episodes)
        with ExitStack() as stack:
            stack.enter_context(enough_memory(self.config, self.run, lambda: self.agent))
            # whose frames can be recorded
            envs = make_envs(self.config, copy_env(self.env), count, backend="sync")
            stack.callback(envs.close)
            self._trained().spec.require_same_task(spec_of(envs))
            player = self.player(num_envs=envs.num_envs, mode=mode, seed=seed)
            report = SlowEvaluation(episodes, lambda text: print(f"note: {text}", file=sys.stderr))
            warned = Warned(player)
            found = evaluate(envs, warned.act, episodes, seed=20_000 + 1000 * seed, video=film, report=report)
            return replace(found, strange=warned.share)

    def make_env(self) -> gym.Env:
        """The task as the agent was trained on it: its action subset, repeat, time limit. For your own loop."""
        from .envs import make_env
        from .run.tasks import options_of

        return make_env(self.config.env.id if self.env is None else self.env, **options_of(self.config))

    def _trained(self) -> DreamerV2:
        if self.agent is None:
            raise UserError("this agent has not been trained yet.", "Call learn(), or reverie.load(directory).")
        return self.agent


@usual_switches()
def load(
    path: str | Path, env: EnvLike | None = None, *, run: str | Path | None = None, device: str = "auto"
) -> Dreamer:
    """The agent saved in `path`, or the newest checkpoint of the run there. `env` is needed for a custom environment.

    `learn` on it continues that run. From a saved agent it starts a new run in `run` (runs/NAME-continued by default)
    with the saved weights. Raises UserError.
    """
    from .envs.names import maker_of
    from .train import DreamerV2

    path = absolute(path)
    require_device(device)
    found = checkpoint.find_agent(path)
    config, spec = checkpoint.read_agent(found)
    changes: dict[str, Any] = {"compute.device": device} | ({"env.id": env} if isinstance(env, str) else {})
    if env is None and names_code(config.env.id):
        changes["env.id"] = f"custom:{config.env.id}"  # a file from elsewhere shall not choose what code is run
    is_run = Path(path) != found
    if config.behavior.entropy_target and not is_run:  # schedules begin again, and shall not undo what was learnt
        changes |= {"entropy_target": config.behavior.entropy_target_final or 1e-6, "actor_warmup": 0}
    config = build(changes, base=config, where="load:")
    plain = build({"compute.mode": "reference", "compute.device": "meta"}, base=config)
    checkpoint.require_fit(found, lambda: DreamerV2(plain, spec))
    dreamer = Dreamer.__new__(Dreamer)
    dreamer._config, dreamer.env = config, maker_of(env) if isinstance(env, str) else env
    dreamer.agent = DreamerV2(config, spec)
    checkpoint.load_weights(found, dreamer.agent)
    dreamer.run = absolute(path if is_run else run or Path("runs") / f"{Path(path).name}-continued")
    dreamer._fresh = False
    dreamer._weights, dreamer._reasons = None if is_run else found, []
    return dreamer


@usual_switches()
def load_player(
    path: str | Path,
    *,
    num_envs: int | None = None,
    mode: str | None = None,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = False,
) -> Player:
    """A player straight from a saved agent or a run: no optimiser, no replay, no environment. Raises UserError.

    compiled: act by machine code with these weights as constants, about twice as fast for one environment; making it
    takes some ten seconds and a C++ compiler.
    """
    from .envs.repeatable import require_seed

    require_seed(seed)
    found = checkpoint.find_agent(absolute(path))
    config, spec = checkpoint.read_agent(found)
    mode = mode or config.train.eval_mode
    checkpoint.require_fit(found, lambda: build_world_model(config, spec), below="world_model.")
    world_model = build_world_model(config, spec)
    actor = build_actor(config, spec, world_model.rssm.feat_dim)
    checkpoint.load_weights(found, world_model, only="world_model")
    checkpoint.load_weights(found, actor, only="actor")
    ensemble = build_ensemble(config, spec, world_model)
    if ensemble is not None:
        checkpoint.load_weights(found, ensemble, only="ensemble")
    place = require_device(device)
    if not compiled and config.compute.mode in ("auto", "fast", "graph"):  # the same sums as during training
        compute = replace(config.compute, fused="auto") if config.compute.fused == "on" else config.compute
        modules = (world_model, actor)
        for part in modules:
            accelerate(part)
        types = _trained_in(found, config, place) or pick_precision(config, "fast", place, modules).types
        fused = pick_fused(compute, "fast", types, place)  # without a compiler here, acting does without
        for part in modules:
            set_types(part, types, fused=fused.on)
        for note in dict.fromkeys(note for part in modules for note in plain_parts(part)):
            print(f"note: {note}", file=sys.stderr)
    parts = world_model.to(place), actor.to(place), spec
    player = Player(
        *parts,
        num_envs=num_envs,
        mode=mode,
        seed=seed,
        exploring=Exploring.of(config.behavior),
        ensemble=None if ensemble is None else ensemble.to(place),
    )
    if compiled:
        player.freeze()
    return player


def _trained_in(path: Path, config: Config, place: torch.device) -> Types | None:
    """The number types that a checkpoint was trained in, where they were chosen by measuring and kept."""
    state = path / "state.json"
    if config.compute.precision != "auto" or place.type != "cpu" or not state.exists():
        return None
    with sound(state):
        saved = read_json(state).get("types")
        return None if saved is None else Types.from_dict(saved)
