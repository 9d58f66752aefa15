"""Random command lines through every command: exit code 0, 1 or 2 with one sentence, no hang, no file touched outside.

    python -m tests.fuzz.command_lines --count 200 --seed 0

A case is one to three command lines in a folder of its own with files of environments (good and broken), a small run,
links, a pipe, files of sweeps. Lines begin as sensible ones; then words are replaced, dropped, doubled and moved,
settings get odd values, environments odd names. Further settings keep sizes and budgets tiny; they are never odd ones.

Left out: `watch`, which serves until Ctrl-C (only lines that it must refuse), `sweep`, `ablate` and `tune` without
--dry-run or --report, which start processes, and whole selftests. Nothing is downloaded. A faulty case is printed with
its seed.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.cases import from_command_line, try_seeds
from tests.fuzz.limits import HangError, limited
from tests.fuzz.run_directories import make_outside, state_of, tiny_run

SECONDS = 30  # a command's time limit, of computing

MAKERS = """
import gymnasium as gym
import numpy as np


class Small(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation(), {}

    def observation(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        self.count += 1
        return self.observation(), 1.0, self.count % 9 == 0, False, {}


class Broken(Small):
    def step(self, action):
        raise ValueError("the robot\\x1b]0;title\\x07 fell over")


class Nan(Small):
    def observation(self):
        return np.full(3, np.nan, np.float32)


class Pictures(Small):
    observation_space = gym.spaces.Dict({"cam[0]": gym.spaces.Box(0, 255, (20, 24, 3), np.uint8)})
    action_space = gym.spaces.MultiDiscrete([2, 3])

    def observation(self):
        return {"cam[0]": self.np_random.integers(0, 255, (20, 24, 3), np.uint8)}


class Odd(Small):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b/c d": gym.spaces.Box(-1e30, 1e30, (), float)})
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,))

    def observation(self):
        return {"a": 1, "b/c d": 1e29}

    def render(self):
        raise RuntimeError("no screen")

    def close(self):
        raise RuntimeError("closed before")


class Leaves(Small):
    def step(self, action):
        raise SystemExit(3)


def make():
    return Small()


def needs(size):
    return Small()


def none():
    return None


def text():
    return "CartPole-v1"


def raises():
    raise RuntimeError("no licence")


def leaves():
    raise SystemExit(3)


async def later():
    return Small()


def generator():
    yield Small()


