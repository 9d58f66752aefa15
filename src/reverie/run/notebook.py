"""What a notebook shows while an agent learns: one block, replaced in its place, instead of an output per line."""

from __future__ import annotations

import time
from html import escape
from typing import Any

#: Seconds between two drawings of the bar, and how many of the lines below it are shown.
PAUSE, LATER = 0.25, 200
BOX = "margin:0;white-space:pre-wrap;max-height:22em;overflow-y:auto"


class NotebookBlock:
    """A bar, the run's header folded away, and below it evaluations and findings. Needs IPython, not ipywidgets.

    Where no HTML is shown (a console, a file) the same as text.
    """

    def __init__(self) -> None:
        self.header: list[str] = []
        self.lines: list[str] = []
        self._handle: Any = None
        self._bar: tuple[float, str] | None = None
        self._drawn = 0.0

    def start(self) -> None:
        """The header is complete: what is said from now on stands below the bar."""
        self._bar = (0.0, "")
        self._draw()

    def say(self, text: str) -> None:
        """Add a line, or several."""
        (self.header if self._bar is None else self.lines).append(text)
        self._draw()

    def update(self, share: float, text: str) -> None:
        """Move the bar: share from 0 to 1, and a text beside it."""
        self._bar = (share, text)
        self._draw(soon=True)

    def stop(self) -> None:
        """The last block stays."""
        self._draw()

    def _draw(self, *, soon: bool = False) -> None:
        """Show the block; soon: unless it was just drawn."""
        if soon and time.monotonic() - self._drawn < PAUSE:
            return
        from IPython.display import display

        self._drawn = time.monotonic()
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def __repr__(self) -> str:
        bar = [] if self._bar is None else [f"{self._bar[0]:4.0%}  {self._bar[1]}"]
        return "\n".join([*self.header, *bar, *self.lines[-LATER:]])

    def _repr_html_(self) -> str:
        parts = []
        if self._bar is not None:
            share, text = self._bar
            parts.append(f'<progress value="{share:.4f}" max="1"></progress> {share:.0%} <code>{escape(text)}</code>')
        if self.header:
            whole, first = "\n".join(self.header), self.header[0]
            opened = " open" if self._bar is None else ""
            parts.append(f"<details{opened}><summary>{escape(first)}</summary>{_box(whole)}</details>")
        if self.lines:
            parts.append(_box("\n".join(self.lines[-LATER:])))
        return "".join(parts)


def _box(text: str) -> str:
    return f'<pre style="{BOX}">{escape(text)}</pre>'
