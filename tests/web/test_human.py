"""A person plays the real environment through the page's socket; whole episodes become a data set."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from toys import CountingEnv, SpaceEnv

from reverie import cli
from reverie.config import build
from reverie.run.data_set import read_data

pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from reverie.web.action_names import keys_for
from reverie.web.human import HumanPlay, prepare_human


@contextmanager
def serving(env=CountingEnv, **options):
    config = build({"env.id": "custom:toy", "env.num_envs": 1})
    served = prepare_human(config, env, **{"episodes": 3, "port": 0} | options)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop()
        thread.join(20)
        assert not thread.is_alive()


def played(served):
    port = served.socket.getsockname()[1]
    return connect(f"ws://127.0.0.1:{port}/api/human", origin=f"http://127.0.0.1:{port}")


def ask(socket, **message):
    socket.send(json.dumps(message))
    return json.loads(socket.recv(20))


def test_episodes_by_hand_are_the_rows_of_the_drawing():
    """The toy's observation is [episode, step, action, seed]: what was pressed, row by row."""
    with serving() as served, played(served) as socket:
        started = ask(socket, do="start")
        assert started["type"] == "started"
        assert [part["kind"] for part in started["controls"]] == ["choice"]
        assert (started["kept"], started["episodes"], started["step"], started["ended"]) == (0, 3, 0, False)
        pressed = []
        for _ in range(100):
            pressed.append(len(pressed) % 2)
            answer = ask(socket, do="step", choices=[pressed[-1]])
            assert answer["vectors"]["observation"][2] == pressed[-1]
            if answer["ended"]:
                break
        assert ask(socket, do="step", choices=[0])["step"] == len(pressed)  # a key that is still held
        assert ask(socket, do="next")["kept"] == 1
        ask(socket, do="step", choices=[1])
        fresh = ask(socket, do="discard")
        assert (fresh["step"], fresh["score"], fresh["kept"]) == (0, 0.0, 1)
        end = ask(socket, do="finish")
        assert end["done"]
        assert end["kept"] == 1
        with pytest.raises(ConnectionClosed):
            socket.recv(20)
    (rows,) = served.dashboard.play.kept
    assert rows["is_first"].tolist() == [True] + [False] * len(pressed)
    assert rows["is_last"].tolist() == [False] * len(pressed) + [True]
    assert np.isnan(rows["action"][0]).all()
    np.testing.assert_array_equal(rows["action"][1:].argmax(-1), pressed)
    np.testing.assert_array_equal(rows["obs/observation"][1:, 2], pressed)


def test_each_episode_has_a_seed_of_its_own_and_the_last_one_ends_it():
    with serving(episodes=2, seed=7) as served, played(served) as socket:
        ask(socket, do="start")
        for number in range(2):
            while not (answer := ask(socket, do="step", choices=[0]))["ended"]:
                pass
            assert answer["done"] == (number == 1)
            if number == 0:
                assert ask(socket, do="next")["step"] == 0
    seeds = [rows["obs/observation"][0, 3] for rows in served.dashboard.play.kept]
    assert seeds == [7, 8]


def test_what_cannot_be_done_is_said_and_the_page_stays():
    with serving() as served, played(served) as socket:
        ask(socket, do="start")
        for message in ({"do": "step"}, {"do": "step", "choices": [9]}, {"do": "step", "choices": 1}, {"do": "fly"}):
            assert ask(socket, **message)["type"] == "error"
        socket.send("{")
        assert "cannot be read" in json.loads(socket.recv(20))["message"]
        with played(served) as second:
            assert "another page" in json.loads(second.recv(20))["message"]
        assert ask(socket, do="step", choices=[1])["step"] == 1


def test_a_forbidden_action_is_refused():
    class Masked(CountingEnv):
        def reset(self, **options):
            obs, info = super().reset(**options)
            return obs, info | {"action_mask": np.array([1] + [0] * (self.action_space.n - 1), np.int8)}

        def step(self, action):
            *rest, info = super().step(action)
            return *rest, info | {"action_mask": np.array([1] + [0] * (self.action_space.n - 1), np.int8)}

    with serving(Masked) as served, played(served) as socket:
        assert ask(socket, do="start")["mask"][:2] == [1, 0]
        assert "not allowed" in ask(socket, do="step", choices=[1])["message"]
        assert ask(socket, do="step", choices=[0])["step"] == 1


