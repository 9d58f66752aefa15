"""`reverie serve`: a policy behind HTTP."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path

from .command import Command, add_json, positive
from .watch import port_number

EPILOG = """\
POST /act with an observation gives the policy's action; a session keeps the recurrent state from call to call:

  reverie serve runs/demo
  curl -H 'content-type: application/json' -d '{"observation": [0, 0, 0, 0]}' http://127.0.0.1:8770/act
  {"session": "...", "step": 1, "action": 1}        send "session" along from now on, "first": true at a new episode

The page at / and /openapi.json describe it. Without --host only this machine is served; with it, or with --token, every
request needs the token that is printed: Authorization: Bearer TOKEN. Ctrl-C and SIGTERM end it.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run, a checkpoint, or what agent.save wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=port_number, help="default: the first free one from 8770 on")
    parser.add_argument("--token", action="store_true", help="require a token also on this machine")
    parser.add_argument("--mode", choices=("eval", "train", "deterministic"), default="eval", help="as of export")
    parser.add_argument("--sessions", type=positive, default=100, help="most at a time (default: 100)")
    parser.add_argument("--expire", type=positive, default=600, help="seconds until an idle one ends (default: 600)")
    add_json(parser, "print one JSON object with the address, then serve")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. -> 0. Raises UserError."""
    from ..web.server import require_web

    require_web("serve")
    from ..share.export import plain_graph, read_policy
    from ..share.sources import find
    from ..web.policy_server import prepare_policy

    graph = plain_graph(*read_policy(find(args.run)), args.mode)
    served = prepare_policy(
        graph,
        title=f"Policy of {args.run.name}",
        host=args.host,
        port=args.port,
        token=args.token,
        most=args.sessions,
        expire=args.expire,
    )
    with suppress(KeyboardInterrupt):  # the usual end
        if args.json:
            print(json.dumps({"url": served.url, "token": served.token}), flush=True)
        else:
            print(f"serving   {served.url}act", flush=True)
            if served.token:
                print(f"header    Authorization: Bearer {served.token}")
                print("          http is not encrypted: use it in networks that you trust")
            print(f"describes {served.url}openapi.json", flush=True)
        served.run()
    return 0


COMMAND = Command("serve", "a policy behind HTTP: observation in, action out", EPILOG, _arguments, run_serve)
