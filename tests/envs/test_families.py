"""Every installed family: its example runs, repeats under a seed, can be drawn, and has a protocol line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from reverie.envs import AgentView, all_families, installed, make_env, make_request, protocol_of
from reverie.envs import rendering as module
from reverie.envs.families import minigrid
from reverie.envs.families.crafter import crafter_score, score_of
from reverie.envs.family import FLAGS, family_of, flag
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
    if not flag(family, "DETERMINISTIC_START"):
        assert not same(first, play(view, seed=4))
    later = first[1:] if flag(family, "DETERMINISTIC_START") else first[-1:]  # which may be back at the start
    assert any(not np.array_equal(first[0][0][key], step[0][key]) for key in first[0][0] for step in later)
    for obs, *_ in first:
        assert view.observation_space.contains(obs)
    view.close()


@pytest.mark.parametrize("name", QUICK)
def test_an_example_can_be_rendered(name):
    view = view_of(need(name).EXAMPLE)
    assert view.render_mode == "rgb_array"
    view.reset(seed=0)
    image = view.render()
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.min() < image.max()
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
    ("env_id", "option"),
    [
        ("MiniGrid-Empty-5x5-v0", "view=full"),
        ("MiniGrid-Empty-5x5-v0", "view=symbolic"),
        ("MiniGrid-Empty-5x5-v0", "mission=encode"),
        ("MinAtar/Breakout-v1", "sticky=0"),
        ("MinAtar/Breakout-v1", "ramping=false"),
        ("MinAtar/Breakout-v1", "view=rgb"),
        ("HalfCheetah-v5", "reset_noise_scale=0"),
        ("VizdoomBasic-v1", "max_buttons_pressed=2"),
    ],
)
def test_the_protocol_has_every_option(env_id, option):
    assert protocol_of(make_request(env_id, options=[option])) != protocol_of(make_request(env_id))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [("MiniGrid-DoorKey-5x5-v0", "5 actions"), ("BabyAI-GoToRedBallGrey-v0", "all actions"), ("Ant-v5", "all actions")],
)
def test_the_protocol_says_which_actions_are_left(env_id, message):
    assert message in protocol_of(make_request(env_id, actions="minimal"))


@pytest.mark.parametrize("name", QUICK)
def test_a_time_limit_that_was_asked_for_truncates(name):
    family = need(name)
    env = make_env(family.EXAMPLE, action_repeat=0, time_limit=3)
    env.action_space.seed(0)
    for seed in range(100 if flag(family, "SHORT") else 1):  # a short episode may end by itself: take another
        env.reset(seed=seed)
        ends = [(False, False)]
        while not any(ends[-1]):
            ends.append(env.step(env.action_space.sample())[2:4])
        if ends[-1] != (True, False):
            break
    assert ends[1:] == [(False, False), (False, False), (False, True)]


def test_flags_are_known_and_have_defaults():
    for name, family in all_families().items():
        given = {key for key, value in vars(family).items() if key.isupper() and isinstance(value, bool)}
        assert given <= FLAGS.keys(), f"{name}: {given}"
        assert [flag(family, key) for key in FLAGS] == [getattr(family, key, False) for key in FLAGS]


@pytest.mark.parametrize(
    ("env_id", "end"),
    [
        ("MountainCar-v0", "truncated"),
        ("CartPole-v1", "terminated"),
        ("MiniGrid-Empty-5x5-v0", "truncated"),
        ("MiniGrid-LavaGapS5-v0", "terminated"),
        ("MinAtar/Freeway-v1", "truncated"),
        ("MinAtar/Breakout-v1", "terminated"),
        ("MiniWorld-Hallway-v0", "truncated"),
        ("VizdoomBasic-v1", "truncated"),
        ("VizdoomDeadlyCorridor-v1", "terminated"),
        ("popgym-MultiarmedBanditEasy-v0", "truncated"),
        ("popgym-RepeatPreviousEasy-v0", "terminated"),
        ("Reacher-v5", "truncated"),
    ],
)
def test_running_out_of_time_is_no_end(env_id, end):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    env = make_env(env_id, action_repeat=0)
    env.reset(seed=0)
    action = 2 if env_id == "MiniGrid-LavaGapS5-v0" else 0
    ended = (False, False)
    while not any(ended):
        ended = env.step(action if env.action_space.contains(action) else np.zeros(2, np.float32))[2:4]
    assert ended == (end == "terminated", end == "truncated")


@pytest.mark.parametrize(
    "env_id",
    [
        "MinAtar/Chess-v0", "dmc/walker-fly", "dmc/walker", "crafter/chess", "MemoryMaze-10x10", "MiniGrid-Chess-v0",
        "CartPole-v9", "LunarLander-v9", "Ant-v2", "Ant-v9", "MiniWorld-Chess-v0", "VizdoomChess-v0", "popgym-Chess-v0",
    ],
)  # fmt: skip
def test_a_task_that_does_not_exist_is_reported_in_one_sentence(env_id):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert len(caught.value.message) < 300
    assert caught.value.hint


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("MinAtar/Breakout-v1", ["colour=red"], "'colour' is no option"),
        ("MinAtar/Breakout-v1", ["sticky=often"], "'sticky' must be a number"),
        ("dmc/walker-walk", ["look=nice"], "'look' must be one of"),
        ("MinAtar/Breakout-v1", ["sticky"], "is not of the form name=value"),
        ("LunarLander-v3", ["wings=2"], "does not take env.options"),
        ("HalfCheetah-v5", ["look=nice"], "'look' must be one of auto, fast, standard"),
        ("MiniGrid-Empty-5x5-v0", ["view=top"], "'view' must be one of"),
        ("MiniGrid-Empty-5x5-v0", ["colour=red"], "'colour' is no option"),
    ],
)
def test_options_are_checked(env_id, options, message):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    with pytest.raises(UserError, match=message):
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


def test_minatar_in_colour():
    need("minatar")
    env = make_env("MinAtar/Seaquest-v0", options=["view=rgb"])
    obs, _ = env.reset(seed=0)
    state = env.unwrapped.game.state()
    assert env.observation_space.contains(obs)
    assert obs.shape == (10, 10, 3)
    np.testing.assert_array_equal(obs.any(-1), state.any(-1))
    np.testing.assert_array_equal(env.render(), obs.repeat(16, 0).repeat(16, 1))
    kinds = {tuple(obs[y, x]) for y, x in np.argwhere(state.sum(-1) == 1)}
    assert len(kinds) == len({int(state[y, x].argmax()) for y, x in np.argwhere(state.sum(-1) == 1)})


# -------------------------------------------------------------------------------------------------------------- Crafter


#: Of 20 episodes of five people, how many had each achievement: the published runs of human experts.
HUMAN = [
    [18, 1, 17, 12, 11, 20, 20, 5, 14, 18, 0, 4, 2, 16, 15, 20, 6, 4, 2, 19, 20, 14],
    [17, 1, 19, 9, 17, 20, 20, 7, 17, 19, 1, 4, 4, 14, 14, 20, 10, 5, 4, 16, 20, 11],
    [18, 3, 18, 11, 12, 20, 20, 7, 15, 17, 3, 6, 6, 18, 18, 20, 8, 8, 8, 19, 20, 17],
    [16, 4, 19, 10, 14, 20, 20, 3, 20, 17, 2, 8, 6, 15, 16, 20, 11, 9, 7, 19, 20, 16],
    [17, 3, 19, 11, 13, 20, 20, 9, 18, 18, 2, 4, 4, 15, 15, 20, 10, 6, 3, 17, 20, 15],
]


def test_the_crafter_score_of_people_is_the_published_one():
    scores = [crafter_score(100 * np.array(counts) / 20) for counts in HUMAN]
    assert (round(np.mean(scores), 1), round(np.std(scores), 1)) == (50.5, 6.8)


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


def test_crafter_reports_its_achievements_at_the_end():
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
        obs, got, terminated, truncated, _ = env.step(action)
        for _ in range(2):
            now = raw.step(action)
            reward += now.reward
        assert got == pytest.approx(reward)
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


# -------------------------------------------------------------------------------------------------------------- ViZDoom


def test_at_a_time_limit_of_vizdoom_the_last_image_stays():
    need("vizdoom")
    env = make_env("VizdoomBasic-v1", action_repeat=0)
    before, _ = env.reset(seed=0)
    while True:
        obs, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            break
        before = obs
    assert (terminated, truncated) == (False, True)
    assert obs["screen"].max() > 0
    np.testing.assert_array_equal(obs["screen"], before["screen"])


def test_a_seeded_level_of_vizdoom_forgets_its_map():
    need("vizdoom")
    env = make_env("VizdoomFreedoom2MAP29-S5-v0", action_repeat=0)
    env.action_space.seed(0)
    first, _ = env.reset(seed=3)
    for _ in range(40):
        env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.reset(seed=3)[0]["automap"], first["automap"])


def test_a_game_of_vizdoom_that_is_sold_is_reported():
    need("vizdoom")
    env = make_env("VizdoomDoomE1M1-S1-v0", action_repeat=0)
    with pytest.raises(UserError, match=r"sold.*doom\.wad"):
        env.reset(seed=0)


# -------------------------------------------------------------------------------------------- MuJoCo, Box2D, MiniWorld


def cheetah(env_id="HalfCheetah-v5", **options):
    need("mujoco")
    return make_env(env_id, pixels=True, image_size=48, **options)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Reacher-v5"])
def test_images_of_mujoco_do_not_depend_on_what_was_seen_first(env_id):
    """The camera of Reacher looks at what it saw first, which AddRenderObservation draws before any seed."""
    first, second = cheetah(env_id), cheetah(env_id)
    second.reset(seed=9)
    a, b = (env.reset(seed=3)[0] for env in (first, second))
    assert a.shape == (48, 48, 3)
    np.testing.assert_array_equal(a, b)
    looks = [env.get_wrapper_attr("_viewer").cam.lookat for env in (first, second)]
    np.testing.assert_array_equal(*looks)
    assert (first.step(first.action_space.sample())[0] != a).any()


GONE = """
import gc, warnings, weakref
warnings.simplefilter("ignore")
weakref.finalize(type("Earlier", (), {}), int)  # what is registered before MuJoCo is imported runs after its end
from reverie.envs import make_env
gone, env = (make_env("HalfCheetah-v5", pixels=True, image_size=48) for _ in range(2))
before, _ = env.reset(seed=0)
gone.reset(seed=0)
gone.close()
same = [(env.render() == before).all()]
del gone
gc.collect()
same.append((env.render() == before).all())
print(before.max() > 0, *same)
"""


def test_an_environment_that_is_gone_takes_no_images_along():
    """Gymnasium frees buffers in whatever OpenGL context is current: the first two of a process have the same names."""
    need("mujoco")
    run = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True)
    assert run.stdout.strip() == "True True True", run.stderr
    assert "Error" not in run.stderr


@pytest.mark.parametrize(("options", "follows"), [([], True), (["camera_id=-1"], False)])
def test_the_camera_of_mujoco_follows(options, follows):
    """The body is orange, floor and sky are not."""
    env = cheetah(options=options)
    env.reset(seed=0)
    task = env.unwrapped
    assert task.model.vis.quality.offsamples == 0
    place = task.data.qpos.copy()
    place[0] += 50
    task.set_state(place, task.data.qvel.copy())
    red, _, blue = np.moveaxis(env.render().astype(int), -1, 0)
    assert (red > blue + 40).any() == follows
    message = protocol_of(make_request("HalfCheetah-v5", pixels=True, options=options))
    assert f"{'following' if follows else 'fixed'} camera, fast look, drawn by egl" in message


def test_looks_of_mujoco_differ():
    fast, standard = (cheetah("Hopper-v5", options=[f"look={look}"]).reset(seed=0)[0] for look in ("fast", "standard"))
    assert (fast != standard).any()


def test_a_walker_that_is_seeded_again_walks_as_a_new_one():
    """Box2D keeps the order of contacts of earlier episodes: after 30 steps the walker of seed 2 fell otherwise."""
    need("box2d")

    def walk(env, seed):
        env.action_space.seed(seed)
        seen = [env.reset(seed=seed)[0]]
        while len(seen) < 120:
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(obs)
            if terminated or truncated:
                break
        return np.array(seen)

    new, used = make_env("BipedalWalker-v3"), make_env("BipedalWalker-v3")
    for seed in (12, 13, 14):
        walk(used, seed)
    np.testing.assert_array_equal(walk(new, 2), walk(used, 2))


def test_car_racing_is_seen_as_it_is():
    need("box2d")
    assert make_env("CarRacing-v3", pixels=True).observation_space.shape == (96, 96, 3)


@pytest.mark.parametrize("env_id", ["MiniWorld-Hallway-v0", "BabyAI-GoToImpUnlock-v0"])
def test_chatter_is_not_printed(env_id, capsys):
    need(next(name for name, family in all_families().items() if family is family_of(env_id)))
    env = make_env(env_id)
    for seed in range(5):
        env.reset(seed=seed)
    assert capsys.readouterr().out == ""


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
    assert obs["mission"][: minigrid.WORDS].sum() == len(env.unwrapped.mission.split())
    assert obs["image"].shape == (56, 56, 3)
    assert env.observation_space.contains(obs)


def test_every_word_has_a_place_and_the_order_counts():
    counts = [minigrid.encode_mission(word)[: minigrid.WORDS].argmax() for word in minigrid.VOCABULARY]
    assert counts == list(range(len(minigrid.VOCABULARY)))
    assert len(counts) <= minigrid.encode_mission("Zeppelin,")[: minigrid.WORDS].argmax() < minigrid.WORDS
    one, other = (
        minigrid.encode_mission(f"open the {a} door after you open the {b} door")
        for a, b in (("red", "blue"), ("blue", "red"))
    )
    np.testing.assert_array_equal(one[: minigrid.WORDS], other[: minigrid.WORDS])
    assert (one != other).any()
    assert not minigrid.encode_mission("").any()


def test_the_whole_grid():
    need("minigrid")
    env = make_env("MiniGrid-Empty-8x8-v0", options=["view=full"])
    assert env.reset(seed=0)[0].shape == env.observation_space.shape == (64, 64, 3)
