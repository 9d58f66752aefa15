"""Hooks of mkdocs (see mkdocs.yml): pages from files outside of docs/, and formulas as MathML, without a network.

- The start page is README.md, with CONTRIBUTING.md and CHANGELOG.md as pages of their own.
- The page of examples shows every script in examples/.
- Plots and reports in benchmarks/results that a document shows become part of the site.
- $...$ and $$...$$ become MathML, which browsers draw by themselves.
"""

import ast
import html
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
#: file of the repository -> page of the site
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add what stands outside of docs/."""
    for name, page in PAGES.items():
        text = inside((ROOT / name).read_text(encoding="utf-8"))
        if page == "index.md":
            text = f"---\nhide: [navigation]\n---\n\n{text}"
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "examples.md", content=examples_page()))
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
    text = re.sub(r"\]\(examples/(?:(\w+)\.py)?\)", lambda m: f"](examples.md{'#' + m[1] if m[1] else ''})", text)
    for name, page in PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](")


def examples_page() -> str:
    """Every script of examples/: its first line, and the code."""
    parts = ["# Examples\n\nEach runs in under a minute on a CPU: `python examples/NAME.py`.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0]
        parts.append(f'\n<a id="{path.stem}"></a>\n\n## {path.stem}\n\n{title}\n\n```python\n{source}```\n')
    return "".join(parts)
