"""Every family that is installed: its example runs, repeats under a seed, can be drawn, and tells its protocol."""

import os
import subprocess
import sys

import numpy as np
import pytest

from reverie.envs import AgentView, all_families, installed, make_env, make_request, protocol_of
from reverie.envs import rendering as module
from reverie.envs.families.crafter import crafter_score, score_of
from reverie.envs.family import family_of
from reverie.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
QUICK = sorted(set(all_families()) - {"memory_maze", "atari"})  # a maze takes ten seconds; atari has tests of its own


def need(name):
    if not installed(all_families()[name]):
        pytest.skip(f"{name} is not installed")
    return all_families()[name]


def view_of(env_id, **options):
    return AgentView(make_env(env_id, action_repeat=0, **options), image_size=options.get("image_size", 0))


def play(view, steps=40, seed=3):
    """[(observation, reward, terminated, truncated)] of random play from a seeded reset."""
    rng = np.random.default_rng(0)
    obs, _ = view.reset(seed=seed)
    found = [(obs, 0.0, False, False)]
    for _ in range(steps):
        found.append(view.step(view.agent_spec.action.random(rng, 1)[0])[:4])
        if found[-1][2] or found[-1][3]:
            break
    return found


def same(a, b):
    return len(a) == len(b) and all(
        x[1:] == y[1:] and all(np.array_equal(x[0][key], y[0][key]) for key in x[0]) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("name", QUICK)
def test_an_example_runs_and_repeats_under_its_seed(name):
    family = need(name)
    view = view_of(family.EXAMPLE)
    first = play(view)
    assert same(first, play(view))
    assert same(first, play(view_of(family.EXAMPLE)))
    assert not same(first, play(view, seed=4))
    assert any(not np.array_equal(first[0][0][key], first[-1][0][key]) for key in first[0][0])
    for obs, *_ in first:
        assert view.observation_space.contains(obs)
    view.close()


@pytest.mark.parametrize("name", sorted(set(QUICK) - {"popgym"}))
def test_an_example_can_be_filmed(name):
    view = view_of(need(name).EXAMPLE)
    view.reset(seed=0)
    picture = view.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.min() < picture.max()
    view.close()


@pytest.mark.parametrize("name", sorted(all_families()))
def test_the_protocol_says_id_repeat_and_options(name):
    family = need(name)
    for repeat in (0, 3):
        request = make_request(family.EXAMPLE, action_repeat=repeat)
        line = protocol_of(request)
        assert line.startswith(family.EXAMPLE)
        assert f"repeat {repeat or family.REPEAT}" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "env_id",
    ["MinAtar/Chess-v0", "dmc/walker-fly", "dmc/walker", "crafter/chess", "MemoryMaze-10x10", "MiniGrid-Chess-v0"],
)
def test_a_task_that_does_not_exist_is_told_in_one_sentence(env_id):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert len(caught.value.message) < 300
    assert caught.value.hint


@pytest.mark.parametrize(
    ("env_id", "options", "told"),
    [
        ("MinAtar/Breakout-v1", ["colour=red"], "'colour' is no option"),
        ("MinAtar/Breakout-v1", ["sticky=often"], "'sticky' must be a number"),
        ("dmc/walker-walk", ["look=nice"], "'look' must be one of"),
        ("MinAtar/Breakout-v1", ["sticky"], "is not of the form name=value"),
        ("LunarLander-v3", ["wings=2"], "does not take env.options"),
    ],
)
def test_options_are_checked(env_id, options, told):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    with pytest.raises(UserError, match=told):
        make_env(env_id, options=options)


def test_options_reach_gymnasium():
    need("box2d")
    assert AgentView(make_env("LunarLander-v3", options=["continuous=True"])).agent_spec.action.kind == "box"
    assert "continuous True" in protocol_of(make_request("LunarLander-v3", options=["continuous=True"]))


# -------------------------------------------------------------------------------------------------------------- MinAtar


def test_minatar_shows_the_state_of_the_game():
    need("minatar")
    env = make_env("MinAtar/Seaquest-v0")
    env.reset(seed=0)
    for _ in range(20):
        obs, *_ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(obs, 255 * env.unwrapped.game.state().astype(np.uint8))


