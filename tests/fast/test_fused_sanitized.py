"""fused.c under the address and the undefined-behaviour sanitizer, with the equality tests as its work."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from reverie.fast import fused_build

HERE = Path(__file__).parent
GCC = shutil.which("gcc") or ""
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-fno-omit-frame-pointer")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not GCC, reason="gcc is not installed")]


def runtime(name):
    return subprocess.run([GCC, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def sanitized(monkeypatch, folder, edit=lambda text: text):
    """A library with the sanitizers in it, in a cache folder of its own -> environment of a process that loads it."""
    monkeypatch.setenv("REVERIE_CACHE", str(folder))
    monkeypatch.setattr(fused_build, "FLAGS", (*fused_build.FLAGS, *SANITIZE))
    texts = {
        name: edit(resources.files("reverie.fast").joinpath(name).read_text(encoding="utf-8"))
        for name in fused_build.SOURCES
    }
    folder.mkdir()
    fused_build._compile(GCC, texts, folder)
    monkeypatch.undo()
    path = fused_build.library_path(folder, fused_build.read_sources())
    os.replace(folder / "fused.so", path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    path.chmod(0o700)
    options = "detect_leaks=0:detect_odr_violation=0:abort_on_error=0"
    preload = f"{runtime('libasan.so')}:{runtime('libubsan.so')}:{runtime('libstdc++.so')}"
    return os.environ | {"REVERIE_CACHE": str(folder), "LD_PRELOAD": preload, "ASAN_OPTIONS": options}


def equality_tests(environment):
    chosen = "filtering or gradients_of or dreams or dense_layers or classs or finite or exp_ or threads or acting"
    chosen += " or convolutions or packed or adams or weight_is or one_hot"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", "-k", chosen]
    command += [str(HERE / "test_fused.py")]
    return subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)


def test_no_access_beyond_an_array_and_no_undefined_behaviour(tmp_path, monkeypatch):
    done = equality_tests(sanitized(monkeypatch, tmp_path / "cache"))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "skipped" not in done.stdout


def test_the_sanitizers_see_what_they_should(tmp_path, monkeypatch):
    """Or the test above could not fail: a row too many is written."""

    def too_far(text):
        return text.replace("for (int64_t r = 0; r < s->rows; r++) {\n        const int erased",
                            "for (int64_t r = 0; r < s->rows + 1; r++) {\n        const int erased")  # fmt: skip

    done = equality_tests(sanitized(monkeypatch, tmp_path / "cache", too_far))
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stdout + done.stderr
