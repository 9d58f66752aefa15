"""Random run directories through every command and the dashboard: no traceback, no hang, no file touched outside.

    python -m tests.fuzz.run_directories --count 200 --seed 0

Each case is a copy of a tiny real run in which one to three things were changed, as another version, an editor, a full
disk or somebody hostile would: lines, records, tensors, links, pipes, names, missing and huge files. Half of the time
the manifests are made to fit again. Only a sentence (UserError) or a plain answer may come out, within a few seconds.
All of it in one process: a case takes about half a second. A faulty case is printed with its seed, which repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.fuzz.cases import from_command_line, try_seeds
from tests.fuzz.limits import PATIENCE, HangError, Patience, limited

#: Settings of what is learnt from data.
OFFLINE = ["--preset", "debug", "cnn_depth=1", "rnn_hidden_dim=4", "hidden_dim=4", "num_categoricals=2",
           "num_categories=3", "train.batch_size=2", "train.seq_len=6"]  # fmt: skip
SECONDS = 30  # a command's time limit, of computing
TEXTS = ["metrics.jsonl", "episodes.jsonl", "provenance.json", "config.yaml", "latents.json", "first_rows.json",
         "end.json", "doctor.json", "notes.json"]  # fmt: skip
FOLDERS = ["checkpoints", "replay", "videos", "crash", "resume"]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -1e300, 1e300, 10**30, -(10**400), 2**63, "", "x", "1", "nan", "\x1b]0;title\x07",
    "$\\frac{1", "$a$b", "a\nb", "\ud800", "_hidden", "x" * 5000, [], [1], [[[]]], {}, {"a": None}, {"a": {"b": [1]}},
    float("nan"), float("inf"), "../../outside", "/etc/passwd", "evilmod:Evil-v0", "custom:evilmod:E",
    "<script>", "é±中",
]  # fmt: skip
TOKENS = [b"1e999", b"-Infinity", b"1" + b"0" * 5000, b"[" * 3000, b"\xff\xfe", b"\0", b"{", b'"', b"!!python/object:x"]


# -------------------------------------------------------------------------------------------------------------- changes


@dataclass
class Case:
    """One changed run. `done` says what was changed."""

    rng: random.Random
    run: Path
    outside: Path  # a folder with files that nothing may touch
    done: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.done.append(text)

    def pick(self) -> Path:
        """Any file of the run."""
        return self.rng.choice(sorted(path for path in self.run.rglob("*") if path.is_file() and not path.is_symlink()))


def odd_line(case: Case) -> None:
    """A line without a key, with another value, or of another form."""
    name = case.rng.choice(TEXTS[:2])
    path = case.run / name
    if not path.is_file() or path.is_symlink():
        return
    lines = path.read_bytes().splitlines() or [b"{}"]
    at, kind = case.rng.randrange(len(lines)), case.rng.randrange(4)
    try:
        line = json.loads(lines[at])
    except ValueError:
        line = {}
    line = line if isinstance(line, dict) else {}
    key = case.rng.choice(
        [*line, "env_steps", "phase", "return", "frames", "length", "updates", "eval/return", "seconds"]
    )
    if kind == 0:
        line.pop(key, None)
    elif kind == 1:
        line[key] = case.rng.choice(ODD)
    elif kind == 2:
        line = case.rng.choice(ODD)
    text = case.rng.choice(TOKENS) if kind == 3 else json.dumps(line).encode()
    if case.rng.random() < 0.5:
        lines[at] = text
    else:
        lines.append(text)
    path.write_bytes(b"\n".join(lines) + case.rng.choice([b"\n", b""]))
    case.note(f"line {at} of {name}: {text[:80]!r}")


def odd_json(case: Case) -> None:
    """Another value somewhere in a JSON file."""
    files = [path for path in sorted(case.run.rglob("*.json")) if path.is_file() and not path.is_symlink()]
    if not files:
        return
    important = [path for path in files if path.name in ("spec.json", "state.json")]
    path = case.rng.choice(important if important and case.rng.random() < 0.6 else files)
    try:
        values = json.loads(path.read_text())
    except (ValueError, OSError):
        return
    changed = _changed(case, values)
    path.write_text(json.dumps(values if changed is None else changed))
    case.note(f"a value in {path.relative_to(case.run)}")


def odd_setting(case: Case) -> None:
    """Another value somewhere in a configuration, or YAML that is none of ours."""
    path = case.rng.choice(sorted(p for p in case.run.rglob("config.yaml") if not p.is_symlink()) or [case.run])
    if not path.is_file():
        return
    if case.rng.random() < 0.3:
        path.write_bytes(case.rng.choice([*TOKENS, b"a: &x [1]\nb: *x\n", b"- 1\n", b"env: 5\n", b""]))
        case.note(f"other YAML in {path.relative_to(case.run)}")
        return
    try:
        values = yaml.safe_load(path.read_text())
        group = case.rng.choice(sorted(values))
        name = case.rng.choice(sorted(values[group]))
        values[group][name] = case.rng.choice(ODD)
        text = yaml.safe_dump(values)
    except Exception:  # it was changed before
        return
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    case.note(f"{group}.{name} = {str(values[group][name])[:40]!r} in {path.relative_to(case.run)}")


def _changed(case: Case, values: Any) -> Any:
    """Change one value inside of nested ones in place; -> another one where there is nothing inside."""
    here = values
    for _ in range(case.rng.randint(0, 4)):
        inner = list(here.values()) if isinstance(here, dict) else here if isinstance(here, list) else []
        inner = [each for each in inner if isinstance(each, dict | list) and each]
        if not inner:
            break
        here = case.rng.choice(inner)
    if isinstance(here, dict) and here:
        key = case.rng.choice(list(here))
        if case.rng.random() < 0.3:
            del here[key]
        else:
            here[key] = case.rng.choice(ODD)
        return None
    if isinstance(here, list) and here:
        here[case.rng.randrange(len(here))] = case.rng.choice(ODD)
        return None
    return case.rng.choice(ODD)


def binary_junk(case: Case) -> None:
    """Bytes of a file are changed, cut off or added."""
    path = case.pick()
    data = bytearray(path.read_bytes())
    kind = case.rng.randrange(4)
    if kind == 0 and data:
        for _ in range(case.rng.randint(1, 20)):
            data[case.rng.randrange(min(len(data), 4000))] = case.rng.randrange(256)
    elif kind == 1:
        data = data[: case.rng.randint(0, len(data))]
    elif kind == 2:
        data += case.rng.randbytes(case.rng.randint(1, 3000))
    else:
        data = bytearray(case.rng.choice(TOKENS))
    path.write_bytes(data)
    case.note(f"junk in {path.relative_to(case.run)}")


def odd_tensors(case: Case) -> None:
    """Tensors that are NaN, of another shape or kind, missing, or too many."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    files = [path for path in sorted(case.run.rglob("*.safetensors")) if path.is_file() and not path.is_symlink()]
    if not files:
        return
    path = case.rng.choice(files)
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            meta = file.metadata()
    except Exception:  # changed before
        return
    name = case.rng.choice(sorted(tensors) or ["x"])
    value = tensors.get(name, torch.zeros(3))
    kinds: list[Callable[[], Any]] = [
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value,
        lambda: torch.full_like(value, float("inf")) if value.is_floating_point() else value,
        lambda: torch.zeros(case.rng.choice([(), (0,), (1,), (2, 3), (1, 1, 1, 1)])),
        lambda: value.to(case.rng.choice([torch.float64, torch.int64, torch.bfloat16, torch.bool, torch.uint8])),
        lambda: value[:-1].clone() if value.ndim else value,
        lambda: value * 1e30 if value.is_floating_point() else value,
    ]
    kind = case.rng.randrange(len(kinds) + 1)
    if kind == len(kinds):
        tensors.pop(name, None)
    else:
        tensors[name] = kinds[kind]().contiguous()
    if meta and case.rng.random() < 0.3:
        meta = {key: case.rng.choice(["[0]", "[5, 5]", "[-3, 2]", "x", "[1e9, 1]", "{}"]) for key in meta}
    save_file(tensors, path, metadata=meta)
    case.note(f"tensor {name} ({kind}) of {path.relative_to(case.run)}")


