"""Shift: numbers by hand, the same episodes for each value, the factors of every family, and the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reverie
from reverie.cli import main
from reverie.envs import make_env
from reverie.envs.family import all_families, factors_of, installed
from reverie.errors import UserError
from reverie.insight.plots import shift_plot
from reverie.insight.shift import Watched, Witness, _half_width, _play, _point, _separation, shift
from reverie.run.evaluation import Evaluation

pytestmark = [  # of the packages of environments; Box2D crashes where its own are errors
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
QUICK = {"log.tensorboard": False, "log.video": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of an ensemble on CartPole."""
    where = tmp_path_factory.mktemp("shift") / "run"
    reverie.Dreamer("CartPole-v1", preset="debug", run=where, settings=QUICK | {"ensemble.members": 2}).learn(200)
    return where


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_by_hand():
    """Two episodes each; three of the four changed steps are above the 99 % of the unchanged ones."""
    usual = Watched(np.array([0.0, 1, 2, 3]), np.array([0, 0, 1, 1]), np.zeros(4), np.array([0.5, 0.5, 1, 0.5]))
    changed = Watched(np.array([4.0, 5, 6, 0]), np.array([0, 0, 1, 1]), np.ones(4), np.ones(4))
    played = Evaluation([1.0, 2.0], [2, 2])
    first, second = _point("", played, usual, None), _point("2", played, changed, usual)
    assert (first.surprise, first.surprising, first.alarm, first.auroc) == (1.5, 0.25, 0.25, {})
    assert (second.surprise, second.surprising, second.alarm) == (3.75, 0.75, 1.0)
    assert second.auroc["surprise"].auroc == pytest.approx((3 * 4 + 0.5) / 16)  # 0 against 0 is a tie
    assert second.auroc["disagreement"].auroc == 1.0
    means = np.array([4.5, 3.0])  # of both episodes
    assert second.surprise_ci == pytest.approx(1.96 * means.std(ddof=1) / np.sqrt(2))


def test_episodes_of_both_tasks_are_drawn_again_apart(monkeypatch):
    drawn = []
    monkeypatch.setattr("reverie.insight.shift.auroc_interval", lambda *given, **_: drawn.append(given) or (0.0, 1.0))
    _separation(np.zeros(3), np.ones(4), np.array([5, 5, 7]), np.array([5, 6, 6, 7]))
    ((scores, label, rows),) = drawn
    assert scores.tolist() == label.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert len(set(rows[:3])) == 2
    assert len(set(rows[3:])) == 3
    assert not set(rows[:3]) & set(rows[3:])


def test_without_an_ensemble_surprise_is_what_looking_changed():
    """KL(posterior || prior), in that order, of the episodes that count."""
    rssm = SimpleNamespace(latent=SimpleNamespace(kl=lambda left, right: 3 * left - right), prior_net=lambda h: 10 * h)
    state = SimpleNamespace(stats=torch.tensor([2.0, 4.0]), deter=torch.tensor([0.1, 0.2]))
    player = SimpleNamespace(
        count=2, act=lambda obs, first: first, last=None, state=state, world_model=SimpleNamespace(rssm=rssm)
    )
    witness = Witness(player, episodes=3)  # two of the first environment, one of the second
    for first in ([True, True], [False, True], [True, False]):
        witness.act({}, np.array(first))
    found = witness.found()
    assert found.surprise.tolist() == pytest.approx([5.0, 10.0, 5.0, 5.0])
    assert len(set(found.episode)) == 3
    assert found.disagreement is None


def test_the_interval_counts_episodes_and_not_steps():
    """Twice the steps of the same episodes say nothing more; one episode says nothing."""
    values, episode = np.array([1.0, 2, 3, 5]), np.array([0, 0, 1, 1])
    assert _half_width(np.repeat(values, 2), np.repeat(episode, 2)) == pytest.approx(_half_width(values, episode))
    assert np.isnan(_half_width(values, np.zeros(4, int)))