@pytest.mark.parametrize(
    ("env_id", "actions", "count"),
    [
        ("MinAtar/Breakout-v0", "full", 6),
        ("MinAtar/Breakout-v0", "minimal", 3),
        ("MinAtar/SpaceInvaders-v1", "full", 4),
    ],
)
def test_minatar_actions(env_id, actions, count):
    need("minatar")
    assert make_env(env_id, actions=actions).action_space.n == count


# -------------------------------------------------------------------------------------------------------------- Crafter


def test_the_crafter_score_is_a_geometric_mean():
    assert crafter_score([0.0] * 22) == 0
    assert crafter_score([100.0] * 22) == pytest.approx(100)
    assert crafter_score([0.0] * 21 + [100.0]) == pytest.approx(101 ** (1 / 22) - 1)


def test_the_score_of_a_runs_episodes():
    lines = [{"return": 1.0, "achievement/a": 1.0, "achievement/b": float(k < 25)} for k in range(100)]
    assert score_of([*lines, {"return": 2.0}]) == pytest.approx((101 * 26) ** 0.5 - 1)
    assert score_of([{"return": 2.0}]) is None


CRAFTER = """
import hashlib, numpy as np
from reverie.envs import make_env
env, digest, rng = make_env("crafter/reward"), hashlib.sha256(), np.random.default_rng(0)
digest.update(env.reset(seed=5)[0].tobytes())
for _ in range(300):
    obs, reward, terminated, truncated, info = env.step(rng.integers(17))
    digest.update(obs.tobytes())
    if terminated or truncated:
        digest.update(env.reset()[0].tobytes())
print(digest.hexdigest())
"""