env = Small()
number = 5
gym.register("Fuzz-v0", entry_point=make)
"""
FILES = {
    "makers.py": MAKERS,
    "two words.py": MAKERS,
    "é中.py": MAKERS,
    "syntax.py": "def make(:\n",
    "leaves.py": "raise SystemExit(3)\n",
    "raises.py": "1 / 0\n",
    "needs.py": "import absent_module\n",
    "empty.py": "",
    "file": "hello\n",
    "config.yaml": "env: {id: CartPole-v1}\n",
    "debug.yaml": "extends: debug\nmodel:\n  layers: 2  # mine\n",
}
ENVS = [
    *("CartPole-v1", "CartPole-v1", "Pendulum-v1", "CartPole-v0", "CartPole", "cartpole-v1", "CartPole-v999999"),
    *("makers.py:make", "makers.py:make", "makers:make", "./makers.py:make", "~/makers.py:make", "two words.py:make"),
    *("é中.py:make", "makers.py:Small", "makers.py:Broken", "makers.py:Nan", "makers.py:Leaves", "makers.py:needs"),
    *("makers.py:none", "makers.py:text", "makers.py:raises", "makers.py:leaves", "makers.py:env", "makers.py:number"),
    *("makers.py:later", "makers.py:generator", "makers.py:Fuzz-v0", "makers:Fuzz-v0", "Fuzz-v0", "makers.py:make()"),
    *("makers.py", "makers.py:", "makers.py::make", "makers.py:a.b", "makers.py:__name__", "makers.py:gym", "makers"),
    *("syntax.py:make", "leaves.py:make", "raises.py:make", "needs.py:make", "empty.py:make"),
    *("empty.py", "absent.py:make", "folder.py:make", "folder.py", "pipe.py:make", "loop.py:make", "absent:make"),
    *("run/config.yaml:make", "folder:make", "os:getcwd", "os:sep", "os.path:join", "sys:exit", "collections:Counter"),
    *("custom:", "custom:E", "custom:makers:make", "gymnasium:CartPole-v1", "gymnasium:", ":make", ":", "::", "a:b:c"),
    *("", " ", "/", ".", "..", "/tmp", "-", "--", "-v1", "dmc/", "dmc/nothing-here", "dmc/cartpole", "minatar/nothing"),
    *("ALE/Nothing-v5", "atari/", "crafter", "MinAtar/Nothing-v1", "x" * 5000, "x" * 300 + ".py:make", "é", "\udcff"),
    *("\udcff.py:make", "a\nb", "\x1b]0;title\x07", "$(id)", "%s%n", "{0}", "*", "None", "0", "makers.py:mak\u0435"),
]  # fmt: skip
WORKING = [
    *("CartPole-v1", "CartPole-v1", "Pendulum-v1", "makers.py:make", "makers:make", "two words.py:make"),
    *("makers.py:Nan", "makers.py:Broken", "makers.py:Leaves", "makers.py:Fuzz-v0", "makers.py:Pictures"),
    "makers.py:Odd",
]  # fmt: skip
RUNS = [
    *("run", "run", "run", "run/checkpoints", "run/checkpoints/best", "run/metrics.jsonl", "run/config.yaml", "other"),
    *("new", "new/deep/er", "file", "file/new", "folder", "link", "dangling", "loop", "pipe.py", "", ".", "..", "~"),
    *("~/new", "~nobody/new", "/proc/fuzz", "/dev/null", "/dev/null/x", "/dev/full", "x" * 300, "y/" * 3000),
    *("é中", "\udcff", "a\nb", "-x", "--run", "$x$y", "\x1b[31m", "makers.py", "./run/", "run/../run", "run//"),
    "sub/../new",
]  # fmt: skip
OUTS = [
    *("out.png", "out.gif", "out.html", "out", "out.mp4", "out.txt", "OUT.PNG", ".png", ".gif", "folder/out.gif"),
    *("new/out.png", "folder", "file", "file/out.gif", "link.png", "/dev/full"),  # link/out.png is the user's word
    *("/proc/x.png", "pipe.py", "", ".", "~/out.gif", "x" * 300 + ".gif", "é.gif", "\udcff.png", "a\nb.gif", "-"),
    *("run", "run/config.yaml"),
]  # fmt: skip
NUMBERS = [
    *("0", "1", "2", "3", "-1", "-0", "+1", "1.5", "1e0", "1e-9", "-1e300", "1e300", "1e999", "nan", "-inf", "0x10"),
    *("1_0", "²", "٣", "", " ", " 2 ", "x", "None", "true", "1,2", "[1]", "1" * 30, "1" * 5000, "-" + "9" * 5000),
    *(str(2**31), str(2**32), str(2**63), str(2**64), "1e18", "1" + "0" * 400),
]  # fmt: skip
#: Numbers that are refused, or tiny: for what takes long, or much memory, if it is large.
SMALL = [*NUMBERS[:5], "-0", "1.5", "nan", "inf", "x", "", "²", "-1e300", "1e999", "1" * 5000, "-5", "1,1", "true"]
WORDS = [
    *("", "x", "none", "None", "auto", "true", "false", "full", "a,b", ",", ",,,", "a=b", "=", "a=1,b=2", "*"),
    *("[", "]", "cam[0]", "[!]", "é", "\udcff", "x" * 5000, "a\nb", "\x1b[31m", "makers.py:make", "sync", "native"),
    "reward",
    *("render_mode=human", "sutton_barto_reward=true", "seed=1", "id=x", "{}", "[1, [2]]", "null", "~", "!!python/x"),
]  # fmt: skip
TINY = {
    "model.cnn_depth": "1", "model.rnn_hidden_dim": "4", "model.hidden_dim": "4", "model.rssm_hidden_dim": "0",
    "model.embed_dim": "0", "model.layers": "1", "behavior.actor_critic_layers": "1", "model.num_categoricals": "2",
    "model.num_categories": "3", "model.gaussian_dim": "2", "env.num_envs": "1", "env.backend": "sync",
    "env.image_size": "16", "replay.replay_capacity": "1000", "behavior.imagination_horizon": "3",
    "train.env_steps": "40", "train.prefill": "20", "train.pretrain": "1", "train.train_ratio": "0.1",
    "train.batch_size": "2", "train.seq_len": "6", "train.eval_episodes": "1", "train.minutes": "0.02",
    "train.forecast": "false", "log.tensorboard": "false", "train.random_baseline": "false",
}  # fmt: skip
CAPS = {f"{key}={value}" for key, value in TINY.items()}
#: Settings that make a run long or large: of these only SMALL values are tried.
LONG = {*TINY, "env.action_repeat", "env.worker_timeout", "behavior.imagination_starts"}
#: Settings that would start other programs, reach out of this machine, or play whole episodes at every step.
NEVER = {"log.wandb", "compute.compile", "compute.mode", "train.eval_every"}
FLAGS = {"--seed": NUMBERS, "--env-steps": SMALL, "--minutes": SMALL, "--env": ENVS, "--run": RUNS}


# --------------------------------------------------------------------------------------------------------------- lines


def mostly(rng: random.Random, usual: Sequence[str], odd: Sequence[str]) -> str:
    """One of the usual words, sometimes an odd one: a line with one fault gets further than a line of faults."""
    return rng.choice(odd) if rng.random() < 0.2 else rng.choice(usual)


def preset(rng: random.Random) -> str:
    """A preset, a stack of some, or what is none."""
    from reverie.config.presets import preset_names

    names = [*preset_names(), "debug", "debug", "debug", "auto"]
    odd = ["", "+", "debug+", "+debug", "Debug", "debug.yaml", "./debug.yaml", "../x", "debug+debug", "x" * 5000,
           "\udcff", "debug,small", "auto+auto", "debug\n", "/etc/passwd", "+".join(["small"] * 12)]  # fmt: skip
    return mostly(rng, ["+".join(rng.choice(names) for _ in range(rng.choice([1, 1, 1, 2, 2, 3])))], odd)


def setting(rng: random.Random) -> list[str]:
    """A setting with any value, in any of the forms."""
    from typing import Literal, get_args, get_origin

    from reverie.config import SETTINGS

    key = rng.choice([key for key in SETTINGS if key not in NEVER])
    kind, default = SETTINGS[key].kind, SETTINGS[key].default
    if key == "env.id":
        value = rng.choice(ENVS)
    elif get_origin(kind) is Literal:
        value = mostly(rng, get_args(kind), WORDS)
    elif kind is bool:
        value = mostly(rng, ["true", "false"], WORDS)
    elif key in LONG:
        value = mostly(rng, ["1", "2", "3"], SMALL)
    elif kind in (int, float):
        value = mostly(rng, ["0", "1", "2", "0.5", "1e-9", "3", str(default)], NUMBERS)
    else:
        value = rng.choice([*WORDS, "observation", "obs*"])
    name = key if rng.random() < 0.5 else key.split(".")[1]
    if rng.random() < 0.04:
        name = rng.choice([name[:-1], name.upper(), name.replace("_", "-"), f"x.{name}", name.split(".")[0], "", "é"])
    return rng.choice([[f"{name}={value}"], [f"--{name}={value}"], [f"--{name}", value]])


def some_settings(rng: random.Random) -> list[str]:
    return [word for _ in range(rng.choice([0, 1, 1, 2, 3])) for word in setting(rng)]


def sensible(rng: random.Random) -> list[str]:
    """A command line whose values are odd now and then."""
    from reverie.insight.glossary import ENTRIES

    env = mostly(rng, WORKING, ENVS)
    run, where = mostly(rng, ["run"], RUNS), mostly(rng, ["new", "new/deep/er", "folder", "é中", "~/new"], RUNS)
    out = ["-o", mostly(rng, OUTS[:5], OUTS)]
    number = mostly(rng, ["0", "1", "2", "3"], NUMBERS)
    few = ["--horizon", mostly(rng, ["3", "9"], NUMBERS), "--starts", mostly(rng, ["1", "2"], SMALL)]
    few += ["--context", mostly(rng, ["2", "5"], NUMBERS)]
    one = ["--episodes", mostly(rng, ["1"], SMALL)]
    lines: list[list[str]] = [
        *[["train", "--preset", preset(rng), "--env", env, "--run", "new", *some_settings(rng)]] * 4,
        *[["train", "--preset", "debug", "--env", env, "--run", where, "--quiet", *some_settings(rng)]] * 3,
        *[["train", "--preset", "debug", "--env", "CartPole-v1", *some_settings(rng), *some_settings(rng)]] * 5,
        ["train", "--env", env, "--run", where, *some_settings(rng)],
        ["train", "--run", run, "--env-steps", mostly(rng, ["125"], SMALL), *some_settings(rng), *_fresh(rng)],
        ["train", "--run", "run", "--env", env, "--minutes", mostly(rng, ["0.01"], SMALL), *_fresh(rng)],
        *[["check-env", env, "--steps", mostly(rng, ["3", "20"], SMALL), *some_settings(rng)]] * 3,
        ["eval", run, *one, "--env", env, "--seed", number],
        ["eval", run, *one, "--video", mostly(rng, OUTS[:5], OUTS)],
        ["eval", run, *one, "--device", rng.choice(["cpu", "cuda", "cuda:9", "meta", *WORDS])],
        ["eval", run, *one, "--mode", mostly(rng, ["eval", "train"], WORDS), "--json"],
        *[["presets", preset(rng), *rng.choice([[], ["--json"], ["--keys"], ["--env", env]])]] * 2,
        ["presets", "--diff", preset(rng), preset(rng)],
        ["presets", "auto", "--env", env],
        ["envs", rng.choice([env, "dmc", "atari", "minigrid"])],
        ["explain", mostly(rng, [entry.key for entry in ENTRIES[:9]], WORDS)],
        ["info", run, *rng.choice([[], ["--json"]])],
        ["doctor", run, *rng.choice([[], ["--json"]])],
        ["report", run, mostly(rng, ["run"], RUNS), *out],
        ["report", run, *out],
        ["replay-crash", run],
        ["compare", run, mostly(rng, ["run"], RUNS), *out],
        ["compare", run, "--against", rng.choice(["atari-100k", "crafter", *WORDS])],
        ["compare", run, "--format", mostly(rng, ["csv", "latex", "markdown"], WORDS)],
        ["drift", run, *few, *out, "--seed", number],
        ["dream", run, *few, "--fps", mostly(rng, ["2", "0.5"], NUMBERS), *out],
        ["dream", run, *few, "--samples", mostly(rng, ["1", "2"], SMALL), "--seed", number, *out],
        ["dream", run, "--horizon", "3", "--key", mostly(rng, ["observation"], WORDS)],
        ["dream", run, *few, "--actions", mostly(rng, ["policy", "random"], WORDS), *out],
        ["sweep", _sweep_file(rng), *out],
        ["sweep", rng.choice(["file", "folder", "absent", "pipe.py", "\udcff", ""]), *out],
        ["ablate", "--preset", preset(rng), "--env", env, "--vary", _varied(rng), "--set", *_equal(rng), *out],
        ["ablate", "--preset", "debug", "--vary", _varied(rng), "--seeds", mostly(rng, ["1", "2"], SMALL), *out],
        ["tune", "--env", env, "--preset", preset(rng), _searched(rng), *_equal(rng), *out],
        ["tune", _sweep_file(rng), _searched(rng), "--trials", mostly(rng, ["1"], SMALL), "--pruner", "none", *out],
        ["bench", rng.choice(["update", "policy", "replay"]), "--preset", preset(rng), "--env", env],
        ["bench", mostly(rng, ["update", "policy", "replay"], ["train", "x", ""]), *_benched(rng), *some_settings(rng)],
        ["selftest", "--only", mostly(rng, ["KL"], WORDS[1:])],
        ["watch", rng.choice(["absent", "file", "\udcff", "x" * 300])],
        ["watch", "run", "--port", rng.choice(["-1", "65536", "x", "²", "9" * 5000, ""])],
        [rng.choice([*WORDS, "help", "--help", "--version", "-h", "Train", "tra"]), *some_settings(rng)],
    ]  # fmt: skip
    return list(rng.choice(lines))


def _fresh(rng: random.Random) -> list[str]:
    return ["--fresh"] if rng.random() < 0.3 else []


def _equal(rng: random.Random) -> list[str]:
    return [word for word in some_settings(rng) if not word.startswith("-")] or ["gamma=0.9"]


def _searched(rng: random.Random) -> str:
    name, _, value = setting(rng)[0].removeprefix("--").partition("=")
    low, high = rng.choice([*NUMBERS, "0.5", "1"]), rng.choice([*NUMBERS, "0.9", "8"])
    ranges = [
        "gamma=0.9..0.99",
        "batch_size=4..8",
        f"{name}={low}..{high}",
        f"{name}=log:{low}..{high}",
        f"{name}={value}",
    ]
    return rng.choice([*ranges, f"{name}={value},{value}1", "latents=categorical,gaussian", f"{name}=..", "gamma"])


def _varied(rng: random.Random) -> str:
    name, _, value = setting(rng)[0].removeprefix("--").partition("=")
    return rng.choice([f"{name}={value}", f"{name}={value},{rng.choice(SMALL)}", f"gamma+{name}={value}", name, "=,"])


def _benched(rng: random.Random) -> list[str]:
    words = ["--batch", mostly(rng, ["2"], SMALL), "--length", mostly(rng, ["6"], SMALL)]
    words += ["--actions", mostly(rng, ["2"], SMALL)]
    shapes = ["16 16 3", "16 16 3", "4", "0", "x", "16x16x1", "1 2", "-1", "4 gamma=x", "1 1 1", "3 200 200"]
    shape = ["--shape", *rng.choice(shapes).split()]
    return [*words, *shape, *rng.choice([[], ["--seeds", "2"], ["--device", rng.choice(["cuda", "cpu", "meta", ""])]])]


def _sweep_file(rng: random.Random) -> str:
    """A file of a sweep, with a value that is odd, or text that is none."""
    values: dict[str, Any] = {
        "name": "'s'", "seeds": "[0]", "vary": "['gamma=0.9,0.99']", "settings": '{ "train.env_steps" = 40 }',
    }  # fmt: skip
    odd = ["1", "-1", "''", "[]", "{}", "[1.5]", "[true]", "['x']", "{ a = { b = { c = 1 } } }", "nan", "1979-05-27",
           "[[1]]", "'\\u001b[31m'", "'../../x'", "99999999999999999999", "[{ a = 1 }]", "['=']", "{ gamma = 'x' }",
           "{ gamma = [1] }", "{ gamma = 1979-05-27 }", "true"]  # fmt: skip
    for _ in range(rng.choice([0, 1, 1, 2])):
        values[rng.choice([*values, "other"])] = rng.choice(odd)
    task = {"name": "'t'", "env": "'CartPole-v1'", "preset": "'debug'", "settings": "{}"}
    for _ in range(rng.choice([0, 0, 1, 2])):
        task[rng.choice([*task, "other"])] = rng.choice([*odd, f"'{rng.choice(ENVS[:20])}'"])
    text = "\n".join(f"{key} = {value}" for key, value in values.items())
    text += "\n[[task]]\n" + "\n".join(f"{key} = {value}" for key, value in task.items())
    if rng.random() < 0.3:
        text += f"\n[[variant]]\nname = 'v'\npreset = {rng.choice([*odd, chr(39) + 'small' + chr(39)])}"
        text += rng.choice(["", "\npresets = { t = 1 }", "\npresets = { x = 'debug' }", "\nsettings = { env = 1 }"])
    data = text.encode()
    if rng.random() < 0.1:
        data = rng.choice([b"\xff\xfe", b"", b"[" * 3000, data[: rng.randrange(len(data))], b"a = " + b"[" * 5000])
    Path("sweep.toml").write_bytes(data)
    return "sweep.toml"


def garbled(rng: random.Random, words: list[str]) -> list[str]:
    """Some of the time: words are dropped, doubled, moved, replaced."""
    for _ in range(rng.choice([0, 0, 0, 0, 0, 0, 1, 1, 2])):
        at, kind = rng.randrange(len(words)), rng.randrange(5)
        if kind == 0 and len(words) > 1:
            del words[at]
        elif kind == 1:
            words.insert(at, words[at])
        elif kind == 2:
            words.insert(rng.randrange(len(words) + 1), rng.choice(["--json", "--", "-x", *WORDS, *RUNS, *FLAGS]))
        elif kind == 3:
            words.insert(rng.randrange(1, len(words) + 1), words.pop(at))
        elif at:
            words[at] = rng.choice([*WORDS, *SMALL, *RUNS])
    return words


def kept_tiny(words: list[str]) -> list[str]:
    """With settings and options that keep the command short, unless the words have them."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command == "watch" and any(os.path.isdir(word or ".") for word in words[1:]):  # it would serve until Ctrl-C
        return ["watch", "absent"]
    if command == "selftest":
        return [*words, "--only", "KL"] if "--only" not in words else words
    if command in ("sweep", "ablate", "tune"):
        return [*words, "--dry-run"]
    if command == "check-env" and "--steps" not in words:
        return [*words, "--steps", "5"]
    if command == "eval" and "--episodes" not in words:
        return [*words, "--episodes", "1"]
    if command in ("dream", "drift") and "--starts" not in words:
        return [*words, "--starts", "1"]
    if command not in ("train", "bench"):
        return words
    given = {word.partition("=")[0].removeprefix("--").split(".")[-1].replace("-", "_") for word in words}
    caps = [f"{key}={value}" for key, value in TINY.items() if key.split(".")[1] not in given]
    return [*words, *(["--repeats", "1"] if command == "bench" and "--repeats" not in words else []), *caps]


