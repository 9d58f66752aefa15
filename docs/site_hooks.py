"""Hooks of mkdocs (see mkdocs.yml): pages from files outside of docs/, and formulas as MathML, without a network.

- The start page is README.md, with CONTRIBUTING.md and CHANGELOG.md as pages of their own.
- Every script in examples/ has a page, and there is a list of them.
- The reference of commands, settings and metrics is made from the code that has them.
- Plots and reports in benchmarks/results that a document shows become part of the site.
- $...$ and $$...$$ become MathML, which browsers draw by themselves.
"""

import argparse
import ast
import html
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
sys.path.insert(0, str(ROOT / "src"))
#: file of the repository -> page of the site
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add what stands outside of docs/."""
    for name, page in PAGES.items():
        text = inside((ROOT / name).read_text(encoding="utf-8"))
        if page == "index.md":
            text = f"---\nhide: [navigation]\n---\n\n{text}"
        files.append(File.generated(config, page, content=text))
    made = {"examples.md": examples_page(), "reference/commands.md": commands_page()}
    made |= {"reference/settings.md": settings_page(), "reference/metrics.md": metrics_page()}
    made |= {f"examples/{path.stem}.md": example_page(path) for path in EXAMPLES}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    documents = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    shown = set(re.findall(rf"\]\(\.\./({RESULTS}/[\w/.-]+)", documents))
    for report in [name for name in shown if name.endswith(".md")]:
        folder = Path(report).parent
        text = (ROOT / report).read_text(encoding="utf-8")
        shown |= {f"{folder}/{name}" for name in re.findall(r"\]\(([\w.-]+\.(?:png|svg))\)", text)}
    for name in sorted(shown):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links out of docs/ lead to the copies inside the site; a link that shows a file's name shows its title."""
    markdown = re.sub(r"\[(?:docs/)?([\w-]+)\.md\](?=\()", lambda match: f"[{title_of(match[1])}]", markdown)
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")


def on_page_content(content: str, **_: Any) -> str:
    """Formulas, as pymdownx.arithmatex marks them, to MathML."""

    def mathml(match: re.Match[str]) -> str:
        display = "inline" if match[1] == "span" else "block"
        return latex2mathml.converter.convert(html.unescape(match[2]), display=display)

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', mathml, content, flags=re.S)


def title_of(name: str) -> str:
    """The first heading of a document, by its name without .md; the name itself for anything else."""
    path = next((path for path in (ROOT / "docs" / f"{name}.md", ROOT / f"{name}.md") if path.exists()), None)
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if path else name


def inside(text: str) -> str:
    """Links of a file in the repository's root -> links between pages."""
    text = re.sub(r"\]\(examples/(\w+)\.py\)", r"](examples/\1.md)", text).replace("](examples/)", "](examples.md)")
    for name, page in PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](")


def examples_page() -> str:
    """The list of examples: what each shows, and how long it takes."""
    lines = ["# Examples", "", "Each runs on a CPU: `python examples/NAME.py`. All of them are run by the tests.", ""]
    lines += ["| script | what it shows |", "|---|---|"]
    lines += [f"| [{path.stem}](examples/{path.stem}.md) | {docstring(path).splitlines()[0]} |" for path in EXAMPLES]
    return "\n".join(lines) + "\n"


def example_page(path: Path) -> str:
    """One script: what stands above its code, and the code."""
    title, _, more = docstring(path).partition("\n")
    source = path.read_text(encoding="utf-8")
    code = source[source.index('"""', 3) + 3 :].strip()
    command = "" if more.strip().startswith("python ") else f"python examples/{path.name}\n"
    usage = re.match(r"\s*(python .*\n?)", more)
    shown = command or (usage[1] if usage else "")
    text = more[usage.end() :] if usage else more
    return f"# {path.stem}\n\n{title}\n\n```\n{shown.strip()}\n```\n\n{text.strip()}\n\n```python\n{code}\n```\n"


def docstring(path: Path) -> str:
    """Of a script."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem


def cell(value: object) -> str:
    """Text for a cell of a table."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def commands_page() -> str:
    """Every command of `reverie` with its arguments and its --help."""
    from reverie.commands import COMMANDS

    parts = ["# Command line\n\nMade from the parsers: `reverie COMMAND --help` says the same."]
    for command in COMMANDS.values():
        parser = argparse.ArgumentParser(prog=f"reverie {command.name}", add_help=False)
        command.add_arguments(parser)
        lines = ["| argument | what it is |", "|---|---|"]
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{(action.metavar or action.dest)}`"
            choices = f" One of: {', '.join(map(str, action.choices))}." if action.choices else ""
            usual = "" if action.default in (None, False, "", 0, []) else f" Default: {action.default}."
            text = (action.help or "").replace("%%", "%")
            stop = "." if text and (choices or usual) else ""
            lines.append(f"| {cell(names)} | {cell(f'{text}{stop}{choices}{usual}'.strip())} |")
        if command.takes_settings:
            lines.append("| `NAME=VALUE` ... | any [setting](settings.md) |")
        epilog = "" if command.name == "train" else command.epilog.strip()
        shown = f"\n\n```text\n{epilog}\n```" if epilog else ""
        parts.append(f"## reverie {command.name}\n\n{command.summary.capitalize()}.\n\n" + "\n".join(lines) + shown)
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Every setting with its default, its line of explanation, and the source of its default."""
    from reverie.config import SETTINGS

    parts = [
        "# Settings\n\nMade from `src/reverie/config/settings.py`. Write `group.name=value` or `name=value` on the "
        "command line, `name=value` as an argument of `reverie.Dreamer`. Source: *design* is the design document, "
        "*paper* DreamerV2's, *released code* its authors' last version, *ours* a choice of this library."
    ]
    for group in dict.fromkeys(key.split(".")[0] for key in SETTINGS):
        lines = [f"## {group}", "", "| setting | default | what it does | source |", "|---|---|---|---|"]
        for key, item in SETTINGS.items():
            if key.startswith(f"{group}."):
                usual = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
                lines.append(f"| `{key}` | {cell(usual)} | {cell(item.doc)} | {cell(item.source)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every logged number: meaning, unit, healthy values, what to do, where it is computed."""
    from reverie.insight.glossary import ENTRIES

    parts = ["# Metrics\n\nMade from `src/reverie/insight/glossary.py`; `reverie explain KEY` prints one."]
    for group in dict.fromkeys(group_of(entry.key) for entry in ENTRIES):
        lines = [f"## {cell(group)}", "", "| metric | what it is | healthy, and what to do if not |", "|---|---|---|"]
        for entry in ENTRIES:
            if group_of(entry.key) == group:
                what = f"{cell(entry.meaning)} *Unit: {cell(entry.unit)}.* `{entry.where}`"
                lines.append(f"| `{entry.key}` | {what} | {cell(entry.healthy)}<br>{cell(entry.advice)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def group_of(key: str) -> str:
    """Of a metric: what stands before the first stroke."""
    return key.split("/")[0] if "/" in key else "counters and episodes"
