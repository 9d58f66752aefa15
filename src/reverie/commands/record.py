"""`reverie record`: play an environment and keep what happens as a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .command import Command, positive, seed

EPILOG = """\
  reverie record CartPole-v1 --policy random --episodes 100 --out data/random
  reverie record CartPole-v1 --policy agent --agent runs/cartpole --noise 0.3 --out data/mixed

then: reverie train --data data/mixed --run runs/offline
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", help="id of the task, or FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0")
    parser.add_argument("--policy", choices=("random", "agent"), default="random")
    parser.add_argument("--agent", type=Path, help="of --policy agent: a run, a checkpoint, or what agent.save wrote")
    parser.add_argument("--mode", choices=("eval", "train"), default="train", help="of the agent; train: sampled")
    parser.add_argument("--noise", type=_share, default=0.0, help="share of random actions among the agent's")
    parser.add_argument("--episodes", type=positive, default=100)
    parser.add_argument("--seed", type=seed, default=0)
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
    from ..share.data_set import read_data, require_new
    from ..share.record import config_of, player_of, record

    if (args.policy == "agent") != (args.agent is not None):
        raise UserError("--policy agent and --agent belong together.", "Give both, or neither.")
    out = absolute(args.out)
    require_new(out)
    env = maker_of(args.env)
    player = None if args.agent is None else player_of(absolute(args.agent), mode=args.mode, seed=args.seed)
    config = config_of(args.env, None if args.agent is None else absolute(args.agent), args.settings)
    written = record(config, env, out, episodes=args.episodes, player=player, seed=args.seed, noise=args.noise)
    returns = read_data(out).returns()
    print(f"{out}: {written['episodes']} episodes, {written['steps']} steps, return {returns.mean():.3f} on average")
    return 0


COMMAND = Command(
    "record",
    "play an environment and keep it as a data set",
    EPILOG,
    _arguments,
    run_record,
    takes_settings=True,
)
