"""The Atari family against Gymnasium's own AtariPreprocessing.

What is equal, byte for byte: images, rewards, ends, lives and frame counts, sticky actions included.
- `make` with a seed and Gymnasium's ALE ids with that seed: everything, from reset to reset, no-ops too.
- `make_vector`: sub-environment i with seed s is the emulator with random seed s + i (Gymnasium's ids hash their seed
  first). Its no-ops come from a generator of its own, 0 to noop_max of them: the reference gets their number.
- The limit counts whole agent steps from the end of the no-ops, as Gymnasium's TimeLimit does and DreamerV2's code
  did. (ALE's own limit, in Gymnasium's ids, counts the no-ops too, and the cut step shows no new image.)
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from reverie.envs import AgentView, make_env
from reverie.envs.families import atari
from reverie.envs.family import Request, parse_options
from reverie.envs.vector.native import NativeView
from reverie.errors import UserError

needs_ale = pytest.mark.skipif(find_spec("ale_py") is None, reason="ale-py is not installed")
needs_opencv = pytest.mark.skipif(
    find_spec("ale_py") is None or find_spec("cv2") is None, reason="the reference needs ale-py and OpenCV"
)

PAPER = Request("ALE/Pong-v5", "full", repeat=4, image_size=64, grayscale=True, options=atari.Options())
HUNDRED = replace(PAPER, actions="minimal", options=atari.Options(sticky=0.0))
PROTOCOLS = pytest.mark.parametrize("request_", [PAPER, HUNDRED], ids=["paper", "atari100k"])
GAMES = pytest.mark.parametrize("game", ["Pong", "Breakout"])


def asked(request_: Request, game: str, **options: Any) -> Request:
    """That protocol for another game, with some of the family's options changed."""
    return replace(request_, env_id=f"ALE/{game}-v5", options=replace(request_.options, **options))


class Start(gym.Wrapper):
    """The reference with a start that is given: options={"emulator_seed": seed or None, "noops": count}."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        options, game = options or {}, self.unwrapped
        if options.get("emulator_seed") is not None:
            game.ale.setInt("random_seed", options["emulator_seed"])
            game.load_game()
        found = self.env.reset(seed=seed)
        for _ in range(options.get("noops", 0)):
            game.ale.act(0)
        return found


def reference(request_: Request, limit_steps: int = 0, noop_max: int = 30) -> gym.Env:
    """Gymnasium's own: the ALE id with frame skip 1 under AtariPreprocessing (OpenCV)."""
    import ale_py
    from gymnasium.wrappers import AtariPreprocessing, TimeLimit

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    game = gym.make(
        request_.env_id,
        disable_env_checker=True,
        frameskip=1,
        repeat_action_probability=request_.options.sticky,
        full_action_space=request_.actions == "full",
        obs_type="grayscale" if request_.grayscale else "rgb",  # not compared: the cheaper one is enough
    )
    env: gym.Env = AtariPreprocessing(
        Start(game),
        noop_max=noop_max,
        frame_skip=request_.repeat,
        screen_size=request_.image_size or (160, 210),
        terminal_on_life_loss=request_.options.lives == "terminal",
        grayscale_obs=request_.grayscale,
        grayscale_newaxis=True,
    )
    return TimeLimit(env, limit_steps) if limit_steps else env


def same(ours: tuple, theirs: tuple, where: str) -> None:
    """(obs, reward, terminated, truncated, info) twice: equal, and of the types that they should be."""
    assert ours[0].dtype == theirs[0].dtype == np.uint8
    np.testing.assert_array_equal(ours[0], theirs[0], err_msg=where)
    assert ours[1:4] == theirs[1:4], where
    for key in ("lives", "episode_frame_number"):
        assert ours[4][key] == theirs[4][key], f"{where}: {key}"


