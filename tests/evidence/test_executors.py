"""Sweeps on clusters: options, killed and requeued runs; submitit's local, debug and SLURM executors, Ray."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reverie.cli import main
from reverie.errors import UserError
from reverie.evidence import cluster
from reverie.evidence.cluster import make_executor
from reverie.evidence.executors import (
    READERS,
    ClusterOptions,
    LocalExecutor,
    Work,
    gigabytes,
    minutes,
    options_of,
)
from reverie.evidence.plan import read_plan
from reverie.evidence.sweep import RESTARTS, Sweep
from tests.evidence import fake_ray, fake_slurm

PLAN = """
name = "tiny"
settings = { "compute.threads" = 1, "train.eval_episodes" = 2, "train.random_baseline" = false }
[[task]]
name = "cart"
env = "CartPole-v1"
preset = "debug"
"""


def plan_file(folder, text=PLAN):
    path = folder / "plan.toml"
    path.write_text(text)
    return path


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), (90, 90), ("30m", 30), ("4h", 240), ("2d", 2880), ("45s", 0.75), ("4:00:00", 240), ("10:30", 10.5),
     ("1-12:00", 2160), ("1-12:30:00", 2190)],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text, expected):
    assert minutes(text) == pytest.approx(expected)


def test_memory_is_read_with_its_unit():
    assert [gigabytes(x) for x in ("8", 8, "8GB", "8G", "512MB", "1T", "2GiB")] == [8, 8, 8, 8, 0.5, 1024, 2]


def test_the_command_line_stands_above_the_plans_table(tmp_path):
    plan = read_plan(plan_file(tmp_path, PLAN + '[slurm]\ntime = "2h"\npartition = "long"\nextra = { qos = "high" }\n'))
    found = options_of(plan.clusters["slurm"], {"partition": "short", "cpus": "2", "extra": None}, "slurm")
    assert found == ClusterOptions(partition="short", time=120, cpus=2, extra={"qos": "high"})


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("[slurm]\npartitoin = 'x'", r"\[slurm\] has no 'partitoin'. It may have: partition, account"),
        ("[slurm]\ntime = 'long'", r"\[slurm\]: time must be a time, found 'long'. E.g. \"4:00:00\""),
        ("[slurm]\ncpus = 0", r"cpus must be a whole number from 1 on, found 0"),
        ("[slurm]\ncpus = true", r"cpus must be a whole number from 1 on, found True"),
        ("[slurm]\nmemory = '8 apples'", r"memory must be an amount of memory"),
        ("[slurm]\nextra = { Qos = '1' }", r"extra must hold options of sbatch as NAME=VALUE"),
        ("[slurm]\nsetup = 'module load cuda'", r"setup must be a list"),
        ("[slurm]\npartition = 'a b'", r"partition must be a word"),
        ("[ray]\npartition = 'x'", r"\[ray\] has no 'partition'. It may have: memory, cpus, gpus, address"),
        ("[slurm]\naddress = 'x'", r"\[slurm\] has no 'address'"),
        ("slurm = 3", "slurm must be a table, found 3"),
    ],
)
def test_mistakes_in_a_table_are_one_sentence(table, sentence, tmp_path):
    text = f"{table}\n{PLAN}" if table.startswith("slurm") else f"{PLAN}\n{table}"
    with pytest.raises(UserError) as error:
        read_plan(plan_file(tmp_path, text))
    assert re.search(sentence, str(error.value)), error.value


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cpus", "2"], "--cpus is an option of clusters.\nhint: Add --on slurm or --on ray."),
        (["--on", "ray", "--partition", "x"], "--partition is an option of SLURM, not of Ray."),
        (["--on", "slurm", "--address", "x"], "--address is an option of Ray, not of SLURM."),
        (["--on", "slurm", "--time", "soon"], "the command line: time must be a time, found 'soon'."),
        (["--on", "slurm", "--extra", "qos"], "the command line: extra must hold options of sbatch as NAME=VALUE"),
        (["--on", "slurm", "--submit", "lsf"], "the command line: submit must be slurm, local or debug"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(words, sentence, tmp_path, capsys):
    assert main(["sweep", str(plan_file(tmp_path)), "--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "module", "extra"), [("slurm", "submitit", "slurm"), ("ray", "ray", "ray")], ids=["slurm", "ray"]
)
def test_a_missing_package_is_named_with_its_extra(place, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=re.escape(f"pip install 'reverie-rl[{extra}]'")):
        make_executor(place, ClusterOptions(), tmp_path, "x")


def test_a_machine_without_slurm_is_named(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"this machine has no SLURM.*--submit local or debug tries it out"):
        make_executor("slurm", ClusterOptions(), tmp_path, "x")


# -------------------------------------------------------------------------------------------------- killed, failed runs


class Killed:
    """A process that a signal ended."""

    returncode = -signal.SIGKILL

    def poll(self):
        return self.returncode


class Scripted(LocalExecutor):
    """Kills the first runs, then executes."""

    interval = 0.01

    def __init__(self, kills):
        self.kills, self.started = kills, 0

    def start(self, work):
        self.started += 1
        return Killed() if self.started <= self.kills else super().start(work)


def test_a_killed_run_is_started_again_and_resumed(tmp_path):
    said = []
    executor = Scripted(kills=1)
    sweep = Sweep(read_plan(plan_file(tmp_path)), tmp_path / "out", say=said.append, executor=executor)
    ((_, result),) = sweep.run(1)
    assert result.complete
    assert executor.started == 2
    assert said[0] == "cart, base, seed 0: killed by SIGKILL; started again (1 of 2 times)"
    assert sweep.failed == {}


def test_a_run_that_is_killed_again_and_again_fails_with_its_log(tmp_path):
    sweep = Sweep(read_plan(plan_file(tmp_path)), tmp_path / "out", say=lambda text: None, executor=Scripted(kills=9))
    assert sweep.run(1) == []
    assert sweep.executor.started == 1 + RESTARTS
    log = tmp_path / "out" / "logs" / "cart--base--s0.txt"
    assert sweep.failed == {"cart--base--s0": f"killed by SIGKILL (log: {log})"}


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    sweep = Sweep(read_plan(plan_file(tmp_path)), tmp_path / "out", say=lambda text: None)
    monkeypatch.setattr(sweep.executor, "start", lambda work: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match=r"cannot write to .*out \(No space left\)\. Free some space\."):
        sweep.run(1)


# ------------------------------------------------------------------------------------------------------------- submitit


def work_for(folder, name, steps):
    command = [sys.executable, "-m", "reverie.cli", "train", "--quiet", "--preset", "debug", "--env", "CartPole-v1"]
    command += ["--run", str(folder / name), f"env_steps={steps}", "train.deterministic=true", "eval_episodes=2"]
    return Work(name, command, folder / name, folder / f"{name}.txt", 1)


def wait_until(true, seconds=250):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit's debug job leaves logs open
def test_a_run_at_its_time_limit_is_requeued_and_ends_as_if_nothing_had_been(tmp_path):
    """SLURM's signal through submitit's local executor; the whole run in the debug executor beside it."""
    pytest.importorskip("submitit")
    limited = make_executor("slurm", ClusterOptions(submit="local", time=60), tmp_path, "x")
    process = limited.start(work_for(tmp_path, "broken", 800))
    wait_until(lambda: (tmp_path / "broken" / "first_rows.json").exists())
    controller = process.job._process.pid  # which passes the signal on at the time limit
    task = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0]
    os.kill(int(task), signal.SIGUSR2)
    wait_until(lambda: "Requeued job" in (process.job.stdout() or ""))
    assert list((tmp_path / "broken" / "checkpoints").glob("step-*"))
    assert process.poll() is None
    assert process.wait(400) == 0
    assert process.job.stdout().count("Starting with JobEnvironment") == 2
    episodes = [json.loads(line) for line in (tmp_path / "broken" / "episodes.jsonl").read_text().splitlines()]
    debug = make_executor("slurm", ClusterOptions(submit="debug"), tmp_path, "x")
    assert debug.start(work_for(tmp_path, "whole", 800)).poll() == 0
    whole = [json.loads(line) for line in (tmp_path / "whole" / "episodes.jsonl").read_text().splitlines()]
    assert episodes == whole
    assert episodes[-1]["env_steps"] >= 800  # two environments


def test_an_array_of_slurm(tmp_path, monkeypatch, capsys):
    """Two runs as one array; one is killed with its whole job and started again."""
    pytest.importorskip("submitit")
    pytest.importorskip("matplotlib")
    state = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake_slurm.on_path(tmp_path / "slurm"))
    monkeypatch.setattr(cluster, "LATE", 0.2)
    file = plan_file(tmp_path, PLAN.replace("settings", "seeds = [0, 1]\nsettings", 1))
    words = ["--partition", "short", "--time", "2h", "--memory", "4GB", "--cpus", "2", "--extra", "qos=high"]
    from reverie.evidence import sweep

    real, struck = sweep.time.sleep, []

    def sleep(seconds):
        if not struck and list((tmp_path / "out" / "runs").glob("*s1/config.yaml")):
            struck.append(int((state / "1000_1.job").read_text()))
            os.killpg(struck[0], signal.SIGKILL)
        real(seconds)

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    assert main(["sweep", str(file), "--out", str(tmp_path / "out"), "--on", "slurm", "--jobs", "2", *words]) == 0
    shown = capsys.readouterr().out
    assert struck
    assert "seed 1: killed by SIGKILL; started again (1 of 2 times)" in shown
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == 2
    files = [path.read_text() for path in (tmp_path / "out" / "submitit").rglob("*.sh")]
    (array,) = {text for text in files if "--array" in text}
    for line in (
        "partition=short",
        "time=120",
        "mem=4096MB",
        "cpus-per-task=2",
        "qos=high",
        "array=0-1%2",
        "signal=USR2@90",
    ):
        assert f"#SBATCH --{line}\n" in array
    assert "#SBATCH --job-name=reverie-tiny\n" in array


def test_a_job_that_slurm_still_has_is_found_by_the_next_sweep(tmp_path, monkeypatch):
    """The sweep was killed, its jobs were not: they are not submitted twice."""
    pytest.importorskip("submitit")
    fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake_slurm.on_path(tmp_path / "slurm"))
    work = Work("run", [sys.executable, "-c", "import time; time.sleep(3)"], tmp_path / "run", tmp_path / "log.txt", 1)
    first = make_executor("slurm", ClusterOptions(), tmp_path, "x").start(work)
    again = make_executor("slurm", ClusterOptions(), tmp_path, "x").start(work)
    assert again.job.job_id == first.job.job_id == "1000"
    assert again.wait(60) == 0
    monkeypatch.setattr(type(again.job).watcher, "_last_status_check", float("-inf"))
    assert make_executor("slurm", ClusterOptions(), tmp_path, "x").start(work).job.job_id == "1001"


def test_slurm_that_takes_no_job_is_quoted(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    fake_slurm.install(tmp_path / "slurm")
    refuse = "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gold' >&2\nexit 1\n"
    (tmp_path / "slurm" / "bin" / "sbatch").write_text(refuse)
    monkeypatch.setenv("PATH", fake_slurm.on_path(tmp_path / "slurm"))
    executor = make_executor("slurm", ClusterOptions(partition="gold"), tmp_path, "x")
    with pytest.raises(UserError, match=r"SLURM took no job: .*invalid partition specified: gold"):
        executor.start(work_for(tmp_path, "run", 100))


# ------------------------------------------------------------------------------------------------------------------ Ray


def quick(folder, code="pass"):
    return Work("run", [sys.executable, "-S", "-c", code], folder / "run", folder / "log.txt", 1)


def test_what_ray_answers_becomes_exit_codes(tmp_path, monkeypatch):
    ray = fake_ray.install(monkeypatch, crash=1)
    executor = make_executor("ray", ClusterOptions(cpus=1, memory=2), tmp_path, "x")
    assert ray.asked == [{"num_cpus": 1.0, "num_gpus": 0.0, "max_retries": 0, "memory": 2 * 2**30}]
    dead = executor.start(quick(tmp_path))
    assert dead.wait(60) == -signal.SIGKILL
    assert "the node died" in (tmp_path / "log.txt").read_text()
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.getcwd()); raise SystemExit(2)"
    failed = executor.start(quick(tmp_path, code))
    assert failed.poll() is None
    assert failed.wait(60) == 2
    assert (tmp_path / "log.txt").read_text().splitlines()[-1] == f"1 {os.getcwd()}"
    stopped = executor.start(quick(tmp_path, "import time; time.sleep(2)"))
    stopped.terminate()
    assert ray.cancelled == [False]
    assert stopped.wait(60) == -signal.SIGTERM
    executor.close()
    assert not ray.open


def test_ray_without_such_a_machine_or_without_an_answer(tmp_path, monkeypatch):
    ray = fake_ray.install(monkeypatch, cpus=(4, 8))
    with pytest.raises(UserError, match=r"no machine of the Ray cluster has 64 CPU; they have: 4 CPU, 0 GPU; 8 CPU"):
        make_executor("ray", ClusterOptions(cpus=64), tmp_path, "x")
    assert not ray.open
    ray.init = lambda **options: (_ for _ in ()).throw(ConnectionError("this is no Ray"))
    with socket.create_server(("127.0.0.1", 0)) as something:
        there = f"127.0.0.1:{something.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"there is no Ray cluster at {there}: this is no Ray"):
            make_executor("ray", ClusterOptions(address=there), tmp_path, "x")


RAY = """
import json, os, signal, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from reverie.errors import UserError
from reverie.evidence.cluster import make_executor
from reverie.evidence.executors import ClusterOptions
from reverie.evidence.plan import read_plan
from reverie.evidence.sweep import Sweep

