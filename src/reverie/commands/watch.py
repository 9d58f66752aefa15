"""`reverie watch`: the dashboard, and the player inside the dream."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .command import Command, add_json

if TYPE_CHECKING:
    from ..web.server import DashboardServer

EPILOG = """\
Opens a page on this machine with curves of all runs (live while they train), latent usage, drift, doctor's findings,
videos, the configuration, and a player inside the dream. Nothing is fetched from the network; in a run only what you
ask for is changed: notes, a diagnosis, deletion.

  reverie watch                        every run below ./runs
  reverie watch runs/demo runs/other   these, or all runs below these directories
  reverie watch --pretrained           play inside the dream of a trained agent of the package
  reverie watch --host 0.0.0.0         for other machines too: the URL then contains an access token

From a machine that you reach by ssh: ssh -L 8770:localhost:8770 MACHINE, then open http://localhost:8770/
"""


def _arguments(watch: argparse.ArgumentParser) -> None:
    watch.add_argument("runs", nargs="*", type=Path, help="runs, or directories with runs below (default: runs)")
    watch.add_argument(
        "--pretrained", nargs="?", const="demo", metavar="NAME", help="a trained agent (docs/sharing.md; default: demo)"
    )
    watch.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    watch.add_argument("--port", type=port_number, help="default: the first free one from 8770 on")
    add_json(watch, "print one JSON object with the address, then serve")
    watch.add_argument("--open", action="store_true", help="open the page in the browser")


def port_number(text: str) -> int:
    """A port, as the type of an argument. Raises ArgumentTypeError."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, got '{text}'")
    return int(text)


def run_watch(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. -> 0. Raises UserError."""
    from ..web.runs import RunIndex
    from ..web.server import prepare

    roots = args.runs or [Path("runs")]
    if args.pretrained is not None:
        from ..share.sources import find_pretrained

        roots = [*args.runs, find_pretrained(args.pretrained)]
    for root in roots:
        if not root.is_dir():
            hint = "Give the directory of a run, or train one: reverie train --preset demo."
            raise UserError(f"there is no directory {root}.", hint)
    served = prepare(RunIndex(roots), host=args.host, port=args.port)
    with suppress(KeyboardInterrupt):  # the usual end
        _announce(args, served)
        served.run()
    return 0


def _announce(args: argparse.Namespace, served: DashboardServer) -> None:
    names = [run.name for run in served.dashboard.runs.all()]
    if args.json:
        print(json.dumps({"url": served.url, "runs": names}), flush=True)
    else:
        print(f"watching  {len(names)} run(s): {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
        print(f"open      {served.url}", flush=True)
        if "token=" in served.url:
            print("          anyone with this URL can read and delete runs; http is not encrypted: trust the network")
        print("          Ctrl-C ends it", flush=True)
    if args.open and not webbrowser.open(served.url):
        print("no browser was found", file=sys.stderr)


COMMAND = Command(
    "watch",
    "a page with curves, findings and videos of runs; play inside their dreams",
    EPILOG,
    _arguments,
    run_watch,
)
