"""Preset `auto`: what it chooses for a task on this machine, and why.

    look_at(config, env)      random play: spaces, rewards, images, speed       -> FirstExperience
    choose(config, found)     one plain value and one sentence for each setting   -> [Choice]

A setting that the user gives is never chosen. The values go into the run's config.yaml like any other; a run that is
continued keeps them. Nothing is timed for a deterministic run: `TABLE` has what it takes instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import Wrapper

from ..build import pick_device
from ..config import Config, build
from ..config.parsing import full_name
from ..config.presets import AUTO, FILE, chooses, load_preset, origins
from ..envs import AgentView, EnvLike, is_instance, make_env
from ..envs.border import EnvironmentFailed, limit_of
from ..envs.images import area_resize
from ..envs.spaces import MASK, Spec, with_target_size
from ..errors import digits
from ..fast.modes import usual_switches
from ..train import DreamerV2, to_batch
from .directory import holds_run, stored_config
from .forecast import acting_seconds, duration, memory_left, random_batch
from .tasks import copy_env, options_of, repeat_of, view_of

#: Steps of random play that are looked at, and seconds after which that is enough.
STEPS, PATIENCE = 600, 4.0
#: Minutes of training that a run is sized for on a CPU, and on a GPU.
MINUTES = {"cpu": 10.0, "cuda": 60.0}
#: Seconds of an update and of acting per step, where nothing may be timed: {has images: (update, act)}.
TABLE = {False: (0.1, 0.0005), True: (0.15, 0.001)}
#: Sides of an image, and what the smallest one must keep of the strongest movement that the largest one shows.
SIDES, KEPT = (32, 48, 64, 96), 0.75
#: What the usual change between two images must be worth, in nats, for the state to keep it; and between two vectors.
WORTH, WORTH_VECTORS = 100.0, 10.0
#: The weights of the losses of images and vectors lie between 1 and these: beyond, nothing else is learnt beside them.
MOST_WEIGHT, MOST_FOR_VECTORS = 1000.0, 100.0
#: How much faster an update must be with more threads than one.
MORE_THREADS = 1.15
#: Rewards in a smaller share of random steps than this are rare.
RARE = 0.2
#: Larger networks where they cost nothing.
GPU_SIZES = {
    "model.num_categories": 32,
    "model.num_categoricals": 32,
    "model.rnn_hidden_dim": 512,
    "model.hidden_dim": 512,
    "model.cnn_depth": 32,
    "model.world_model_lr": 3e-4,
    "behavior.imagination_starts": 512,
    "train.seq_len": 32,
}


class Choice(NamedTuple):
    """A value that was chosen, and why, in half a sentence."""

    key: str
    value: Any
    reason: str


@dataclass
class FirstExperience:
    """What random play shows."""

    spec: Spec
    limit: int  # steps after which an episode is cut, 0: none known
    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of whole episodes
    step_seconds: float = 0.0
    #: {key: {side: (strongest change of a pixel, change worth in nats) of each pair of images}}
    moves: dict[str, dict[int, list[tuple[float, float]]]] = field(default_factory=dict)
    #: {key: vectors (V,) before and after each step}
    steps: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------------------------- looking


def look_at(config: Config, env: EnvLike | None) -> FirstExperience:
    """Play randomly in an environment made for it (of an instance: in a copy). Raises UserError for a broken task."""
    source = config.env.id if env is None else copy_env(env)
    view = AgentView(make_env(source or "", **options_of(config) | {"image_size": 0}), **view_of(config))
    found = FirstExperience(view.agent_spec, _limit(config, view))
    try:
        _play(view, config, found)
    except EnvironmentFailed:  # the run itself meets it, and reports it after saving what was learnt
        pass
    finally:
        if not is_instance(env):  # else it is a copy, see `copy_env`
            view.close()
    return found


def _limit(config: Config, view: AgentView) -> int:
    """Agent steps after which an episode is cut: by env.time_limit or by the environment; 0: not known."""
    # env.time_limit is a wrapper of its own around all others
    inside = cast(Wrapper, view.env).env if config.env.time_limit else view
    own = -(-limit_of(inside) // repeat_of(config))  # an action may be cut short
    return min((limit for limit in (config.env.time_limit, own) if limit), default=0)


def _play(view: AgentView, config: Config, found: FirstExperience) -> None:
    rng, action = np.random.default_rng(config.train.seed), view.agent_spec.action
    obs, _ = view.reset(seed=config.train.seed)
    numbers = [key for key, item in found.spec.obs.items() if item.kind == "vector"]
    length, seconds, begin = 0, [], time.perf_counter()
    for _ in range(STEPS):
        mask = obs[MASK][None] if MASK in obs else None
        chosen = action.random(rng, 1, mask)[0]
        now = time.perf_counter()
        after, reward, terminated, truncated, _ = view.step(chosen)
        seconds.append(time.perf_counter() - now)  # of the clock: a simulator in another process is waited for
        found.rewards.append(float(reward))
        found.step_seconds = float(np.median(seconds))
        length += 1
        _note_movement(found, obs, after)
        for key in numbers:
            found.steps.setdefault(key, []).append((obs[key], after[key]))
        obs = after
        if terminated or truncated:
            found.lengths.append(length)
            obs, _ = view.reset()
            length = 0
        if time.perf_counter() - begin > PATIENCE and not config.train.deterministic:
            break


@usual_switches()
def _note_movement(found: FirstExperience, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """How much of the change between two images is left at each side that an image could have."""
    for key in found.spec.images:
        sizes = found.moves.setdefault(key, {})
        if len(next(iter(sizes.values()), [])) >= 100:  # pairs are enough
            continue
        for side in sides_of(before[key].shape):
            pair = [area_resize(x[key], side, side) if side else x[key] for x in (before, after)]
            change = np.abs(pair[1].astype(np.float32) - pair[0]) / 255
            if change.any():
                sizes.setdefault(side, []).append((float(change.max()), float(0.5 * (change**2).sum())))


def sides_of(shape: tuple[int, ...]) -> list[int]:
    """The sides that an image (H, W, C) could have; 0 is its own size."""
    largest = max(shape[:2])
    return [side for side in SIDES if side < largest] + ([0] if largest <= max(SIDES) else [])


# ------------------------------------------------------------------------------------------------------------- choosing


def choose(
    config: Config, found: FirstExperience, fixed: Collection[str] = (), env: EnvLike | None = None
) -> list[Choice]:
    """What fits the task and this machine. `config` has all that is not chosen; `fixed`: the user's own choices."""
    alone = is_instance(env)
    if alone and "env.num_envs" not in fixed:
        config = build({"env.num_envs": 1}, base=config)
    choices = [
        *([Choice("env.num_envs", 1, "an instance can be stepped by one only")] if alone else []),
        *_wandering(config),
        *_sizes(config, found),
        *_images(found),
        *_vectors(found),
        _unit(found),
        _events(found),
        _gamma(found),
        _prefill(config, found, fixed),
        _evaluation(found),
    ]
    choices = [choice for choice in choices if choice.key not in fixed]
    sized = build({choice.key: choice.value for choice in choices}, base=config)
    if "compute.threads" not in fixed:
        choices += _threads(sized, found)
        sized = build({choice.key: choice.value for choice in choices}, base=config)
    return [*choices, *(choice for choice in _budget(sized, found, fixed) if choice.key not in fixed)]


