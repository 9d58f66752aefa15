"""Joining a Ray cluster, for collectors and for sweeps. Ray is an optional package."""

from __future__ import annotations

import logging
import os
from typing import Any

from ..errors import UserError


def join_cluster(asked: str, address: str = "") -> tuple[Any, bool]:
    """-> the module ray, connected; was the connection made here, and is to be ended by `ray.shutdown`?

    asked: what needs it, for the message. address: "" for RAY_ADDRESS, else a cluster on this machine alone.
    Raises UserError where Ray is missing or not reached.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"{asked} needs Ray.", "pip install 'reverie-rl[ray]'") from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 are too few for a busy machine
    there = address or os.environ.get("RAY_ADDRESS")
    here = {} if there else {"include_dashboard": False}
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # Ray raises plain ones, too, e.g. of a machine too busy to start it
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"there is no Ray cluster at {there or 'hand'}: {why}.") from error
    return ray, True
