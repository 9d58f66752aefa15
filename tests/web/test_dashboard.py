"""States, notes, deletion, files and findings of the dashboard: small made-up runs behind the real server."""

import csv
import http.client
import io
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from web_runs import serving

from reverie.config import build, to_dict
from reverie.errors import Stopped, UserError
from reverie.guard.lock import NAME as LOCK
from reverie.guard.lock import RunLock
from reverie.insight.doctor_record import read_findings, write_findings
from reverie.ranks import ALONE
from reverie.run.ending import read_end, recorded_end

pytest.importorskip("starlette", reason="the extra `web` is not installed: pip install 'reverie-rl[web]'")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from PIL import Image

from reverie.web.frame_sheet import frame_sheet
from reverie.web.notes import LONGEST_NOTE, MOST_TAGS, read_notes, write_notes
from reverie.web.run_status import progress_of, status_of
from reverie.web.runs import RunIndex

HOSTILE = ["<img src=x onerror=alert(1)>", "$HOME `id` {x}", "a\x1b[31mb", "=1+1", "naïve 名前", 'x"y']
FINDING = {"verdict": "prior not learning", "level": "WARN", "evidence": "KL 9", "why": "", "key": "", "change": ""}


def make_run(path, **settings):
    """A run of 400 steps with three lines and three episodes."""
    path.mkdir(parents=True)
    given = {"env.id": "CartPole-v1", "train.env_steps": 400, **settings}
    (path / "config.yaml").write_text(yaml.safe_dump(to_dict(build(given))))
    for step in (100, 200, 300):
        append(
            path / "metrics.jsonl", {"env_steps": step, "seconds": step / 10, "updates": step // 2, "loss": 1 / step}
        )
        append(
            path / "episodes.jsonl", {"phase": "train", "env_steps": step, "frames": step, "return": 5.0, "length": 5}
        )
    return path


def append(path, line):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summary_of(path):
    index = RunIndex([path])
    index.refresh(5)
    return index.all()[0].summary()


def state_of(path):
    return summary_of(path)["state"]


@pytest.fixture
def served(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name, **{"train.seed": int(name == "b")})
    with serving(tmp_path / "runs") as server:
        yield server


def request(served, path, body=None, **headers):
    """-> status, headers, values or text. A body is sent as the page does, unless headers say otherwise."""
    where = f"127.0.0.1:{served.socket.getsockname()[1]}"
    connection = http.client.HTTPConnection(where, timeout=20)
    own = {} if body is None else {"Origin": f"http://{where}", "Content-Type": "application/json"}
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    kept = {key: value for key, value in (own | given).items() if value is not None}
    connection.request("GET" if body is None else "POST", path, body=sent, headers=kept)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    try:
        return answer.status, dict(answer.getheaders()), json.loads(text)
    except ValueError:
        return answer.status, dict(answer.getheaders()), text


def listed(served):
    return {run["name"]: run for run in request(served, "/api/runs")[2]["runs"]}


# ------------------------------------------------------------------------------------------------------------- states


def test_a_process_that_trains_and_is_killed(tmp_path):
    run = make_run(tmp_path / "run")
    code = "import sys, time; from pathlib import Path; from reverie.guard.lock import RunLock\n"
    code += "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert state_of(run) == "training"
        process.send_signal(signal.SIGKILL)
    found = summary_of(run)
    assert (found["state"], found["live"]) == ("crashed", False)
    assert "was killed" in found["reason"]
    RunLock(run).acquire()  # the same command continues it: and lets go of it again
    assert not (run / LOCK).exists()
    assert state_of(run) == "stopped"


@pytest.mark.parametrize(
    ("record", "state", "reason"),
    [
        (
            {"state": "done", "reason": "train.minutes"},
            "stopped",
            "its limit was raised",
        ),  # 300 of 400 steps, no minutes
        ({"state": "stopped", "reason": "SIGTERM"}, "stopped", "SIGTERM"),
        ({"state": "crashed", "reason": "<b>oh</b>"}, "crashed", "<b>oh</b>"),
        ({"state": "flying", "reason": ""}, "stopped", ""),
        ({"state": ["done"], "reason": 5}, "stopped", ""),
    ],
)
def test_what_a_run_wrote_when_it_ended(tmp_path, record, state, reason):
    run = make_run(tmp_path / "run")
    (run / "end.json").write_text(json.dumps(record))
    found = summary_of(run)
    assert found["state"] == state
    assert found["reason"].startswith(reason)


def test_runs_of_older_versions_say_it_by_their_limits(tmp_path):
    assert state_of(make_run(tmp_path / "short")) == "stopped"
    assert state_of(make_run(tmp_path / "whole", **{"train.env_steps": 300})) == "done"
    assert state_of(make_run(tmp_path / "timed", **{"train.minutes": 0.5})) == "done"
    broken = make_run(tmp_path / "broken")
    (broken / "crash").mkdir()
    assert state_of(broken) == "crashed"
    skipping = make_run(tmp_path / "skipping", **{"train.on_nonfinite": "skip"})
    (skipping / "crash").mkdir()  # the report of an update that was left out
    assert state_of(skipping) == "stopped"


def test_progress_is_that_of_the_limit_which_comes_first(tmp_path):
    config = build({"env.id": "CartPole-v1", "train.env_steps": 1000, "train.minutes": 2})
    assert progress_of(config, 250, 12) == (0.25, "train.env_steps")
    assert progress_of(config, 250, 60) == (0.5, "train.minutes")
    assert progress_of(config, 5000, 0) == (1.0, "train.env_steps")
    assert progress_of(build({"env.id": "CartPole-v1", "train.env_steps": 1000}), 100, 9e9) == (0.1, "train.env_steps")
    assert status_of(tmp_path, None, progress_of(config, 0, 0)).state == "stopped"


@pytest.mark.parametrize(
    ("end", "error", "expected"),
    [
        ("train.env_steps", None, ("done", "train.env_steps")),
        ("train.minutes", None, ("done", "train.minutes")),
        ("SIGTERM", None, ("stopped", "SIGTERM")),
        ("", None, ("stopped", "asked to stop")),
        ("SIGINT", Stopped(), ("stopped", "SIGINT")),
        ("", KeyboardInterrupt(), ("stopped", "interrupted")),
        ("", ValueError("no \x1b[2J"), ("crashed", "ValueError: no \\x1b[2J")),
        ("", UserError("the disk is full.", "Free it."), ("crashed", "the disk is full.")),
    ],
)
def test_a_run_records_how_it_ended(tmp_path, end, error, expected):
    run = SimpleNamespace(ranks=ALONE, root=tmp_path, end=lambda: end, lock=SimpleNamespace(check=lambda: None))
    (tmp_path / "end.json").write_text('{"state": "done", "reason": "earlier"}')
    caught = None
    try:
        with recorded_end(run):
            assert read_end(tmp_path) is None  # it no longer describes the run
            if error is not None:
                raise error
    except BaseException as raised:
        caught = raised
    assert caught is error
    assert read_end(tmp_path) == expected


# -------------------------------------------------------------------------------------------------------------- notes


def test_notes_tags_and_hiding(served, tmp_path):
    text = "tried <b>more</b> $x \x1b[2J"
    status, _, kept = request(
        served, "/api/runs/0/notes", {"name": "a", "note": text, "tags": [" x<y ", "x<y", "", "b"]}
    )
    assert (status, kept["tags"], kept["hidden"]) == (200, ["x<y", "b"], False)
    assert kept["note"] == "tried <b>more</b> $x \\x1b[2J"
    assert request(served, "/api/runs/0/notes", {"name": "a", "hidden": True})[2]["note"] == kept["note"]
    found = listed(served)
    assert (found["a"]["hidden"], found["a"]["tags"], found["b"]["hidden"]) == (True, ["x<y", "b"], False)
    assert json.loads((tmp_path / "runs" / "a" / "notes.json").read_text())["tags"] == ["x<y", "b"]
    for wrong in ({"note": 5}, {"note": "x" * (LONGEST_NOTE + 1)}, {"tags": "x"}, {"tags": [5]}, {"hidden": 1},
                  {"tags": [str(i) for i in range(MOST_TAGS + 1)]}, {"tags": ["x" * 31]}):  # fmt: skip
        assert request(served, "/api/runs/0/notes", {"name": "a", **wrong})[0] == 400, wrong
    assert read_notes(tmp_path / "runs" / "a").note == kept["note"]


def test_a_note_follows_no_link_and_reads_no_nonsense(tmp_path):
    run, other = make_run(tmp_path / "run"), tmp_path / "mine.json"
    other.write_text('{"note": "secret"}')
    (run / "notes.json").symlink_to(other)
    assert read_notes(run) == ("", (), False)
    write_notes(run, {"note": "own"})
    assert other.read_text() == '{"note": "secret"}'
    for text in (
        "[",
        "[]",
        '{"note": 5, "tags": {"a": 1}, "hidden": "yes"}',
        '{"tags": [1, "\\u001b"]}',
        "x" * 100_000,
    ):
        (run / "notes.json").write_text(text)
        assert read_notes(run).note == ""
        assert not read_notes(run).hidden


PATHS = ("/api/runs/0/notes", "/api/runs/0/delete")


@pytest.mark.parametrize("path", PATHS)
def test_only_the_page_itself_changes_anything(served, tmp_path, path, files_of):
    before, body = files_of(tmp_path), {"name": "a", "note": "x", "hidden": True}
    for headers in ({"Origin": None}, {"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}):  # fmt: skip
        assert request(served, path, body, **headers)[0] == 403, headers
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a form can send
        assert request(served, path, body, Content_Type=kind)[0] == 415
    assert request(served, path, body, Host="evil.example")[0] == 421
    assert request(served, path)[0] == 405  # a link
    for wrong in (b"", b"[]", b"nonsense", b"[" * 5000, b'{"name": "a"'):
        assert request(served, path, wrong)[0] == 400, wrong
    assert request(served, path, b'{"name": "' + b"x" * 100_000 + b'"}')[0] == 413
    for name in ("b", "", None, ["a"], "A"):  # a page of an earlier server, with other numbers
        assert request(served, path, {"name": name, "note": "x"})[0] == 409, name
    for number in ("9", "-1", "0/../1", "a", "9" * 50):
        assert request(served, path.replace("0", number, 1), body)[0] in (403, 404, 405), number
    assert files_of(tmp_path) == before


# ----------------------------------------------------------------------------------------------------------- deletion


def test_a_run_is_deleted_and_the_others_keep_their_numbers(served, tmp_path):
    run = tmp_path / "runs" / "a"
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "checkpoints" / "step-1" / "weights.safetensors").write_bytes(b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("years of work")
    (run / "videos").symlink_to(outside)
    status, _, answer = request(served, "/api/runs/0/delete", {"name": "a"})
    assert (status, "a link to" in answer["message"]) == (400, True)  # a received run that points elsewhere
    (run / "videos").unlink()
    (run / "videos").symlink_to(run / "checkpoints")
    assert request(served, "/api/runs/0/delete", {"name": "a"})[::2] == (200, {"left": []})
    assert not run.exists()
    assert (outside / "thesis.tex").read_text() == "years of work"
    assert request(served, "/api/runs/0/about")[0] == 404
    assert listed(served)["b"]["id"] == 1
    make_run(run)
    assert listed(served)["a"]["id"] == 2  # another run of the same name is another one


def test_what_is_not_ours_stays(served, tmp_path):
    run = tmp_path / "runs" / "a"
    (run / "thesis.tex").write_text("years of work")
    (run / "data").mkdir()
    (run / "report.html").write_text("ours")
    (run / "replay-notes").mkdir()  # names that are like ours
    (run / ".thesis.tex.old").write_text("months of work")
    for name in ("replay-2", "replay"):
        (run / name).mkdir()
    (run / ".metrics.jsonl.tmp").write_text("")
    left = [".thesis.tex.old", "data", "replay-notes", "thesis.tex"]
    assert request(served, "/api/runs/0/delete", {"name": "a"})[2] == {"left": left}
    assert sorted(path.name for path in run.iterdir()) == left
    assert "a" not in listed(served)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_listed_noted_and_deleted(tmp_path, name):
    make_run(tmp_path / "runs" / name)
    with serving(tmp_path / "runs") as served:
        shown = next(iter(listed(served)))
        assert "\x1b" not in shown
        assert request(served, "/api/runs/0/notes", {"name": shown, "note": "x"})[0] == 200
        assert request(served, "/api/csv?runs=0&keys=loss")[0] == 200
        assert request(served, "/api/runs/0/delete", {"name": shown})[::2] == (200, {"left": []})
    assert list((tmp_path / "runs").iterdir()) == []


def test_links_runs_in_use_and_what_is_no_run_are_not_deleted(tmp_path):
    real = make_run(tmp_path / "real" / "inner")
    root = tmp_path / "runs"
    root.mkdir()
    (root / "link").symlink_to(real)
    (root / "folder").symlink_to(tmp_path / "real")
    make_run(root / "busy")
    make_run(root / "odd")
    lock = RunLock(root / "busy")
    lock.acquire()
    with serving(root) as served:
        found = listed(served)
        (root / "odd" / "config.yaml").write_text("name: my thesis\n")
        for name, why in {"link": "is a link", "folder/inner": "through one", "busy": "is training"}.items():
            status, _, answer = request(served, f"/api/runs/{found[name]['id']}/delete", {"name": name})
            assert (status, why in answer["message"]) == (400, True), answer
        number = found["odd"]["id"]
        assert request(served, f"/api/runs/{number}/delete", {"name": "odd"})[0] == 400
        (root / "odd" / "config.yaml").unlink()
        (root / "odd" / "config.yaml").symlink_to(real / "config.yaml")
        assert "is not a run" in request(served, f"/api/runs/{number}/delete", {"name": "odd"})[2]["message"]
    lock.release()
    assert (real / "metrics.jsonl").exists()
    assert (root / "busy" / "config.yaml").exists()
    assert (root / "odd" / "metrics.jsonl").exists()


def test_parts_of_what_is_learnt_from_data_and_saved_agents_are_no_runs(tmp_path):
    """`reverie train --data` keeps them side by side: what it continues from is not even listed."""
    learnt = tmp_path / "runs" / "learnt"
    for name in ("agent", "resume", "steps"):
        make_run(learnt / name)
    (learnt / "agent" / "weights.safetensors").write_bytes(b"months")
    lock = RunLock(learnt)
    lock.acquire()
    with serving(tmp_path / "runs") as served:
        found = listed(served)
        assert sorted(found) == ["learnt/agent", "learnt/steps"]
        for name, why in {"learnt/agent": "saved agent", "learnt/steps": "is training"}.items():
            status, _, answer = request(served, f"/api/runs/{found[name]['id']}/delete", {"name": name})
            assert (status, why in answer["message"]) == (400, True), answer
    lock.release()
    assert (learnt / "agent" / "weights.safetensors").read_bytes() == b"months"


def test_what_cannot_be_removed_is_said(served, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "rmdir", refuse)
    status, _, answer = request(served, "/api/runs/0/delete", {"name": "a"})
    assert (status, "cannot be removed (Permission denied)" in answer["message"]) == (400, True)


def test_a_run_that_was_moved_away_is_not_made_again(tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(UserError, match="no longer there"):
        write_notes(gone, {"note": "x"})
    write_findings(gone, [{"level": "FAIL"}], updates=1, env_steps=1)
    assert not gone.exists()


def test_below_a_directory_that_is_itself_a_link_runs_can_be_deleted(tmp_path):
    make_run(tmp_path / "disk" / "a")
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with serving(tmp_path / "runs") as served:
        assert request(served, "/api/runs/0/delete", {"name": "a"})[0] == 200
    assert list((tmp_path / "disk").iterdir()) == []


# -------------------------------------------------------------------------------------------------- files and findings


def test_csv_is_tidy_and_no_formula(tmp_path):
    make_run(tmp_path / "runs" / "=cmd|' /C calc'!A0")
    make_run(tmp_path / "runs" / 'b, "c"', **{"train.seed": 7})
    with serving(tmp_path / "runs") as served:
        listed(served)
        status, headers, text = request(served, "/api/csv?runs=0,1,99,x&keys=loss,nothing")
        assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
        assert headers["content-disposition"] == "attachment"
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 6
        assert rows[0] == {"run": "'=cmd|' /C calc'!A0", "task": "CartPole-v1", "seed": "0", "metric": "loss",
                           "env_steps": "100", "seconds": "10", "updates": "50", "value": "0.01"}  # fmt: skip
        assert (rows[-1]["run"], rows[-1]["seed"]) == ('b, "c"', "7")
        played = list(csv.DictReader(io.StringIO(request(served, "/api/csv?runs=1")[2])))
        assert [row["env_steps"] for row in played] == ["100", "200", "300"]
        assert played[0]["return"] == "5"
        assert request(served, "/api/csv?runs=")[2] == "run,task,seed,phase,env_steps,seconds,return,length\n"


def test_what_the_doctor_found_is_there_at_once(served, tmp_path):
    run = tmp_path / "runs" / "a"
    assert request(served, "/api/runs/0/findings")[2] == {"found": None}
    assert listed(served)["a"]["doctor"] is None
    write_findings(run, [FINDING | {"level": "OK"}, FINDING], updates=7, env_steps=70)
    assert listed(served)["a"]["doctor"] == {"level": "WARN", "updates": 7, "count": 2}
    found = request(served, "/api/runs/0/findings")[2]["found"]
    assert (found["env_steps"], found["findings"][1]) == (70, FINDING)
    for text in ("", "[]", "{}", '{"updates": 1, "env_steps": 1, "findings": []}',
                 json.dumps({"updates": None, "env_steps": 1, "findings": [FINDING]}),
                 json.dumps({"updates": 1, "env_steps": 1, "findings": [FINDING | {"level": "<b>"}]}),
                 json.dumps({"updates": 1, "env_steps": 1, "findings": [FINDING | {"why": 5}]})):  # fmt: skip
        (run / "doctor.json").write_text(text)
        assert read_findings(run) is None, text


def test_units_groups_and_videos_are_labelled(served, tmp_path):
    run = tmp_path / "runs" / "a"
    append(run / "metrics.jsonl", {"env_steps": 300, "world_model/kl": 1.0})
    for score in (1.0, 3.0):
        append(run / "episodes.jsonl", {"phase": "eval", "env_steps": 200, "frames": 200, "return": score, "length": 3})
    (run / "videos").mkdir()
    for name in ("eval-000000200.gif", "eval-000000250.gif", "play.gif"):
        (run / "videos" / name).write_bytes(gif())
    answer = request(served, "/api/runs")[2]
    assert answer["units"]["world_model/kl"] == "nats per state"
    assert answer["units"]["loss"] == ""
    assert answer["runs"][0]["group"] == answer["runs"][1]["group"] != ""  # they differ in their seed alone
    other = make_run(tmp_path / "runs" / "c", **{"behavior.gamma": 0.9})
    assert summary_of(other)["group"] != answer["runs"][0]["group"]
    found = {video["name"]: video for video in request(served, "/api/runs/0/videos")[2]["videos"]}
    assert (found["eval-000000200.gif"]["env_steps"], found["eval-000000200.gif"]["return"]) == (200, 2.0)
    assert "return" not in found["eval-000000250.gif"]
    assert "env_steps" not in found["play.gif"]
    sheet = request(served, f"/api/runs/0/videos/{found['play.gif']['number']}/frames")[2]
    assert (sheet["width"], sheet["height"], sheet["ms"]) == (8, 6, [50, 50, 200])
    (run / "videos" / "play.gif").write_bytes(b"no GIF")
    assert request(served, f"/api/runs/0/videos/{found['play.gif']['number']}/frames")[0] == 400
    os.symlink("/etc/passwd", run / "videos" / "evil.gif")
    assert request(served, "/api/runs/0/videos/77/frames")[0] == 404
    assert request(served, "/api/runs/0/jobs/dream/frames")[0] == 404


def gif(count=3, size=(8, 6)):
    frames = [Image.new("RGB", size, (40 * i, 0, 0)) for i in range(count)]
    out = io.BytesIO()
    times = [50] * (count - 1) + [200]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return out.getvalue()


def test_a_sheet_has_every_frame_and_a_limit(monkeypatch):
    from reverie.web import frame_sheet as module

    found = frame_sheet(gif(5))
    assert (found["columns"], len(found["ms"])) == (5, 5)
    monkeypatch.setattr(module, "MOST_FRAMES", 2)
    monkeypatch.setattr(module, "MOST_PIXELS", 24)
    small = frame_sheet(gif(5))
    assert (small["width"], small["height"], len(small["ms"])) == (4, 3, 2)
    png = io.BytesIO()
    Image.new("RGB", (8, 6)).save(png, "PNG")
    for wrong in (b"", b"GIF89a", b"nonsense", png.getvalue()):
        with pytest.raises(UserError, match="cannot be read"):
            frame_sheet(wrong)


def test_damaged_bytes_of_a_video_are_a_sentence():
    whole, kinds = gif(5), set()
    for at in range(len(whole)):
        for value in (0, 255, 0x21, 0x2C):
            try:
                frame_sheet(whole[:at] + bytes([value]) + whole[at + 1 :])
            except UserError as error:
                kinds.add(type(error.__cause__))
    assert IndexError in kinds  # which Pillow raises for some
