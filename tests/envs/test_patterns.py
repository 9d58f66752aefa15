"""Keys and patterns of observations: env.obs_ignore, env.obs_images, env.obs_vectors."""

import numpy as np
import pytest
from gymnasium import spaces
from toys import SpaceEnv

from reverie.config import build
from reverie.config.validation import coerce
from reverie.envs.spaces import make_spec
from reverie.errors import UserError

BOX, IMAGE = spaces.Box(-1, 1, (2,)), spaces.Box(0, 255, (8, 8, 3), np.uint8)
CAMERAS = spaces.Dict({"cam[0]": IMAGE, "cam0": IMAGE, "x": BOX, "arm/a*b": BOX, "deep": spaces.Dict({"y": BOX})})


def keys(**patterns):
    return set(make_spec(SpaceEnv(CAMERAS), **patterns).obs)


def test_a_key_is_itself_whatever_letters_it_has():
    every = {"cam[0]", "cam0", "x", "arm/a*b", "deep/y"}
    assert keys() == every
    assert keys(ignore=["cam[0]"]) == every - {"cam[0]", "cam0"}  # as a key, and as the pattern that it also is
    assert keys(ignore=["cam[[]0]"]) == every - {"cam[0]"}
    assert keys(ignore=["arm/a*b"]) == every - {"arm/a*b"}
    assert make_spec(SpaceEnv(CAMERAS), vectors=["cam[0]"]).obs["cam[0]"].kind == "vector"


@pytest.mark.parametrize("setting", ["images", "vectors", "ignore"])
@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("cam1", "did you mean 'cam0'?"),
        ("camera*", "there are: "),
        ("deep/z", "did you mean 'deep/y'?"),
        ("Q", "there are: "),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(setting, pattern, advice):
    with pytest.raises(UserError, match=rf"^env\.obs_{setting}: no observation matches '") as refused:
        make_spec(SpaceEnv(CAMERAS), **{setting: ["x", pattern]} if setting != "images" else {setting: [pattern]})
    assert advice in refused.value.message


@pytest.mark.parametrize("space", [BOX, spaces.Tuple([BOX, BOX]), spaces.Discrete(3)])
def test_so_it_is_in_spaces_without_names(space):
    with pytest.raises(UserError, match="no observation matches"):
        make_spec(SpaceEnv(space), ignore=["camera"])


def test_the_mask_cannot_be_ignored_by_the_way():
    masked = spaces.Dict({"action_mask": spaces.MultiBinary(2), "x": BOX, "y": BOX})
    with pytest.raises(UserError, match="holds the action mask") as refused:
        make_spec(SpaceEnv(masked), ignore=["action*", "y"])
    assert "env.action_mask=none" in refused.value.hint
    assert set(make_spec(SpaceEnv(masked), ignore=["action*"], action_mask="none").obs) == {"x", "y"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cam[0]", ("cam[0]",)), ("[cam[0], x]", ("cam[0]", "x")), ("(a)", ("a",)), ("a,b*", ("a", "b*")), ("", ()),
        ("[]", ()), ("[0]cam[1]", ("[0]cam[1]",)), ("cam(left)", ("cam(left)",)), (["cam[0]"], ("cam[0]",)),
        ("[", ("[",)),
    ],
)  # fmt: skip
def test_brackets_of_a_list_are_not_those_of_a_name(text, found):
    assert build({"env.obs_ignore": text}).env.obs_ignore == found
    assert coerce("[5, 5]", tuple[int, ...]) == (5, 5)
