"""Recorded experience of other forms, read as episodes of rows: our own runs, folders of npz, Minari, LeRobot v3."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from gymnasium import spaces

from .. import checkpoint
from ..data.replay import row_forms
from ..data.replay_log import log_files, read_log_file
from ..envs.spaces import Spec, make_spec
from ..errors import UserError
from ..run.data_set import Rows, episode_rows, leaving_rows

#: Names of the action, of rewards and of flags in npz files; all other arrays with a row for each step are observed.
NPZ_KNOWN = {"action", "reward", "discount", "is_first", "is_last", "is_terminal", "step_type", "reset"}
MINARI_JPEG = (
    "images in Minari are JPEG-coded unless the data set was made with jpeg_encoding=False: they are not exact."
)
#: Where LeRobot v3 keeps videos, unless its info says otherwise; frames that are read before they are made smaller.
VIDEO_PATH, FRAMES = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", 64
AV = "pip install 'reverie-rl[offline]'"


@dataclass
class Source:
    """Episodes, what they mean, and what the user should know."""

    spec: Spec
    episodes: Iterator[Rows]
    kind: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """How a source is read. spec: of the environment, if the user named one; actions: of npz files, "into" (the
    released DreamerV2 form: action[t] led into row t) or "leave"; ends: "stored", or "truncated": no end is one of the
    task."""

    spec: Spec | None = None
    actions: str = "into"
    ends: str = "stored"
    view: Mapping[str, Any] = field(default_factory=dict)  # options of `make_spec`


def open_source(path: Path, options: Options) -> Source:
    """Recognize what a path holds. Raises UserError."""
    if (path / "config.yaml").is_file() and (path / "replay").is_dir():
        return from_run(path, options)
    if (path / "meta" / "info.json").is_file():
        return from_lerobot(path, options)
    if any(
        (folder / name).is_file() for folder in (path, path / "data") for name in ("main_data.hdf5", "metadata.json")
    ):
        return from_minari(path, options)
    if path.is_dir() and any(path.rglob("*.npz")):
        return from_npz(path, options)
    raise UserError(
        f"{path} holds no recorded experience that is known.",
        "Give a run of Reverie, a folder of npz files, a Minari data set or a LeRobot v3 data set.",
    )


# -------------------------------------------------------------------------------------------------------------- runs


def from_run(path: Path, options: Options) -> Source:
    """The replay of a run, whole episodes; the one that was not over at the end is cut there. Raises UserError."""
    spec = checkpoint.read_agent(checkpoint.find_agent(path))[1]
    if options.spec is not None:
        spec.require_same_task(options.spec)
    return Source(spec, _run_episodes(path, spec), "run")


def _run_episodes(path: Path, spec: Spec) -> Iterator[Rows]:
    forms = row_forms(spec.shapes, spec.action.size)
    pieces: dict[int, list[tuple[int, Rows]]] = {}
    for file in log_files(path / "replay"):
        firsts, parts = read_log_file(file, forms)
        for stream, (first, rows) in enumerate(zip(firsts, parts, strict=True)):
            pieces.setdefault(stream, []).append((first, rows))
    for stream in sorted(pieces):
        together: list[Rows] = []
        end: int | None = None
        for first, rows in pieces[stream]:
            if end is not None and first != end:  # steps between them are gone
                yield from _whole(together)
                together = []
            together.append(rows)
            end = first + len(rows["reward"])
        yield from _whole(together)


def _whole(pieces: list[Rows]) -> Iterator[Rows]:
    """The episodes of consecutive rows that begin there; the last row of each is its last step."""
    if not pieces:
        return
    rows = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    firsts = np.flatnonzero(rows["is_first"])
    for a, b in zip(firsts, [*firsts[1:], len(rows["reward"])], strict=True):
        if b - a > 1:
            episode = {key: value[a:b].copy() for key, value in rows.items()}
            episode["is_last"][-1] = True
            yield episode


# --------------------------------------------------------------------------------------------------------------- npz


def from_npz(path: Path, options: Options) -> Source:
    """One episode in each file: the released DreamerV2 form, also V-D4RL's. Raises UserError."""
    files = sorted(path.rglob("*.npz"))
    first = _npz(files[0])
    notes: list[str] = []
    spec = options.spec or _npz_spec(files[0], first, options, notes)
    source = Source(spec, iter(()), "npz", notes)
    source.episodes = (_npz_episode(file, _npz(file), spec, options) for file in files)
    return source


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}).", "Arrays of objects are refused: they may run code."
        ) from error
    missing = {"action", "reward"} - found.keys()
    if missing:
        raise UserError(f"{path} has no '{sorted(missing)[0]}'.", f"It has {', '.join(sorted(found)[:10])}.")
    count = len(found["reward"])
    if count < 2 or len(found["action"]) != count:
        raise UserError(f"{path} has {len(found['action'])} actions and {count} rewards.", "One of each for each row.")
    return found


