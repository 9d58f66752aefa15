"""What the README and the documents show is what runs."""

import re
from pathlib import Path

import pytest
import yaml

from reverie.cli import make_parser
from reverie.commands import settings_of
from reverie.config.presets import load_preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_script_checks_trains_saves_loads_and_plays(tmp_path, monkeypatch, capsys):
    """With a smaller preset and budget, and continued by the loop that its last line describes."""
    monkeypatch.chdir(tmp_path)
    quick = blocks("python")[0].replace("env_steps=20_000", "env_steps=150")
    quick = quick.replace('run="runs/mine"', 'run="runs/mine", preset="auto+debug"')
    assert quick.count("env_steps=150") == quick.count('preset="auto+debug"') == 1
    names = {"__name__": "readme"}
    exec(compile(quick, "README.md", "exec"), names)
    assert (tmp_path / "my-agent" / "weights.safetensors").exists()
    assert "observation" in capsys.readouterr().out  # the report of check_env
    env, act, action = names["env"], names["act"], names["action"]
    done, steps = False, 0
    while not done:
        assert env.action_space.contains(action)
        obs, _, terminated, truncated, _ = env.step(action)
        action, done, steps = act(obs), terminated or truncated, steps + 1
    assert steps > 1


def test_the_script_is_short():
    """Ten lines besides imports, the environment and blank ones."""
    code = [line for line in blocks("python")[0].splitlines() if line.strip() and not line.startswith("import")]
    assert len(code) <= 11


def test_make_targets_in_the_readme_exist():
    named = set(re.findall(r"^make (\w+)", README, re.M))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", MAKEFILE, re.M))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_files_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"\]\((?!http)([^)#]+)", text) + re.findall(r"`((?:src|tests|examples)/[\w/.]+)`", text)
    assert [target for target in named if not (ROOT / target).exists()] == []


def test_places_for_changes_exist():
    """The functions that "Change it" names are in the files that it names."""
    for line in README.split("## Change it")[1].split("\n## ")[0].splitlines():
        for function, file in re.findall(r"`(\w+)`(?: in| of) `(src/[\w/.]+)`", line):
            assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), line


def test_changelog_has_the_sections_of_the_format():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = re.findall(r"^### (.*)$", text, re.M)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(line.startswith(("- ", "#")) for line in text.split("### ", 1)[1].splitlines()[1:] if line)


def test_the_readme_lists_every_document():
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "index.md" or f"docs/{path.name}" in README, path.name


def test_the_readme_is_short():
    """One and a half screens, code and tables included; results have a document of their own."""
    assert len(README.split()) < 900


GUIDES = "".join(
    path.read_text(encoding="utf-8")
    for folder in ("tutorials", "guide")
    for path in (ROOT / "docs" / folder).glob("*.md")
)
COMMANDS = [
    line.split("#")[0].strip() for line in (README + COMMANDS_PAGE + GUIDES).splitlines() if line.startswith("reverie ")
]


@pytest.mark.parametrize("command", [c for line in COMMANDS for c in re.split(r"\s{3,}", line)])
def test_commands_in_the_documents_are_understood(command):
    words = command.split()[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_known_args(words)
        assert ended.value.code == 0
        return
    args, rest = make_parser().parse_known_args(words)
    assert rest == [] or args.command == "train"
    load_preset("default", settings_of(rest))


def test_every_command_is_shown():
    """The page of commands shows each of `reverie --help` at least once."""
    shown = {words.split()[1] for line in COMMANDS for words in re.split(r"\s{3,}", line) if len(words.split()) > 1}
    known = next(action.choices for action in make_parser()._actions if action.choices)
    assert set(known) - {"sweep"} <= shown  # needs a file; docs/evidence.md has it


def test_pre_commit_runs_what_make_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"].split(" --")[0] for hook in hooks] == [
        ".venv/bin/ruff check",
        ".venv/bin/ruff format",
        ".venv/bin/mypy",
    ]