@usual_switches()
def _threads(config: Config, found: FirstExperience) -> list[Choice]:
    """One thread, unless more are clearly faster now: where other programs run, threads wait for each other."""
    most = torch.get_num_threads()
    if config.train.deterministic or most == 1 or pick_device(config.compute.device).type != "cpu":
        return []
    _, update = _updater(config, found)
    try:
        many = min(_on_the_clock(update) for _ in range(3))
        torch.set_num_threads(1)
        one = min(_on_the_clock(update) for _ in range(3))
    finally:
        torch.set_num_threads(most)
    if one > MORE_THREADS * many:
        return []
    return [
        Choice("compute.threads", 1, f"{1000 * one:.0f} ms an update with one thread, {1000 * many:.0f} with {most}")
    ]


def _wandering(config: Config) -> list[Choice]:
    if config.env.num_envs > 1:
        return []
    share = round(config.behavior.explore_wander / 4, 2)
    return [Choice("behavior.explore_wander", share, "one environment has to learn the task and to explore")]


def _sizes(config: Config, found: FirstExperience) -> list[Choice]:
    if pick_device(config.compute.device).type == "cuda":
        return [Choice(key, value, "larger networks cost a GPU nothing") for key, value in GPU_SIZES.items()]
    return []


def _images(found: FirstExperience) -> list[Choice]:
    """The side of images and the weight of their loss."""
    if not found.spec.images:
        return []
    moving = [key for key in found.spec.images if any(found.moves.get(key, {}).values())]
    sides = [_side(found, key) for key in moving or found.spec.images]
    own = [max(found.spec.obs[key].shape[:2]) for key in found.spec.images]
    side = 0 if 0 in sides and max(own) <= max(SIDES) else max(sides)
    shown = f"{side}x{side}" if side else "their own size"
    kept = [moves[side] for moves in found.moves.values() if side in moves]
    small = any(min(found.spec.obs[key].shape[:2]) < 4 for key in found.spec.images)
    if not kept or small:
        why = "convolutions need 4 pixels a side" if small else "no movement was seen in the images"
        return [Choice("env.image_size", 32 if small else min(64, max(own)), why)]
    strongest = float(np.median([peak for peak, _ in kept[0]]))
    worth = min(float(np.median([nats for _, nats in pairs])) for pairs in kept)
    scale = float(np.clip(_round(WORTH / max(worth, 1e-6)), 1, MOST_WEIGHT))
    return [
        Choice("env.image_size", side, f"{shown} shows what moves: a pixel changes by {100 * strongest:.0f} %"),
        Choice("model.image_scale", scale, f"a usual movement is worth {worth:.2g} nats, {WORTH:g} are wanted"),
    ]