folder = Path(sys.argv[1])
small = {"num_cpus": 1, "object_store_memory": 10**8}
cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
second = cluster.add_node(**small)
ray.init(address=cluster.address, log_to_driver=False)
assert len(ray.nodes()) == 2
try:
    make_executor("ray", ClusterOptions(cpus=64), folder, "x")
    raise SystemExit("64 cores were promised")
except UserError as error:
    print(error)
said = []
sweep = Sweep(read_plan(folder / "plan.toml"), folder / "out", say=said.append,
              executor=make_executor("ray", ClusterOptions(), folder, "x"))
sleep, struck = time.sleep, []

def removing(seconds):
    if not struck and len(list((folder / "out" / "runs").glob("*/config.yaml"))) == 2:
        struck.append(True)
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(**small)
    sleep(seconds)

time.sleep = removing
results = sweep.run(2)
print(json.dumps({"said": said, "failed": sweep.failed, "done": [r.complete for _, r in results], "struck": struck}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_tasks_of_ray_on_two_nodes_one_of_which_dies(tmp_path):
    """The run of the node that dies gets its SIGTERM, writes a checkpoint, and continues on another node."""
    pytest.importorskip("ray")
    plan_file(
        tmp_path, PLAN.replace("settings", "seeds = [0, 1]\nsettings", 1).replace("}", ', "env_steps" = 3000 }', 1)
    )
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(tmp_path)], capture_output=True, text=True, timeout=1500, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = done.stdout.strip().splitlines()[0], json.loads(done.stdout.strip().splitlines()[-1])
    assert first.startswith("no machine of the Ray cluster has 64 CPU; they have: 1 CPU")
    assert last["struck"] == [True]
    assert last["failed"] == {}
    assert last["done"] == [True, True]
    assert sum("started again (1 of 2 times)" in line for line in last["said"]) == 1


PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


@pytest.mark.slow
def test_the_pages_script_runs_in_the_debug_executor(tmp_path):
    """With two seeds of a smaller preset and budget."""
    pytest.importorskip("submitit")
    pytest.importorskip("matplotlib")
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    smaller = {"[0, 1, 2, 3, 4]": "[0]", "kl_balance=0.5,0.9": "kl_balance=0.5", "30000": "150", '"vector"': '"debug"'}
    for word, instead in smaller.items():
        assert script.count(word) == 1
        script = script.replace(word, instead)
    (tmp_path / "reverie").write_text(f'#!/bin/sh\nexec {sys.executable} -m reverie.cli "$@"\n')
    (tmp_path / "reverie").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=os.environ | {"SUBMIT": "debug", "PATH": path},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "runs" / "kl" / "results").glob("*.json"))) == 2
    assert (tmp_path / "runs" / "kl" / "report.html").exists()


def test_the_page_lists_every_option():
    assert set(READERS) == {
        name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.M) for name in re.findall(r"`(\w+)`", row)
    }
