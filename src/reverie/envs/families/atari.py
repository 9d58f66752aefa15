"""Atari 2600 games from pixels, under the protocols of DreamerV2 and Atari-100k. pip: ale-py, which includes the ROMs.

Protocol: an action is repeated for 4 frames; each frame keeps the previous action with probability `sticky`; up to 30
no-ops start a game; the image is the maximum of the last two frames, in ALE's gray, resized by area averaging; rewards
are raw; only game over is a termination; the limit of 108 000 frames after the no-ops is a truncation.

`make` gives the same frames, rewards, ends and random numbers as Gymnasium's AtariPreprocessing, without OpenCV.
`make_vector` gives the same from ALE's own C++ threads, with other random numbers (tests/envs/test_atari.py).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from ...errors import UserError
from ..family import Request, option
from ..images import area_resize

PREFIXES = ("ale", "atari")
MODULES = ("ale_py",)
INSTALL = "pip install 'ale-py>=0.12.1,<1'"
DEBIAN = ""
EXAMPLE = "ALE/Pong-v5"
NOTE = "the screen, 18 or minimal actions, each held for 4 frames, some ignored (sticky actions)"
REPEAT = 4

#: ROMs without a game for one player, for which ALE would end the process.
FOR_TWO = {"combat", "joust", "maze_craze", "warlords"}

#: (actions, repeat, sticky, noop_max, limit in frames, lives, gray) of published scores -> name of the protocol.
PUBLISHED = {
    ("full", 4, 0.25, 30, 108_000, "ignore", True): "the protocol of DreamerV2",
    ("minimal", 4, 0.25, 30, 108_000, "ignore", True): "the protocol of DreamerV2's code of 2022",
    ("minimal", 4, 0.0, 30, 108_000, "ignore", True): "the protocol of Atari-100k",
    ("minimal", 4, 0.0, 30, 108_000, "ignore", False): "the protocol of Atari-100k",
}


@dataclass(frozen=True)
class Options:
    """Settings of the emulator; the defaults are DreamerV2's."""

    sticky: float = option(0.25, "probability that a frame keeps the previous action; Atari-100k: 0")
    noop_max: int = option(30, "a game starts with a random number of no-ops, at most this many")
    lives: Literal["ignore", "terminal"] = option(
        "ignore", "terminal: a lost life ends the episode, and the next one continues the same game"
    )
    max_frames: int = option(108_000, "a game is truncated after this many frames")


def make(request: Request) -> gym.Env:
    """The game as a Gymnasium environment: uint8 (size, size, 1 or 3), or the screen's own size for image_size 0."""
    options = _checked(request)
    return AtariEnv(
        game_of(request.env_id),
        minimal=request.actions == "minimal",
        repeat=request.repeat,
        image_size=request.image_size,
        grayscale=request.grayscale,
        options=options,
    )