def _npz_spec(path: Path, found: dict[str, np.ndarray], options: Options, notes: list[str]) -> Spec:
    """The spaces that fit an episode: what is uint8 with three axes is an image, one-hot actions are choices."""
    count = len(found["reward"])
    observed = {key: x for key, x in found.items() if key not in NPZ_KNOWN and len(x) == count}
    if not observed:
        raise UserError(f"{path} has no observation.", "Arrays with a row for each step are observations.")
    inner: dict[str, spaces.Space] = {}
    for key, value in observed.items():
        if value.dtype == np.uint8 and value.ndim == 4:
            inner[key] = spaces.Box(0, 255, value.shape[1:], np.uint8)
        elif value.dtype.kind in "fiub":
            inner[key] = spaces.Box(-np.inf, np.inf, value.shape[1:] or (1,), np.float32)
    action = found["action"]
    vector = action[:, None] if action.ndim == 1 else action
    later = vector[1:] if options.actions == "into" else vector
    if vector.ndim == 2 and vector.shape[1] > 1 and np.isin(later, (0, 1)).all() and (later.sum(-1) == 1).all():
        own: spaces.Space = spaces.Discrete(vector.shape[1])
        notes.append(f"actions are one-hot: taken for {vector.shape[1]} choices (--env takes the space of a task)")
    elif action.ndim == 1 and action.dtype.kind in "iu":
        raise UserError(f"the actions of {path} are whole numbers of an unknown space.", "Name the task with --env.")
    else:
        own = spaces.Box(-1, 1, vector.shape[1:], np.float32)
        notes.append("actions are taken for numbers from -1 to 1 (--env takes the space of a task)")
    env: Any = SimpleNamespace(observation_space=spaces.Dict(inner), action_space=own)
    return make_spec(env, **options.view)


def _npz_episode(path: Path, found: dict[str, np.ndarray], spec: Spec, options: Options) -> Rows:
    """The rows of an episode. Raises UserError."""
    count = len(found["reward"])
    action = found["action"].reshape(count, -1).astype(np.float64)
    given = np.nan_to_num(action[0])
    if options.actions == "into" and given.any():
        raise UserError(
            f"{path}: the first row has an action, {given.tolist()[:4]}, though nothing led into it.",
            "Give --actions leave if action[t] was taken at observation t.",
        )
    with _fitting(path):
        obs = spec.encode({key: value for key, value in found.items() if len(value) == count})
        discount = found.get("discount")
        ended = found.get("is_terminal", np.zeros(count, bool) if discount is None else discount == 0)
        terminal = bool(ended[-1]) and options.ends == "stored"
        vectors = _vectors(action if options.actions == "leave" else action[1:], found["action"], spec)
        if options.actions == "leave":
            return leaving_rows(obs, vectors, found["reward"], terminal=terminal)
        return episode_rows(obs, vectors, found["reward"][1:], terminal=terminal)


def _vectors(action: np.ndarray, given: np.ndarray, spec: Spec) -> np.ndarray:
    """Actions (T, ...) of a flat array -> the agent's vectors (T, A): one-hots as they are, the rest by the space."""
    if spec.action.kind == "discrete" and action.shape[-1] == spec.action.size and given.ndim > 1:
        if not ((action == 0) | (action == 1)).all():
            raise ValueError("actions of choices must be one-hot")
        return action.astype(np.float32)
    if len(spec.action.parts) > 1:
        raise ValueError("a nested action space has no flat form")
    return spec.action.encode(action.reshape((len(action), *spec.action.parts[0].shape)))


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Context in which what does not fit the spec is reported with the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} does not fit the task ({error}).", "Check --env and --actions.") from error


# ------------------------------------------------------------------------------------------------------------- minari


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"reading {what} needs {package}.", "pip install 'reverie-rl[offline]'")


