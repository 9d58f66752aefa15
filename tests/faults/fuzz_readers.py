"""Coverage-guided fuzzing of everything that reads a run's files: only UserError may come out, within memory and time.

    pip install atheris; python tests/faults/fuzz_readers.py --seconds 300

Each input is one changed file of a real run (tests/data), its manifest in order, as an attacker would have it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["reverie", "json", "yaml"]):
    from reverie import checkpoint, load_player
    from reverie.config import load_file
    from reverie.data.replay_log import log_files, read_log_file
    from reverie.errors import UserError
    from reverie.files import MANIFEST, manifest_of, read_json
    from reverie.guard import nan_report
    from reverie.run.logger import read_lines

DATA = Path(__file__).parents[1] / "data" / "run-format2"
MEMORY = 8 * 2**30


class Reader:
    """A copy of a run in which one file is replaced again and again."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        shutil.copytree(DATA, self.run)
        self.agent = checkpoint.checkpoints(self.run)[-1]
        self.log = log_files(self.run / "replay")[-1]
        names = ["config.yaml", "spec.json", "state.json", "weights.safetensors", "optimizers.safetensors"]
        self.files = [*(self.agent / name for name in names), self.log, self.run / "metrics.jsonl"]
        self.whole = {path: path.read_bytes() for path in self.files}
        self.readers: dict[str, list[Callable[[], None]]] = {
            ".yaml": [self._texts, self._player],
            ".json": [self._texts, self._player, self._crash],
            ".jsonl": [self._texts],
            ".safetensors": [self._player, self._tensors],
            "log": [self._replay],
        }
        self.count = self.refused = self.accepted = 0

    def inputs(self, corpus: Path) -> None:
        """The corpus that the fuzzer begins with: the files as they are."""
        for index, data in enumerate(self.whole.values()):
            (corpus / str(index)).write_bytes(bytes([index]) + data)

    def one(self, data: bytes) -> None:
        """Replace a file, and read everything."""
        if not data:
            return
        path = self.files[data[0] % len(self.files)]
        path.write_bytes(data[1:])
        (self.agent / MANIFEST).unlink(missing_ok=True)
        (self.agent / MANIFEST).write_text(manifest_of(self.agent))
        self.count += 1
        try:
            for read in self.readers[path.suffix if path != self.log else "log"]:
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        read()
                    self.accepted += 1
                except UserError:
                    self.refused += 1
        finally:
            path.write_bytes(self.whole[path])

    def _texts(self) -> None:
        read_lines(self.run / "metrics.jsonl")
        read_json(self.agent / "state.json")
        load_file(self.agent / "config.yaml")

    def _player(self) -> None:
        load_player(self.run, device="cpu")

    def _tensors(self) -> None:
        checkpoint.read_tensors(self.agent / "optimizers.safetensors")

    def _replay(self) -> None:
        read_log_file(self.log)

    def _crash(self) -> None:
        nan_report.find_crash(self.agent)


def main() -> None:
    """Fuzz for some time; a crash of the fuzzer is a fault, with the input in the current folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        reader, corpus = Reader(Path(folder)), Path(folder) / "corpus"
        corpus.mkdir()
        reader.inputs(corpus)
        end = time.monotonic() + args.seconds

        def one(data: bytes) -> None:
            reader.one(data)
            if time.monotonic() > end:  # atheris ends the process without coming back
                print(
                    f"{reader.count} inputs, {reader.refused} refusals, {reader.accepted} reads, 0 faults", flush=True
                )
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)

        atheris.Setup(
            [sys.argv[0], str(corpus), "-max_len=200000", "-len_control=0", "-timeout=20", "-rss_limit_mb=6000"], one
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