def link_out(case: Case) -> None:
    """A name of the run's is a link to a file or folder outside, to itself, or to nothing."""
    names = [*TEXTS, *FOLDERS, ".lock", "curve.png", "report.html", "latents.png", "wandb_id", ".metrics.jsonl.tmp",
             ".report.html.tmp", ".curve.png.tmp", "tensorboard", "ring", "videos/eval-999999999.gif",
             "videos/play.gif", "checkpoints/best", "checkpoints/step-000000000999"]  # fmt: skip
    inner = [str(path.relative_to(case.run)) for path in case.run.rglob("*") if path.is_file()]
    name = case.rng.choice([*names, case.rng.choice(sorted(inner) or names)])
    path = case.run / name
    target = case.rng.choice(
        [case.outside / "file.txt", case.outside / "folder", path, case.outside / "absent", "/dev/zero"]
    )
    if not _clear(path):
        return
    path.symlink_to(target)
    case.note(f"{name} -> {target}")


def pipe(case: Case) -> None:
    """A name of the run's is a pipe, or a directory."""
    path = case.pick()
    if case.rng.random() < 0.2:
        path = case.run / case.rng.choice(
            [".lock", "latents.json", "videos/eval-999999999.gif", "report.html", "curve.png"]
        )
    if not _clear(path):
        return
    if case.rng.random() < 0.7:
        os.mkfifo(path)
    else:
        path.mkdir()
    case.note(f"{path.relative_to(case.run)} is a pipe or a directory")