def make_vector(request: Request, count: int) -> VectorEnv:
    """`count` games stepped by ALE's own threads, with the spaces and settings of `make` and request.time_limit.

    Differences from `make`: a game starts with 0 to noop_max no-ops instead of 1 to noop_max, and a seed means another
    game. Raises UserError for lives=terminal, because ALE's threads cannot continue a game after an end.
    """
    options = _checked(request)
    if not vector_fits(request):
        raise UserError(
            "env.options lives=terminal does not work with Atari's own vector environment.",
            "Choose env.backend=sync or async, or lives=ignore.",
        )
    from ale_py.vector_env import AtariVectorEnv

    single = make(request)
    height, width, channels = single.observation_space.shape or ()
    envs = AtariVectorEnv(
        game_of(request.env_id),
        count,
        max_num_frames_per_episode=2**30,  # `AtariVector` counts: ALE's own limit would withhold the last image
        repeat_action_probability=options.sticky,
        full_action_space=request.actions != "minimal",
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=height,
        img_width=width,
        grayscale=channels == 1,
        stack_num=1,
        frameskip=request.repeat,
        maxpool=True,
        noop_max=options.noop_max + 1,  # it draws 0 to noop_max - 1
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )
    return AtariVector(envs, single.observation_space, -(-_limit(request, options) // request.repeat))


def vector_fits(request: Request) -> bool:
    """Whether `make_vector` supports the request."""
    return request.options is None or request.options.lives == "ignore"


def protocol(request: Request) -> str:
    """What scores depend on, and the published protocol that it equals."""
    options = request.options or Options()
    limit = _limit(request, options)
    flags = (request.actions, request.repeat, options.sticky, options.noop_max, limit, options.lives, request.grayscale)
    size = f"{request.image_size}x{request.image_size}" if request.image_size else "own size"
    return (
        f"{request.env_id}: {PUBLISHED.get(flags, 'not a published protocol')}: "
        f"{'18' if request.actions == 'full' else 'minimal'} actions, repeat {request.repeat}, "
        f"sticky {options.sticky:g}, up to {options.noop_max} no-ops, limit {limit} frames, "
        f"{'life loss ends an episode' if options.lives == 'terminal' else 'no life information'}, "
        f"{size} {'gray' if request.grayscale else 'RGB'}, maximum of 2 frames"
    )


def game_of(env_id: str) -> str:
    """The name of the ROM: "ALE/MsPacman-v5", "atari/ms_pacman" -> "ms_pacman". Raises UserError."""
    from ale_py import roms

    games = {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids() if rom not in FOR_TWO}
    name = re.sub("-v5$", "", re.split("[-/:]", env_id, maxsplit=1)[-1])
    found = games.get(name.replace("_", "").lower())
    if found is None:
        close = difflib.get_close_matches(name.replace("_", "").lower(), games, 3) or ("pong", "breakout", "mspacman")
        listed = ", ".join(f"ALE/{games[item].title().replace('_', '')}-v5" for item in close)
        raise UserError(
            f"there is no Atari game '{env_id}' for one player.",
            f"Choose one of the {len(games)} games, e.g. {listed}.",
        )
    return found


def _checked(request: Request) -> Options:
    """The family's options. Raises UserError for values out of range."""
    options: Options = request.options or Options()
    if not 0 <= options.sticky < 1:
        raise UserError(
            f"env.options: 'sticky' must be a probability below 1, got {options.sticky:g}.",
            "Set a value from 0 to below 1; the usual ones are 0.25 and 0.",
        )
    if options.noop_max < 0:
        raise UserError(
            f"env.options: 'noop_max' must not be negative, got {options.noop_max}.", "The usual value is 30."
        )
    if options.max_frames < 1:
        raise UserError(
            f"env.options: 'max_frames' must be above 0, got {options.max_frames}.", "The usual value is 108000."
        )
    return options


def _limit(request: Request, options: Options) -> int:
    """Frames after which a game is truncated: the family's limit or the run's, whichever is shorter."""
    return min(options.max_frames, request.time_limit * request.repeat or options.max_frames)


class AtariEnv(gym.Env):
    """One game. observation: uint8 (H, W, 1 or 3); action: Discrete; info: lives, episode_frame_number.

    reset(seed=) determines everything, sticky actions and no-ops included, exactly as Gymnasium's ALE ids do with that
    seed; it takes some 50 ms. The observation of the step in which a game ends has frames from before the end, as in
    ALE's vector environment and AtariPreprocessing, with which published scores were made.
    """

    def __init__(
        self, game: str, *, minimal: bool, repeat: int, image_size: int, grayscale: bool, options: Options
    ) -> None:
        import ale_py
        from ale_py import roms

        self.repeat = repeat
        self.grayscale = grayscale
        self.options = options
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(1, round(60 / repeat))}
        self.render_mode = "rgb_array"
        self._rom: Any = roms.get_rom_path(game)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # before the first one prints its banner
        self._ale = ale = ale_py.ALEInterface()
        ale.setFloat("repeat_action_probability", options.sticky)
        self._seed(None)
        self._noop = ale_py.Action.NOOP
        self._actions = ale.getMinimalActionSet() if minimal else ale.getLegalActionSet()
        self.action_space = spaces.Discrete(len(self._actions))

        height, width = ale.getScreenDims()
        channels = 1 if grayscale else 3
        self._newest, self._older = (np.zeros((height, width, channels), np.uint8) for _ in range(2))
        self._size = (image_size or height, image_size or width)
        self.observation_space = spaces.Box(0, 255, (*self._size, channels), np.uint8)
        self._steps = 0  # of this game, after its no-ops
        self._max_steps = -(-options.max_frames // repeat)
        self._lives = 0
        self._same_game = False  # the last episode ended with a lost life, not with the game

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new game; with lives=terminal continue the same one if only a life was lost."""
        if seed is not None:
            self._seed(seed)
        if seed is not None or not self._same_game:
            self._new_game()
        self._same_game = False
        self._lives = self._ale.lives()
        self._capture(self._newest)
        self._older.fill(0)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ale, chosen, reward = self._ale, self._actions[int(action)], 0
        terminated = False
        for left in range(self.repeat - 1, -1, -1):
            reward += ale.act(chosen)
            terminated = ale.game_over(with_truncation=False)
            if self.options.lives == "terminal" and not terminated:
                terminated = self._same_game = self._life_lost()
            if terminated:
                break
            if left < 2:
                self._capture(self._older if left else self._newest)
        self._steps += 1
        truncated = not terminated and self._steps >= self._max_steps
        return self._observe(), float(reward), terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        """The screen: uint8 (210, 160, 3), a few games have more lines."""
        return self._ale.getScreenRGB()

    def get_action_meanings(self) -> list[str]:
        """What each action presses, e.g. NOOP, FIRE, UPRIGHT."""
        return [action.name for action in self._actions]

    def _seed(self, seed: int | None) -> None:
        """Seed both generators, for no-ops and sticky actions, in the way of ale_py's Gymnasium ids."""
        noops, emulator = np.random.SeedSequence(seed).generate_state(2)
        self.np_random, _ = gym.utils.seeding.np_random(int(noops))
        self._ale.setInt("random_seed", int(emulator.astype(np.int32)))
        self._ale.loadROM(self._rom)  # the seed takes effect only now

    def _new_game(self) -> None:
        self._ale.reset_game()
        count = self.np_random.integers(1, self.options.noop_max + 1) if self.options.noop_max else 0
        for _ in range(count):
            self._ale.act(self._noop)
            if self._ale.game_over():
                self._ale.reset_game()
        self._steps = 0

    def _life_lost(self) -> bool:
        """Whether a life was lost, but not the last one: some games stay at 0 for a while before they are over."""
        before, self._lives = self._lives, self._ale.lives()
        return 0 < self._lives < before

    def _capture(self, screen: np.ndarray) -> None:
        if self.grayscale:
            self._ale.getScreenGrayscale(screen[..., 0])
        else:
            self._ale.getScreenRGB(screen)

    def _observe(self) -> np.ndarray:
        """A new uint8 (H, W, C). The maximum stays in `_newest`, because a step without new frames shows it again."""
        np.maximum(self._newest, self._older, out=self._newest)
        return np.array(area_resize(self._newest, *self._size))

    def _info(self) -> dict[str, Any]:
        return {"lives": self._ale.lives(), "episode_frame_number": self._ale.getEpisodeFrameNumber()}


class AtariVector(VectorEnv):
    """ALE's vector environment with the spaces of `make`, images (N, H, W, C), and a limit in agent steps."""

    def __init__(self, envs: VectorEnv, observation_space: spaces.Space, max_steps: int) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.metadata = dict(envs.metadata)
        self.single_observation_space = observation_space
        self.single_action_space = envs.single_action_space
        self.observation_space = gym.vector.utils.batch_space(observation_space, self.num_envs)
        self.action_space = envs.action_space
        self.max_steps = max_steps
        self._steps = np.zeros(self.num_envs, np.int64)  # of each game; -1: its next row is a first one
        self._cut = np.zeros(self.num_envs, bool)  # truncated here in the last step, so that ALE must be reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new games. Environment i gets the seed `seed` + i, or `seed[i]`, of which ALE uses 31 bits."""
        seeds: Any = None
        if seed is not None:
            each = range(seed, seed + self.num_envs) if isinstance(seed, int | np.integer) else seed
            seeds = np.array([-1 if item is None else item % 2**31 for item in each], np.int64)  # -1: unchanged
        obs, infos = self.envs.reset(seed=seeds)
        self._steps[:], self._cut[:] = 0, False
        return self._channels_last(obs), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N,) integers -> images (N, H, W, C), rewards (N,) float64, terminated, truncated, infos."""
        obs, reward, terminated, _, infos = self.envs.step(np.asarray(actions, np.int64))
        if self._cut.any():  # ALE has continued these games: replace the result by that of a new game
            obs, infos = self.envs.reset(options={"reset_mask": self._cut})
            reward, terminated = np.where(self._cut, 0, reward), terminated & ~self._cut
        self._steps += 1
        self._cut = ~terminated & (self._steps >= self.max_steps)
        self._steps[terminated | self._cut] = -1
        return self._channels_last(obs), reward.astype(np.float64), terminated, self._cut.copy(), infos

    def _channels_last(self, obs: np.ndarray) -> np.ndarray:
        """(N, 1, H, W) or (N, 1, H, W, 3) -> (N, H, W, C)"""
        return obs.reshape(self.observation_space.shape or ())

    def close_extras(self, **kwargs: Any) -> None:
        self.envs.close(**kwargs)
