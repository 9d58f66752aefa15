"""What a user says about a run, as RUN/notes.json: a note, tags, and whether it is hidden on the dashboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, printable
from ..files import read_record, reason, write_file

FILE = "notes.json"
LONGEST_NOTE, LONGEST_TAG, MOST_TAGS = 2000, 30, 12  # letters, letters, tags of a run


class Notes(NamedTuple):
    """The notes of a run."""

    note: str = ""
    tags: tuple[str, ...] = ()
    hidden: bool = False


def read_notes(run: Path) -> Notes:
    """The notes; empty ones for a run without, and for what is no note in a damaged file."""
    found = read_record(run / FILE)
    note, tags = found.get("note"), found.get("tags")
    kept = [tag[:LONGEST_TAG] for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return Notes(
        note[:LONGEST_NOTE] if isinstance(note, str) else "", tuple(kept[:MOST_TAGS]), found.get("hidden") is True
    )


def write_notes(run: Path, changes: Mapping[str, Any]) -> Notes:
    """Change some of `Notes` and keep them in the run. -> what is kept. Raises UserError for what cannot be one."""
    new = read_notes(run)._replace(**_checked(changes))
    try:
        write_file(run / FILE, json.dumps(new._asdict()), new_folder=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run} is no longer there.", "Load the page again.") from error
    except OSError as error:
        raise UserError(f"cannot write the note to {run} ({reason(error)}).", "Make the directory writable.") from error
    return new


def _checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The known fields of a request in their checked form. Raises UserError."""
    found: dict[str, Any] = {}
    if "note" in changes:
        note = changes["note"]
        if not isinstance(note, str) or len(note) > LONGEST_NOTE:
            raise UserError(f"a note is a text of at most {LONGEST_NOTE} letters.", "Shorten it.")
        found["note"] = printable(note.strip())[:LONGEST_NOTE]
    if "tags" in changes:
        tags = changes["tags"]
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise UserError("tags are a list of texts.", "Write them with commas between.")
        clean = list(dict.fromkeys(printable(" ".join(tag.split())) for tag in tags if tag.strip()))
        if len(clean) > MOST_TAGS or any(len(tag) > LONGEST_TAG for tag in clean):
            raise UserError(
                f"a run has at most {MOST_TAGS} tags of at most {LONGEST_TAG} letters.",
                "Leave some out, or shorten them.",
            )
        found["tags"] = tuple(clean)
    if "hidden" in changes:
        if not isinstance(changes["hidden"], bool):
            raise UserError("a run is hidden or not.", "Send true or false.")
        found["hidden"] = changes["hidden"]
    return found
