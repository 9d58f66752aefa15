"""Random command lines: a few in every test run, two thousand in the slow set (20 minutes on one core)."""

import pytest

from tests.fuzz.command_lines import fuzz


def test_some_random_command_lines():
    assert fuzz(8, 90_000) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_random_command_lines(capsys):
    with capsys.disabled():
        assert fuzz(2000, 0) == []
