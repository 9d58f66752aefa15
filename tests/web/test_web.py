"""The dashboard without a browser: file tails, downsampling, access control and the dream player, over real sockets."""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from web_runs import TRUST, serving, train_square, train_vectors, until

from reverie.config import build
from reverie.envs.actions import make_action_spec
from reverie.errors import UserError
from reverie.guard.lock import RunLock
from reverie.insight.run_reader import open_run
from reverie.rssm import DiscreteRSSM

pytest.importorskip("starlette", reason="the extra `web` is not installed: pip install 'reverie-rl[web]'")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from reverie.insight.findings import Finding
from reverie.web.action_names import choice_names, controls, keys_for
from reverie.web.app import finite
from reverie.web.columns import MetricColumns, downsample, group_evaluations
from reverie.web.dream_session import MOST_LANES, DreamSession, _generator, action_of, start_session, usual_surprise
from reverie.web.image_encoding import as_rgb, comparison_frames, encode_gif, encode_mp4, video_frames
from reverie.web.jobs import run_doctor
from reverie.web.play_socket import context_of, frame_of
from reverie.web.runs import RunIndex, compare_configs
from reverie.web.server import prepare
from reverie.web.tail import JsonlTail


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    train_square(root / "square")
    train_vectors(root / "sub" / "cart")
    return root


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs) as served:
        yield served


