"""What a run has recorded, as arrays: `agent.history`. In a notebook each part shows itself as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .evaluation import logged_evaluations
from .html import html_table
from .lines import each_line, read_lines

#: Rows that a notebook shows of a table: the first and the last ones.
SHOWN = 6


class Table(Mapping[str, np.ndarray]):
    """Columns by name, arrays (N,) of equal length; NaN where a line had no such number."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = dict(columns)
        self.rows = len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise KeyError(f"no column '{name}'; there are: {', '.join(self.columns) or 'none'}")
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def to_frame(self) -> Any:
        """As a pandas DataFrame. Raises UserError without pandas."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise UserError("to_frame needs pandas, which is not installed.", "pip install pandas") from error
        return pandas.DataFrame(self.columns)

    def __repr__(self) -> str:
        names = list(self.columns)
        more = f", ... ({len(names)} columns)" if len(names) > 8 else ""
        return f"Table({self.rows:,} rows: {', '.join(names[:8])}{more})"

    def _repr_html_(self) -> str:
        at = list(range(self.rows))
        if self.rows > SHOWN:
            at = [*at[: SHOWN // 2], *at[-SHOWN // 2 :]]
        rows = [[column[i] for column in self.columns.values()] for i in at]
        cut = f"<p>{self.rows:,} rows, the first and the last ones</p>" if self.rows > SHOWN else ""
        return html_table(list(self.columns), rows) + cut


class RunHistory:
    """Episodes, metrics and evaluations of a run so far, each a `Table` that is read when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tables: dict[str, Table] = {}

    def _once(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Table:
        if name not in self._tables:
            self._tables[name] = table_of(rows)
        return self._tables[name]

    @property
    def episodes(self) -> Table:
        """A row for each episode: phase (prefill, train, eval, random, crashed), env_steps, return, length, ..."""
        return self._once("episodes", each_line(self.directory / "episodes.jsonl"))

    @property
    def metrics(self) -> Table:
        """A row for each line of metrics.jsonl (docs/insight.md; `reverie explain NAME` says what a number means)."""
        return self._once("metrics", each_line(self.directory / "metrics.jsonl"))

    @property
    def evaluations(self) -> Table:
        """A row for each evaluation: env_steps, mean, ci95 (half width), episodes, length."""
        found = logged_evaluations(read_lines(self.directory / "episodes.jsonl"))
        rows = (
            {
                "env_steps": at,
                "mean": one.mean,
                "ci95": one.interval,
                "episodes": len(one.scores),
                "length": float(np.mean(one.lengths)),
            }
            for at, one in found.items()
        )
        return self._once("evaluations", rows)

    def to_frame(self) -> Any:
        """The metrics as a pandas DataFrame; `history.episodes.to_frame()` and so on for the others."""
        return self.metrics.to_frame()

    def __repr__(self) -> str:
        return (
            f"RunHistory({self.episodes.rows:,} episodes, {self.metrics.rows:,} lines of metrics, "
            f"{self.evaluations.rows:,} evaluations of {self.directory})"
        )

    def _repr_html_(self) -> str:
        parts = ("evaluations", self.evaluations), ("episodes", self.episodes)
        return "".join(f"<h4>{name}</h4>{table._repr_html_()}" for name, table in parts)


def table_of(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Lines of numbers and text as columns, in the order in which their names first occur."""
    lines = list(rows)
    names = list(dict.fromkeys(name for line in lines for name in line))
    columns = {name: [np.nan if line.get(name) is None else line[name] for line in lines] for name in names}
    return Table({name: _array(values) for name, values in columns.items()})


def _array(values: list[Any]) -> np.ndarray:
    if any(isinstance(value, str) for value in values):
        return np.array([value if isinstance(value, str) else "" for value in values])
    whole = all(isinstance(value, int) for value in values)
    return np.array(values, np.int64 if whole else np.float64)