# ------------------------------------------------------------------------------------------------------------- one case


def fault_of(words: list[str]) -> str:
    """Run one command line. -> "" or what was wrong."""
    from reverie.cli import main

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(SECONDS):
            code: Any = main(words)
    except HangError:
        return f"HANG\n{traceback.format_exc()[-1500:]}"
    except SystemExit as error:  # argparse: --help, and its own sentences
        code = error.code
    except BaseException:
        return traceback.format_exc()[-3000:]
    shown, errors = out.getvalue() + err.getvalue(), err.getvalue().count("error: ")
    if "Traceback" in shown:
        return shown[-3000:]
    if "\x1b]" in shown or "\x07" in shown:
        return f"control characters: {shown[-500:]!r}"
    if code not in (0, 1, 2):
        return f"exit code {code!r}: {shown[-500:]}"
    if any(
        "Warning: " in line and "registration.py" not in line for line in shown.splitlines()
    ):  # Gymnasium's own, of ids
        return f"a warning of Python: {shown[-1500:]}"
    return f"no sentence: {shown[-500:]}" if code == 2 and not errors else ""


#: What may stand in a run's settings instead of a value.
YAML = ["", "~", "-1", "[1, 2]", "{a: 1}", "!!python/object:os.system x", "*a", "&a 1", "1e999", ".nan", "'x'",
        "9" * 5000, "2001-01-01", "0o17", "1:30", "\"\\x1b[31m\"", "'", "<<: 1", "yes", "9" * 30]  # fmt: skip


