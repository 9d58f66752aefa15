"""Random environments: a few in every test run, two thousand in the slow set (20 minutes on one core)."""

import pytest

from tests.fuzz.environments import fuzz


def test_some_random_environments():
    assert fuzz(4, 90_000) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_random_environments(capsys):
    with capsys.disabled():
        assert fuzz(2000, 0) == []
