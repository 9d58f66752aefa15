"""The progress bar of a notebook: one line of HTML that is replaced in its place."""

from __future__ import annotations

from html import escape
from typing import Any


class NotebookBar:
    """What `Progress` uses of rich's display, for IPython's kernels; rich's own needs ipywidgets there."""

    def __init__(self) -> None:
        self._handle: Any = None

    def start(self) -> None:
        """Show an empty bar."""
        from IPython.display import HTML, display

        self._handle = display(HTML(_bar(0.0, "")), display_id=True)

    def add_task(self, name: str, *, total: float, text: str) -> int:
        """There is one."""
        return 0

    def update(self, task: int, *, completed: float, text: str) -> None:
        """Replace the bar: completed from 0 to 1, and a text beside it."""
        from IPython.display import HTML

        self._handle.update(HTML(_bar(completed, text)))

    def stop(self) -> None:
        """The last bar stays."""


def _bar(share: float, text: str) -> str:
    return f'<progress value="{share:.4f}" max="1"></progress> {share:.0%} <code>{escape(text)}</code>'