def odd_run(rng: random.Random, folder: Path) -> None:
    """A folder that looks like a run: settings with an odd value, or an odd group."""
    from reverie.config import Config
    from reverie.config.parsing import to_dict

    groups = to_dict(Config())
    group = rng.choice(sorted(groups))
    groups[group][rng.choice(sorted(groups[group]))] = "ODD"
    text = yaml.safe_dump(groups).replace("ODD", rng.choice(YAML))
    if rng.random() < 0.2:
        text = text.replace(f"{group}:", rng.choice([f"{group}: 1", "", "? [a]\n:", "1:", "~:", f"{group}s:", "- a"]))
    folder.mkdir()
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def furnish(rng: random.Random, place: Path, base: Path) -> Path:
    """The working folder of a case. -> its path."""
    here = place / "here"
    here.mkdir(parents=True)
    for name, text in FILES.items():
        (here / name).write_text(text, encoding="utf-8")
    for name in ("folder", "folder.py"):
        (here / name).mkdir()
    shutil.copytree(base, here / "run", symlinks=True)
    odd_run(rng, here / "other")
    os.mkfifo(here / "pipe.py")
    (here / "link").symlink_to(place / "outside" / "folder")
    (here / "link.png").symlink_to(place / "outside" / "file.txt")
    (here / "dangling").symlink_to("absent")
    (here / "loop").symlink_to("loop")
    (here / "loop.py").symlink_to("loop.py")
    return here