def play_both(env: gym.Env, ref: gym.Env, steps: int, seed: int = 3) -> list[dict[str, Any]]:
    """The same actions in both, every step compared. -> one entry per finished episode."""
    rng, episodes = np.random.default_rng(seed), []
    (obs, info), (ref_obs, _) = env.reset(seed=seed), ref.reset(seed=seed)
    np.testing.assert_array_equal(obs, ref_obs, err_msg="first image")
    assert env.action_space == ref.action_space
    total = ref_total = length = 0.0
    for step in range(steps):
        action = int(rng.integers(env.action_space.n))
        ours, theirs = env.step(action), ref.step(action)
        same(ours, theirs, f"step {step}")
        total, ref_total, length = total + ours[1], ref_total + theirs[1], length + 1
        if ours[2] or ours[3]:
            episodes.append({"return": total, "ref": ref_total, "length": length, "terminated": ours[2], **ours[4]})
            (obs, info), (ref_obs, _) = env.reset(), ref.reset()
            np.testing.assert_array_equal(obs, ref_obs, err_msg=f"first image after step {step}")
            assert info["episode_frame_number"] <= 30
            total = ref_total = length = 0.0
    return episodes


# ------------------------------------------------------------------------------------------------------ one environment


@needs_opencv
@GAMES
@PROTOCOLS
def test_make_equals_gymnasium_frame_by_frame(request_: Request, game: str) -> None:
    """1,000 agent steps: Breakout dies by itself, Pong is cut after 300 steps."""
    limit = 300 if game == "Pong" else 0
    wanted = asked(request_, game, max_frames=4 * limit or 108_000)
    episodes = play_both(atari.make(wanted), reference(wanted, limit), 1000)
    assert len(episodes) == 3 if limit else len(episodes) >= 2
    for episode in episodes:
        assert episode["terminated"] == (game == "Breakout")
        assert episode["return"] == episode["ref"]
        assert episode["length"] == 300 if limit else episode["lives"] == 0


@needs_opencv
@pytest.mark.parametrize(("size", "gray"), [(64, False), (96, True), (0, True), (0, False)])
def test_colour_and_sizes_equal_gymnasium(size: int, gray: bool) -> None:
    wanted = replace(asked(PAPER, "Breakout"), image_size=size, grayscale=gray)
    env = atari.make(wanted)
    assert env.observation_space.shape == (size or 210, size or 160, 1 if gray else 3)
    play_both(env, reference(wanted), 60)
    assert env.observation_space.contains(env.reset()[0])


@needs_opencv
@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_other_repeats_equal_gymnasium(repeat: int) -> None:
    wanted = replace(asked(PAPER, "Pong"), repeat=repeat)
    play_both(atari.make(wanted), reference(wanted), 200)


def digest(env: gym.Env, seed: int | None, steps: int = 60) -> list[Any]:
    """Everything that a run of random actions shows, across a reset."""
    obs, info = env.reset(seed=seed)
    seen: list[Any] = [obs.tobytes(), info["episode_frame_number"]]
    rng = np.random.default_rng(0)
    for step in range(steps):
        obs, *rest, info = env.step(rng.integers(env.action_space.n))
        seen += [obs.tobytes(), *rest, info["episode_frame_number"]]
        if step == steps // 2:
            seen.append(env.reset()[1]["episode_frame_number"])
    return seen


@needs_ale
def test_a_seed_repeats_everything() -> None:
    env, other = (atari.make(asked(PAPER, "Breakout")) for _ in range(2))
    first = digest(env, 5)
    assert digest(other, 5) == first
    assert digest(env, 5) == first, "the same instance, seeded again"
    assert digest(env, 6) != first
    assert digest(other, None) != first, "without a seed the random numbers continue"
    fresh = [digest(atari.make(asked(PAPER, "Breakout")), None) for _ in range(2)]
    assert fresh[0] != fresh[1], "never seeded: different each time"


