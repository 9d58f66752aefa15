"""`reverie import`: recorded experience of other forms as a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .command import Command, add_json

EPILOG = """\
Reads episodes, brings them into the rows that agents learn from (docs/time.md), and says what is suspicious.

  reverie import runs/demo --out data/demo              the replay of a run
  reverie import walker_walk/mixed/64px --out data/w    a folder of npz: the released DreamerV2 form, V-D4RL
  reverie import ~/.minari/datasets/D4RL/door/human-v2 --out data/door --env AdroitHandDoor-v1
  reverie import my_lerobot_set --out data/arm          LeRobot v3: parquet, without its videos

then: reverie train --data data/demo --run runs/offline. Minari and LeRobot need: pip install 'reverie-rl[offline]'
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a run, a folder of npz files, a Minari or a LeRobot v3 data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="the new data set, a directory")
    parser.add_argument("--env", help="the task: its spaces say what observations and actions mean")
    parser.add_argument(
        "--actions",
        choices=("into", "leave"),
        default="into",
        help="of npz: action[t] led into row t, as in DreamerV2 (default), or was taken there",
    )
    parser.add_argument(
        "--ends",
        choices=("stored", "truncated"),
        default="stored",
        help="as the source has them (default), or a time limit for every episode",
    )
    add_json(parser, "print one JSON object: counts, notes, findings")


def run_import(args: argparse.Namespace) -> int:
    """Import, check, report. -> 0. Raises UserError."""
    from ..files import absolute
    from ..run.data_check import findings
    from ..run.data_set import read_data, require_new, write_data
    from ..share.data_sources import Options, open_source
    from ..share.record import spec_of_env

    source, out = absolute(args.source), absolute(args.out)
    require_new(out)  # before hours of reading
    spec = spec_of_env(args.env) if args.env else None
    opened = open_source(source, Options(spec=spec, actions=args.actions, ends=args.ends))
    about = {"source": f"{opened.kind} {args.source}", "env": args.env or "", "notes": opened.notes}
    written = write_data(out, opened.spec, opened.episodes, about)
    data = read_data(out)
    found = findings(data)
    returns = data.returns()
    if args.json:
        counts = {key: written[key] for key in ("source", "episodes", "steps", "notes")}
        print(json.dumps({"data": str(out), **counts, "mean_return": float(returns.mean()), "findings": found}))
        return 0
    print(f"{out}: {written['episodes']} episodes, {written['steps']} steps, from {opened.kind}")
    print(f"return    {returns.mean():.3f} on average, {returns.min():.3f} to {returns.max():.3f}")
    for line in data.spec.describe():
        print(f"          {line}")
    for note in opened.notes:
        print(f"note      {note}", file=sys.stderr)
    for finding in found:
        print(f"check     {finding}", file=sys.stderr)
    return 0


COMMAND = Command("import", "recorded experience as a data set to learn from", EPILOG, _arguments, run_import)