def _clear(path: Path) -> bool:
    """Make room for something of another kind. -> is there room?"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return not path.parent.is_symlink()


def missing(case: Case) -> None:
    """A file or a folder is gone."""
    path = case.pick() if case.rng.random() < 0.7 else case.run / case.rng.choice(FOLDERS)
    if _clear(path):
        case.note(f"no {path.relative_to(case.run)}")


def huge(case: Case) -> None:
    """A file is larger than any can be (it takes no space), or has one long line."""
    path = case.pick()
    if case.rng.random() < 0.5:
        os.truncate(path, case.rng.choice([2**33, 2**40]))
        case.note(f"{path.relative_to(case.run)} is huge")
    else:
        path = case.run / case.rng.choice(TEXTS[:2])
        if path.is_file() and not path.is_symlink():
            with open(path, "ab") as file:
                file.write(b'{"env_steps": "' + b"a" * 3_000_000 + case.rng.choice([b'"}\n', b""]))
            case.note(f"a long line in {path.name}")


CHANGES = [
    *(odd_line, odd_line, odd_line, odd_json, odd_json, odd_setting, odd_setting, odd_tensors, odd_tensors),
    *(binary_junk, link_out, pipe, missing, huge),
]


def change(case: Case) -> None:
    """One to three changes; then, half of the time, manifests that fit."""
    from reverie.files import MANIFEST, manifest_of

    for _ in range(case.rng.choice([1, 1, 2, 3])):
        with contextlib.suppress(OSError, IndexError):  # what was changed before stands in the way
            case.rng.choice(CHANGES)(case)
    if case.rng.random() < 0.7:
        for path in sorted(case.run.rglob(MANIFEST)):
            with contextlib.suppress(Exception):
                if (
                    path.is_file()
                    and not path.is_symlink()
                    and sum(p.stat().st_size for p in path.parent.iterdir()) < 2**28
                ):
                    path.write_text(manifest_of(path.parent))
        case.note("manifests fit")
    if case.rng.random() < 0.1:
        name = case.rng.choice(["a$b", "_x", "\x1b[31m", "a\nb", "-x", "é中", "x" * 200])
        case.run = case.run.rename(case.run.with_name(name))
        case.note(f"the run is called {name!r}")


# --------------------------------------------------------------------------------------------------- commands and pages


def commands(case: Case, folder: Path) -> list[list[str]]:
    """Every command that reads a run, those that take long only now and then."""
    run, rng = str(case.run), case.rng
    run = run if not case.run.name.startswith("-") else str(case.run.resolve())
    newest = next(iter(sorted((case.run / "checkpoints").glob("*"))), case.run) if rng.random() < 0.2 else case.run
    cheap = [["info", run], ["info", run, "--json"], ["compare", run], ["replay-crash", run]]
    slow = [
        ["report", run, "-o", str(folder / "page.html")],
        ["report", run],
        ["doctor", run],
        ["doctor", run, "--json"],
        ["drift", run, "--horizon", "4", "--starts", "4", "-o", str(folder / "drift.png")],
        ["dream", run, "--horizon", "4", "--starts", "1", "--samples", "1", "-o", str(folder / "dream.png")],
        ["eval", str(newest), "--episodes", "1"],
        ["eval", str(newest), "--episodes", "1", "--json"],
        ["train", "--run", run, "--env-steps", "125", "--quiet"],
        ["train", "--run", run, "--env-steps", "125", "--no-doctor"],
        ["train", "--preset", "auto", "--run", run, "env_steps=125", "--quiet"],
        ["compare", str(case.run.parent), "--format", rng.choice(["csv", "markdown", "latex"])],
        ["compare", run, "-o", str(folder / "comparison")],
    ]
    return [*rng.sample(cheap, 2), *rng.sample(slow, 2)]


def run_command(words: list[str]) -> str:
    """-> "" or what was wrong."""
    from reverie.cli import main

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(SECONDS):
            code = main(words)
    except HangError as error:
        return f"HANG {error}"
    except BaseException:
        return traceback.format_exc()
    shown = out.getvalue() + err.getvalue()
    if "Traceback" in shown:
        return shown
    if "\x1b]" in shown or "\x07" in shown:
        return f"control characters: {shown[:300]!r}"
    if code not in (0, 1, 2):
        return f"exit code {code}: {shown[-500:]}"
    return "" if code != 2 or "error:" in shown else f"no sentence: {shown[-500:]}"


def load_player(case: Case) -> str:
    """The Python interface. -> "" or what was wrong."""
    import reverie

    try:
        with contextlib.redirect_stderr(io.StringIO()), limited(SECONDS):
            player = reverie.load_player(case.run, device="cpu")
            if set(player.spec.obs) == {"observation"} and player.spec.obs["observation"].raw_shape == (4,):
                player([0.0] * 4, first=True)
    except reverie.UserError:
        pass
    except HangError as error:
        return f"HANG {error}"
    except BaseException:
        return traceback.format_exc()
    return ""


class Recorder(logging.Handler):
    """What the dashboard logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text, with its traceback."""
        self.found.append(self.format(record))


async def ask(app: Any, path: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
    """A request without a network, with a body as JSON. -> status, body (of a stream the first part)."""
    where, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": where, "raw_path": where.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:1"), (b"origin", b"http://127.0.0.1:1"), (b"content-type", b"application/json"),
        ],
        "client": ("127.0.0.1", 2), "server": ("127.0.0.1", 1),
    }  # fmt: skip
    status, answer, gone = [0], bytearray(), asyncio.Event()
    sent = [] if body is None else [json.dumps(body).encode()]

    async def receive() -> dict[str, Any]:
        if sent:
            return {"type": "http.request", "body": sent.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status[0] = message["status"]
        else:
            answer.extend(message.get("body", b""))
            if len(answer) > 2**20 or (where.endswith("/events") and answer):
                gone.set()

    await asyncio.wait_for(app(scope, receive, send), PATIENCE * SECONDS)
    return status[0], bytes(answer)


async def note_and_delete(case: Case, app: Any, name: str) -> list[str]:
    """Write a note, then delete the run: what is outside stays. -> what was wrong."""
    from reverie.errors import printable

    faults = []
    changes = {"note": "x", "tags": ["a"], "hidden": case.rng.choice([True, False])}
    for what, more in (("notes", changes), ("delete", {})):
        status, body = await ask(app, f"/api/runs/0/{what}", "POST", {"name": name, **more})
        if status >= 500:
            faults.append(f"{status} for {what}: {body[:200]!r}")
        if what == "delete" and status == 200 and name != printable(case.run.name):
            faults.append(f"{name} was deleted, which is no run")  # but a part of what was learnt from data
        elif what == "delete" and status == 200 and json.loads(body)["left"] == [] and os.path.lexists(case.run):
            faults.append("a run that was deleted is still there")
    return faults


def visit(case: Case) -> list[str]:
    """Every page of the dashboard about the run, and its jobs. -> what was wrong."""
    from reverie.web.access import AccessControl
    from reverie.web.app import Dashboard
    from reverie.web.runs import RunIndex

    record, log, faults = Recorder(), logging.getLogger("reverie"), []
    log.addHandler(record)
    log.propagate = False

    async def pages() -> None:
        dashboard = Dashboard(RunIndex([case.run.parent]), seconds=0.01)
        app = AccessControl(dashboard.app(), port=1)
        status, body = await ask(app, "/api/runs")
        runs = json.loads(body)["runs"] if status == 200 else []
        keys = runs[0]["keys"] if runs else []
        series = ",".join(map(quote, keys[:40]))
        about = f"about latents videos episodes series?keys={series} returns?x=seconds&limit=20 videos/0 jobs/doctor"
        paths = [f"/api/runs/0/{path}" for path in f"{about} series?keys=&limit=99999999999 videos/{'9' * 20}".split()]
        for path in [*paths, "/api/configs?runs=0," + "9" * 4999, "/api/events", "/api/runs/" + "9" * 5000 + "/about"]:
            status, body = await ask(app, path)
            if status >= 500 or (status == 200 and not body):
                faults.append(f"{status} for {path[:60]}: {body[:200]!r}")
        dashboard.live._new_lines()
        if case.rng.random() < 0.1:
            name = case.rng.choice(["drift", "doctor", "dream"])
            await ask(app, f"/api/runs/0/jobs/{name}", "POST")
            patience = Patience(PATIENCE * SECONDS)  # another process computes
            while (answer := json.loads((await ask(app, f"/api/runs/0/jobs/{name}"))[1]))["state"] == "running":
                if patience.over():
                    raise HangError(f"job {name}")
                await asyncio.sleep(0.005)
            if "bug" in str(answer.get("hint")):
                faults.append(f"job {name}: {answer['message']}")
        if case.rng.random() < 0.2:
            from reverie.web.play_socket import PlayClient

            client = PlayClient()
            for message in ({"do": "start", "run": 0, "seed": 1, "context": 3}, {"do": "policy", "mode": "sample"}):
                answer = json.loads(dashboard.play_server._answer(client, json.dumps(message)))
                if "bug" in str(answer.get("hint")):
                    faults.append(f"player: {answer['message']}")
        if runs and case.rng.random() < 0.5:
            faults.extend(await note_and_delete(case, app, runs[0]["name"]))
        dashboard.close()

    try:
        with limited(2 * SECONDS), contextlib.redirect_stderr(io.StringIO()):
            asyncio.run(pages())
    except HangError as error:
        faults.append(f"HANG {error}")
    except BaseException:
        faults.append(traceback.format_exc())
    finally:
        log.removeHandler(record)
        log.propagate = True
    return faults + record.found


# ------------------------------------------------------------------------------------------------------------ all cases


def tiny_run(folder: Path) -> Path:
    """A real run of a few dozen steps: images, two checkpoints, videos, everything that a run writes."""
    from reverie.cli import main

    run = folder / "base" / "run"
    sizes = [
        "cnn_depth=1",
        "rnn_hidden_dim=4",
        "hidden_dim=4",
        "num_categoricals=2",
        "num_categories=3",
        "env.num_envs=2",
    ]
    quick = ["forecast=false", "random_baseline=true", "eval_episodes=2", "log_every=0.01", "log.health_every=2",
             "prefill=40", "log.tensorboard=false", "train.batch_size=2", "train.seq_len=6", "train.pretrain=1",
             "replay_capacity=1000"]  # fmt: skip
    words = ["train", "--preset", "debug", "--env", "CartPole-v1", "--run", str(run), "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        for steps in ("60", "120"):
            assert main([*words, *sizes, *quick, f"env_steps={steps}"]) == 0
    assert (run / "config.yaml").exists()
    _tell_more(run)
    return run


def _tell_more(run: Path) -> None:
    """A note, and what the doctor found."""
    from reverie.insight.doctor_record import LEVELS, TEXTS, write_findings
    from reverie.web.notes import write_notes

    write_notes(run, {"note": "a note", "tags": ["tag"], "hidden": False})
    found = dict.fromkeys(TEXTS, "text") | {"level": LEVELS[0]}
    write_findings(run, [found], updates=3, env_steps=100)
    assert all((run / name).is_file() for name in ("end.json", "notes.json", "doctor.json"))


def tiny_offline(folder: Path, run: Path) -> tuple[Path, Path]:
    """What was learnt from the rows of `tiny_run`, to be continued, and these rows. -> run, data set."""
    from reverie.cli import main

    data, learnt = folder / "base" / "data", folder / "base" / "learnt"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["import", str(run), "--out", str(data)]) == 0
        assert main(["train", "--data", str(data), "--run", str(learnt), "--updates", "2", *OFFLINE]) == 0
    assert (learnt / "resume" / "state.json").is_file()
    return learnt, data


def offline_commands(case: Case, data: Path) -> list[list[str]]:
    """Continue what was learnt from data, and read the agent that it left."""
    run = str(case.run) if not case.run.name.startswith("-") else str(case.run.resolve())
    asked = case.rng.choice([[], [], OFFLINE, ["compute.mode=eager"], ["env.collectors=local"], ["train.batch_size=3"]])
    more = ["train", "--data", str(data), "--run", run, "--updates", case.rng.choice(["1", "3"]), *asked]
    return [more, case.rng.choice([["info", run], ["info", f"{run}/agent"], ["compare", run], more])]


def state_of(folder: Path) -> dict[str, Any]:
    """What must not change: every file below with its bytes and its time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def make_outside(folder: Path) -> Path:
    """Files that nothing may touch."""
    outside = folder / "outside"
    (outside / "folder").mkdir(parents=True)
    for name in (
        "file.txt",
        "folder/metrics.jsonl",
        "folder/eval-000000001.gif",
        "folder/steps-000000000001.safetensors",
    ):
        (outside / name).write_text("precious\n")
    return outside