def test_the_usual_value_changes_nothing_and_another_does(run):
    agent = reverie.load(run).agent
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    found = shift(agent, "length", ["0.5", "3"], episodes=3)
    usual, same, longer = found.points
    assert same.played.scores == usual.played.scores == reverie.load(run).evaluate(3).scores
    assert same.surprise == usual.surprise
    assert same.auroc["surprise"].auroc == same.auroc["disagreement"].auroc == 0.5
    assert longer.surprise != usual.surprise
    assert all((value == before[key]).all() for key, value in agent.state_dict().items())


def test_steps_beyond_the_episodes_that_count_are_left_out(run):
    """Three environments play one episode each: those that are done early continue, and do not count."""
    agent = reverie.load(run).agent
    played, seen = _play(agent, agent.config, 3, "eval", 0, lambda: None)
    counts = sorted(np.unique(seen.episode, return_counts=True)[1])
    ends = [count - length for count, length in zip(counts, sorted(played.lengths), strict=True)]
    assert ends == [1, 1, 0]  # a look before each step and at the end, which of the last episode nothing needs


# ------------------------------------------------------------------------------------------------------------- factors


@pytest.mark.parametrize("name", sorted(all_families()))
def test_factors_are_known_for_every_family(name):
    family = all_families()[name]
    if not installed(family):
        pytest.skip(f"{name} is not installed")
    known = factors_of(family.EXAMPLE)
    assert all(isinstance(meaning, str) for meaning in known.values())
    assert "render_mode" not in known
    expected = {"classic": "masspole", "minigrid": "goal_color", "dmc": "mass", "rooms": "strange", "box2d": "gravity"}
    assert name not in expected or expected[name] in known


def test_an_unregistered_task_has_none():
    assert factors_of("NoSuchTask-v0") == {}


def test_physics_of_cartpole_stays_consistent():
    pytest.importorskip("pygame")
    task = make_env("CartPole-v1", options=["length=2", "masspole=0.3"]).unwrapped
    assert (task.length, task.total_mass, task.polemass_length) == (2.0, 1.3, 0.6)
    with pytest.raises(UserError, match="masspole must be a number above 0"):
        make_env("CartPole-v1", options=["masspole=heavy"])


@pytest.mark.parametrize(
    ("env_id", "option"),
    [("Pendulum-v1", "l=2"), ("Acrobot-v1", "LINK_LENGTH_1=3"), ("MountainCar-v0", "gravity=0.02"),
     ("MountainCarContinuous-v0", "power=0.1"), ("CartPole-v1", "force_mag=1")],
)  # fmt: skip
def test_changed_physics_moves_otherwise(env_id, option):
    pytest.importorskip("pygame")
    ends = []
    for options in ([], [option]):
        env = make_env(env_id, options=options)
        env.action_space.seed(0)
        env.reset(seed=0)
        ends.append([env.step(env.action_space.sample())[0] for _ in range(5)][-1])
    assert not np.allclose(*ends)


def test_colors_and_sizes_of_minigrid():
    pytest.importorskip("minigrid")
    task = "MiniGrid-DoorKey-5x5-v0"

    def kinds(*options):
        env = make_env(task, options=options)
        seen, _ = env.reset(seed=3)
        return seen, {item.type: item.color for item in env.unwrapped.grid.grid if item}, env.unwrapped.width

    plain, usual, width = kinds()
    red, changed, _ = kinds("goal_color=red", "door_color=blue", "wall_color=purple")
    assert changed == usual | {"goal": "red", "door": "blue", "key": "blue", "wall": "purple"}
    assert red.shape == plain.shape
    assert (red != plain).any()
    assert kinds("size=8")[2] == 8 != width
    symbols = [kinds("view=symbolic", f"wall_color={color}")[0]["cells"] for color in ("usual", "red")]
    assert (symbols[0] != symbols[1]).any()
    for wrong in (["size=2"], ["goal_color=pink"]):
        with pytest.raises(UserError, match=r"size must be|must be one of"):
            make_env(task, options=wrong)
    with pytest.raises(UserError, match="nothing that MiniGrid-FourRooms-v0 has"):
        make_env("MiniGrid-FourRooms-v0", options=["size=9"])