def _side(found: FirstExperience, key: str) -> int:
    """The smallest side that keeps the strongest movement; 0 is the image's own size."""
    moves = found.moves.get(key, {})
    peaks = {side: float(np.median([peak for peak, _ in pairs])) for side, pairs in moves.items()}
    if not peaks:
        return 0 if max(found.spec.obs[key].shape[:2]) <= 64 else 64
    best = max(peaks.values())
    return min((side for side, peak in peaks.items() if peak >= KEPT * best), key=lambda side: side or max(SIDES))


def _vectors(found: FirstExperience) -> list[Choice]:
    """The weight of the loss of vectors, which the model sees with deviation 1. Choices have none: they cost nats.

    The state keeps what is worth its KL: where KL costs rep_scale a nat and the loss has weight w, numbers are known up
    to a deviation of sqrt(rep_scale / w), 0.32 for w = 1, which is more than many a robot moves in a step.
    """
    total: np.ndarray | float = 0.0  # nats of the change in each step, over all keys
    for pairs in found.steps.values():
        before, after = (np.stack(side).astype(np.float64) for side in zip(*pairs, strict=True))
        deviation = before.std(0)
        deviation[deviation < 1e-6] = 1.0
        total = total + 0.5 * (np.clip((after - before) / deviation, -10, 10) ** 2).sum(1)
    changes = np.atleast_1d(total)[np.atleast_1d(total) > 0]
    if not len(changes):
        return []
    worth = float(np.median(changes))
    scale = float(np.clip(_round(WORTH_VECTORS / worth), 1, MOST_FOR_VECTORS))
    why = f"a usual change of the numbers is worth {worth:.2g} nats, {WORTH_VECTORS:g} are wanted"
    return [Choice("model.vector_scale", scale, why)]


def _unit(found: FirstExperience) -> Choice:
    """The order of magnitude of the usual reward: a rare, large one must not make the others too small to be learnt."""
    sizes = [abs(reward) for reward in found.rewards if reward]
    if not sizes:
        return Choice("model.reward_unit", 1.0, f"no reward was seen in {len(found.rewards)} random steps")
    usual = float(np.median(sizes))
    unit = float(np.clip(10.0 ** round(math.log10(usual)), 1e-6, 1e6))
    return Choice("model.reward_unit", unit, f"the usual one of {len(sizes)} rewards in random steps is {usual:.2g}")


def _events(found: FirstExperience) -> Choice:
    """What the batches shall have more of: rare rewards, or else the ends of episodes."""
    share = float(np.mean([reward != 0 for reward in found.rewards])) if found.rewards else 1.0
    if share < RARE:
        return Choice("replay.prioritize", "rewards", f"{100 * share:.2g} % of random steps have a reward")
    return Choice("replay.prioritize", "ends", "rewards are not rare, ends of episodes may be")