def try_case(base: Path, learnt: tuple[Path, Path], folder: Path, seed: int) -> list[str]:
    """Make one case and try it; each fourth one was learnt from data. -> its faults, with what was changed."""
    rng = random.Random(seed)
    place = folder / f"case-{seed}"
    offline = rng.random() < 0.25
    shutil.copytree(learnt[0] if offline else base, place / "run", symlinks=True)
    outside, out = make_outside(place), place / "out"
    out.mkdir()
    case = Case(rng, place / "run", outside)
    change(case)
    before, faults = state_of(outside), []
    for words in offline_commands(case, learnt[1]) if offline else commands(case, out):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = run_command(words)
        if wrong:
            faults.append(f"reverie {' '.join(words)}\n{wrong}")
    wrong = load_player(case)
    faults += [f"reverie.load_player\n{wrong}"] if wrong else []
    faults += [f"the dashboard\n{wrong}" for wrong in visit(case)]
    if state_of(outside) != before:
        faults.append("a file outside of the run was touched")
    if any(b"precious" in path.read_bytes() for path in out.rglob("*.html") if path.is_file()):
        faults.append("a file outside of the run is in the report")
    shutil.rmtree(place, ignore_errors=True)
    return [f"seed {seed}: {'; '.join(case.done)}\n{fault}" for fault in faults]


def fuzz(count: int, seed: int, *, say: Callable[[str], None] = print) -> list[str]:
    """`count` cases from `seed` on, in this process. -> the faults."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-runs-") as name:
        folder = Path(name).resolve()
        (folder / "cwd").mkdir()
        os.chdir(folder / "cwd")
        try:
            base = tiny_run(folder)
            learnt = tiny_offline(folder, base)
            faults = try_seeds(lambda number: try_case(base, learnt, folder, number), count, seed, say)
            stray = [str(path) for path in (folder / "cwd").iterdir()]
            return faults + ([f"files in the current directory: {stray}"] if stray else [])
        finally:
            os.chdir(here)


if __name__ == "__main__":
    sys.exit(from_command_line(fuzz, __doc__))