def test_physics_and_colors_of_the_control_suite():
    pytest.importorskip("dm_control")
    models = {}
    for option in ("mass=1", "mass=2", "gravity=0.5", "damping=3", "friction=2", "hue=120"):
        env = make_env("dmc/cartpole-balance", options=[option])
        env.reset(seed=0)
        model = env.unwrapped.env.physics.model
        parts = ("body_mass", "dof_damping", "geom_friction", "mat_rgba")
        models[option] = {name: np.array(getattr(model, name)) for name in parts} | {"g": np.array(model.opt.gravity)}
    plain = models["mass=1"]
    assert np.allclose(models["mass=2"]["body_mass"], 2 * plain["body_mass"])
    assert np.allclose(models["gravity=0.5"]["g"], plain["g"] / 2)
    assert np.allclose(models["damping=3"]["dof_damping"], 3 * plain["dof_damping"])
    assert np.allclose(models["friction=2"]["geom_friction"], 2 * plain["geom_friction"])
    assert not np.allclose(models["hue=120"]["mat_rgba"], plain["mat_rgba"])
    with pytest.raises(UserError, match="mass must be above 0"):
        make_env("dmc/cartpole-balance", options=["mass=0"])


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_prints_json_and_draws(run, tmp_path, capsys):
    plot = tmp_path / "there" / "plot.png"
    assert main(["eval", str(run), "--shift", "length=2,0.2", "--episodes", "2", "--json", "-o", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["value"] for point in found["points"]] == ["", "2", "0.2"]
    assert found["factor"] == "length"
    assert all(point["alarm"] is not None for point in found["points"])
    assert set(found["points"][1]["auroc"]) == {"surprise", "disagreement"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    named = {
        **found,
        "points": [{**point, "value": point["value"] and f"a{point['value']}"} for point in found["points"]],
    }
    assert shift_plot(named, tmp_path / "names.png").stat().st_size > 5000


def test_a_given_agent_without_ensemble_is_measured_too(tmp_path, capsys):
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "run", settings=QUICK).learn(60)
    given = agent.save(tmp_path / "given")
    assert main(["eval", str(given), "--shift", "masspole=1", "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "as trained" in out
    assert (given / "shift-masspole.png").exists()
    assert [line.split()[-3] for line in out.splitlines()[2:3]] == ["-"]  # no alarm


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shift", "lenth=2"], "'lenth' is nothing that can be changed in CartPole-v1.\nhint: It has: sutton_barto"),
        (["--shift", "length"], "not of the form FACTOR=VALUES"),
        (["--shift", "length=1,,2"], "not of the form FACTOR=VALUES"),
        (["--shift", "length=-1"], "length=-1: env.options: length must be a number above 0"),
        (["--shift", "length=1", "--video", "a.gif"], "--video is not made with --shift"),
        (["-o", "a.png"], "-o is for the plot of --shift"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, words, message, capsys):
    assert main(["eval", str(run), "--episodes", "1", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_value_that_changes_the_observation_is_refused(tmp_path, capsys):
    pytest.importorskip("minigrid")
    task = "MiniGrid-Empty-5x5-v0"
    reverie.Dreamer(task, preset="debug", run=tmp_path / "run", settings=QUICK).learn(60)
    assert main(["eval", str(tmp_path / "run"), "--shift", "view=symbolic", "--episodes", "1"]) == 2
    assert "error: view=symbolic: " in capsys.readouterr().err


def test_a_task_made_by_code_has_no_known_factors(make_run, tmp_path, capsys):
    make_run(tmp_path / "run").train()
    assert main(["eval", str(tmp_path / "run"), "--shift", "length=1"]) == 2
    assert "command line cannot make" in capsys.readouterr().err
