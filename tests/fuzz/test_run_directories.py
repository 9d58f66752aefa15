"""Random run directories: a few in every test run, two thousand in the slow set (20 minutes on one core)."""

import pytest

pytest.importorskip("starlette", reason="the extra `web` is not installed: pip install 'reverie-rl[web]'")

from tests.fuzz.run_directories import fuzz


def test_some_random_run_directories():
    assert fuzz(3, 90_000) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_random_run_directories(capsys):
    with capsys.disabled():
        assert fuzz(2000, 0) == []
