"""`reverie record`: play an environment and keep what happens as a data set."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Stopped, UserError
from .command import Command, positive, seed
from .watch import port_number

if TYPE_CHECKING:
    from ..envs.names import NamedMaker

EPILOG = """\
  reverie record CartPole-v1 --policy random --episodes 100 --out data/random
  reverie record CartPole-v1 --policy agent --agent runs/cartpole --noise 0.3 --out data/mixed

  reverie record MiniGrid-Empty-8x8-v0 --policy human --episodes 5 --out data/mine    opens a page to play in
then: reverie train --data data/mixed --run runs/offline
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", help="id of the task, or FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0")
    parser.add_argument("--policy", choices=("random", "agent", "human"), default="random")
    parser.add_argument("--agent", type=Path, help="of --policy agent: a run, a checkpoint, or what agent.save wrote")
    parser.add_argument("--mode", choices=("eval", "train"), default="train", help="of the agent; train: sampled")
    parser.add_argument("--noise", type=_share, default=0.0, help="share of random actions among the agent's")
    parser.add_argument("--episodes", type=positive, default=100)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--host", help="of --policy human: address to listen on (default: this machine only)")
    parser.add_argument("--port", type=port_number, help="of --policy human: default: the first free one from 8770 on")
    parser.add_argument("--open", action="store_true", help="of --policy human: open the page in the browser")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="the new data set, a directory")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got '{text}'")
    return value


def run_record(args: argparse.Namespace) -> int:
    """Play and write. -> 0. Raises UserError."""
    from ..envs.names import maker_of
    from ..files import absolute
    from ..run.data_set import require_new
    from ..share.record import config_of, player_of, record
    from ..share.sources import find

    if (args.policy == "agent") != (args.agent is not None):
        raise UserError("--policy agent and --agent belong together.", "Give both, or neither.")
    human = args.policy == "human"
    if not human and (args.host is not None or args.port is not None or args.open):
        raise UserError("--host, --port and --open are about --policy human.", "Leave them out.")
    out = absolute(args.out)
    require_new(out)
    env = maker_of(args.env)
    if human:
        written = _by_hand(args, env, out)
        return _report(out, written)
    agent = None if args.agent is None else find(args.agent)
    player = None if agent is None else player_of(agent, mode=args.mode, seed=args.seed)
    config = config_of(args.env, agent, args.settings)
    written = record(config, env, out, episodes=args.episodes, player=player, seed=args.seed, noise=args.noise)
    return _report(out, written)


def _report(out: Path, written: dict[str, Any]) -> int:
    from ..run.data_set import read_data

    returns = read_data(out).returns()
    print(f"{out}: {written['episodes']} episodes, {written['steps']} steps, return {returns.mean():.3f} on average")
    return 0


def _by_hand(args: argparse.Namespace, env: NamedMaker | None, out: Path) -> dict[str, Any]:
    """Serve the page until enough episodes were played, or it is ended; then write them. Raises UserError."""
    from ..run.data_set import write_data
    from ..share.record import config_of
    from ..web.server import require_web

    require_web("record --policy human")
    from ..guard.interrupts import ending_at_once
    from ..web.human import prepare_human

    config = config_of(args.env, None, args.settings)
    host = args.host or "127.0.0.1"
    served = prepare_human(config, env, episodes=args.episodes, seed=args.seed, host=host, port=args.port)
    play = served.dashboard.play
    with suppress(KeyboardInterrupt, Stopped), ending_at_once():  # the usual ends; SIGTERM and SIGHUP too
        print(f"play      {served.url}", flush=True)
        print(
            f"          {args.episodes} episodes; Ctrl-C or the page's button ends it, whole episodes are kept",
            flush=True,
        )
        if args.open and not webbrowser.open(served.url):
            print("no browser was found", file=sys.stderr)
        served.run()
    if not play.kept:
        raise UserError("no whole episode was played: nothing is written.", "Play one to its end.")
    about = {"source": f"record {config.env.id}", "env": config.env.id, "policy": "human", "noise": 0.0}
    return write_data(out, play.spec, play.kept, about | {"seed": args.seed})


COMMAND = Command(
    "record",
    "play an environment and keep it as a data set",
    EPILOG,
    _arguments,
    run_record,
    takes_settings=True,
)
