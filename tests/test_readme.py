"""What the README shows is what runs."""

import re
from pathlib import Path

import pytest

from reverie.cli import make_parser
from reverie.commands import settings_of
from reverie.config.presets import load_preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "examples" / "custom_env.py").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_script_is_the_example():
    assert blocks("python")[0].strip() == EXAMPLE.split('"""', 2)[2].strip()


def test_the_script_trains_saves_loads_and_plays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = EXAMPLE.replace("env_steps=1500", "env_steps=150").replace('preset="vector"', 'preset="debug"')
    assert quick.count("150)") == quick.count('"debug"') == 1
    exec(compile(quick, "custom_env.py", "exec"), {"__name__": "example"})
    assert re.search(r"return (0\.0|1\.0)\n", capsys.readouterr().out)
    assert (tmp_path / "corridor" / "weights.safetensors").exists()


COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("reverie ")]


@pytest.mark.parametrize("command", [c for line in COMMANDS for c in re.split(r"\s{3,}", line)])
def test_commands_in_the_readme_are_understood(command):
    words = command.split()[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_known_args(words)
        assert ended.value.code == 0
        return
    args, rest = make_parser().parse_known_args(words)
    assert rest == [] or args.command == "train"
    load_preset("default", settings_of(rest))
