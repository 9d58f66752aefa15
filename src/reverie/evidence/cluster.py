"""The runs of a sweep on a cluster: arrays of SLURM through submitit, tasks of Ray. Both are optional packages.

A killed job is for the queue what a killed local process is, an exit code below zero: it is started again and
continues from its checkpoint. Before a time limit SLURM sends a signal; the run then writes a checkpoint and submitit
requeues the job under the same number, so the queue sees nothing of it.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_file
from ..run.ray_cluster import join_cluster
from .executors import ClusterOptions, Executor, LocalExecutor, Process, Where, Work
from .job import ClusterJob

#: How often a run may reach its time limit and be requeued.
REQUEUES = 1000
#: The width of an array that the user does not limit.
MANY = 100_000
#: Seconds between SLURM's signal and the end of an allocation, if that is long enough.
SIGNAL = 90
#: Seconds that a file system may take to show the result of a job that SLURM reports as ended.
LATE = 15.0
KILLED = -int(signal.SIGKILL)


class _Handle:
    """The half of `Process` that SLURM and Ray share: waiting is asking again and again."""

    returncode: int | None = None

    def poll(self) -> int | None:
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> int:
        """As `subprocess.Popen.wait`."""
        until = time.monotonic() + (timeout if timeout is not None else math.inf)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a job of the cluster", timeout or 0.0)
            time.sleep(0.2)
        return code


# ---------------------------------------------------------------------------------------------------------------- SLURM


class SlurmProcess(_Handle):
    """A job of SLURM, or of submitit's local and debug executors."""

    def __init__(self, work: Work, cluster: str) -> None:
        self.work, self.late = work, LATE if cluster == "slurm" else 1.0
        self.leaves_result = cluster != "debug"  # a file
        self.job: Any = None  # submitit's, once it is submitted
        self._ended = 0.0  # when it was first seen as ended without a result

    def poll(self) -> int | None:
        """As `Process.poll`. A job that ended without a result was killed, by SLURM or with its machine."""
        if self.returncode is None and self.job is not None and self.job.done():
            if not self.leaves_result or self.job.paths.result_pickle.exists():
                self.returncode = self._code()
            elif not self._ended:
                self._ended = time.monotonic()
            elif time.monotonic() - self._ended > self.late:
                self._keep_output()
                self.returncode = KILLED
        return self.returncode

    def _code(self) -> int:
        try:
            return int(self.job.result())
        except Exception as error:  # of submitit, or of the job's code before the run began
            self._keep_output(str(error))
            return 1

    def _keep_output(self, text: str = "") -> None:
        """Into the job's log: whatever its script printed, for that is where the user reads."""
        with suppress(OSError):
            text = text or (self.job.stderr() or "")[-2000:]
            self.work.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.work.log, "a", encoding="utf-8") as file:
                file.write(f"{text.strip()}\njob {self.job.job_id} ended without a result\n")

    def terminate(self) -> None:
        """SLURM sends SIGTERM to the run, and SIGKILL half a minute later."""
        if self.job is not None:
            with suppress(subprocess.SubprocessError, OSError):
                self.job.cancel(check=False)

    kill = terminate


