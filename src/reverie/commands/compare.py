"""`reverie compare`: your seeds against published scores."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .command import Command, add_data_files, add_json, require_data_files
from .output import keep_lines_whole, terminal_width

if TYPE_CHECKING:
    from ..evidence.compare import Verdict
    from ..evidence.tables import Table

EPILOG = """\
Compares your runs with the published record at the same number of environment frames and under the same protocol:
DreamerV2's official curves (55 Atari games, 21 control tasks from pixels), Atari-100k, Crafter. Verdicts:

  on track     no difference that so few seeds can show         below, above     a difference, at the 98 % level
  too early    no published point yet, or random play would pass as well      scored   compared over games (Atari-100k)
  refused      the protocols differ; each difference is named, and the scores are not compared

Directories of one name but for the seed (pong-s0, pong-s1) are seeds of one experiment.
Without RUN: the published tables.

  reverie compare                                        the published tables, from the files in the package
  reverie compare runs/pong-s0 runs/pong-s1              verdicts
  reverie compare benchmarks/results --out comparison    also curves, profiles, page, CSV, LaTeX, JSON
  reverie compare runs/pong-s* --csv seeds.csv --latex tables.tex

Exit code 2 if nothing can be compared. Statistics: mean, median, IQM, optimality gap with stratified bootstrap
intervals, performance profiles, probability of improvement (Agarwal et al. 2021, arXiv 2108.13264).
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="*", help="runs, results of `reverie sweep`, or folders with either")
    parser.add_argument("--against", default="", help="dreamerv2-atari, dreamerv2-dmc, atari-100k, crafter")
    parser.add_argument("-o", "--out", type=Path, help="a folder for page, plots and tables")
    add_data_files(parser, "seed and published point", latex=True)
    parser.add_argument("--format", choices=("text", "markdown", "csv", "latex"), default="text")
    add_json(parser)


def run_compare(args: argparse.Namespace) -> int:
    """Compare and print. Raises UserError where nothing can be compared."""
    from ..evidence.aggregates import (
        against_each_other,
        budget_tables,
        control_tables,
        curve_table,
        own_table,
        published_tables,
    )
    from ..evidence.compare import group, verdict
    from ..evidence.results import results_in
    from ..evidence.statistics import require_scipy
    from ..evidence.tidy import comparison_rows, published_rows, write_data_files
    from ..insight.plots import require_matplotlib

    require_data_files(args)
    if not args.runs:
        if args.out or args.against:
            raise UserError("without runs there is nothing to compare.", "Give runs, or leave out --out and --against.")
        tables = published_tables()
        _print(args, tables, {"published": [_rows(table) for table in tables]})
        write_data_files(csv_file=args.csv, rows=published_rows(tables), latex_file=args.latex, tables=tables)
        return 0
    require_scipy()
    if args.out:
        require_matplotlib()
    groups, remarks = group(results_in(args.runs))
    verdicts = [(one, verdict(one, args.against)) for one in groups]
    found = [each for _, each in verdicts if each]
    alone = [one for one, each in verdicts if each is None]
    if not found and args.against:
        raise UserError(
            f"'{args.against}' has nothing on {', '.join(sorted({one.task for one in groups}))}.",
            "Published are Atari, DeepMind Control from pixels, Crafter; leave out --against for a table of your own.",
        )
    refused = {id(each.group) for each in found if each.judgement.word == "refused"}
    control = control_tables([one for one in groups if id(one) not in refused])
    if found and not alone and not control and all(each.judgement.word == "refused" for each in found):
        raise UserError(
            "the protocols differ, these scores must not be compared: "
            + "; ".join(f"{each.group.task} with {each.reference}: {each.judgement.why}" for each in found[:3])
            + (f"; and {len(found) - 3} more." if len(found) > 3 else "."),
            "Train under the published protocol (`reverie presets atari-paper`, atari100k, dmc-vision, crafter).",
        )
    tables = [*([_verdicts(found)] if found else []), *curve_table(found), *budget_tables(found)]
    tables += [*control, *([own_table(alone)] if alone else []), *against_each_other(groups)]
    tables[0] = replace(tables[0], notes=[*tables[0].notes, *remarks])
    facts = {"verdicts": [each.to_dict() for each in found], "tables": [_rows(table) for table in tables]}
    _print(args, tables, facts | {"remarks": remarks})
    rows = list(comparison_rows(verdicts))
    write_data_files(csv_file=args.csv, rows=rows, latex_file=args.latex, tables=tables)
    if args.out:
        _write(args.out, found, tables, facts, rows)
    return 0


def _verdicts(found: list[Verdict]) -> Table:
    from ..evidence.compare import interval_of
    from ..evidence.tables import Table, deviating, millions, ranged

    rows = []
    for each in found:
        published, mean = each.published, ranged(interval_of(each))
        theirs = deviating(published[0], published[1]) if published else "–"
        seeds = f"{len(each.group.results)}" + (f" / {published[2]}" if published else "")
        at = millions(each.frames) if each.frames else millions(each.group.frames)
        rows.append([each.group.label, each.key, each.judgement.word, at, mean, theirs, seeds, each.judgement.why])
    header = ["experiment", "task", "verdict", "frames", "ours [95 %]", "published ± deviation", "seeds", "why"]
    names = sorted({each.reference for each in found})
    return Table("Against the record", header, rows, f"Published: {', '.join(names)}. Seeds: ours / theirs.")


def _rows(table: Table) -> dict[str, Any]:
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    return {"title": table.title, "rows": rows, "notes": table.remarks()}


def _print(args: argparse.Namespace, tables: list[Table], facts: dict[str, Any]) -> None:
    if args.json:
        from ..evidence.page import plain_json

        print(plain_json(facts))
        return
    if args.format == "text":
        print("\n\n".join(table.text(terminal_width()).rstrip() for table in tables))
        return
    keep_lines_whole()
    print("\n\n".join(getattr(table, args.format)().rstrip() for table in tables))


def _write(out: Path, found: list[Verdict], tables: list[Table], facts: dict[str, Any], rows: list[Any]) -> None:
    from ..evidence.aggregates import profiles
    from ..evidence.figures import curves, profile
    from ..evidence.page import write_files

    figures = {"curves": curves(found), "profile": profile(profiles(found))}
    words = [f"{each.group.label} on {each.key}: {each.judgement.word}. {each.judgement.why}." for each in found]
    files = write_files(
        out,
        name="comparison",
        title="Compared with the published record",
        words=words,
        tables=tables,
        figures={name: figure for name, figure in figures.items() if figure is not None},
        facts=facts,
        rows=rows,
    )
    print(f"\nwritten   {files[0]} and {len(files) - 1} more", file=sys.stderr)


COMMAND = Command("compare", "your seeds against published curves and tables", EPILOG, _arguments, run_compare)
