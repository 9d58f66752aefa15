"""Other places for a run's numbers: TensorBoard's hyperparameters, Weights & Biases offline, MLflow in a folder."""

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event
from toys import DictEnv

from reverie import UserError
from reverie.config.presets import load_preset
from reverie.run.lines import read_lines
from reverie.run.logger import Logger
from reverie.run.trackers import flat_settings


class Filmed(DictEnv):
    """A task with a picture of itself."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    render_mode = "rgb_array"

    def render(self):
        return self._observe()["camera"]


def events_of(directory):
    """The events of all files in a directory."""
    found = []
    for path in sorted(directory.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def numbers_of(run):
    return [line["env_steps"] for line in read_lines(run / "metrics.jsonl")]


def test_tensorboard_has_the_settings_as_hyperparameters(make_run, tmp_path):
    make_run(tmp_path / "run", tensorboard=True, actor_lr=3e-4, env_steps=60).train()
    tags = {value.tag: value for event in events_of(tmp_path / "run" / "tensorboard") for value in event.summary.value}
    begun = tags["_hparams_/session_start_info"].metadata.plugin_data.content
    assert b"behavior.actor_lr" in begun
    assert struct.pack("<d", 3e-4) in begun
    assert "episode/return" in tags
    assert b"eval/return" in tags["_hparams_/experiment"].metadata.plugin_data.content


def test_weights_and_biases_offline_has_config_group_tags_and_videos(make_run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'reverie-rl[wandb]'")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    options = {"wandb": True, "project": "my-project", "group": "my-group", "tags": "my-tag", "video": True}
    make_run(tmp_path / "run", lambda: Filmed(), env_steps=60, eval_episodes=1, **options).train()
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    text = record.read_bytes()
    for wanted in (b"my-project", b"my-group", b"my-tag", b"behavior.actor_lr"):
        assert wanted in text, wanted
    assert len(list(record.parent.rglob("*.gif"))) == 1  # of the one evaluation
    assert record.stem.endswith((tmp_path / "run" / "wandb_id").read_text())


def test_mlflow_in_a_folder_has_every_line_and_a_run_continues_there(make_run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'reverie-rl[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = {"mlflow": True, "project": "my-project", "group": "my-group", "tags": "my-tag", "video": True}
    for steps in (60, 90):
        make_run(tmp_path / "run", lambda: Filmed(), env_steps=steps, eval_episodes=1, **options).train()
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("my-project").experiment_id])
    assert found.info.run_id == (tmp_path / "run" / "mlflow_id").read_text()
    assert found.info.status == "FINISHED"
    assert found.data.tags["group"] == "my-group"
    assert found.data.tags["my-tag"] == "true"
    settings = flat_settings(load_preset("debug", {}))
    assert found.data.params.keys() == settings.keys()
    assert found.data.params["behavior.gamma"] == str(settings["behavior.gamma"])
    steps = {point.step for key in found.data.metrics for point in client.get_metric_history(found.info.run_id, key)}
    assert steps == set(numbers_of(tmp_path / "run"))
    names = [artifact.path for artifact in client.list_artifacts(found.info.run_id, "videos")]
    assert names == ["videos/eval-000000060.gif", "videos/eval-000000090.gif"]


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_is_one_sentence_before_training(make_run, tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"log\.{name} needs the package {name}.*\n?.*pip install {name}"):
        make_run(tmp_path / "run", **{name: True})


def test_an_mlflow_that_does_not_answer_is_one_sentence(make_run, tmp_path):
    pytest.importorskip("mlflow", reason="pip install 'reverie-rl[mlflow]'")
    with pytest.raises(UserError, match="MLflow at nowhere://here did not begin"):
        make_run(tmp_path / "run", mlflow=True, mlflow_uri="nowhere://here")


class Failing:
    name = "Somewhere"

    def __init__(self):
        self.calls = 0

    def log(self, numbers, env_steps):
        self.calls += 1
        raise ConnectionError("no\nroute")

    def video(self, path, env_steps):
        raise AssertionError("left out by then")

    def close(self):
        raise AssertionError("left out by then")


def test_a_service_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    service = Failing()
    logger = Logger(tmp_path, env_steps=0, tensorboard=False, trackers=[service])
    for at in (1, 2):
        logger.write({"a": 1.0}, env_steps=at)
    logger.close()
    assert service.calls == 1
    assert logger.trouble == "Somewhere is no longer written (no route). metrics.jsonl has all numbers."
    assert numbers_of(tmp_path) == [1, 2]
