"""How a run ended, as RUN/end.json: done, stopped or crashed, and by what. A killed process leaves none.

Pages read it without torch. A run that is continued removes it first, so that it never describes an earlier part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Stopped, UserError
from ..files import read_record, write_file

if TYPE_CHECKING:
    from .state import RunState

FILE, STATES = "end.json", ("done", "stopped", "crashed")
#: What ends a run as it was asked for.
LIMITS = ("train.env_steps", "train.minutes")


class End(NamedTuple):
    """How a run ended."""

    state: str  # one of STATES
    reason: str  # the limit, the signal, the callback or the error


def read_end(run: Path) -> End | None:
    """What the run wrote when it ended; None while it trains, after a kill, and for runs of older versions."""
    found = read_record(run / FILE)
    state, reason = found.get("state"), found.get("reason")
    return End(state, reason) if state in STATES and isinstance(reason, str) else None


@contextmanager
def recorded_end(run: RunState) -> Iterator[None]:
    """Context of a training: writes how it ended. A disk that is full or gone leaves no record, and ends nothing."""
    if not run.ranks.first:
        yield
        return
    with suppress(OSError):
        (run.root / FILE).unlink(missing_ok=True)
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        _write(run, End("stopped", run.end() or "interrupted"))
        raise
    except BaseException as error:
        what = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _write(run, End("crashed", what[:1000]))
        raise
    _write(run, End("done" if run.end() in LIMITS else "stopped", run.end() or "asked to stop"))


def _write(run: RunState, end: End) -> None:
    with suppress(OSError, UserError):
        run.lock.check()  # another one may have taken its place
        write_file(run.root / FILE, json.dumps(end._asdict()), new_folder=False)