def _gamma(found: FirstExperience) -> Choice:
    if not found.limit:
        return Choice("behavior.gamma", 0.99, "episodes have no known limit: 100 steps ahead")
    ahead = float(np.clip(found.limit / 2, 20, 100))
    why = f"{ahead:.0f} steps ahead: episodes have {found.limit} at most"
    return Choice("behavior.gamma", round(1 - 1 / ahead, 3), why)


def _prefill(config: Config, found: FirstExperience, fixed: Collection[str]) -> Choice:
    """Random steps: about one whole episode of each environment, two where nothing has happened yet."""
    streams, length = config.env.num_envs, usual_length(found)
    nothing = not found.lengths and len(set(found.rewards)) < 2
    steps = int(np.clip(_round((2.2 if nothing else 1.1) * streams * length), 1000, 5000))
    what = f"random episodes have {length:.0f} steps" if length else "no episode ended"
    what += ", and every reward was the same" if nothing else ""
    each = "two" if nothing else "one"
    what = f"{what}; {streams} environment(s) play {each} each" if length else what
    if "train.env_steps" in fixed and steps > config.train.env_steps // 4:
        steps, what = max(2 * config.train.seq_len, config.train.env_steps // 4), "a quarter of a short run"
    return Choice("train.prefill", steps, what)


def usual_length(found: FirstExperience) -> float:
    """Steps of a random episode, as far as it is known; 0: not at all."""
    return float(np.mean(found.lengths)) if found.lengths else float(found.limit)


def _evaluation(found: FirstExperience) -> Choice:
    if found.spec.images:
        why = "sampled actions: in images places may look the same, and the most likely action walks in circles"
        return Choice("train.eval_mode", "train", why)
    return Choice("train.eval_mode", "eval", "the most likely action: the observation is no image")


def _budget(config: Config, found: FirstExperience, fixed: Collection[str]) -> list[Choice]:
    """How much is learnt per step, how long a run is, how often it is evaluated, and what the replay holds."""
    update, act, free = _speed(config, found)
    step, ratio = 0.0 if config.train.deterministic else found.step_seconds, config.train.train_ratio
    if "train.train_ratio" not in fixed:
        ratio = float(np.clip(_round(step / update), ratio, max(ratio, 1.0)))
    why = "the environment is the slow part" if ratio > config.train.train_ratio else "updates are the slow part"
    per_step = step + act + ratio * update
    timed = "by a fixed table, for a deterministic run" if config.train.deterministic else "measured on this machine"
    minutes = config.train.minutes or MINUTES.get(pick_device(config.compute.device).type, MINUTES["cpu"])
    steps = int(np.clip(_round(60 * minutes / per_step), 1 if config.train.minutes else 10_000, 1_000_000))
    budget = Choice("train.env_steps", steps, f"about {duration(steps * per_step)} of training, {timed}")
    if config.train.minutes:  # which may be more when the run is continued
        budget = Choice("train.env_steps", 1_000_000, "the run ends by train.minutes")
    if "train.env_steps" in fixed:
        steps = min(steps, config.train.env_steps) if config.train.minutes else config.train.env_steps
    episodes = config.train.eval_episodes * usual_length(found) * (step + act)
    count = int(np.clip(0.2 * steps * per_step / max(1e-9, episodes), 2, 15))
    every = max(1, _whole(steps / count), config.train.prefill)  # before, there is nothing to evaluate
    seen = seen_as(found.spec, config)
    row = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in seen.shapes.values())
    capacity = int(np.clip(_round(0.25 * free / max(1, row)), 10_000, 1_000_000))
    return [
        Choice(
            "train.train_ratio", ratio, f"{why}: {digits(1000 * update)} ms an update, {digits(1000 * step)} ms a step"
        ),
        budget,
        Choice("train.eval_every", every, f"{max(1, steps // every)} evaluations, a fifth of the time at most"),
        Choice("behavior.entropy_decay", max(10, _whole(0.8 * steps * ratio)), "four fifths of the run's updates"),
        Choice("replay.replay_capacity", capacity, f"a quarter of the memory that is free, {row} bytes a step"),
    ]


