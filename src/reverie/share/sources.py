"""Where agents come from besides a directory: `pretrained:NAME` and `hf://USER/NAME`; and the way to the hub.

What arrives is checked like any folder from elsewhere: files of known kinds only, no link, no pickle; `checkpoint` then
checks the manifest and every shape, and code that its settings name is not imported.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import UserError, printable
from ..files import absolute

PRETRAINED, HUB = "pretrained:", "hf://"
#: A folder with agents, or hf://USER, whose repositories reverie-NAME are meant.
FOLDER_VARIABLE, CACHE_VARIABLE = "REVERIE_PRETRAINED", "REVERIE_CACHE"
BUNDLED = Path(__file__).parent / "pretrained"
#: The kinds of files that are fetched. No .py, no pickle.
KINDS = ("*.json", "*.yaml", "*.safetensors", "*.md", "*.png", "*.gif")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def find(path: str | Path) -> Path:
    """The directory that a path, `pretrained:NAME` or `hf://USER/NAME` stands for, fetched first. Raises UserError."""
    text = re.sub(r"^hf:/+", HUB, str(path))  # a Path has one slash left of two
    if text.startswith(PRETRAINED):
        return find_pretrained(text[len(PRETRAINED) :])
    if text.startswith(HUB):
        return fetch(text[len(HUB) :])
    return absolute(path)


# ------------------------------------------------------------------------------------------------------ trained agents


def agents_in(folder: Path) -> list[str]:
    """Names of the agents below a folder."""
    try:
        return sorted(item.name for item in folder.iterdir() if (item / "weights.safetensors").is_file())
    except OSError:
        return []


def find_pretrained(name: str) -> Path:
    """A trained agent of the package, or of the folder or hub that REVERIE_PRETRAINED names. Raises UserError."""
    elsewhere = os.environ.get(FOLDER_VARIABLE, "")
    known = _NAME.fullmatch(name) is not None
    if known and name in agents_in(BUNDLED):
        return BUNDLED / name
    if elsewhere.startswith(HUB) and known:
        return fetch(f"{elsewhere[len(HUB) :].strip('/')}/reverie-{name}")
    there = agents_in(absolute(elsewhere)) if elsewhere and not elsewhere.startswith(HUB) else []
    if known and name in there:
        return absolute(elsewhere) / name
    raise UserError(f"there is no trained agent '{printable(name)[:60]}'.", there_are())


def there_are() -> str:
    """A sentence with the trained agents that can be loaded."""
    elsewhere = os.environ.get(FOLDER_VARIABLE, "")
    inside = ", ".join(agents_in(BUNDLED)) or "none"
    if not elsewhere:
        return f"In the package: {inside}. {FOLDER_VARIABLE} names a folder, or hf://USER, with more."
    if elsewhere.startswith(HUB):
        return f"In the package: {inside}. {FOLDER_VARIABLE} is {elsewhere}: reverie-NAME there."
    return f"In the package: {inside}. In {elsewhere}: {', '.join(agents_in(absolute(elsewhere))) or 'none'}."


# ------------------------------------------------------------------------------------------------------------- the hub


def require_hub() -> Any:
    """The package huggingface_hub. Raises UserError without it."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(
            "the hub needs the package huggingface_hub, which is not installed.", "pip install 'reverie-rl[hub]'"
        ) from error
    return huggingface_hub


def cache() -> Path:
    """Where fetched agents are kept."""
    home = (
        os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie"
    )
    return absolute(home) / "hub"


def split_repository(name: str) -> tuple[str, str | None]:
    """USER/NAME or USER/NAME@REVISION -> (USER/NAME, revision or None). Raises UserError."""
    if not _REPOSITORY.fullmatch(name) or ".." in name:
        raise UserError(f"'{printable(name)[:80]}' is no repository of the hub.", "Write hf://USER/NAME.")
    repository, _, revision = name.partition("@")
    return repository, revision or None


def fetch(name: str) -> Path:
    """Download an agent from the hub, or what changed of it. -> its directory in the cache. Raises UserError."""
    repository, revision = split_repository(name)
    hub = require_hub()
    folder = cache() / name.replace("/", "--")
    try:
        hub.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(KINDS))
    except Exception as error:  # of the network, of the hub, of its package, which changed its kinds of errors twice
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot fetch {repository} from the hub ({why}).", "Check the name and the network."
        ) from error
    require_plain(folder)
    return folder


def require_plain(folder: Path) -> None:
    """Refuse a folder from elsewhere with a link in it, whatever its name. Raises UserError."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            raise UserError(f"{path} is a link: an agent from elsewhere has none.", "Do not use it.")
    if not (folder / "weights.safetensors").is_file():
        raise UserError(f"{folder} holds no agent: weights.safetensors is missing.", "Is it one of Reverie's?")


def push(folder: Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a saved agent to the hub; makes the repository if there is none. -> its address. Raises UserError."""
    repository, revision = split_repository(name)
    hub = require_hub()
    api = hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        message = f"agent for {results['env_id']}: return {results['mean_reward']:.3f}"
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            allow_patterns=[*KINDS, "replay/*.safetensors"],
        )
    except Exception as error:  # of the network, of the hub, of its package, which changed its kinds of errors twice
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot send to {repository} ({why}).", "Log in with `hf auth login`; check the name."
        ) from error
    return f"{api.endpoint}/{repository}"