def from_minari(path: Path, options: Options) -> Source:
    """A Minari data set on this disk: T + 1 observations, T actions. Raises UserError."""
    _require("minari", "Minari")
    from minari import MinariDataset

    folder = path if path.name == "data" else path / "data"
    try:
        found = MinariDataset(folder if folder.is_dir() else path)
        env: Any = SimpleNamespace(observation_space=found.observation_space, action_space=found.action_space)
    except (ImportError, OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{path} cannot be read as Minari ({error}).", "pip install 'reverie-rl[offline]'") from error
    spec = options.spec or make_spec(env, **options.view)
    notes = [MINARI_JPEG] if any(item.kind == "image" for item in spec.obs.values()) else []
    return Source(spec, _minari_episodes(path, found, spec, options), "minari", notes)


def _minari_episodes(path: Path, found: Any, spec: Spec, options: Options) -> Iterator[Rows]:
    for episode in found.iterate_episodes():
        with _fitting(path):
            terminal = bool(np.asarray(episode.terminations)[-1]) and options.ends == "stored"
            obs = spec.encode(episode.observations)
            yield episode_rows(obs, spec.action.encode(episode.actions), np.asarray(episode.rewards), terminal=terminal)


# ------------------------------------------------------------------------------------------------------------ lerobot


def from_lerobot(path: Path, options: Options) -> Source:
    """A LeRobot v3 data set: rows of parquet, the action of a row leaves it; videos, where the package av is there.

    Raises UserError.
    """
    _require("pyarrow", "LeRobot")
    info = _read(path / "meta" / "info.json", json.loads)
    features: Mapping[str, Any] = info.get("features", {})
    wanted = None if options.spec is None else [item.path[0] for item in options.spec.obs.values()]
    with _fitting(path):
        videos = Videos.of(path, info, wanted)
    left_out = sorted(k for k, item in features.items() if item.get("dtype") in ("video", "image") and k not in videos)
    vectors = {
        key: tuple(item["shape"])
        for key, item in features.items()
        if key.startswith("observation") and item.get("dtype", "").startswith(("float", "int"))
    }
    if not (vectors or videos) or "action" not in features:
        raise UserError(f"{path} has no action, or no observation that can be read.", f"Videos need av: {AV}")
    observed: dict[str, spaces.Space] = {key: spaces.Box(-np.inf, np.inf, shape) for key, shape in vectors.items()}
    observed |= {key: spaces.Box(0, 255, shape, np.uint8) for key, shape in videos.items()}
    table = _lerobot_table(path, [*vectors, "action", "episode_index", "frame_index"])
    low, high = table["action"].min(0), table["action"].max(0)
    own = spaces.Box(np.minimum(low, high - 1e-3).astype(np.float32), high.astype(np.float32))
    env: Any = SimpleNamespace(observation_space=spaces.Dict(observed), action_space=own)
    notes = ["the format has no observation after the last action: the last one is repeated, so that its reward counts"]
    for key in left_out:
        kind = features[key]["dtype"]
        notes.append(f"'{key}' is left out: " + (f"its video needs av, {AV}" if kind == "video" else "an image"))
    if videos:
        notes.append("videos are coded with losses: their images are not exact")
    if options.spec is None:
        notes.append("the limits of actions are those of the data (--env takes the space of a task)")
    if "next.reward" not in table:
        notes.append("there is no next.reward: every reward is 0")
    spec = options.spec or make_spec(env, **options.view)
    return Source(spec, _lerobot_episodes(path, table, spec, options, videos), "lerobot", notes)


class Videos(dict[str, tuple[int, ...]]):
    """The videos of a LeRobot data set that can be read: {key: shape of a frame (H, W, 3)}; {} without package av."""

    path: Path
    template: str  # of a file's path
    fps: float
    where: dict[str, dict[int, tuple[int, int, float]]]  # key -> episode -> chunk, file, seconds where it begins in it

    @classmethod
    def of(cls, path: Path, info: Mapping[str, Any], wanted: Sequence[Any] | None) -> Videos:
        """wanted: keys that the user's task has; None: all. Raises UserError."""
        found = cls()
        found.path, found.fps, found.where = path, float(info.get("fps", 30)), {}
        found.template = str(info.get("video_path", VIDEO_PATH))
        for key, item in info.get("features", {}).items():
            if item.get("dtype") != "video" or importlib.util.find_spec("av") is None:
                continue
            if wanted is None or key in wanted:
                shape = tuple(item["shape"])
                found[key] = shape if shape[-1] == 3 else (*shape[1:], shape[0])
        if found:
            found._locate()
        return found

    def _locate(self) -> None:
        import pyarrow.parquet as pq

        names = ("chunk_index", "file_index", "from_timestamp")
        self.where = {key: {} for key in self}
        for file in sorted((self.path / "meta" / "episodes").rglob("*.parquet")):
            table = _read(file, None, lambda file: pq.read_table(file))
            columns = {name: table[name].to_pylist() for name in table.column_names}
            for key in self:
                try:
                    places = zip(*(columns[f"videos/{key}/{name}"] for name in names), strict=True)
                    self.where[key] |= dict(zip(columns["episode_index"], places, strict=True))
                except KeyError as error:
                    raise UserError(f"{file} lacks {error}.", "Is the data set whole, and of version 3?") from error

    def _file(self, key: str, chunk: int, number: int) -> Path:
        """A video's file. The data set may come from someone else: nothing outside of it is read. Raises UserError."""
        try:
            file = self.path / self.template.format(video_key=key, chunk_index=chunk, file_index=number)
            inside = file.resolve().is_relative_to(self.path.resolve())
        except (ValueError, KeyError, IndexError, AttributeError, OSError) as error:
            raise UserError(f"{self.path} names its videos in no way of LeRobot ({error}).", "Is it whole?") from error
        if not inside or (file.exists() and not file.is_file()):
            raise UserError(f"{file} is outside of the data set, or no file.", "Put a copy of the video there.")
        return file

    def frames(self, key: str, episode: int, count: int) -> Iterator[np.ndarray]:
        """`count` frames of an episode, uint8 (H, W, 3). Raises UserError."""
        import av

        if episode not in self.where[key]:
            raise UserError(f"{self.path} does not say where the video of episode {episode} is.", "Is it whole?")
        chunk, number, begin = self.where[key][episode]
        file = self._file(key, chunk, number)
        given = 0
        try:
            with av.open(str(file)) as container:
                stream = container.streams.video[0]
                if stream.time_base is None:
                    raise ValueError("the video has no unit of time")
                container.seek(int(begin / stream.time_base), stream=stream)  # the key frame before it
                for frame in container.decode(stream):
                    if frame.time >= begin - 0.5 / self.fps:
                        yield frame.to_ndarray(format="rgb24")
                        given += 1
                        if given == count:
                            return
        except (OSError, ValueError, IndexError, TypeError) as error:  # av's errors, no image in it, no time
            raise UserError(f"{file} cannot be read ({error}).", "Is the data set whole?") from error
        raise UserError(f"{file} ends within episode {episode}: {given} of {count} frames.", "Is the data set whole?")


def _lerobot_table(path: Path, needed: list[str]) -> dict[str, np.ndarray]:
    """Columns of all parquet files, in the order of episode and frame."""
    import pyarrow.parquet as pq

    wanted = {*needed, "next.reward", "next.done", "next.success", "next.terminated"}
    files = sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise UserError(f"{path} has no parquet file below data/.", "Give a whole LeRobot v3 data set.")
    pieces: dict[str, list[np.ndarray]] = {}
    for file in files:
        table = _read(file, None, lambda file: pq.read_table(file))
        for key in wanted & set(table.column_names):
            pieces.setdefault(key, []).append(np.array(table[key].to_pylist()))
    missing = sorted(set(needed) - pieces.keys())
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'.", "Give a whole LeRobot v3 data set.")
    found = {key: np.concatenate(parts) for key, parts in pieces.items()}
    order = np.lexsort((found["frame_index"], found["episode_index"]))
    return {key: value[order].reshape(len(order), -1) for key, value in found.items()}


def _lerobot_episodes(
    path: Path, table: dict[str, np.ndarray], spec: Spec, options: Options, videos: Videos
) -> Iterator[Rows]:
    index = table["episode_index"][:, 0]
    edges = np.flatnonzero(np.diff(index)) + 1
    for rows in np.split(np.arange(len(index)), edges):
        with _fitting(path):
            obs = _lerobot_obs(table, rows, spec, videos)
            action = table["action"][rows].reshape((len(rows), *spec.action.parts[0].shape))
            reward = table["next.reward"][rows, 0] if "next.reward" in table else np.zeros(len(rows))
            flag = next((key for key in ("next.terminated", "next.success", "next.done") if key in table), None)
            terminal = flag is not None and bool(table[flag][rows[-1], 0]) and options.ends == "stored"
            yield leaving_rows(obs, spec.action.encode(action), reward, terminal=terminal)


def _lerobot_obs(table: dict[str, np.ndarray], rows: np.ndarray, spec: Spec, videos: Videos) -> dict[str, np.ndarray]:
    """What the agent sees of an episode {key: (T, *shape)}: a few frames at a time, which it sees smaller."""
    keys = [(str(item.path[0]), item.raw_shape) for item in spec.obs.values()]
    episode = int(table["episode_index"][rows[0], 0])
    moving = {key: videos.frames(key, episode, len(rows)) for key, _ in keys if key in videos}
    pieces: list[dict[str, np.ndarray]] = []
    for some in np.split(rows, range(FRAMES, len(rows), FRAMES)):
        raw = {
            key: np.stack([next(moving[key]) for _ in some])
            if key in moving
            else table[key][some].reshape((len(some), *shape))
            for key, shape in keys
        }
        pieces.append(spec.encode(raw))
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}


def _read(path: Path, parse: Callable[[str], Any] | None, opened: Callable[[Path], Any] | None = None) -> Any:
    """What a file holds. Raises UserError."""
    try:
        return opened(path) if opened else cast(Callable[[str], Any], parse)(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).", "Is the data set whole?") from error