@needs_ale
def test_images_are_not_written_over() -> None:
    for size in (0, 64):
        env = atari.make(replace(asked(PAPER, "Pong"), image_size=size))
        seen = [env.reset(seed=0)[0]]
        kept = [seen[0].copy()]
        for _ in range(80):
            seen.append(env.step(0)[0])
            kept.append(seen[-1].copy())
        assert all((a == b).all() for a, b in zip(seen, kept, strict=True))
        assert len({a.tobytes() for a in kept}) > 5


@needs_ale
@pytest.mark.parametrize(("game", "minimal"), [("Pong", 6), ("Breakout", 4), ("MsPacman", 9), ("Seaquest", 18)])
def test_number_of_actions(game: str, minimal: int) -> None:
    for actions, count in (("full", 18), ("minimal", minimal)):
        env = atari.make(replace(PAPER, env_id=f"ALE/{game}-v5", actions=actions))
        assert env.action_space == spaces.Discrete(count)
        assert env.get_action_meanings()[:2] == ["NOOP", "FIRE"] if game != "MsPacman" else True
        assert len(env.get_action_meanings()) == count


def play_game(env: gym.Env, seed: int = 0) -> list[tuple[bool, bool, int]]:
    """Random actions until an end. -> (terminated, truncated, lives) of each step."""
    rows, rng = [], np.random.default_rng(seed)
    while not rows or not (rows[-1][0] or rows[-1][1]):
        *_, terminated, truncated, info = env.step(rng.integers(env.action_space.n))
        rows.append((terminated, truncated, info["lives"]))
    return rows


@needs_ale
def test_only_game_over_terminates() -> None:
    env = atari.make(asked(PAPER, "Breakout"))
    env.reset(seed=0)
    rows = play_game(env)
    assert sorted({lives for *_, lives in rows}) == [0, 1, 2, 3, 4, 5], "lives are lost on the way"
    assert rows[-1] == (True, False, 0)


@needs_ale
def test_lives_terminal_ends_episodes_but_not_the_game() -> None:
    """The five episodes together are the game that the default plays as one."""
    whole, env = atari.make(asked(PAPER, "Breakout")), atari.make(asked(PAPER, "Breakout", lives="terminal"))
    whole.reset(seed=0)
    env.reset(seed=0)
    rng, ends, frames = np.random.default_rng(0), [], 0
    while len(ends) < 5:
        action = rng.integers(18)
        *_, terminated, truncated, info = env.step(action)
        if terminated:
            ends.append(info["lives"])
            start = env.reset()[1]
            if info["lives"]:
                assert start["lives"] == info["lives"]
                assert start["episode_frame_number"] == info["episode_frame_number"] > frames
                frames = info["episode_frame_number"]
        assert not truncated
    assert ends == [4, 3, 2, 1, 0]
    assert start["lives"] == 5
    assert start["episode_frame_number"] <= 30
    while not env.step(rng.integers(18))[2]:
        pass
    env.reset()
    assert env.reset()[1]["lives"] == 5, "only the episode after a lost life continues the game"
    while not env.step(rng.integers(18))[2]:
        pass
    assert env.reset(seed=0)[1]["lives"] == 5, "a seed starts a new game"


@needs_opencv
def test_lives_terminal_ends_where_gymnasium_does() -> None:
    wanted = asked(PAPER, "Breakout", lives="terminal")
    env, ref = atari.make(wanted), reference(wanted)
    env.reset(seed=0)
    ref.reset(seed=0)
    rng, done = np.random.default_rng(0), False
    while not done:
        action = int(rng.integers(18))
        ours = env.step(action)
        same(ours, ref.step(action), "until the first life is lost")
        done = ours[2]
    assert ours[4]["lives"] == 4


@needs_ale
def test_the_limit_is_a_truncation() -> None:
    assert atari.Options().max_frames == 108_000
    for frames in (37, 40):
        env = atari.make(asked(PAPER, "Breakout", max_frames=frames))
        for _ in range(2):
            env.reset(seed=0)
            rows = play_game(env)
            assert len(rows) == 10, "whole steps"
            assert rows[-1][:2] == (False, True)