def test_the_arrow_up_goes_forward_and_picks_nothing_up():
    """All seven actions of MiniGrid: the word "up" is in "pick up"."""
    names = ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done")
    keys = keys_for(names, 7)
    assert [keys[f"Arrow{way}"] for way in ("Left", "Right", "Up")] == [0, 1, 2]
    assert (keys["KeyW"], keys["Enter"], keys["Space"]) == (2, 3, 5)
    taxi = keys_for(("down", "up", "right", "left", "pick up", "drop"), 6)
    assert [taxi[f"Arrow{way}"] for way in ("Down", "Up", "Right", "Left")] == [0, 1, 2, 3]


def test_numbers_are_played_too():
    def env():
        return gym.wrappers.TimeLimit(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))), 5)

    play = HumanPlay(build({"env.id": "custom:toy", "env.num_envs": 1}), env)
    play.step(np.array([0.5, -1], np.float32))
    np.testing.assert_array_equal(play.rows[-1]["action"][0], np.array([0.5, -1], np.float32))
    assert play.frame()["image"] is None
    play.close()


def test_an_environment_that_breaks_loses_no_whole_episode():
    class Fragile(CountingEnv):
        def step(self, action):
            if action == 1:
                raise RuntimeError("a wheel came off")
            return super().step(action)

    with serving(Fragile) as served, played(served) as socket:
        ask(socket, do="start")
        while not ask(socket, do="step", choices=[0])["ended"]:
            pass
        ask(socket, do="next")
        assert "a wheel came off" in ask(socket, do="step", choices=[1])["message"]
        assert ask(socket, do="discard")["step"] == 0
        assert ask(socket, do="step", choices=[0])["step"] == 1
    assert len(served.dashboard.play.kept) == 1


def status(port, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/", headers=headers)
        with connection.getresponse() as answer:
            return answer.status


def test_only_the_page_itself_may_play():
    """Other sites, other names, and on other addresses whoever has no token."""
    with serving() as served:
        port = served.socket.getsockname()[1]
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{port}/api/human", origin="http://evil.example")
        assert status(port, Host="evil.example") == 421
        assert status(port) == 200
    with serving(host="0.0.0.0") as served:
        assert "token=" in served.url
        port = served.socket.getsockname()[1]
        assert status(port) == 403
        with pytest.raises(InvalidStatus):
            played(served)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_from_the_command_line_ended_by_a_signal(tmp_path, sent):
    """The episode that has ended is written, the one that is played is not."""
    words = [
        sys.executable,
        "-m",
        "reverie",
        "record",
        "CartPole-v1",
        "--policy",
        "human",
        "--port",
        "0",
        "--episodes",
        "4",
    ]
    process = subprocess.Popen([*words, "--out", str(tmp_path / "data")], stdout=subprocess.PIPE, text=True)
    url = next(line for line in process.stdout if line.startswith("play")).split()[1]
    port = url.rstrip("/").rpartition(":")[2]
    with connect(f"ws://127.0.0.1:{port}/api/human", origin=f"http://127.0.0.1:{port}") as socket:
        started = ask(socket, do="start")
        assert started["controls"][0]["names"] == ["push left", "push right"]
        assert started["image"].startswith("data:image/png;base64,")
        for _ in range(2):
            while not ask(socket, do="step", choices=[1])["ended"]:
                pass
            ask(socket, do="next")
        ask(socket, do="step", choices=[1])
        process.send_signal(sent)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "2 episodes" in out
    data = read_data(tmp_path / "data")
    assert data.about["policy"] == "human"
    assert data.about["env"] == "CartPole-v1"
    assert (data.rows["action"][~data.rows["is_first"]].argmax(-1) == 1).all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["CartPole-v1", "--policy", "human", "--host", "nowhere.invalid", "--out", "new"], "not an address"),
        (["Nothing-v9", "--policy", "human", "--out", "new"], "Nothing"),
        (["CartPole-v1", "--policy", "random", "--port", "0", "--out", "new"], "about --policy human"),
        (["CartPole-v1", "--policy", "human", "--agent", "x", "--out", "new"], "belong together"),
        (["CartPole-v1", "--policy", "human", "--out", "there"], "exists already"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence(in_tmp, capsys, words, sentence):
    (in_tmp / "there").mkdir()
    assert cli.main(["record", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (in_tmp / "new").exists()