def test_crafter_is_the_same_in_every_process():
    need("crafter")
    runs = [
        subprocess.run(
            [sys.executable, "-c", CRAFTER], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout


def test_crafter_tells_its_achievements_at_the_end():
    need("crafter")
    env = make_env("crafter/reward")
    env.reset(seed=0)
    env.unwrapped.env._length = 30
    for _ in range(29):
        _, _, terminated, truncated, info = env.step(0)
        assert "log" not in info
    _, _, terminated, truncated, info = env.step(0)
    assert (terminated, truncated) == (False, True)
    assert len(info["log"]) == 22
    assert set(info["log"].values()) <= {0.0, 1.0}


# ----------------------------------------------------------------------------------------------------- DeepMind Control


def dmc(**options):
    need("dmc")
    return make_env("dmc/cartpole-swingup", action_repeat=0, **options)


def test_dmc_is_the_suites_own_task_two_steps_at_a_time():
    need("dmc")
    from dm_control import suite

    env, raw = dmc(), suite.load("cartpole", "swingup", task_kwargs={"random": 3})
    obs, _ = env.reset(seed=3)
    now, rng = raw.reset(), np.random.default_rng(0)
    for at in range(1, 501):
        for key, value in now.observation.items():
            np.testing.assert_allclose(obs[key], np.float32(value), rtol=1e-6)
        action, reward = rng.uniform(-1, 1, 1), 0.0
        obs, told, terminated, truncated, _ = env.step(action)
        for _ in range(2):
            now = raw.step(action)
            reward += now.reward
        assert told == pytest.approx(reward)
        assert (terminated, truncated) == (False, at == 500)
    assert now.last()


def test_scalars_of_the_suite_are_seen():
    need("dmc")
    assert AgentView(make_env("dmc/walker-walk")).agent_spec.vectors == {"orientations": 14, "height": 1, "velocity": 9}


@pytest.mark.parametrize("env_id", ["dmc/ball_in_cup-catch", "dmc/cup-catch", "dm_control/walker-walk-v0"])
def test_names_of_the_suite(env_id):
    need("dmc")
    make_env(env_id).reset(seed=0)


def test_dmc_from_pixels():
    env = dmc(pixels=True, image_size=48)
    first, _ = env.reset(seed=0)
    assert first.shape == (48, 48, 3)
    later = [env.step(np.ones(1))[0] for _ in range(20)][-1]
    assert (first != later).any()
    assert env.unwrapped.fast  # a CPU draws here
    again = dmc(pixels=True, image_size=48)
    np.testing.assert_array_equal(again.reset(seed=0)[0], first)
    assert "fast look, drawn by egl" in protocol_of(make_request("dmc/cartpole-swingup", pixels=True))


def test_looks_differ():
    fast, standard = (dmc(pixels=True, image_size=48, options=[f"look={look}"]) for look in ("fast", "standard"))
    assert (fast.reset(seed=0)[0] != standard.reset(seed=0)[0]).any()


# ------------------------------------------------------------------------------------------------------------ rendering


@pytest.fixture
def _untried(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv(module._CHOSEN, raising=False)


@pytest.mark.usefixtures("_untried")
def test_the_first_backend_that_works_is_taken_and_remembered(monkeypatch):
    tried = []

    def attempt(backend, **_):
        tried.append(backend)
        return ("", "no EGL") if backend == "egl" else ("llvmpipe", "")

    monkeypatch.setattr(module, "try_backend", attempt)
    assert module.choose_renderer() == "osmesa (llvmpipe); egl failed: no EGL"
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert module.choose_renderer().startswith("osmesa")
    assert tried == ["egl", "osmesa"]
    assert module.on_software(module.choose_renderer())


@pytest.mark.usefixtures("_untried")
def test_without_a_backend_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(module, "TRIAL", "raise RuntimeError('no display')")
    with pytest.raises(UserError, match="egl failed: RuntimeError: no display; osmesa failed") as caught:
        module.choose_renderer()
    assert "apt-get install" in caught.value.hint
    assert "libosmesa6" in caught.value.hint


@pytest.mark.usefixtures("_untried")
def test_a_backend_that_the_user_set_is_the_only_one_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(module, "try_backend", lambda backend: ("", f"{backend} needs a display"))
    with pytest.raises(UserError, match="glfw needs a display"):
        module.choose_renderer()


def test_a_hanging_backend_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "TRIAL", "import time; time.sleep(60)")
    assert module.try_backend("egl", seconds=0.5) == ("", "no answer in 0.5 s")


def test_a_gpu_is_no_software():
    assert not module.on_software("egl (NVIDIA H200/PCIe/SSE2)")


def test_a_time_limit_of_vizdoom_is_no_end():
    need("vizdoom")
    env = make_env("VizdoomBasic-v1", action_repeat=0)
    env.reset(seed=0)
    ends = [(False, False)]
    while not any(ends[-1]):
        ends.append(env.step(0)[2:4])
    assert ends[-1] == (False, True)


# ------------------------------------------------------------------------------------------------------------- MiniGrid


def test_symbols_are_one_hots_that_can_be_read_back():
    need("minigrid")
    env = make_env("MiniGrid-DoorKey-5x5-v0", options=["view=symbolic"])
    obs, _ = env.reset(seed=0)
    symbols = env.unwrapped.gen_obs()["image"]
    cells = obs["cells"].reshape(7, 7, 21)
    np.testing.assert_array_equal(cells[..., :11].argmax(-1), symbols[..., 0])
    np.testing.assert_array_equal(cells[..., 11:17].argmax(-1), symbols[..., 1])
    np.testing.assert_array_equal(cells[..., 17:].argmax(-1), symbols[..., 2])
    assert cells.sum() == 3 * 49
    assert obs["direction"] == env.unwrapped.agent_dir
    assert AgentView(env).agent_spec.vectors == {"cells": 1029, "direction": 4}


def test_the_mission_as_words():
    need("minigrid")
    env = make_env("BabyAI-GoToRedBallGrey-v0", options=["mission=encode"])
    obs, _ = env.reset(seed=0)
    assert obs["mission"].sum() == len(env.unwrapped.mission.split())
    assert obs["image"].shape == (56, 56, 3)
    assert env.observation_space.contains(obs)


def test_the_whole_grid():
    need("minigrid")
    env = make_env("MiniGrid-Empty-8x8-v0", options=["view=full"])
    assert env.reset(seed=0)[0].shape == env.observation_space.shape == (64, 64, 3)
