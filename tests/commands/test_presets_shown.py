"""`reverie presets`: every value beside its source, two presets side by side, and the same for machines."""

import json
import re

import pytest

from reverie import cli
from reverie.config import SETTINGS
from reverie.config.presets import preset_differences, preset_names, preset_rows


def output(capsys, *words):
    capsys.readouterr()
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stack", [*preset_names(), "dreamerv3+small", "atari+small"])
def test_a_preset_is_printed_with_every_source(capsys, stack):
    text = output(capsys, "presets", stack)
    lines = {line[2:].split(" ")[0]: line for line in text.splitlines() if line[:2] in ("  ", "* ")}
    assert set(lines) == set(SETTINGS)
    for row in preset_rows(stack):
        line = lines[row.key]
        assert line.endswith(row.source)
        assert (line[0] == " ") == row.is_default
        assert (f" {row.preset}: " in line) == (row.preset not in ("", stack))


def test_json_has_values_sources_and_who_set_them(capsys):
    found = json.loads(output(capsys, "presets", "dreamerv3+small", "--json"))
    assert set(found) == set(SETTINGS)
    assert found["model.unimix"] == {"value": 0.01, "source": "V3: 0.01", "preset": "dreamerv3"}
    assert found["model.layers"] == {"value": 2, "source": "prototype: 2", "preset": "small"}
    assert found["env.backend"] == {"value": "auto", "source": SETTINGS["env.backend"].source, "preset": ""}


@pytest.mark.parametrize(
    "pair", [("atari", "atari-paper"), ("demo", "default"), ("dreamerv2+small", "dreamerv3+small")]
)
def test_differences_are_aligned_and_fit_the_screen(capsys, pair):
    lines = output(capsys, "presets", "--diff", *pair).splitlines()
    columns = [title.start() for title in re.finditer("source in", lines[0])]
    assert max(map(len, lines)) <= 120
    rows = {line.split()[0]: line for line in lines[1:] if line}
    assert list(rows) == [a.key for a, _ in preset_differences(*pair)]
    for a, b in preset_differences(*pair):
        line = rows[a.key]
        assert line[columns[0] :].startswith(a.source[:10])
        assert line[columns[1] :].startswith(b.source[:10])
        assert line[columns[0] - 1] == line[columns[1] - 1] == " "


def test_differences_as_json(capsys):
    found = json.loads(output(capsys, "presets", "--diff", "default", "dreamerv3", "--json"))
    assert found["train.agc"] == [
        {"value": 0.0, "source": "V3: 0.3", "preset": ""},
        {"value": 0.3, "source": "V3: 0.3", "preset": "dreamerv3"},
    ]
    assert json.loads(output(capsys, "presets", "--diff", "demo", "demo", "--json")) == {}


def test_equal_presets_get_a_sentence(capsys):
    assert output(capsys, "presets", "--diff", "demo", "small+demo") == "demo and small+demo do not differ.\n"