def ask(served, path, **headers):
    """-> status, headers, body of a plain GET with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", served.socket.getsockname()[1], timeout=20)
    connection.request(headers.pop("method", "GET"), path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def values(served, path):
    status, _, body = ask(served, path)
    assert status == 200, body
    return json.loads(body)


def start(served, path):
    """Start a job as the page does."""
    status, _, body = ask(served, path, method="POST", Origin=f"http://{address(served)}")
    assert status == 200, body
    return json.loads(body)


def address(served):
    return f"127.0.0.1:{served.socket.getsockname()[1]}"


def play(served, **options):
    where = address(served)
    return connect(f"ws://{where}/api/play", **{"origin": f"http://{where}", "proxy": None, **options})


def say(socket, **message):
    socket.send(json.dumps(message))
    return json.loads(socket.recv(timeout=20))


# ------------------------------------------------------------------------------------------------------------- files


def write(path, lines, mode="w"):
    with open(path, mode, encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def test_following_a_file_that_grows_and_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follow = JsonlTail(path)
    assert follow.read() == (False, [])  # not there yet
    write(path, [{"a": 1}, {"a": 2}])
    assert follow.read() == (False, [{"a": 1}, {"a": 2}])
    assert follow.read() == (False, [])
    with open(path, "a") as file:
        file.write('{"a": 3}\n{"a"')
    assert follow.read() == (False, [{"a": 3}])  # half a line waits
    with open(path, "a") as file:
        file.write(": 4}\nnonsense\n[1]\n")
    assert follow.read() == (False, [{"a": 4}])
    write(path, [{"a": 1}])
    assert follow.read() == (True, [{"a": 1}])  # shorter: a run was resumed at an earlier step
    write(path, [{"a": 7}, {"a": 8}, {"a": 9}])
    assert follow.read() == (True, [{"a": 7}, {"a": 8}, {"a": 9}])  # longer, but other lines
    path.unlink()
    assert follow.read() == (True, [])


def test_a_long_file_is_read_in_part_but_what_is_rare_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"env_steps": i, "loss": 1.0} for i in range(30_000)]
    lines[777] = {"env_steps": 777, "eval/return": 5.0}
    lines[778] = {"env_steps": 778, "loss": None}
    write(path, lines)
    follow = JsonlTail(path, most=500)
    _, found = follow.read()
    assert follow.stride > 10
    assert len(found) < 10_000  # one in `stride`, and the whole end
    assert lines[777] in found
    assert lines[778] in found
    assert found[-1] == lines[-1]
    write(path, [{"env_steps": 30_000}], "a")
    assert follow.read() == (False, [{"env_steps": 30_000}])  # what is new is never left out


def test_thinning_keeps_means_and_extremes():
    x, y = np.arange(1000.0), np.zeros(1000)
    y[400] = 50
    few = downsample(x, y, 100)
    assert len(few["x"]) == len(few["y"]) == 100
    assert max(few["high"]) == 50
    assert sum(few["y"]) * 10 == pytest.approx(50)
    assert few["x"][0] == pytest.approx(4.5)
    whole = downsample(x[:7], y[:7], 100)
    assert "low" not in whole
    assert whole["x"] == [0, 1, 2, 3, 4, 5, 6]


def test_a_table_gives_evaluations_the_time_of_the_line_before():
    table = MetricColumns()
    table.add({"env_steps": 10, "seconds": 2.0, "updates": 5, "loss": 1.5, "bad": None, "flag": True})
    table.add({"env_steps": 10, "eval/return": 7.0})
    assert [v.tolist() for v in table.xy("eval/return", "seconds")] == [[2.0], [7.0]]
    assert [v.tolist() for v in table.xy("nothing", "seconds")] == [[], []]
    assert set(table.columns) == {"loss", "eval/return"}
    assert group_evaluations(np.array([5.0, 5, 9]), np.array([1.0, 3, 8])) == [
        (5.0, 2.0, pytest.approx(1.96), 2),
        (9.0, 8.0, 0.0, 1),
    ]


def test_runs_are_found_numbered_and_compared(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    found = RunIndex([runs, tmp_path])
    assert [run.name for run in found.all()] == ["square", "sub/cart"]
    assert found.get(5) is None
    assert found.get(-1) is None
    assert [run.name for run in RunIndex([runs / "square"]).all()] == ["square"]
    assert not found.scan()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("nonsense: [")
    assert found.scan()
    assert found.all()[-1].trouble  # reported, not fatal
    rows = {row["key"]: row for row in compare_configs(found.all()[:2])}
    assert rows["env.id"]["differs"]
    assert not rows["behavior.gamma"]["differs"]
    assert rows["train.seed"]["values"] == ["0", "0"]


# ------------------------------------------------------------------------------------------------------------ dreams


@pytest.fixture(scope="module")
def opened(runs):
    return open_run(runs / "square")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state, b.state, strict=True)) and a.lanes == b.lanes


def test_rewinding_is_exact_and_the_same_action_dreams_the_same(opened):
    session = start_session(opened, seed=3)
    right = action_of(opened.agent, {"choices": [2]})
    first = [session.current, *(session.step(right) for _ in range(4))]
    assert session.at == 4
    assert same(session.rewind(2), first[2])
    assert same(session.rewind(4), first[4])  # nothing is dropped by looking back
    session.rewind(2)
    assert same(session.step(right), first[3])
    assert len(session.history) == 4  # but by another step
    session.rewind(0)
    left = session.step(action_of(opened.agent, {"choices": [1]}))
    assert not torch.equal(left.state.deter, first[1].state.deter)
    with pytest.raises(UserError, match="steps 0 to 1"):
        session.rewind(2)
    again = start_session(opened, seed=3)
    assert same(again.current, first[0])


def test_the_first_step_is_the_models_own(opened):
    """Against the equations written out: filter the context, then h from (s, u), then z from the prior."""
    session = start_session(opened, seed=1, context=3)
    start, action = session.current.state, action_of(opened.agent, {"choices": [2]})
    rssm = opened.agent.world_model.rssm
    step = session.step(action)
    with torch.no_grad():
        deter = rssm.recurrent_step(start, torch.from_numpy(action)[None])
        assert torch.equal(step.state.deter, deter)
        assert torch.equal(step.state.stats, rssm.prior_net(deter))
        view = session.prediction()
        feat = step.state.feat
        assert view.value[0] == pytest.approx(float(opened.agent.critic(feat)))
        assert view.policy[0][0]["probs"] == pytest.approx(
            opened.agent.policy(feat).log_probs.exp()[0].tolist(), abs=1e-4
        )
        assert np.array_equal(
            view.images["observation"], opened.agent.world_model.reconstruct(feat)["observation"].numpy()
        )
    assert view.chosen.shape == view.classes.shape[:2]
    assert view.classes.sum(-1) == pytest.approx(1.0)


def test_the_start_sees_all_of_the_context_and_each_action_led_into_its_step(opened):
    sessions = (start_session(opened, seed=seed, context=4) for seed in range(100))
    session = next(s for s in sessions if len(s.context.action[0, 1:].argmax(-1).unique()) > 1)
    batch, seed = session.context, session.seed

    def start_of(**changes):
        return DreamSession(opened.agent, batch._replace(**changes), seed=seed).current.state

    model, latent = opened.agent.world_model, opened.agent.world_model.rssm.latent
    noise = torch.stack([latent.noise(1, generator=_generator(seed, 0, t, 2)) for t in range(4)], 1)
    with torch.no_grad():  # training's own filter, on the plain path
        embed = model.encoder(model.preprocess(batch.obs))
        whole, _ = DiscreteRSSM.rollout_observation(model.rssm, embed, batch.action, batch.is_first, noise=noise)
    assert torch.allclose(whole.deter[:, -1], session.current.state.deter, atol=1e-5)
    assert torch.allclose(whole.stats[:, -1], session.current.state.stats, atol=1e-4)
    action = batch.action.clone()
    action[:, 0] = 0.5  # what led into the first step is masked
    assert torch.equal(start_of(action=action).deter, session.current.state.deter)
    action = batch.action.clone()
    action[:, 3] = action[:, 3].roll(1, -1)
    assert not torch.equal(start_of(action=action).deter, session.current.state.deter)
    obs = {key: value.clone() for key, value in batch.obs.items()}
    obs["observation"][:, 3] = 255 - obs["observation"][:, 3]
    changed = start_of(obs=obs)
    assert torch.equal(changed.deter, session.current.state.deter)  # h does not see the present, z does
    assert not torch.equal(changed.stats, session.current.state.stats)


def test_branches_begin_equal_and_part_and_the_first_keeps_its_luck(opened):
    session = start_session(opened, seed=4)
    for _ in range(2):
        session.step(session.policy_action())
    alone = session.step(session.policy_action())
    session.rewind(2)
    split = session.branch(4)
    assert all(torch.equal(x[0], x[i]) for x in split.state for i in range(4))
    four = session.step(session.policy_action())
    assert len(four.lanes) == len(set(four.lanes)) == 4
    assert torch.allclose(four.state.deter[0], alone.state.deter[0], atol=1e-5)
    assert len({tuple(row.tolist()) for row in four.state.stoch}) > 1
    third = four.state.stoch[2].clone()
    kept = session.keep(2)
    assert torch.equal(kept.state.stoch[0], third)
    assert [len(step.lanes) for step in session.history] == [1, 1, 1, 1]
    session.rewind(0)
    assert len(session.branch(MOST_LANES).lanes) == MOST_LANES
    with pytest.raises(UserError, match="1 to 9"):
        session.branch(MOST_LANES + 1)
    with pytest.raises(UserError, match="branches 0 to 8"):
        session.keep(9)


def test_other_luck_is_other_luck(opened):
    session = start_session(opened, seed=5)
    right = action_of(opened.agent, {"choices": [2]})
    outcomes = set()
    for _ in range(5):
        session.rewind(0)
        outcomes.add(tuple(session.step(right).state.stoch[0].tolist()))
        session.rewind(0)
        session.reroll()
    assert len(outcomes) > 1


def test_playing_leaves_the_global_random_streams_and_the_run_alone(runs, opened, files_of):
    before, torch_before, numpy_before = (
        files_of(runs / "square"),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
    )
    session = start_session(opened, seed=6)
    for _ in range(3):
        session.step(session.policy_action())
    session.branch(2)
    session.step(session.policy_action())
    assert encode_gif(video_frames(session))[:4] == b"GIF8"
    comparison_frames(opened, seed=1)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert files_of(runs / "square") == before


def test_every_step_says_how_unknown_it_is_if_there_is_an_ensemble(tmp_path, opened):
    """Against the ensemble asked directly; branches keep theirs; without one there is only surprise."""
    reader = open_run(train_square(tmp_path / "run", 120, settings={"ensemble.members": 3}))
    session, ensemble = start_session(reader, seed=2, context=4), reader.agent.ensemble
    start = session.current
    assert session.filtered.uncertainty.shape == session.filtered.surprise.shape == (4,)
    assert start.uncertainty == session.filtered.uncertainty[-1:]
    session.branch(3)
    step = session.step(session.policy_action())
    with torch.no_grad():
        expected = ensemble.usual.share_below(ensemble.disagreement(step.state.deter))
    assert step.uncertainty == pytest.approx(expected.numpy(), abs=1e-6)
    assert 0 <= step.uncertainty.min() <= step.uncertainty.max() <= 1
    assert session.keep(1).uncertainty == step.uncertainty[1:2]
    assert len(frame_of(session)["uncertainty"]) == 1
    usual = usual_surprise(reader)
    assert 0 < usual.table[0] < usual.table[-1]
    shown = context_of(session, usual)
    assert len(shown["uncertainty"]) == len(shown["surprise"]) == 4
    none = start_session(opened, seed=2)
    assert none.step(none.policy_action()).uncertainty is None
    assert frame_of(none)["uncertainty"] is context_of(none, usual_surprise(opened))["uncertainty"] is None


def test_the_surprise_at_a_real_step_is_what_looking_changed(opened):
    session = start_session(opened, seed=1, context=3)
    state, rssm = session.current.state, opened.agent.world_model.rssm
    with torch.no_grad():
        expected = rssm.latent.kl(state.stats, rssm.prior_net(state.deter))
    assert session.filtered.surprise[-1] == pytest.approx(float(expected), rel=1e-5)


def test_actions_of_all_kinds_and_wrong_ones():
    action = spaces.Dict({"arm": spaces.Box(-2, 2, (2,)), "key": spaces.MultiDiscrete([2, 3])})
    agent = SimpleNamespace(spec=SimpleNamespace(action=make_action_spec(action)[0]))
    vector = action_of(agent, {"choices": [1, 2], "numbers": [0.5, -1]})
    own = agent.spec.action.decode_one(vector)
    assert own["arm"].tolist() == [1, -2]
    assert own["key"].tolist() == [1, 2]
    for wrong in ({}, {"choices": [1, 3], "numbers": [0, 0]}, {"choices": [1, 2], "numbers": [0, 7]},
                  {"choices": ["a", 2], "numbers": [0, 0]}, {"choices": [1, 2, 0], "numbers": [0, 0]},
                  {"choices": [1, 2], "numbers": [0, float("nan")]}):  # fmt: skip
        with pytest.raises(UserError):
            action_of(agent, wrong)


def test_vectors_come_back_in_the_environments_units(runs):
    """A model that reconstructs perfectly would show what the environment gave: the way there and back is exact."""
    agent = open_run(runs / "sub" / "cart").agent
    raw = torch.tensor([[1.5, -0.2, 30.0, 0.0]])
    for transform in ("none", "symlog"):
        agent.world_model.vector_transform = transform
        inside = agent.world_model.preprocess({"observation": raw})["observation"]
        assert torch.allclose(agent.world_model.in_units("observation", inside), raw, atol=1e-4)


def test_videos_show_every_step_and_all_branches(opened):
    session = start_session(opened, seed=7)
    for _ in range(3):
        session.step(session.policy_action(mode="mode"))
    session.branch(3)
    session.step(session.policy_action())
    frames = video_frames(session)
    assert len(frames) == 5
    assert frames[-1].shape[1] > 3 * 160
    assert Image.open(io.BytesIO(encode_gif(frames))).n_frames >= 4  # equal neighbours may be joined
    pytest.importorskip("av")
    import av

    with av.open(io.BytesIO(encode_mp4(frames))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_reality_beside_the_dream_shows_the_recorded_frames(opened):
    frames = comparison_frames(opened, seed=2, context=3, length=5)
    assert len(frames) >= 4
    truth = frames[0][16:336, :320][::20, ::20]
    images = np.concatenate([segment.rows["obs/observation"] for segment in opened.experience.segments])
    assert any(np.array_equal(truth, image) for image in images)


def test_images_of_any_number_of_channels():
    assert as_rgb(np.full((4, 4, 1), 9, np.uint8)).shape == (4, 4, 3)
    many = np.zeros((2, 2, 5), np.uint8)
    many[0, 0, 0], many[1, 1, 3] = 255, 255
    shown = as_rgb(many)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 3


def test_keys_follow_the_names_of_actions():
    def names(env_id, count, **settings):
        return choice_names(build({"env.id": env_id, **settings}), count)

    grid = names("MiniGrid-Empty-Random-6x6-v0", 3)
    assert grid == ("turn left", "turn right", "forward")
    keys = keys_for(grid, 3)
    assert (keys["ArrowLeft"], keys["KeyD"], keys["ArrowUp"], keys["Digit3"]) == (0, 1, 2, 2)
    assert "ArrowDown" not in keys
    atari = keys_for(names("ALE/Pong-v5", 18), 18)
    assert (atari["ArrowUp"], atari["ArrowRight"], atari["Space"]) == (2, 3, 1)  # not "upright", not "upfire"
    assert keys_for(names("LunarLander-v3", 4), 4)["ArrowUp"] == 2
    assert names("CartPole-v1", 3) == ()  # another CartPole: no names are better than wrong ones
    assert keys_for((), 2) == {"Digit1": 0, "Digit2": 1, "ArrowLeft": 0, "ArrowRight": 1, "KeyA": 0, "KeyD": 1}


def test_controls_are_in_the_vectors_order():
    space = spaces.Dict({"arm": spaces.Box(-2, 2, (2,)), "key": spaces.MultiDiscrete([2, 3])})
    spec = SimpleNamespace(action=make_action_spec(space)[0])
    found = controls(build({"env.id": "custom:robot"}), spec)
    assert [(entry["kind"], len(entry["names"])) for entry in found] == [("numbers", 2), ("choice", 2), ("choice", 3)]
    assert found[1]["keys"]["ArrowRight"] == 1
    assert found[2]["keys"] == {}  # the keys play the first choice
    pendulum = SimpleNamespace(action=make_action_spec(spaces.Box(-2, 2, (1,)))[0])
    assert controls(build({"env.id": "Pendulum-v1"}), pendulum)[0]["names"] == ("torque",)


def test_a_run_is_live_while_its_lock_is_held(runs):
    run, lock = RunIndex([runs / "square"]).all()[0], RunLock(runs / "square")
    assert run.summary()["live"] is False
    lock.acquire()
    assert run.summary()["live"] is True
    lock.release()
    assert run.summary()["live"] is False
    assert not (runs / "square" / ".lock").exists()


def test_a_changed_limit_and_very_many_runs(runs, tmp_path):
    """A continued run may go further; of many runs the newest are read first, the rest a little later."""
    text = (runs / "square" / "config.yaml").read_text()
    for i in range(3):
        (tmp_path / f"run{i}").mkdir()
        (tmp_path / f"run{i}" / "config.yaml").write_text(text)
        write(tmp_path / f"run{i}" / "metrics.jsonl", [{"env_steps": 7 + i, "loss": 1.0}])
        os.utime(tmp_path / f"run{i}" / "metrics.jsonl", (1000 + i, 1000 + i))
    found = RunIndex([tmp_path])
    found.refresh(0)
    assert [run.summary()["env_steps"] for run in found.all()] == [0, 0, 0]
    found.refresh(10)
    assert [run.summary()["env_steps"] for run in found.all()] == [7, 8, 9]
    assert [run.summary()["modified"] for run in found.all()] == [1000, 1001, 1002]
    longer = text.replace("env_steps: 400", "env_steps: 800")
    assert longer != text
    (tmp_path / "run0" / "config.yaml").write_text(longer)
    found.refresh(10)
    assert found.get(0).summary()["target"] == 800


# ------------------------------------------------------------------------------------------------------------ server


def test_pages_and_numbers(server, runs):
    for path in ("/", "/play", "/static/watch.js", "/static/uplot.js", "/static/style.css"):
        status, headers, body = ask(server, path)
        assert (status, len(body) > 500) == (200, True), path
        assert "script-src 'self'" in headers["content-security-policy"]
        assert b"<script>" not in body
        assert b"http://" not in body.replace(b"http://www.w3.org", b"").replace(b"http://127.0.0.1", b"")
    found = values(server, "/api/runs")["runs"]
    assert [run["name"] for run in found] == ["square", "sub/cart"]
    assert found[0]["env_steps"] >= 400
    assert found[0]["live"] is False
    series = values(server, "/api/runs/0/series?keys=world_model/loss,nothing&x=updates&limit=10")["series"]
    assert list(series) == ["world_model/loss"]
    lines = [json.loads(line) for line in (runs / "square" / "metrics.jsonl").read_text().splitlines()]
    own = [line["world_model/loss"] for line in lines if "world_model/loss" in line]
    assert series["world_model/loss"]["n"] == len(own)
    returns = values(server, "/api/runs/0/returns")
    played = [json.loads(line) for line in (runs / "square" / "episodes.jsonl").read_text().splitlines()]
    assert returns["train"]["n"] == sum(line["phase"] in ("train", "prefill") for line in played)
    assert len(values(server, "/api/runs/1/episodes")["episodes"]) > 3
    assert values(server, "/api/runs/0/latents") == {"usage": None}
    (runs / "square" / "latents.json").write_text('{"env_steps": 5, "updates": 2, "usage": [[0.5, 0.5]]}')
    assert values(server, "/api/runs/0/latents")["usage"] == [[0.5, 0.5]]
    assert values(server, "/api/runs/0/about")["provenance"]["seed"] == 0
    assert values(server, "/api/runs/0/trust") == {"trust": None}
    (runs / "square" / "trust.json").write_text(json.dumps(TRUST))
    assert values(server, "/api/runs/0/trust") == {"trust": TRUST}
    (runs / "square" / "trust.json").write_text('{"level": "yes"}')
    status, _, body = ask(server, "/api/runs/0/trust")
    assert (status, "is damaged" in json.loads(body)["message"]) == (400, True)
    (runs / "square" / "trust.json").unlink()
    assert any(row["differs"] for row in values(server, "/api/configs?runs=0,1,99,x")["rows"])
    assert values(server, "/api/explain?key=no/such") == {}


def test_videos_are_served_by_number_and_links_are_not(server, runs):
    folder = runs / "square" / "videos"
    folder.mkdir(exist_ok=True)
    (folder / "one.gif").write_bytes(b"GIF89a first")
    (folder / "notes.txt").write_text("secret")
    os.symlink("/etc/passwd", folder / "evil.gif")
    videos = {video["name"]: video["number"] for video in values(server, "/api/runs/0/videos")["videos"]}
    assert "evil.gif" not in videos
    assert "notes.txt" not in videos
    number = videos["one.gif"]
    status, headers, body = ask(server, f"/api/runs/0/videos/{number}")
    assert (status, headers["content-type"], body) == (200, "image/gif", b"GIF89a first")
    (folder / "two.gif").write_bytes(b"GIF89a second")
    assert values(server, "/api/runs/0/videos")["videos"]
    assert ask(server, f"/api/runs/0/videos/{number}")[2] == b"GIF89a first"  # numbers stay
    (folder / "one.gif").unlink()
    os.symlink("/etc/passwd", folder / "one.gif")
    assert ask(server, f"/api/runs/0/videos/{number}")[0] == 404  # exchanged between listing and opening
    for name in ("one.gif", "evil.gif"):  # whatever else reads the run would refuse it
        (folder / name).unlink()


TRAVERSALS = [
    "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static//etc/passwd",
    "/static/app.py", "/api/runs/0/videos/..%2f..%2fconfig.yaml", "/api/runs/0/videos/-1", "/api/runs/-1/about",
    "/api/runs/99/about", "/api/runs/..%2f0/about", "/api/runs/0/jobs/__class__", "/api/dreams/x.gif",
    "/api/dreams/..%2f..%2fetc%2fpasswd.gif", "/api/runs/0/config.yaml", "/../../etc/passwd", "//etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_from_outside_is_opened(server, path):
    status, _, body = ask(server, path)
    assert status == 404, body
    assert b"root:" not in body


def test_only_reading(server):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(server, "/api/runs", method=method)[0] == 405
    assert ask(server, "/", method="HEAD")[0] == 200


def test_foreign_names_and_sites_are_turned_away(server):
    where = address(server)
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::1"):
        assert ask(server, "/api/runs", Host=host)[0] in (400, 421), host
    for host in ("localhost:9000", "127.0.0.1", "[::1]:8770"):  # an ssh tunnel has another port
        assert ask(server, "/api/runs", Host=host)[0] == 200, host
    for origin in ("http://evil.example", "null", f"http://{where}.evil.example", "http://localhost:1", "file://"):
        assert ask(server, "/api/runs", Origin=origin)[0] == 403, origin
    assert ask(server, "/api/runs", Origin=f"http://{where}")[0] == 200
    assert ask(server, "/api/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link to the page


def test_a_websocket_needs_the_pages_own_origin(server):
    for origin in ("http://evil.example", None, "null"):
        with pytest.raises(InvalidStatus) as refused:
            play(server, origin=origin)
        assert refused.value.response.status_code == 403


def test_the_token_lets_in_and_only_the_right_one(runs):
    with serving(runs, host="0.0.0.0") as served:
        token = served.url.partition("token=")[2]
        assert len(token) > 40
        assert ask(served, "/")[0] == 403
        assert ask(served, "/api/runs", Cookie="nonsense; =; reverie-1=x")[0] == 403
        for wrong in ("", token[:-1], token + "x", "%ff%00"):
            assert ask(served, f"/?token={wrong}")[0] == 403
        status, headers, _ = ask(served, f"/?token={token}&run=1")
        assert (status, headers["location"]) == (303, "/?run=1")  # out of the address bar
        assert "HttpOnly" in headers["set-cookie"]
        assert headers["referrer-policy"] == "no-referrer" if "referrer-policy" in headers else True
        cookie = headers["set-cookie"].partition(";")[0]
        assert ask(served, "/api/runs", Cookie=cookie)[0] == 200
        assert ask(served, "/api/runs", Cookie=cookie, Host="evil.example")[0] == 421  # a name that was rebound
        assert ask(served, "/api/runs", Cookie=cookie, Host="10.1.2.3:8770")[0] == 200  # an address cannot be
        with pytest.raises(InvalidStatus):
            play(served)
        with play(served, additional_headers={"Cookie": cookie}) as socket:
            assert say(socket, do="look")["type"] == "error"  # in, but nothing has begun


def test_live_lines_and_a_file_that_is_cut(runs, tmp_path):
    run = tmp_path / "live"
    run.mkdir()
    (run / "config.yaml").write_text((runs / "square" / "config.yaml").read_text())
    write(run / "metrics.jsonl", [{"env_steps": 1, "updates": 1, "seconds": 1.0, "loss": 2.0}])
    with serving(run) as served:
        values(served, "/api/runs")
        connection = http.client.HTTPConnection("127.0.0.1", served.socket.getsockname()[1], timeout=10)
        connection.request("GET", "/api/events")
        stream = connection.getresponse()
        assert stream.getheader("content-type").startswith("text/event-stream")

        def next_event(name):
            kind = ""
            while True:
                line = stream.readline().decode().strip()
                if line.startswith("event:"):
                    kind = line[7:]
                if line.startswith("data:") and kind == name:
                    return json.loads(line[6:])

        next_event("hello")
        write(run / "metrics.jsonl", [{"env_steps": 2, "updates": 2, "seconds": 2.0, "loss": 1.5}], "a")
        news = next_event("lines")
        assert [line["metrics"]["loss"] for line in news["lines"]] == [1.5]
        write(run / "metrics.jsonl", [{"env_steps": 1, "loss": 9.0}])
        assert next_event("lines") == {"id": 0, "again": True}
        assert values(served, "/api/runs/0/series?keys=loss")["series"]["loss"]["y"] == [9.0]
        connection.close()
        stream.close()
        until(lambda: not served.dashboard.live.listeners, 20)


def test_answers_that_take_time(runs, server, monkeypatch):
    """The doctor is a fake, but is started and reported like the real one."""
    go = threading.Event()
    fake = SimpleNamespace(
        diagnose=lambda path: [Finding("actor collapsed", "FAIL", f"entropy {path.name}", "", "", "")]
    )
    monkeypatch.setitem(sys.modules, "reverie.insight.doctor", fake)

    def slow(path):
        go.wait(10)
        return run_doctor(path)

    def wrong(path):
        raise UserError("no replay.", "Train longer.")

    def broken(path):
        raise RuntimeError("oh")

    with serving(runs, jobs={"doctor": slow, "drift": wrong, "dream": broken}) as served:
        assert values(served, "/api/runs/0/jobs/doctor") == {"state": "idle"}
        assert start(served, "/api/runs/0/jobs/doctor") == {"state": "running"}
        assert start(served, "/api/runs/0/jobs/doctor") == {"state": "running"}  # not twice
        go.set()
        until(lambda: values(served, "/api/runs/0/jobs/doctor")["state"] == "done")
        found = values(served, "/api/runs/0/jobs/doctor")["result"]
        assert (found[0]["verdict"], found[0]["evidence"]) == ("actor collapsed", "entropy square")
        start(served, "/api/runs/0/jobs/drift")
        until(lambda: values(served, "/api/runs/0/jobs/drift")["state"] == "failed")
        assert values(served, "/api/runs/0/jobs/drift")["hint"] == "Train longer."
        start(served, "/api/runs/1/jobs/dream")
        until(lambda: values(served, "/api/runs/1/jobs/dream")["state"] == "failed")
        assert "RuntimeError: oh" in values(served, "/api/runs/1/jobs/dream")["message"]
        assert ask(served, "/api/runs/1/jobs/dream/video.gif")[0] == 404
    start(server, "/api/runs/0/jobs/dream")  # the real one
    until(lambda: values(server, "/api/runs/0/jobs/dream")["state"] == "done", 30)
    assert ask(server, values(server, "/api/runs/0/jobs/dream")["result"])[2][:4] == b"GIF8"


# ------------------------------------------------------------------------------------------- playing over the network


def test_a_dream_over_the_websocket(server, opened):
    with play(server) as socket:
        assert say(socket, do="step", choices=[1])["message"] == "no dream has begun."
        begun = say(socket, do="start", run=0, seed=3, context=4)
        assert (begun["type"], begun["step"], begun["context"]["length"]) == ("started", 0, 4)
        assert len(begun["context"]["images"]["observation"]) == 4
        right = say(socket, do="step", choices=[2])
        local = start_session(opened, seed=3, context=4)
        local.step(action_of(opened.agent, {"choices": [2]}))
        url = right["images"]["observation"][0]
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert np.array_equal(np.asarray(image), local.prediction().images["observation"][0])
        assert right["value"][0] == pytest.approx(float(local.prediction().value[0]), rel=1e-3)
        assert say(socket, do="policy", mode="sample")["step"] == 2
        back = say(socket, do="rewind", to=1)
        assert {k: back[k] for k in ("images", "reward", "value", "latent")} == {
            k: right[k] for k in ("images", "reward", "value", "latent")
        }
        assert back["last"] == 2
        assert len(say(socket, do="branch", lanes=3)["images"]["observation"]) == 3
        assert len(say(socket, do="policy")["lanes"]) == 3
        assert len(say(socket, do="keep", row=1)["lanes"]) == 1
        for kind, begins in (("gif", b"GIF8"), ("mp4", b"")):
            if kind in begun["videos"]:
                status, headers, video = ask(server, f"/api/dreams/{begun['session']}.{kind}")
                assert (status, video[: len(begins)]) == (200, begins)
                assert "attachment" in headers["content-disposition"]
        other = say(socket, do="start", run=1, seed=0, context=5)
        assert other["images"] == {}
        assert np.shape(other["vectors"]["observation"]) == (1, 4)
    assert ask(server, f"/api/dreams/{begun['session']}.gif")[0] == 404  # gone with its page


BAD = [
    "", "nonsense", "[]", "3", '{"do": "fly"}', '{"do": ["step"]}', '{"do": "start"}', "[" * 5000,
    '{"do": "start", "run": 99, "seed": 0, "context": 5}', '{"do": "start", "run": true, "seed": 0, "context": 5}',
    '{"do": "start", "run": -1, "seed": 0, "context": 5}', '{"do": "start", "run": "../x", "seed": 0, "context": 5}',
]  # fmt: skip
BAD_LATER = [
    '{"do": "step"}', '{"do": "step", "choices": [99]}', '{"do": "step", "choices": [NaN]}',
    '{"do": "step", "choices": 1}',
    '{"do": "step", "choices": [1], "numbers": [1]}', '{"do": "rewind", "to": 99}', '{"do": "rewind", "to": 1e400}',
    '{"do": "branch", "lanes": 1000000}',
    '{"do": "branch", "lanes": 0}', '{"do": "keep", "row": 5}', '{"do": "rewind"}',
]  # fmt: skip


def test_bad_messages_are_answered_and_do_no_harm(server):
    with play(server) as socket:
        for text in BAD:
            socket.send(text)
            assert json.loads(socket.recv(timeout=20))["type"] == "error", text
        assert say(socket, do="start", run=0, seed=0, context=2**30)["type"] == "started"
        for text in BAD_LATER:
            socket.send(text)
            assert json.loads(socket.recv(timeout=20))["type"] == "error", text
        assert say(socket, do="step", choices=[1])["type"] == "frame"


def test_a_huge_message_ends_the_connection_and_not_the_server(server):
    with play(server) as socket:
        with suppress(ConnectionClosed):  # it may be closed while we still send
            socket.send("x" * 2_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
        assert closed.value.rcvd is None or closed.value.rcvd.code in (1009, 1011)
    with play(server) as socket:
        socket.send(b"bytes")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
    until(lambda: not server.dashboard.play_server.clients)
    assert ask(server, "/")[0] == 200


def test_the_ninth_player_has_to_wait(server):
    until(lambda: not server.dashboard.play_server.clients)
    with ExitStack() as pages:
        for _ in range(8):
            pages.enter_context(play(server))
        until(lambda: len(server.dashboard.play_server.clients) == 8)
        with play(server) as late:
            assert "8 dreams" in json.loads(late.recv(timeout=10))["message"]
            with pytest.raises(ConnectionClosed):
                late.recv(timeout=10)
    until(lambda: not server.dashboard.play_server.clients)
    with play(server) as socket:
        assert say(socket, do="start", run=1, seed=0, context=5)["type"] == "started"


def test_a_newer_checkpoint_is_loaded_at_the_next_start(tmp_path):
    path = train_vectors(tmp_path / "run", env_steps=200)
    with serving(path) as served, play(served) as socket:
        assert say(socket, do="start", run=0, seed=0, context=5)["env_steps"] < 300
        train_vectors(path, env_steps=400)
        assert say(socket, do="step", choices=[0])["type"] == "frame"  # the old one is still played
        assert say(socket, do="start", run=0, seed=0, context=5)["env_steps"] >= 400


# -------------------------------------------------------------------------------------------------------- command line


def test_mistakes_of_the_command_line(tmp_path):
    with pytest.raises(UserError, match="is not an address"):
        prepare(RunIndex([tmp_path]), host="no.such.host.invalid")
    first = prepare(RunIndex([tmp_path]), port=0)
    first.socket.listen()
    with pytest.raises(UserError, match="Choose another --port"):
        prepare(RunIndex([tmp_path]), port=first.socket.getsockname()[1])
    first.socket.close()
    done = subprocess.run(
        [sys.executable, "-m", "reverie.cli", "watch", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "no directory nowhere" in done.stderr


def test_without_the_packages_the_error_names_them(tmp_path):
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from reverie.cli import main\n"
        f"sys.exit(main(['watch', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "pip install 'reverie-rl[web]'" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_the_command_is_ready_in_a_second_or_two_and_needs_no_torch(runs):
    """The figure in docs/watch.md is measured on an idle machine; here the limit is generous."""
    code = "import sys, reverie.web.app, reverie.web.server, reverie.commands.watch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
    began = time.monotonic()
    command = [sys.executable, "-m", "reverie.cli", "watch", str(runs), "--port", "0", "--json"]
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None  # noqa: E731  a background shell
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        printed = json.loads(process.stdout.readline())
        assert printed["runs"] == ["square", "sub/cart"]
        assert time.monotonic() - began < 15
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0  # Ctrl-C is the usual end


def test_json_has_no_nan():
    assert finite({"a": [float("nan"), 1.5, (float("inf"), "x")], 3: None}) == {
        "a": [None, 1.5, [None, "x"]],
        "3": None,
    }


def test_every_asset_is_listed_and_there():
    from importlib.resources import files

    from reverie.web.app import ASSETS
    from reverie.web.human import ASSETS as HUMAN

    there = {entry.name for entry in (files("reverie.web") / "static").iterdir()}
    assert there == set(ASSETS) | set(HUMAN) | {"head.html"}  # which is a part of others
    assert "Permission is hereby granted" in (files("reverie.web") / "static" / "uplot-LICENSE.txt").read_text()


@pytest.mark.parametrize(("name", "title"), [("play", "inside the dream"), ("human", "record by hand")])
def test_pages_that_are_played_share_their_head(name, title):
    from reverie.web.assets import page

    text, index = page(f"{name}.html"), page("index.html")
    assert text.startswith("<!doctype html>\n<html")
    assert f"<title>Reverie: {title}</title>" in text
    assert text.count("<head>") == text.count("</head>") == text.count("<body") == text.count('type="module"') == 1
    assert f'src="/static/{name}.js"' in text
    assert "$" not in text
    assert index.startswith("<!doctype html>")  # a page with a head of its own is as it is


# ------------------------------------------------------------------------------------------------- what others may send


def copied_run(runs, folder):
    """A run with a configuration and nothing else."""
    folder.mkdir()
    (folder / "config.yaml").write_text((runs / "square" / "config.yaml").read_text())
    return folder


HUGE = ['{"env_steps": 1' + "0" * 400 + "}", '{"env_steps": 5, "loss": 1' + "0" * 400 + "}", '{"loss": 1e999}', "[1]"]
HUGE += [
    '{"env_steps": "x", "loss": {}}',
    "{" * 5000,
    '{"\\ud800": 1, "phase": 5}',
    "\x00",
    '"' + "a" * 3_000_000 + '"',
]


@pytest.mark.parametrize("text", HUGE)
def test_an_odd_line_does_not_end_the_news(runs, tmp_path, text):
    from reverie.web.app import Dashboard

    run = copied_run(runs, tmp_path / "live")
    write(run / "metrics.jsonl", [{"env_steps": 1, "loss": 2.0}])
    dashboard = Dashboard(RunIndex([run]))
    dashboard.live._new_lines()
    with open(run / "metrics.jsonl", "a") as file:
        file.write(text + "\n")
    dashboard.live._new_lines()
    write(run / "metrics.jsonl", [{"env_steps": 2, "loss": 1.5}], "a")
    (news,) = dashboard.live._new_lines()
    assert news["lines"][-1] == {"metrics": {"env_steps": 2, "loss": 1.5}}
    assert dashboard.runs.get(0).series(["loss"], "env_steps", 100)["series"]["loss"]["y"] == [2.0, 1.5]
    dashboard.close()


def test_a_run_that_cannot_be_read_is_named_and_the_others_go_on(runs, tmp_path, monkeypatch):
    for name in ("a", "b"):
        write(copied_run(runs, tmp_path / name) / "metrics.jsonl", [{"env_steps": 1, "loss": 2.0}])
    index = RunIndex([tmp_path])
    monkeypatch.setattr(index.get(0)._metrics_file, "read", lambda: 1 / 0)
    index.refresh(10)
    assert "ZeroDivisionError" in index.get(0).summary()["trouble"]
    assert index.get(1).keys() == ["loss"]


def test_a_long_line_is_passed_over_in_linear_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"a": 1}\n{"x": "' + b"a" * 40_000_000 + b'"}\n{"a": 2}\n')
    follow, begun = JsonlTail(path), time.process_time()
    assert follow.read() == (False, [{"a": 1}, {"a": 2}])
    assert time.process_time() - begun < 2
    with open(path, "ab") as file:
        file.write(b'{"x": "' + b"a" * 9_000_000)
    assert follow.read() == (False, [])
    with open(path, "ab") as file:
        file.write(b'aa"}\n{"a": 3}\n')
    assert follow.read() == (False, [{"a": 3}])


@pytest.mark.parametrize("name", ["metrics.jsonl", "provenance.json", "videos", "videos/eval-1.gif", "config.yaml"])
def test_the_dashboard_follows_no_link_and_waits_for_no_pipe(runs, tmp_path, name):
    from reverie.web.runs import WatchedRun

    run = copied_run(runs, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "eval-1.gif").write_bytes(b'{"secret": 1}\n')
    for kind in ("link", "pipe"):
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "mine" if name == "videos" else tmp_path / "mine" / "eval-1.gif")
        watched = WatchedRun(0, run, "run")
        watched.refresh_or_say()
        found = [watched.keys(), watched.read_json("provenance.json"), watched.videos(), watched.video(0)]
        assert found == [[], None, [], None]


def test_links_back_to_the_same_folder_are_searched_once(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).symlink_to(tmp_path)
    begun = time.monotonic()
    assert RunIndex([tmp_path]).all() == []
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("path", ["/api/runs/{}/about", "/api/runs/0/videos/{}", "/api/configs?runs=0,{}", "/api/{}"])
def test_numbers_of_thousands_of_digits_are_no_fault_of_the_server(server, path):
    for count in (25, 4400, 7900):
        assert ask(server, path.format("9" * count))[0] in (200, 404, 414)


def test_only_the_page_itself_starts_a_job(server):
    where, path = f"http://{address(server)}", "/api/runs/0/jobs/drift"
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(server, f"{path}?start=1", **link)[0] == 403  # a link on another page
    assert ask(server, f"{path}?start=1")[2] == b'{"state":"idle"}'
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": where, **link}):
        assert ask(server, path, method="POST", **headers)[0] == 403, headers
    assert values(server, path) == {"state": "idle"}
    assert ask(server, "/api/runs/0/about", method="POST", Origin=where)[0] == 405


def test_no_more_pages_than_allowed_even_at_once(runs, monkeypatch):
    import asyncio

    from starlette.exceptions import HTTPException

    from reverie.web import app

    monkeypatch.setattr(app, "MOST_LISTENERS", 3)

    async def come():
        live, refused, places = app.LiveUpdates(RunIndex([runs])), 0, []
        for _ in range(5):  # none of them has read anything yet
            try:
                places.append(live.join())
            except HTTPException:
                refused += 1
        assert (len(live.listeners), refused) == (3, 2)
        response = app._Events(lambda: live.leave(places[0]), live.events(places[0]))

        async def broken(*_):
            raise OSError

        with pytest.raises(BaseException):  # noqa: B017  gone before its first byte
            await response({"type": "http", "method": "GET", "asgi": {}}, broken, broken)
        assert len(live.listeners) == 2
        live.listeners.clear()

    asyncio.run(come())


def test_half_a_request_is_not_waited_for(runs, monkeypatch):
    import socket as sockets

    from reverie.web import connections

    monkeypatch.setattr(connections.LimitedProtocol, "arrive_seconds", 0.3)
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    with serving(runs) as served:
        place = ("127.0.0.1", served.socket.getsockname()[1])
        whole = f"GET /api/runs HTTP/1.1\r\nHost: {address(served)}\r\n\r\n".encode()
        body = whole.replace(b"GET", b"POST")[:-2] + b"Content-Length: 9\r\n\r\nx"
        for begun in (b"", b"GET / HTTP/1.1\r\nHo", body):
            with sockets.create_connection(place, timeout=5) as one:
                one.sendall(begun)
                until(lambda one=one: not one.recv(65536), 5)  # closed
        with sockets.create_connection(place, timeout=5) as one:  # kept alive, then the next one half
            one.sendall(whole)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
            one.sendall(whole[:9])
            until(lambda: not one.recv(65536), 5)
        with ExitStack() as stack:
            many = [stack.enter_context(sockets.create_connection(place, timeout=5)) for _ in range(12)]
            until(lambda: len(served.server.server_state.connections) <= 4, 5)
            assert many

        def answers():
            with suppress(OSError):  # one of those before may still count
                return ask(served, "/api/runs")[0] == 200

        until(answers, 5)
