"""What was measured as rows of plain numbers, and the writer of their CSV and LaTeX files.

A row is one seed (or episode) at one point; a column is one thing, with its name in the first line and nothing but
numbers below it: `pandas.read_csv(FILE)` and every spreadsheet read it as it is. Nothing measured: empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..files import reason, write_file
from ..insight.spreadsheet import csv_text
from ..insight.video import require_writable
from .ablate import PARTS, Pairs, curve_of
from .compare import SeedGroup, Verdict, final_score
from .record import curve
from .results import RunResult
from .tables import Table

if TYPE_CHECKING:
    from ..insight.drift import Drift
    from ..insight.shift import Shift
    from ..insight.trust import Trust
    from ..insight.whole_models import WholeModels
    from ..run.evaluation import Evaluation

Row = Mapping[str, Any]


def require_data_files(csv_file: Path | None = None, latex_file: Path | None = None) -> None:
    """Can these be written? Call it before the work of hours. Raises UserError."""
    if csv_file is not None and csv_file == latex_file:
        raise UserError(f"--csv and --latex are the same file, {csv_file}.", "Give two names.")
    for path, ending in ((csv_file, ".csv"), (latex_file, ".tex")):
        if path is not None:
            require_writable(path, ending)


def csv_of(rows: Iterable[Row]) -> str:
    """Rows as CSV; the columns are those of all rows in the order in which they first occur."""
    found = list(rows)
    names = list(dict.fromkeys(name for row in found for name in row))
    return csv_text(names, ([row.get(name) for name in names] for row in found))


def latex_text(tables: Iterable[Table]) -> str:
    """Tables for a paper, one after the other; they need the package booktabs."""
    return "\n".join(table.latex() + "\n" for table in tables)


def write_data_files(
    *,
    csv_file: Path | None = None,
    rows: Iterable[Row] = (),
    latex_file: Path | None = None,
    tables: Sequence[Table] = (),
) -> list[Path]:
    """Write what was asked for. -> the files. Raises UserError."""
    files = []
    for path, text in ((csv_file, csv_of(rows)), (latex_file, latex_text(tables))):
        if path is None:
            continue
        try:
            files.append(write_file(path, text))
        except OSError as error:
            raise UserError(f"cannot write {path} ({reason(error)}).", "Choose another name for it.") from error
    return files


# --------------------------------------------------------------------------------------------------- experiments, seeds


def comparison_rows(verdicts: Sequence[tuple[SeedGroup, Verdict | None]]) -> Iterator[Row]:
    """Seeds of `reverie compare`: at each published point that they reached, else at their last evaluation."""
    for group, found in verdicts:
        head = {"experiment": group.label, "task": group.task}
        against = {"reference": found.reference, "verdict": found.judgement.word} if found else {}
        if found is not None and found.own.size:
            there = curve(found.reference, found.key)
            for result, scores in zip(group.results, found.own, strict=True):
                for at, (frames, score) in enumerate(zip(found.points, scores, strict=True)):
                    if np.isfinite(score):
                        published = {"published": there.mean[at], "published_deviation": there.std[at]}
                        seed = {"seed": result.seed, "frames": int(frames), "score": score}
                        yield {**head, **seed, **published, **against}
            continue
        for result in group.results:
            yield {**head, "seed": result.seed, "frames": result.frames, "score": final_score(result), **against}


def sweep_rows(results: Pairs) -> Iterator[Row]:
    """Seeds of a sweep or an ablation: every evaluation, and the training return of each tenth of the run."""
    for job, result in results:
        head = {"task": job.task, "variant": job.variant, "seed": job.seed}
        for measure, frames, value in _points(result):
            yield {**head, "measure": measure, "frames": frames, "value": value}


def _points(result: RunResult) -> Iterator[tuple[str, int, float]]:
    played = result.episodes.get("eval", np.zeros((0, 3)))
    for frames in np.unique(played[:, 0]):
        yield "evaluation", int(frames), float(played[played[:, 0] == frames, 1].mean())
    for part, value in enumerate(curve_of(result), 1):
        yield "training return", round(result.frames * part / PARTS), float(value)


def published_rows(tables: Sequence[Table]) -> Iterator[Row]:
    """The published tables, a row for each number."""
    for table in tables:
        for row in table.rows:
            for name, cell in zip(table.header[1:], row[1:], strict=True):
                yield {
                    "table": table.title,
                    table.header[0]: row[0],
                    "measure": name,
                    "value": cell.replace(",", "").strip("–"),
                }


# ------------------------------------------------------------------------------------------------------------- episodes


def evaluation_rows(found: Evaluation, **head: Any) -> Iterator[Row]:
    """Every episode. head: further columns, in front."""
    for episode, (score, length) in enumerate(zip(found.scores, found.lengths, strict=True)):
        yield {**head, "episode": episode, "return": score, "length": length}


def shift_rows(found: Shift) -> Iterator[Row]:
    """Every episode with every value of the factor; surprise, surprising and alarm are those of the value."""
    for point in found.points:
        head = {"env": found.task, "mode": found.mode, "factor": found.factor, "value": point.value or "as trained"}
        of_value = {"surprise": point.surprise, "surprising": point.surprising, "alarm": point.alarm}
        for row in evaluation_rows(point.played, **head):
            yield {**row, **of_value}


# ----------------------------------------------------------------------------------------------- what a model can dream


def drift_rows(found: Drift, run: str) -> Iterator[Row]:
    """Every curve of a drift: quantity and guess (dream, floor, copy, mean), a row for each horizon."""
    curves: list[tuple[str, str, Sequence[float | None]]] = [("latent KL", "dream", found.latent_kl)]
    curves += [("error", guess, values) for guess, values in found.error.items()]
    for key, measures in found.observations.items():
        for measure, guesses in measures.items():
            curves += [(f"{measure} of {key}", guess, values) for guess, values in guesses.items()]
    curves += [("reward", guess, values) for guess, values in found.reward.items()]
    curves += [("continue", guess, values) for guess, values in found.continues.items()]
    for quantity, guess, values in curves:
        for at, value in enumerate(values):
            head = {"run": run, "quantity": quantity, "guess": guess}
            yield {**head, "steps": at + 1, "windows": found.starts[at], "value": value}


def models_rows(found: WholeModels) -> Iterator[Row]:
    """Every curve of several models' disagreement, a row for each horizon."""
    curves = {"error": found.error, "error of the mean": found.error_of_mean, "variance between": found.spread}
    curves |= {"deviation of rewards": found.reward_spread}
    curves |= {f"AUROC {name}": values for name, values in found.alarms.items()}
    for quantity, values in curves.items():
        for at, value in enumerate(values):
            head = {"run": " ".join(found.runs), "quantity": quantity, "guess": "dream"}
            yield {**head, "steps": at + 1, "windows": found.windows[at], "value": value}


def trust_rows(found: Trust, run: str) -> Iterator[Row]:
    """Returns of every episode by policy, then what was dreamed and earned, and the errors, by horizon."""
    head = {"run": run, "checkpoint": found.checkpoint, "trusted": found.level, "trusted_steps": found.steps}
    for policy, played in found.policies.items():
        for row in evaluation_rows(played):
            place = {"quantity": "return", "source": policy, "episode": row["episode"], "steps": row["length"]}
            yield {**head, **place, "value": row["return"]}
    optimism = found.optimism
    curves: list[tuple[str, str, Sequence[float | None]]] = [
        ("earned within", name, getattr(optimism, name)) for name in ("dream", "real", "gap", "low", "high")
    ]
    for source, errors in found.errors.items():
        curves += [(f"error of {name}", source, values) for name, values in errors.items()]
    for quantity, source, values in curves:
        for at, value in enumerate(values):
            place = {"quantity": quantity, "source": source, "episode": None, "steps": at + 1}
            yield {**head, **place, "value": value}
