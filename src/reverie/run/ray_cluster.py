"""Joining a Ray cluster, for collectors and for sweeps. Ray is an optional package."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

#: Seconds that a cluster has to take a connection. Ray itself would try for minutes, with a warning every few seconds.
ANSWERS = 5.0
#: Seconds that the end of a connection may take.
SHUTDOWN = 10.0
#: Attempts to start a cluster: Ray 2.58 gives its processes 30 seconds, which are too few where others compute.
STARTS = 3


@dataclass(frozen=True)
class Joined:
    """A connection to a cluster."""

    ray: Any  # the module
    ours: bool  # it was made here, and is to be ended
    session: str = ""  # the directory of a cluster that was started here

    def leave(self) -> None:
        """End the connection, and a cluster that was started for it. Never raises."""
        if not self.ours:
            return
        end = threading.Thread(target=self.ray.shutdown, daemon=True)  # without a head it waits for a long time
        end.start()
        end.join(SHUTDOWN)
        if self.session:  # logs and sockets of a cluster that is no more
            shutil.rmtree(self.session, ignore_errors=True)


def join_cluster(asked: str, address: str = "") -> Joined:
    """Connect this process.

    asked: what needs it, for the message. address: "" for RAY_ADDRESS, else the cluster that `ray start` has started on
    this machine, else ("local": in any case) one that is started here. Raises UserError where Ray is missing or not
    reached.
    """
    if "ray" not in sys.modules:  # which reads it now. Of a lost machine it would print pages, and we a line
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"{asked} needs Ray.", "pip install 'reverie-rl[ray]'") from error
    if ray.is_initialized():
        return Joined(ray, ours=False)
    there = _address(address or os.environ.get("RAY_ADDRESS", ""))
    local = there == "local"
    here = {"include_dashboard": False} if local else {}
    for left in range(STARTS if local else 1, 0, -1):
        try:
            context = ray.init(address=there, log_to_driver=False, logging_level=logging.ERROR, **here)
            break
        except Exception as error:  # Ray raises plain ones, too
            with suppress(Exception):
                ray.shutdown()  # what it has started
            if left == 1:
                raise _not_joined(there, error) from error
    return Joined(ray, ours=True, session=context.address_info["session_dir"] if local else "")


def _not_joined(there: str, error: Exception) -> UserError:
    why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    if there == "local":
        return UserError(f"Ray could not be started on this machine: {why}.", "`ray start --head` says more.")
    return UserError(f"there is no Ray cluster at {there}: {why}.", "Name another one in RAY_ADDRESS.")


def _address(given: str) -> str:
    """HOST:PORT of a cluster that takes connections, or "local". Raises UserError."""
    if given == "local":
        return given
    running = _running()
    if given == "auto" and not running:
        raise UserError(
            "RAY_ADDRESS=auto, but no `ray start` has run on this machine.", "Leave it out, or name HOST:PORT."
        )
    there = running if given in ("", "auto") else given
    if not there:
        return "local"
    host, _, port = there.rpartition(":")
    if "://" in there or not host or not port.isdigit():
        raise UserError(
            f"'{there}' is not the address of a Ray cluster.",
            "It is HOST:PORT of the head (`ray start --head` prints it), for a machine that has joined the cluster.",
        )
    if why := silence(host.strip("[]"), int(port)):
        hint = "`ray stop --force` forgets it" if given in ("", "auto") else "Start it (`ray start --head`)"
        raise UserError(
            f"there is no Ray cluster at {there}: {why}.", f"{hint}; RAY_ADDRESS=local starts one for this run alone."
        )
    return there


def silence(host: str, port: int) -> str:
    """Why nothing takes a connection there; "" if something does."""
    try:
        socket.create_connection((host, port), timeout=ANSWERS).close()
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def _running() -> str:
    """HOST:PORT of the cluster that `ray start` has started on this machine, if it was not stopped since; else ""."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