class SlurmExecutor:
    """Arrays of SLURM. OUT/submitit has the scripts, the output of jobs and their numbers."""

    def __init__(self, options: ClusterOptions, out: Path, name: str, at_once: int = 0) -> None:
        """at_once: jobs of the array that may run together; 0: as many as SLURM lets.

        Raises UserError where submitit or SLURM is missing, or an option is one that sbatch does not have."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise UserError("--on slurm needs submitit.", "pip install 'reverie-rl[slurm]'") from error
        logging.getLogger("submitit").setLevel(logging.ERROR)  # the queue reports what happens
        self.options, self.folder, self.cluster = options, out / "submitit", options.submit
        self.interval = 1.0 if self.cluster == "slurm" else 0.2
        self._batch: list[SlurmProcess] | None = None
        kinds: dict[str, Any] = {
            "slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor, "debug": submitit.DebugExecutor,
        }  # fmt: skip
        limits = {} if self.cluster == "debug" else {"max_num_timeout": REQUEUES}
        try:
            self.executor = kinds[self.cluster](folder=self.folder / "%j", **limits)
        except RuntimeError as error:
            raise UserError(
                "this machine has no SLURM: there is no `srun`.",
                "Start the sweep where `sbatch` works; --submit local or debug tries it out here.",
            ) from error
        except OSError as error:
            raise UserError(f"cannot write to {out} ({error.strerror}).", "Choose another --out.") from error
        if self.cluster != "debug":
            self.executor.update_parameters(**self._parameters(name, at_once))

    def _parameters(self, name: str, at_once: int) -> dict[str, Any]:
        """The options in submitit's names."""
        given, minutes = self.options, self.options.time or 60.0
        delay = int(min(SIGNAL, minutes * 60 / 2))
        if self.cluster == "local":
            return {"timeout_min": minutes, "signal_delay_s": delay, "gpus_per_node": given.gpus or 0}
        found: dict[str, Any] = {"job_name": f"reverie-{name}", "time": math.ceil(minutes), "signal_delay_s": delay}
        found |= {
            "partition": given.partition or None,
            "account": given.account or None,
            "mem": f"{math.ceil(given.memory * 1024)}MB" if given.memory else None,
        }
        found |= {"cpus_per_task": given.cpus, "gpus_per_node": given.gpus or None}
        found["array_parallelism"] = at_once or MANY
        found |= {"setup": list(given.setup) or None, "additional_parameters": dict(given.extra or {}) or None}
        return {key: value for key, value in found.items() if value is not None}

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is started within becomes one array."""
        self._batch = []
        try:
            yield
            self._submit(self._batch)
        finally:
            self._batch = None

    def start(self, work: Work) -> Process:
        """Submit a run, or find the job of an earlier sweep that was killed while SLURM kept its jobs."""
        work = replace(work, threads=self.options.cpus or work.threads)
        process = SlurmProcess(work, self.cluster)
        process.job = self._earlier(work)
        if process.job is None:
            if self._batch is None:
                self._submit([process])
            else:
                self._batch.append(process)
        return process

    def _submit(self, processes: list[SlurmProcess]) -> None:
        if not processes:
            return
        try:
            jobs = self.executor.submit_array([ClusterJob(each.work) for each in processes])
        except (subprocess.SubprocessError, RuntimeError) as error:
            raise UserError(f"SLURM took no job: {' '.join(str(error).split())}", "Change the options.") from error
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror}).", "Free some space.") from error
        for process, job in zip(processes, jobs, strict=True):
            process.job = job
            with suppress(OSError):
                write_file(self._record(process.work), json.dumps({"job": str(job.job_id)}) + "\n")

    def _record(self, work: Work) -> Path:
        return self.folder / f"{work.name}.json"

    def _earlier(self, work: Work) -> Any:
        """The unfinished job that an earlier sweep has submitted for this run; None if there is none."""
        if self.cluster != "slurm":
            return None
        import submitit

        try:
            number = str(json.loads(self._record(work).read_text(encoding="utf-8"))["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        job: Any = submitit.SlurmJob(folder=self.folder / "%j", job_id=number)
        known = job.get_info().get("State", "")  # asks SLURM; nothing is known of a job that is long gone
        return job if known and not job.done() else None

    def close(self) -> None:
        """SLURM keeps nothing for us."""


# ------------------------------------------------------------------------------------------------------------------ Ray


class RayProcess(_Handle):
    """A task of Ray."""

    def __init__(self, work: Work, task: Any) -> None:
        self.work, self.task = work, task

    def poll(self) -> int | None:
        """As `Process.poll`. A worker or a machine that died is a killed job."""
        import ray

        if self.returncode is None and ray.wait([self.task], timeout=0)[0]:
            try:
                self.returncode = int(ray.get(self.task))
            except ray.exceptions.TaskCancelledError:
                self.returncode = -int(signal.SIGTERM)
            except ray.exceptions.RayTaskError as error:  # of the job's code before the run began
                self._keep_output(str(error))
                self.returncode = 1
            except ray.exceptions.RayError as error:
                self._keep_output(str(error))
                self.returncode = KILLED
        return self.returncode

    def _keep_output(self, text: str) -> None:
        with suppress(OSError):
            self.work.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.work.log, "a", encoding="utf-8") as file:
                file.write(f"{text.strip()}\n")

    def terminate(self) -> None:
        """Interrupt the task: it ends its run with a checkpoint."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.cancel(self.task, force=False)

    def kill(self) -> None:
        """End the worker; the run gets a SIGTERM from the system."""
        import ray

        with suppress(ray.exceptions.RayError, ValueError):
            ray.cancel(self.task, force=True)


class RayExecutor:
    """Tasks of a Ray cluster: of an address, or of one that is started on this machine for the sweep."""

    interval = 0.5

    def __init__(self, options: ClusterOptions) -> None:
        """Raises UserError where Ray is missing or not reached, or where no machine has what a run asks for."""
        self.joined = join_cluster("--on ray", options.address)
        ray = self.joined.ray
        needs = {"CPU": float(options.cpus or 1), "GPU": float(options.gpus or 0)}
        needs |= {"memory": options.memory * 2**30} if options.memory else {}
        try:
            self._require(ray.nodes(), needs)
        except UserError:
            self.close()
            raise
        self.cpus = options.cpus
        memory = {"memory": int(needs["memory"])} if options.memory else {}
        remote = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0, **memory)
        self.task = remote(_execute)

    def _require(self, nodes: list[dict[str, Any]], needs: dict[str, float]) -> None:
        there = [node["Resources"] for node in nodes if node["Alive"]]
        if not any(all(node.get(key, 0.0) >= amount for key, amount in needs.items()) for node in there):
            asked = ", ".join(f"{amount:g} {key}" for key, amount in needs.items() if amount)
            have = "; ".join(", ".join(f"{n.get(key, 0.0):g} {key}" for key in needs) for n in there)
            raise UserError(f"no machine of the Ray cluster has {asked}; they have: {have}.", "Ask for less.")

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Ray has a queue of its own."""
        yield

    def start(self, work: Work) -> Process:
        """Hand a run to Ray's queue."""
        work = replace(work, threads=self.cpus or work.threads)
        return RayProcess(work, self.task.remote(ClusterJob(work)))

    def close(self) -> None:
        """Leave the cluster, and end one that was started for the sweep."""
        self.joined.leave()


def _execute(job: ClusterJob) -> int:
    return job()


def make_executor(where: Where, options: ClusterOptions, out: Path, name: str, at_once: int = 0) -> Executor:
    """The executor of a place; out: the sweep's directory, name: the sweep's, at_once: runs. Raises UserError."""
    if where == "slurm":
        return SlurmExecutor(options, out, name, at_once)
    return RayExecutor(options) if where == "ray" else LocalExecutor()
