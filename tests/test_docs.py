"""The documents say what the code does: every name, setting, test and number in docs/*.md is checked here."""

import ast
import importlib
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest
import torch

from reverie.actor_critic import compute_discount_weights, compute_lambda_returns
from reverie.config import SETTINGS, build
from reverie.data import replay

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "reverie"
DOCS = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.parent.name != "reference"  # made of the source
}
GROUPS = "|".join(sorted({key.split(".")[0] for key in SETTINGS}))
FUNCTION = re.compile(r"\breverie(?:\.\w+)*:\w+(?:\.\w+)*")
HEADING = re.compile(r"^#+ (.*)$", re.M)
#: A reference to the implementation details from code or text: the file, and one or more anchors.
REFERENCE = re.compile(r"implementation-details\.md(#[\w-]+(?:,\s+#[\w-]+)*)")
SETTING = re.compile(rf"`((?:{GROUPS})\.(?!py\b)\w+)(?:=([^`]*))?`")

#: Cuts along the time axis: x[:, 1:], x[:, :-1], x[:, -1], x[:, : n], x[1:], x[:-1], roll. Not the axes of a `.shape`.
SHIFT = re.compile(r"(?<!shape)\[:, (?:-?\d+|-?\d*: ?-?[\w.\[\]]*)\]|(?<!shape)\[(?:1:|:-1)\]|\broll\(|\.narrow\(1")
SHIFTING_FILES = [
    "ops",
    "networks",
    "rssm",
    "actor_critic",
    "world_model",
    "train",
    "data/replay",
    "data/collect",
    "player",
]
#: Functions with such a cut that moves nothing in time.
NO_SHIFT = {"world_model.to_batch", "train._random_batch", "player.Player._wandering"}  # over environments, or none


def found(pattern):
    """Every (document, match) of a pattern, each once."""
    return sorted({(name, match) for name, text in DOCS.items() for match in pattern.findall(text)})


def resolve(name):
    """`package.module:Class.method` -> the object."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def functions(source):
    """{dotted name: source of the function} of a module's source; nested functions belong to the outer one."""
    tree, out = ast.parse(source), {}

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                out[prefix + child.name] = ast.get_source_segment(source, child)

    walk(tree, "")
    return out


def shifts(source):
    """{function: does it mention the drawing} for every function that cuts along time, comments left out."""
    code = {name: re.sub(r'"""(?s:.*?)"""|#.*', "", text) for name, text in functions(source).items()}
    return {
        name: re.search(r"drawing|time\.md", text) is not None
        for name, text in functions(source).items()
        if SHIFT.search(code[name])
    }


def rows(heading):
    """The table rows of a section of time.md, as lists of cells."""
    section = DOCS["time.md"].split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def drawing(text):
    """The lines of the drawing in a text, without their common indentation."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("stored step t"))
    return inspect.cleandoc("\n".join(["", *lines[first : first + 6]])).splitlines()


# ---------------------------------------------------------------------------------------------------- names, settings


@pytest.mark.parametrize(("document", "name"), found(FUNCTION))
def test_every_function_named_in_the_documents_exists(document, name):
    assert callable(resolve(name))


#: Settings that make no sense alone, and what they need.
NEEDED = {
    "behavior.explore": {"ensemble.members": 5},
    "behavior.uncertainty_penalty": {"ensemble.members": 5},
    "ensemble.collect": {"ensemble.members": 5, "behavior.explore": "ensemble"},
}


@pytest.mark.parametrize(("document", "setting"), found(SETTING))
def test_every_setting_named_in_the_documents_exists_and_takes_that_value(document, setting):
    key, value = setting
    assert key in SETTINGS
    if value:
        build(NEEDED.get(key, {}) | {key: value})


def test_defaults_are_called_defaults():
    """In the last column of "where the sources disagree", the first setting with a value is the default's."""
    tables = DOCS["equations.md"].split("## Where the sources disagree")[1].split("### Claims")[0]
    for line in tables.splitlines():
        setting = SETTING.search(line.rstrip(" |").rsplit(" | ", 1)[-1])
        if line.startswith("|") and setting and setting[2]:
            key, value = setting.groups()
            if line.split(" | ")[0] not in NOT_DEFAULT_FIRST:
                assert build({key: value}) == build({}), line


#: Rows that name an option first, because the default is the absence of a setting.
NOT_DEFAULT_FIRST = {"| KL at balance 0.5", "| mixed gradient", "| which windows", "| decoder"}


def test_links_in_the_documents_lead_somewhere():
    for name, text in DOCS.items():
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert ((ROOT / "docs" / name).parent / target).exists(), f"{name}: {target}"


