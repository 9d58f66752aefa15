"""The interface for Python programs: make an agent, learn, evaluate, save, load, play."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
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
    from .run.curves import RunHistory
    from .run.evaluation import Evaluation
    from .train import DreamerV2


class Dreamer:
    """A DreamerV2 agent for one task.

        agent = Dreamer("CartPole-v1", preset="vector", run="runs/cartpole", seed=0, gamma=0.98)
        agent.learn(env_steps=10_000)

    env: an id, a function that makes an environment, its name (FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0), or an
    instance. Settings are keyword arguments by their short name, or {"group.name": value} in `settings`. fresh: begin
    again, as in `learn`. modules: your own networks, {"encoder": f, "latent": g, "heads": {NAME: h}} (docs/modules.md).
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
        modules: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        chosen = dict(settings or {}) | overrides | own_modules(modules)
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
        self.stopped_by = ""  # what ended the last `learn`: a setting, a callback's name, or a signal's

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
        data: str | Path | None = None,
        updates: int = 20_000,
        offline: str = "agent",
        demonstrations: str | Path | None = None,
        callback: Any = None,
    ) -> Dreamer:
        """Train until the run has seen `env_steps` steps in all, or for `minutes` of training time in all.

        The run is kept in its directory: the same call again finds it done, a larger number continues it. fresh: begin
        again, for instance after an edit of the environment; the old run is kept under another name. -> self, with
        `history` and `stopped_by`.

        callback: an object with some of the methods of `reverie.Callback`, a function that is called with a
        `run.callbacks.Training` after every step, or a list of them; each may return False to stop (docs/callbacks.md).

        data: learn from recorded data alone (docs/offline.md), with `updates` updates in all: offline "agent", or
        "world_model", which learns no policy in dreams. An imitating policy is always learnt beside it.
        demonstrations: a data set of which each batch has a share, less and less (`replay.demos`).

        Ctrl-C, SIGTERM and SIGHUP end the training with a checkpoint and then the program: KeyboardInterrupt for
        Ctrl-C, SystemExit for the others. Catch it to use the agent as far as it is; `learn` again continues the run.
        """
        if data is not None:
            _require_offline(env_steps is not None or minutes is not None or fresh, demonstrations, callback)
            return self._learn_offline(absolute(data), updates, offline, quiet=quiet)
        self._fresh = self._fresh or fresh
        limits = {"train.env_steps": env_steps, "train.minutes": minutes}
        given: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
        if demonstrations is not None:
            given["replay.demos"] = str(absolute(demonstrations))
        if env_steps is not None and minutes is None:
            given["train.minutes"] = 0.0  # of an earlier call: it would end this one at once
        from .guard.interrupts import end_program
        from .run.auto import CHOOSING, will_choose
        from .run.loop import Run
        from .run.progress import Progress

        progress = Progress(quiet=quiet)
        if self._config is None:
            self._asked[1].update(given)  # `auto` chooses for this budget
            if will_choose(self._asked[0], self.run, fresh=self._fresh):
                progress.say(CHOOSING)
        self._config = build(given, base=self.config, where="learn:")
        run = Run(self.config, self.run, self.env, weights=self._weights, fresh=self._fresh, callback=callback)
        self._fresh = False
        while self._reasons:
            progress.say(self._reasons.pop(0))
        self.agent = run.agent  # at hand also if training ends with an error
        run.train(progress)
        self.stopped_by = run.state.end()
        if run.state.stopping.signal:
            end_program(run.state.stopping.signal, self.run)
        return self

    def _learn_offline(self, data: Path, updates: int, what: str, *, quiet: bool) -> Dreamer:
        from .guard.interrupts import Stopping, end_program
        from .run.data_set import read_data
        from .share.offline import learn_offline, offline_config
        from .share.offline_state import holds_offline

        if self.agent is not None and not (self._weights is None and holds_offline(self.run)):
            raise UserError("learning from data begins with new weights; this agent has some.", "Make a new Dreamer.")
        found = read_data(data)
        if self._config is None:
            self._config = offline_config(*self._asked, found)
        stopping, say = Stopping(), (lambda line: None) if quiet else print
        self.agent = learn_offline(self.config, found, self.run, updates=updates, what=what, say=say, stopping=stopping)
        if stopping.signal:
            end_program(stopping.signal, self.run)
        return self

    def __repr__(self) -> str:
        task = self._config.env.id if self._config is not None else self._asked[1].get("env.id", "no task yet")
        return f"Dreamer({task}, {'with weights' if self.agent is not None else 'untrained'}, run {self.run})"

    @property
    def history(self) -> RunHistory:
        """Episodes, metrics and evaluations of the run so far, as arrays."""
        from .run.curves import RunHistory

        return RunHistory(self.run)

    def save(
        self, path: str | Path, *, card: bool | Mapping[str, Any] = False, episodes: int = 20, seed: int = 0
    ) -> Path:
        """Write the agent (settings, spaces, weights; no replay) to a directory that `load` reads. -> the directory.

        card: play `episodes` and add a card for others: README.md, results, curves, videos, a few episodes
        (docs/sharing.md). A dict gives it name, description, optimum, license or command. Needs matplotlib.
        """
        path = absolute(path)
        agent = self._trained()
        checkpoint.require_room(path)
        checkpoint.save_agent(path, agent, self._card(card, episodes, seed) if card or card == {} else None)
        return path

    def export(self, path: str | Path, *, mode: str = "eval") -> Path:
        """Write the policy as a file that needs neither Reverie nor, for .onnx, torch; .pt2: for torch. -> the path.

        Beside it NAME.json, what goes in and out, and NAME_player.py, which plays it (docs/export.md). mode "eval"
        draws z, as `evaluate` does, "train" the action too, "deterministic" nothing. Raises UserError.
        """
        from .share.export import KINDS, export_policy

        path, agent = absolute(path), self._trained()
        kind = next((kind for kind, suffix in KINDS.items() if suffix == path.suffix), "onnx")
        return export_policy(agent.config, agent.spec, agent.world_model, agent.actor, path, kind=kind, mode=mode)

    def _card(self, card: bool | Mapping[str, Any], episodes: int, seed: int) -> dict[str, str | bytes]:
        from .share.card import Score, check_options, make_card, random_level

        options = check_options(card)
        result = self.evaluate(episodes, seed=seed, film=True)
        run = self.run if checkpoint.checkpoints(self.run) else None
        level = options.get("random", None if run is None else random_level(run))
        score = Score(result, self.config.train.eval_mode, seed, level, options.get("optimum"))
        return make_card(self.config, score, options, run)

    def push_to_hub(
        self,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
        episodes: int = 20,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Save the agent with its card and send it to the Hugging Face Hub as USER/NAME. -> its address.

        token: by default that of `hf auth login`. Needs the extra `hub`. Raises UserError.
        """
        from .share.sources import push, require_hub, split_repository

        require_hub()
        split_repository(name)
        with TemporaryDirectory() as folder:
            saved = self.save(Path(folder) / "agent", card=dict(card or {}), episodes=episodes)
            return push(saved, name, private=private, token=token)

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
        from .run.evaluation import GoalStrip, SlowEvaluation, Warned, evaluate
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
            found = evaluate(
                envs,
                warned.act,
                episodes,
                seed=20_000 + 1000 * seed,
                video=film,
                report=report,
                beside=GoalStrip(player),
            )
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


def _require_offline(limited: bool, demonstrations: object, callback: object) -> None:
    """Refuse what `learn(data=...)` has no use for. Raises UserError."""
    if limited:
        raise UserError("learning from data ends by updates, not by env_steps or minutes.", "Leave them out.")
    if demonstrations is not None:
        raise UserError("data is learnt from alone, demonstrations beside an environment.", "Give one of them.")
    if callback is not None:
        raise UserError("callbacks are not called while learning from data.", "Leave callback out.")


@usual_switches()
def load(
    path: str | Path,
    env: EnvLike | None = None,
    *,
    run: str | Path | None = None,
    device: str = "auto",
    modules: Mapping[str, Any] | None = None,
) -> Dreamer:
    """The agent saved in `path`, or the newest checkpoint of the run there. `env` is needed for a custom environment.

    path: also `pretrained:NAME`, a trained agent of the package, or `hf://USER/NAME` of the Hugging Face Hub.

    `learn` on it continues that run. From a saved agent it starts a new run in `run` (runs/NAME-continued by default)
    with the saved weights. modules: the networks of your own that it was trained with, as `Dreamer` takes them.
    Raises UserError.
    """
    from .envs.names import maker_of
    from .share.sources import find
    from .train import DreamerV2

    path = find(path)
    require_device(device)
    found = checkpoint.find_agent(path)
    config, spec = checkpoint.read_agent(found)
    config = with_modules(config, modules)
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
    dreamer._fresh, dreamer.stopped_by = False, ""
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
    modules: Mapping[str, Any] | None = None,
) -> Player:
    """A player straight from a saved agent or a run: no optimiser, no replay, no environment. Raises UserError.

    compiled: act by machine code with these weights as constants, about twice as fast for one environment; making it
    takes some ten seconds and a C++ compiler. modules: as `load` takes them.
    """
    from .envs.repeatable import require_seed
    from .share.sources import find

    require_seed(seed)
    found = checkpoint.find_agent(find(path))
    config, spec = checkpoint.read_agent(found)
    config = with_modules(config, modules)
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
        networks = (world_model, actor)
        for part in networks:
            accelerate(part)
        types = _trained_in(found, config, place) or pick_precision(config, "fast", place, networks).types
        fused = pick_fused(compute, "fast", types, place)  # without a compiler here, acting does without
        for part in networks:
            set_types(part, types, fused=fused.on)
        for note in dict.fromkeys(note for part in networks for note in plain_parts(part)):
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


def own_modules(modules: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `modules={...}` of a program means for the settings. Raises UserError."""
    if modules is None:
        return {}
    from .envs.names import function_of
    from .extensions.own import register

    return {"model.own_modules": register(modules, function_of)}


def with_modules(config: Config, modules: Mapping[str, Any] | None) -> Config:
    """The settings of an agent with its user's networks, which a program gives again. Raises UserError."""
    if modules is None:
        return config
    given = own_modules(modules)["model.own_modules"]
    before, now = ({name.partition("=")[0] for name in names} for names in (config.model.own_modules, given))
    if before != now:
        raise UserError(
            f"this agent has networks of its user's own for {', '.join(sorted(before)) or 'nothing'}, modules gives "
            f"{', '.join(sorted(now)) or 'nothing'}.",
            "Give the same places.",
        )
    return replace(config, model=replace(config.model, own_modules=given))


def _trained_in(path: Path, config: Config, place: torch.device) -> Types | None:
    """The number types that a checkpoint was trained in, where they were chosen by measuring and kept."""
    state = path / "state.json"
    if config.compute.precision != "auto" or place.type != "cpu" or not state.exists():
        return None
    with sound(state):
        saved = read_json(state).get("types")
        return None if saved is None else Types.from_dict(saved)
