"""What several ranks cannot do is said before anything is made."""

import pytest

from reverie.config.presets import load_preset
from reverie.errors import UserError
from reverie.ranks import Ranks
from reverie.run.shards import require_shares


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"goal_every": 4, "goal_dim": 16, "goal_layers": 1}, "hierarchy.goal_every"),
        ({"cloning": True}, "behavior.cloning"),
        ({"bc_scale": 0.5}, "behavior.bc_scale"),
        ({"demos": "data"}, "replay.demos"),
        ({"batch_size": 3}, "train.batch_size=2"),
        ({"async_collect": True}, "env.async_collect"),
    ],
)
def test_what_needs_one_process_is_refused(settings, word):
    config = load_preset("debug", settings)
    require_shares(config, Ranks(0))
    with pytest.raises(UserError) as refused:
        require_shares(config, Ranks(0, 2))
    assert word in str(refused.value) + refused.value.hint