@usual_switches()
def _speed(config: Config, found: FirstExperience) -> tuple[float, float, float]:
    """Seconds of an update and of acting per step, and bytes of memory that are free."""
    if config.train.deterministic:
        return *TABLE[bool(found.spec.images)], 8e9
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)  # as the run will have them
    agent, update = _updater(config, found)
    return min(_seconds(update) for _ in range(4)), acting_seconds(agent, _seconds), memory_left() or 8e9


def _updater(config: Config, found: FirstExperience) -> tuple[DreamerV2, Callable[[], float]]:
    """An agent with all its parts learning, and a function that makes an update of it and waits for that."""
    agent = DreamerV2(build({"behavior.actor_warmup": 0}, base=config), seen_as(found.spec, config))
    batch = to_batch(random_batch(agent.spec, config.train.batch_size, config.train.seq_len), agent.device)
    return agent, lambda: float(agent.update(batch)["critic/loss"])


def _on_the_clock(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of the clock, or of the processor where other programs take it away."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return clock if torch.cuda.is_available() else min(clock, processor)


def seen_as(spec: Spec, config: Config) -> Spec:
    """The spec with images as the agent will see them."""
    size, gray = config.env.image_size, config.env.grayscale
    return replace(spec, obs={key: with_target_size(item, size, gray) for key, item in spec.obs.items()})


def _round(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


def _whole(value: float) -> int:
    return int(_round(value))


# ----------------------------------------------------------------------------------------------------------- for a run


def config_for(
    stack: str, given: Mapping[str, Any], directory: Path, env: EnvLike | None = None, *, fresh: bool = False
) -> tuple[Config, list[str]]:
    """The settings of a run in `directory` by a preset or a stack, and lines about what `auto` chose.

    What a run that is there already has chosen stays, unless it is `fresh`. given: the user's settings.
    Raises UserError.
    """
    if not chooses(stack):
        return load_preset(stack, given), []
    if not will_choose(stack, directory, fresh=fresh):
        load_preset(stack, given)  # its complaints first
        limits = {"train.minutes": 0.0} if {"train.env_steps", "env_steps"} & set(given) else {}
        config = build(beside_auto(stack) | limits | dict(given), base=stored_config(directory, given), where="setting")
        return config, [f"note      {directory} holds a run: what it has chosen stays"]
    config, choices = auto_config(stack, given, env)
    return config, lines(choices)


#: Said before `auto` chooses, which takes seconds, or minutes on a busy machine.
CHOOSING = "auto      plays the task and times some updates on this machine"


def will_choose(stack: str, directory: Path, *, fresh: bool = False) -> bool:
    """Whether `config_for` will look at the task and measure: not for a run that is there."""
    return chooses(stack) and (fresh or not holds_run(directory))


def default_run(config: Config, preset: str) -> Path:
    """The directory of a run without a given one: runs/TASK-PRESET-sSEED."""
    task = "".join(c if c.isalnum() or c in "-_." else "-" for c in config.env.id) or "custom"
    name = Path(preset).stem if preset.endswith(FILE) else preset
    return Path("runs") / f"{task}-{name}-s{config.train.seed}"


def auto_config(stack: str, given: Mapping[str, Any], env: EnvLike | None = None) -> tuple[Config, list[Choice]]:
    """The settings of a stack with `auto` in it, and what was chosen. Raises UserError.

    given: the user's settings, which are never chosen, nor are those of a preset on top of `auto`.
    """
    config = load_preset(stack, given)
    with torch.random.fork_rng():
        found = look_at(config, env)
        choices = choose(config, found, {full_name(key) for key in given} | set(beside_auto(stack)), env)
    return build({choice.key: choice.value for choice in choices}, base=config), choices


def beside_auto(stack: str) -> dict[str, Any]:
    """The values that the other presets of a stack set: they are never chosen."""
    return {key: origin.value for key, origin in origins(stack).items() if origin.preset != AUTO}


def lines(choices: list[Choice]) -> list[str]:
    """For the header of a run: one line each."""
    width = max((len(f"{c.key}={_shown(c.value)}") for c in choices), default=0)
    return [
        f"{'' if index else 'auto':9} {f'{c.key}={_shown(c.value)}':{width}}  {c.reason}"
        for index, c in enumerate(choices)
    ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