def anchors(text):
    """The fragments that a document offers: explicit ids, and headings as GitHub and mkdocs name them."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in HEADING.findall(text)]
    return {*re.findall(r'<a id="([\w-]+)"></a>', text), *slugs}


def test_fragments_in_the_documents_lead_to_an_anchor():
    for name, text in DOCS.items():
        for target, fragment in re.findall(r"\]\((?!http)([^)#]*)#([\w-]+)\)", text):
            page = ROOT / "docs" / name
            found = (page.parent / target) if target else page
            assert fragment in anchors(found.read_text(encoding="utf-8")), f"{name}: {target}#{fragment}"


def test_references_to_the_implementation_details_lead_to_an_anchor():
    """Code, tests, presets and documents write `implementation-details.md#b7`, several as `...md#b7, #b8`."""
    known, wrong, count = anchors(DOCS["implementation-details.md"]), [], 0
    for path in sorted(
        path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*")
    ):
        if path.suffix not in {".py", ".yaml", ".json", ".md"} or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        for reference in REFERENCE.findall(text):
            for anchor in re.findall(r"#([\w-]+)", reference):
                count += 1
                if anchor not in known and anchor != "anchor":
                    wrong.append(f"{path.relative_to(ROOT)}: {reference}")
    assert wrong == []
    assert count > 0


def test_anchors_of_the_implementation_details_are_unique_and_complete():
    """Every heading and every numbered row (A1, B1, rows of section 2) has an id, and no id stands twice."""
    text = DOCS["implementation-details.md"]
    ids = re.findall(r'<a id="([\w-]+)"></a>', text)
    assert len(ids) == len(set(ids))
    assert len(re.findall(r'^<a id="[\w-]+"></a>\n\n##', text, re.M)) == len(re.findall(r"^##", text, re.M))
    assert {f"a{n}" for n in range(1, 24)} | {f"b{n}" for n in range(1, 29)} <= set(ids)
    assert {f"design-{n}" for n in range(1, 20)} <= set(ids)


def test_tables_have_the_same_number_of_cells_in_every_row():
    for name, text in DOCS.items():
        for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
            counts = {line.count("|") for line in block.splitlines()}
            assert len(counts) == 1, f"{name}: {block[:80]}"


# --------------------------------------------------------------------------------------------------------------- time


def test_the_drawing_is_the_same_everywhere():
    assert drawing(DOCS["time.md"]) == drawing(replay.__doc__)
    design = ROOT.parent / "shared" / "DESIGN.md"  # beside the checkout where the maintainers work
    if design.exists():
        assert drawing(design.read_text(encoding="utf-8")) == drawing(replay.__doc__)
    assert len(drawing(replay.__doc__)) == 6


def test_every_shift_in_the_source_refers_to_the_drawing_and_is_listed():
    listed = {name.split(".", 1)[1].replace(":", ".") for name in FUNCTION.findall(DOCS["time.md"])}
    for file in SHIFTING_FILES:
        for name, mentions in shifts((SOURCE / f"{file}.py").read_text(encoding="utf-8")).items():
            where = f"{file.replace('/', '.')}.{name}"
            if where not in NO_SHIFT:
                assert mentions, f"{file}.py: {name} shifts by one and does not mention the drawing in replay.py"
                assert where in listed, f"{file}.py: {name} shifts by one and is not in docs/time.md"


def test_every_place_listed_in_time_md_refers_to_the_drawing():
    table = [row[0].strip("`") for row in rows("Every place that shifts by one")[1:]]
    assert len(table) == len(set(table)) > 10
    for name in table:
        owner = resolve(name.rsplit(".", 1)[0]) if "." in name.partition(":")[2] else None  # its class
        text = inspect.getsource(resolve(name)) + ((owner and inspect.getdoc(owner)) or "")
        assert re.search(r"drawing|time\.md", text), f"{name} does not mention the drawing in replay.py"


@pytest.mark.parametrize(
    "line",
    ["x[:, 1:]", "x[:, :-1]", "x[:, -1]", "x[:, :1]", "x[1:]", "x[:-1]", "x[:, : n]", "torch.roll(x, 1, 1)", "x[:, 0]"],
)
def test_a_new_shift_without_a_reference_is_noticed(line):
    assert shifts(f"def f(x, n):\n    return {line}\n") == {"f": False}
    assert shifts(f'def f(x, n):\n    """As in the drawing."""\n    return {line}\n') == {"f": True}
    assert shifts(f"class A:\n    def f(self, x, n):  # see docs/time.md\n        return {line}\n") == {"A.f": True}


@pytest.mark.parametrize("line", ["x.shape[:-1]", "x[..., :3]", "x[:, None]", "x", "y  # like x[:, 1:]"])
def test_what_is_no_shift_is_left_alone(line):
    assert shifts(f"def f(x, y):\n    return {line}\n") == {}


def test_tests_named_in_the_documents_exist():
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = {name for text in DOCS.values() for name in re.findall(r"`(test_\w+)`", text)}
    assert names
    assert [name for name in sorted(names) if f"def {name}(" not in written] == []


def test_the_numbers_of_the_example_come_out_of_the_code():
    cells = {row[0]: row[1:] for row in rows("Four steps with numbers")}

    def numbers(label, count):
        return torch.tensor([[float(x) for x in cells[label][:count]]])

    rewards, continues, values = numbers("reward r", 3), numbers("continue c", 3), numbers("value v", 4)
    targets = compute_lambda_returns(rewards, values, continues, gamma=0.9, lambda_=0.95)
    torch.testing.assert_close(targets, numbers("target G", 3))
    torch.testing.assert_close(compute_discount_weights(continues, gamma=0.9), numbers("weight w", 3))
    torch.testing.assert_close(targets - values[:, :3], numbers("credit G - v", 3))