@needs_ale
@pytest.mark.slow
def test_the_limit_of_the_protocol_is_27000_agent_steps() -> None:
    """Breakout without FIRE lasts for ever."""
    env, vector = atari.make(asked(PAPER, "Breakout")), atari.make_vector(asked(PAPER, "Breakout", sticky=0.0), 1)
    env.reset(seed=0)
    vector.reset(seed=0)
    for step in range(1, 27_001):
        ends = env.step(0)[2:4]
        assert ends == (False, step == 27_000)
        *_, terminated, truncated, _ = vector.step(np.zeros(1, np.int64))
        assert (terminated[0], truncated[0]) == ends


@needs_ale
def test_renders_the_screen() -> None:
    env = atari.make(PAPER)
    env.reset(seed=0)
    image = env.render()
    assert image.shape == (210, 160, 3)
    assert len(np.unique(image)) > 3
    assert env.render_mode == "rgb_array"


# ----------------------------------------------------------------------------------------------- ids, options, protocol


@needs_ale
@pytest.mark.parametrize(
    ("env_id", "rom"),
    [
        ("ALE/Pong-v5", "pong"),
        ("atari/pong", "pong"),
        ("ALE/MsPacman-v5", "ms_pacman"),
        ("atari/ms_pacman", "ms_pacman"),
        ("atari/MsPacman", "ms_pacman"),
        ("ale/ms_pacman-v5", "ms_pacman"),
    ],
)
def test_ids(env_id: str, rom: str) -> None:
    assert atari.game_of(env_id) == rom


@needs_ale
@pytest.mark.parametrize(
    ("env_id", "hint"),
    [("ALE/Pongg-v5", "ALE/Pong-v5"), ("ALE/Pong-v4", "ALE/Pong-v5"), ("ALE/Combat-v5", "104"), ("ALE/", "Breakout")],
)
def test_unknown_ids_say_what_there_is(env_id: str, hint: str) -> None:
    with pytest.raises(UserError, match="no Atari game") as caught:
        make_env(env_id)
    assert hint in caught.value.hint