@contextlib.contextmanager
def alone(here: Path) -> Iterator[None]:
    """Context in a folder; what commands import, register and change in this process is forgotten afterwards."""
    import gymnasium as gym

    before, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    environment = dict(os.environ)
    os.chdir(here)
    os.environ["HOME"] = str(here)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        gym.registry.pop("Fuzz-v0", None)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(here)):
                del sys.modules[name]


def try_case(base: Path, folder: Path, seed: int) -> list[str]:
    """One to three command lines in one folder. -> what was wrong."""
    rng, faults, done = random.Random(seed), [], []
    place = folder / f"case-{seed}"
    outside = make_outside(place)
    here = furnish(rng, place, base)
    before = state_of(outside)
    for _ in range(rng.choice([1, 1, 2, 3])):
        with alone(here), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # the environment's own
            words = kept_tiny(garbled(rng, sensible(rng)))
            started = time.monotonic()
            wrong = fault_of(words)
            gc.collect()
        done.append(f"{time.monotonic() - started:.1f} s: {[word[:80] for word in words if word not in CAPS]}")
        faults += [wrong] if wrong else []
    if state_of(outside) != before:
        faults.append("a file outside of the folder was touched")
    stray = {path.name for path in place.iterdir()} - {"outside", "here"}
    faults += [f"files beside the folder: {sorted(stray)}"] if stray else []
    shutil.rmtree(place, ignore_errors=True)
    lines = "\n  ".join(done)
    return [f"seed {seed}:\n  {lines}\n{fault}" for fault in faults]


def fuzz(count: int, seed: int, *, say: Callable[[str], None] = print) -> list[str]:
    """`count` cases from `seed` on, in this process. -> the faults."""
    with tempfile.TemporaryDirectory(prefix="fuzz-lines-") as name:
        folder = Path(name).resolve()
        base = tiny_run(folder)
        return try_seeds(lambda number: try_case(base, folder, number), count, seed, say)


if __name__ == "__main__":
    sys.exit(from_command_line(fuzz, __doc__))
