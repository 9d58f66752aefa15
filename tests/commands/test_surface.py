"""Every public name, command, flag, choice, setting and preset of commit a39c60b is still there.

`tests/data/surface-a39c60b.json` lists them. What was dropped since stands in `DROPPED`, with the sentence with which
it is refused.
"""

import argparse
import importlib
import importlib.metadata
import json
from pathlib import Path

import pytest

from reverie import cli
from reverie.commands import COMMANDS
from reverie.config import SETTINGS
from reverie.config.presets import load_preset, preset_names

SURFACE = json.loads((Path(__file__).parents[1] / "data" / "surface-a39c60b.json").read_text())

#: (command, argument, choice or "") -> a command line that uses it, and the sentence that refuses it.
DROPPED: dict[tuple[str, str, str], tuple[list[str], str]] = {
    ("bench", "what", "collect"): (
        ["bench", "collect", "--preset", "vector", "--env", "CartPole-v1"],
        "`reverie bench collect` is now a script of the repository, with the same options.\n"
        "hint: In a clone of it: python benchmarks/throughput.py collect ...",
    ),
    ("bench", "what", "train"): (
        ["bench", "train", "--seconds", "30", "--json"],
        "`reverie bench train` is now a script of the repository, with the same options.\n"
        "hint: In a clone of it: python benchmarks/throughput.py train ...",
    ),
    ("bench", "what", "roofline"): (
        ["bench", "roofline", "--preset", "atari", "--tflops", "780", "--bandwidth", "4000", "gamma=0.9"],
        "`reverie bench roofline` is now a script of the repository, with the same options.\n"
        "hint: In a clone of it: python benchmarks/roofline.py ...",
    ),
    ("bench", "--tflops", ""): (["bench", "update", "--tflops", "780"], "--tflops is an option of the roofline."),
    ("bench", "--bandwidth", ""): (
        ["bench", "policy", "--bandwidth", "1"],
        "--bandwidth is an option of the roofline.",
    ),
}


def arguments(command):
    """{"-o|--out" or the name of a positional argument: its choices or None} of a command."""
    parser = argparse.ArgumentParser(prog=command)
    COMMANDS[command].add_arguments(parser)
    return {
        "|".join(action.option_strings) or action.dest: list(action.choices) if action.choices else None
        for action in parser._actions
    }


@pytest.mark.parametrize("module", SURFACE["names"])
def test_public_names(module):
    found = importlib.import_module(module)
    assert [name for name in SURFACE["names"][module] if not hasattr(found, name)] == []


def test_the_package_exports_what_it_did():
    assert set(SURFACE["names"]["reverie"]) <= set(importlib.import_module("reverie").__all__)


def test_commands_and_their_order():
    assert [name for name in COMMANDS if name in SURFACE["commands"]] == list(SURFACE["commands"])
    assert all(name == command.name for name, command in COMMANDS.items())


@pytest.mark.parametrize("command", SURFACE["commands"])
def test_flags_and_choices(command):
    found = arguments(command)
    for argument, choices in SURFACE["commands"][command].items():
        assert argument in found
        for choice in choices or []:
            assert found[argument] is None or choice in found[argument]


@pytest.mark.parametrize("what", DROPPED, ids="-".join)
def test_what_was_dropped_is_refused_with_a_sentence(what, capsys):
    words, sentence = DROPPED[what]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    command, argument, choice = what
    assert choice in (SURFACE["commands"][command][argument] or [""])


def test_settings():
    kinds = {key: str(setting.kind) for key, setting in SETTINGS.items()}
    assert {key: kinds.get(key) for key in SURFACE["settings"]} == SURFACE["settings"]


def test_presets():
    assert set(SURFACE["presets"]) <= set(preset_names())
    for name in SURFACE["presets"]:
        load_preset(name, {})


def test_modules_and_entry_point():
    for module in SURFACE["modules"]:
        importlib.import_module(module)
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="reverie")
    assert entry.value == SURFACE["entry_point"]
