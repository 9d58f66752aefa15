"""Where else a run's numbers and videos go: Weights & Biases, MLflow. Off by default; group `log` of the settings.

metrics.jsonl has everything whatever happens here: a service that fails later ends only itself, with a note.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..config import Config, to_dict
from ..errors import UserError
from ..files import read_text, write_file


class Tracker(Protocol):
    """A service that records runs."""

    name: str

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None: ...
    def video(self, path: Path, env_steps: int) -> None: ...
    def close(self) -> None: ...


def open_trackers(run: Path, config: Config) -> list[Tracker]:
    """Those that the settings ask for, which continue what they know of this run. Raises UserError."""
    makers: list[tuple[bool, Callable[[Path, Config], Tracker]]] = [
        (config.log.wandb, Wandb),
        (config.log.mlflow, Mlflow),
    ]
    return [make(run, config) for wanted, make in makers if wanted]


def flat_settings(config: Config) -> dict[str, Any]:
    """{"group.name": value}, lists as text."""
    return {
        f"{group}.{name}": ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for group, values in to_dict(config).items()
        for name, value in values.items()
    }


def _id_of(run: Path, name: str, make: Callable[[], str]) -> str:
    """One id per run directory, so that two runs of the same name do not merge."""
    path = run / name
    if not path.exists():
        write_file(path, make())
    return read_text(path).strip()


class Wandb:
    """Weights & Biases. Without an account: WANDB_MODE=offline writes to RUN/wandb, `wandb sync` sends it later."""

    name = "Weights & Biases"

    def __init__(self, run: Path, config: Config) -> None:
        """Raises UserError without the package, or where it cannot begin."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise UserError(
                "log.wandb needs the package wandb, which is not installed.",
                "pip install wandb, or 'reverie-rl[wandb]'.",
            ) from error
        self._wandb = wandb
        log = config.log
        identity = _id_of(run, "wandb_id", lambda: uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=log.project,
                group=log.group or None,
                tags=list(log.tags) or None,
                name=run.name,
                dir=str(run),
                resume="allow",
                id=identity,
                config=flat_settings(config),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"Weights & Biases did not begin ({' '.join(str(error).split())[:200]}).",
                "Log in with `wandb login`, or set WANDB_MODE=offline.",
            ) from error

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """A point on each curve."""
        self._run.log(dict(numbers), step=env_steps)

    def video(self, path: Path, env_steps: int) -> None:
        """The GIF of an evaluation, as eval/video."""
        self._run.log({"eval/video": self._wandb.Video(str(path), format="gif")}, step=env_steps)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class Mlflow:
    """MLflow: to `log.mlflow_uri`, else MLFLOW_TRACKING_URI, else a folder mlruns beside the run."""

    name = "MLflow"

    def __init__(self, run: Path, config: Config) -> None:
        """Raises UserError without the package, or where the store does not answer."""
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise UserError(
                "log.mlflow needs the package mlflow, which is not installed.",
                "pip install mlflow, or 'reverie-rl[mlflow]', its small form.",
            ) from error
        log = config.log
        uri = log.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or (run.parent / "mlruns").as_uri()
        if uri.startswith("file:"):  # without a word from the user MLflow refuses a folder
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            self._client = client = MlflowClient(uri)
            known = client.get_experiment_by_name(log.project)
            experiment = known.experiment_id if known else client.create_experiment(log.project)
            tags = {"mlflow.runName": run.name} | ({"group": log.group} if log.group else {})
            tags |= dict.fromkeys(log.tags, "true")
            begun = client.create_run(experiment, tags=tags).info.run_id if not (run / "mlflow_id").exists() else ""
            self._id = _id_of(run, "mlflow_id", lambda: begun)
            if begun:
                params = [Param(key, str(value)[:500]) for key, value in flat_settings(config).items()]
                for at in range(0, len(params), 100):  # as many as a server takes at once
                    client.log_batch(self._id, params=params[at : at + 100])
            client.update_run(self._id, status="RUNNING")
        except (MlflowException, OSError) as error:
            raise UserError(
                f"MLflow at {uri} did not begin ({' '.join(str(error).split())[:200]}).", "Check log.mlflow_uri."
            ) from error

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """A point on each curve."""
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        found = [Metric(key, value, now, env_steps) for key, value in numbers.items() if math.isfinite(value)]
        self._client.log_batch(self._id, metrics=found)

    def video(self, path: Path, env_steps: int) -> None:
        """The GIF of an evaluation, as an artifact."""
        self._client.log_artifact(self._id, str(path), "videos")

    def close(self) -> None:
        """The run has ended, for now."""
        self._client.set_terminated(self._id)
