"""`check_env`: play an environment at random and report contract violations, one sentence each."""

from .play import check_env

__all__ = ["check_env"]