@pytest.mark.parametrize("options", [{"sticky": 1.0}, {"sticky": -0.1}, {"noop_max": -1}, {"max_frames": 0}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    for make in (atari.make, lambda request_: atari.make_vector(request_, 1)):
        with pytest.raises(UserError, match=next(iter(options))):
            make(asked(PAPER, "Pong", **options))


def test_options_from_the_command_line() -> None:
    found = parse_options(atari, ["sticky=0", "lives=terminal", "noop_max=7", "max_frames=400"])
    assert found == atari.Options(0.0, 7, "terminal", 400)
    with pytest.raises(UserError, match="lives"):
        parse_options(atari, ["lives=nine"])


def test_vector_refuses_lives_terminal() -> None:
    assert atari.vector_fits(PAPER)
    assert not atari.vector_fits(asked(PAPER, "Pong", lives="terminal"))
    with pytest.raises(UserError, match="lives=terminal"):
        atari.make_vector(asked(PAPER, "Pong", lives="terminal"), 2)


def test_protocol_names_every_flag() -> None:
    assert atari.protocol(PAPER) == (
        "ALE/Pong-v5: the protocol of DreamerV2: 18 actions, repeat 4, sticky 0.25, up to 30 no-ops, "
        "limit 108000 frames, no life information, 64x64 gray, maximum of 2 frames"
    )
    assert "the protocol of Atari-100k: minimal actions, repeat 4, sticky 0, up to 30" in atari.protocol(HUNDRED)
    assert "the protocol of DreamerV2:" in atari.protocol(replace(PAPER, time_limit=27_000))
    for other in (
        replace(PAPER, repeat=1),
        replace(PAPER, grayscale=False),
        replace(PAPER, time_limit=1000),
        asked(PAPER, "Pong", sticky=0.1),
        asked(PAPER, "Pong", lives="terminal"),
    ):
        assert "not a published protocol" in atari.protocol(other)
    assert "limit 4000 frames" in atari.protocol(replace(PAPER, time_limit=1000))


# --------------------------------------------------------------------------------------------- ALE's vector environment


@needs_opencv
@GAMES
@PROTOCOLS
def test_make_vector_equals_gymnasium_frame_by_frame(request_: Request, game: str) -> None:
    """Two games, 500 steps each; where one has ended the next row is its successor's first, the action ignored."""
    limit = 120 if game == "Pong" else 150  # before the end of some of the Breakout games
    wanted = replace(asked(request_, game), time_limit=limit)
    vector = atari.make_vector(wanted, 2)
    assert vector.single_observation_space == atari.make(wanted).observation_space
    refs = [reference(wanted, limit, noop_max=0) for _ in range(2)]
    rng, seed, starts, ends = np.random.default_rng(1), 11, [], []
    obs, infos = vector.reset(seed=seed)

    def start(i: int, emulator_seed: int | None) -> None:
        noops = int(infos["episode_frame_number"][i])
        first, _ = refs[i].reset(options={"emulator_seed": emulator_seed, "noops": noops})
        np.testing.assert_array_equal(obs[i], first)
        starts.append(noops)

    for i in range(2):
        start(i, seed + i)
    terminated = truncated = np.zeros(2, bool)
    for step in range(500):
        actions = rng.integers(vector.single_action_space.n, size=2)
        over, cut = terminated, truncated
        obs, reward, terminated, truncated, infos = vector.step(actions)
        assert obs.shape == vector.observation_space.shape
        assert reward.dtype == np.float64
        for i in range(2):
            if cut[i]:  # ALE's threads played on for one step, unseen
                refs[i].step(int(actions[i]))
            if over[i] or cut[i]:
                start(i, None)
                assert (reward[i], terminated[i], truncated[i]) == (0, False, False)
            else:
                ours = (obs[i], reward[i], terminated[i], truncated[i], {k: v[i] for k, v in infos.items()})
                same(ours, refs[i].step(int(actions[i])), f"environment {i}, step {step}")
        ends += ["over"] * int(terminated.sum()) + ["cut"] * int(truncated.sum())
    assert set(ends) == ({"cut"} if game == "Pong" else {"cut", "over"})
    assert len(ends) >= 5
    assert all(0 <= count <= 30 for count in starts)
    vector.close()


@needs_ale
def test_a_game_that_ends_after_its_last_step() -> None:
    """Cut one step before game over: the next row is the new game's first all the same."""
    wanted, actions = asked(PAPER, "Breakout"), np.random.default_rng(1).integers(18, size=(200, 2))
    vector = atari.make_vector(wanted, 2)
    vector.reset(seed=11)
    over = next(step for step in range(200) if vector.step(actions[step])[2][1])
    vector = atari.make_vector(replace(wanted, time_limit=over), 2)
    vector.reset(seed=11)
    rows = [vector.step(action) for action in actions[: over + 2]]
    cut, first, second = (
        (reward[1], terminated[1], truncated[1], infos["lives"][1])
        for _, reward, terminated, truncated, infos in rows[-3:]
    )
    assert cut == (0, False, True, 1)
    assert first == second == (0, False, False, 5)


def episode(env: gym.Env | VectorEnv) -> tuple[int, bool, bool, int]:
    """The same game each time. -> its length, how it ended (terminated, truncated), frames with the no-ops."""
    env.reset(seed=12)
    for length, action in enumerate(np.random.default_rng(1).integers(18, size=300), 1):
        *_, terminated, truncated, info = env.step(action if isinstance(env, gym.Env) else np.array([action]))
        if np.any(terminated | truncated):
            return length, bool(terminated), bool(truncated), int(np.max(info["episode_frame_number"]))
    raise AssertionError("no end")


@needs_ale
@pytest.mark.parametrize("make", [atari.make, lambda request_: atari.make_vector(request_, 1)], ids=["one", "vector"])
def test_game_over_in_the_last_step_is_a_termination(make: Any) -> None:
    length, *rest = whole = episode(make(asked(PAPER, "Breakout")))
    assert rest[:2] == [True, False]
    assert episode(make(asked(PAPER, "Breakout", max_frames=4 * length))) == whole


@needs_ale
@pytest.mark.parametrize("make", [atari.make, lambda request_: atari.make_vector(request_, 1)], ids=["one", "vector"])
def test_a_reset_counts_from_zero(make: Any) -> None:
    env = make(asked(PAPER, "Breakout", max_frames=80))
    first = episode(env)
    assert first[:3] == (20, False, True)
    assert episode(env) == first, "after a cut"
    env.step(0 if isinstance(env, gym.Env) else np.zeros(1, np.int64))
    assert episode(env) == first, "in the middle"


@needs_ale
def test_rewards_are_raw() -> None:
    single, vector = (make(asked(PAPER, "MsPacman")) for make in (atari.make, lambda r: atari.make_vector(r, 1)))
    single.reset(seed=0)
    vector.reset(seed=0)
    actions = np.random.default_rng(0).integers(18, size=100)
    assert max(single.step(action)[1] for action in actions) == 10
    assert max(vector.step(np.array([action]))[1][0] for action in actions) == 10


@needs_ale
def test_vector_no_ops_are_up_to_30() -> None:
    def starts(noop_max: int, resets: int) -> set[int]:
        vector = atari.make_vector(asked(PAPER, "Pong", noop_max=noop_max), 4)
        vector.reset(seed=0)
        found = [vector.reset()[1]["episode_frame_number"] for _ in range(resets)]
        return {int(count) for row in found for count in row}

    assert starts(4, resets=10) == {0, 1, 2, 3, 4}
    assert starts(0, resets=1) == {0}
    assert max(starts(30, resets=8)) > 15


@needs_ale
def test_vector_seeds() -> None:
    vector = atari.make_vector(asked(PAPER, "Breakout"), 2)

    def rows(seed: Any) -> list[tuple[bytes, ...]]:
        vector.reset(seed=seed)
        seen = [vector.step(np.full(2, action))[0] for action in (1, 3, 3, 4, 4, 4) * 3]
        return [tuple(obs[i].tobytes() for obs in seen) for i in range(2)]

    first = rows(0)
    assert first[0] != first[1], "each environment is another"
    assert rows(0) == first
    assert rows([0, 1]) == first, "an integer means consecutive seeds"
    assert rows(1)[0] == first[1]
    assert rows(2**31) == first, "ALE takes 31 bits"
    assert rows(2**30) != first
    assert rows(None) != first


# --------------------------------------------------------------------------------------------------------- as the agent


@needs_ale
def test_views_show_what_the_family_draws() -> None:
    """AgentView and NativeView, in the sizes that the family draws at once, change no byte."""
    wanted = asked(HUNDRED, "Breakout", noop_max=0)
    single, vector = atari.make(wanted), atari.make_vector(wanted, 2)
    view = AgentView(atari.make(wanted), image_size=64, grayscale=True)
    native = NativeView(atari.make_vector(wanted, 2), image_size=64, grayscale=True)
    assert native.get_attr("agent_spec") == (view.agent_spec,) * 2
    assert native.single_observation_space == view.observation_space
    assert native.single_action_space == view.action_space
    pairs = [(single.reset(seed=1)[0], view.reset(seed=1)[0]), (vector.reset(seed=1)[0], native.reset(seed=1)[0])]
    for action in (1, 2, 2, 3, 3, 3, 0, 1):
        choice = np.eye(4, dtype=np.float32)[action]
        pairs.append((single.step(action)[0], view.step(choice)[0]))
        pairs.append((vector.step(np.full(2, action))[0], native.step(np.stack([choice] * 2))[0]))
    for own, seen in pairs:
        np.testing.assert_array_equal(own, seen["observation"])
    assert native.observation_space.contains(seen)
