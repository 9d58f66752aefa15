"""The rules of DESIGN.md that a machine can check: who imports whom, how big, how documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reverie

SOURCE = Path(reverie.__file__).parent
MAX_FILE, MAX_FUNCTION = 400, 60

#: file -> what it may import of the package. `errors` is free for all. A new file needs a row: decide where it belongs.
MAY_IMPORT = {
    "errors": "",
    "validity": "",
    "settings": "",
    "integrity": "",
    "writing": "",
    "config": "integrity settings validity",
    "presets": "config",
    "room": "",
    "replay": "integrity room",
    "collect": "",
    "envs": "validity",
    "lock": "",
    "faults": "config",
    "events": "",
    "logger": "events faults",
    "ops": "",
    "optim": "",
    "scalars": "ops",
    "networks": "ops scalars",
    "observations": "networks ops",
    "rssm": "ops networks",
    "policies": "ops",
    "actor_critic": "networks policies scalars",
    "masks": "networks policies",
    "world_model": "masks networks observations ops rssm replay",
    "build": "config envs masks networks observations policies rssm actor_critic world_model",
    "checkpoint": "config envs integrity",
    "player": "checkpoint build compute envs actor_critic rssm world_model",
    "fast": "networks ops rssm",
    "compute": "config fast networks",
    "graph": "replay",
    "nonfinite": "optim replay rssm",
    "train": "compute config graph nonfinite presets envs replay ops optim policies rssm actor_critic build player",
    "selftest": "config envs networks ops policies rssm actor_critic replay train",
    "evaluate": "collect envs",
    "plot": "evaluate logger",
    "screen": "build evaluate tasks",
    "rundir": "config faults lock validity",
    "clock": "",
    "tasks": "config envs",
    "examiner": "config envs evaluate tasks train",
    "forecast": "config envs replay train",
    "ranges": "",
    "signals": "",
    "first_rows": "config envs faults ops ranges replay",
    "resume": "checkpoint clock evaluate faults integrity logger rundir",
    "health": "ops policies replay rssm",
    "checkup": "faults health",
    "autopsy": "fast nonfinite rssm",
    "crash": "autopsy checkpoint config envs integrity nonfinite replay rssm",
    "recovery": "autopsy checkpoint clock crash integrity nonfinite train",
    "loop": "checkup compute config envs faults first_rows forecast lock nonfinite recovery replay collect checkpoint "
    "evaluate examiner clock logger resume rundir screen signals tasks train writing",
    "verbs_envs": "envs",
    "verbs_check": "envs",
    "verbs_crash": "autopsy build checkpoint config crash train",
    "api": "config presets envs checkpoint evaluate loop player screen tasks train",
    "verbs_presets": "config presets",
    "bench": "build collect compute config envs forecast loop presets replay screen tasks train",
    "verbs_bench": "__init__ bench rundir",
    "insight": "__init__ checkpoint config envs logger ops plot replay rssm train world_model",
    "evidence": "bench build config envs forecast insight lock logger presets rundir tasks",
    "verbs_compare": "evidence verb",
    "verbs_sweep": "evidence insight verb",
    "glossary": "",
    "verb": "",
    "verbs_explain": "glossary verb",
    "verbs_doctor": "insight verb",
    "verbs_dream": "insight verb",
    "verbs_report": "insight verb",
    "web": "__init__ checkpoint config envs glossary insight lock observations ops policies replay rssm tasks train",
    "verbs_watch": "verb web",
    "verbs": "verb verbs_compare verbs_doctor verbs_dream verbs_explain verbs_report verbs_sweep verbs_watch",
    "cli": "__init__ envs insight selftest tasks verbs verbs_bench verbs_check verbs_crash verbs_envs verbs_presets "
    "config presets checkpoint evaluate logger plot rundir screen signals validity loop api",
    "__init__": "",
}
NO_TORCH = {"errors", "validity", "ranges", "settings", "config", "replay", "collect", "envs", "plot", "__init__"}

FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def part(path):
    """The row of the table that a file belongs to: its own name, or its folder's."""
    inside = path.relative_to(SOURCE).parts
    return inside[0] if len(inside) > 1 else path.stem


def name(path):
    return str(path.relative_to(SOURCE))


def runtime_nodes(tree):
    """All nodes except what stands under `if TYPE_CHECKING:`."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    return [node for node in ast.walk(tree) if id(node) not in skipped]


def imports(path):
    """(parts of the package, top-level names of other packages, [(part, imported name)]) that a file imports."""
    inner, outer, names = set(), set(), []
    depth = len(path.relative_to(SOURCE).parts)  # 1: src/reverie/x.py, where `.` is the package
    for node in runtime_nodes(TREES[path]):
        if isinstance(node, ast.Import):
            outer |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outer.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            for alias in node.names:
                target = node.module.split(".")[0] if node.module else alias.name
                target = "__init__" if target.startswith("__") else target
                inner.add(target)
                names.append((target, alias.name))
        elif isinstance(node, ast.ImportFrom):
            inner.add(part(path))
    return inner - {part(path)}, outer, names


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_imports_only_what_it_may(path):
    assert part(path) in MAY_IMPORT, "a new file: give it a row in MAY_IMPORT"
    inner, outer, _ = imports(path)
    assert inner <= {"errors", *MAY_IMPORT[part(path)].split()}
    assert "reverie" not in outer  # always relative


def test_the_table_has_no_cycles_and_no_dead_rows():
    assert {part(path) for path in FILES} == set(MAY_IMPORT)
    done: set[str] = set()
    left = {key: set(allowed.split()) for key, allowed in MAY_IMPORT.items()}
    while left:
        free = {key for key, needs in left.items() if needs <= done}
        assert free, f"a cycle among {sorted(left)}"
        done |= free
        left = {key: needs for key, needs in left.items() if key not in free}


def test_every_allowed_import_is_used():
    used: dict[str, set[str]] = {key: set() for key in MAY_IMPORT}
    for path in FILES:
        used[part(path)] |= imports(path)[0]
    unused = {key: set(allowed.split()) - used[key] for key, allowed in MAY_IMPORT.items()}
    assert {key: names for key, names in unused.items() if names} == {}


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in NO_TORCH], ids=name)
def test_what_runs_in_workers_imports_no_torch(path):
    assert not imports(path)[1] & {"torch", "torchvision"}


def reachable(start):
    found, waiting = set(), [start]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [p for path in FILES if part(path) == here for p in imports(path)[0]]
    return found


def test_a_player_needs_no_training_code():
    assert not reachable("player") & {"train", "loop", "collect", "evaluate", "logger", "screen", "api", "cli"}


def test_the_algorithm_sees_no_configuration_batch_or_environment():
    algorithm = {"ops", "scalars", "networks", "rssm", "policies", "masks", "actor_critic"}
    for start in algorithm:
        assert reachable(start) <= algorithm


def test_the_world_model_takes_nothing_from_replay_but_the_batch():
    _, _, names = imports(SOURCE / "world_model.py")
    assert {what for target, what in names if target == "replay"} == {"Batch"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("reverie", ["torch", "gymnasium", "matplotlib", "numpy", "minigrid", "tensorboardX"]),
        ("reverie.cli", ["torch", "gymnasium", "matplotlib", "starlette"]),  # --help is quick
        ("reverie.config", ["torch", "gymnasium"]),
        ("reverie.evidence.compare", ["matplotlib", "dm_control", "ale_py"]),
        ("reverie.data.collect", ["torch"]),
        ("reverie.data.replay", ["torch", "gymnasium"]),
        ("reverie.envs", ["torch", "matplotlib", "minigrid"]),
        ("reverie.player", ["matplotlib", "minigrid", "tensorboardX", "rich", "starlette"]),
        ("reverie.web.app", ["torch"]),  # the page is there in a second; torch comes when somebody plays
    ],
)
def test_a_fresh_process_loads_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_package_is_there():
    assert sorted(reverie._HOMES) == sorted(reverie.__all__) == dir(reverie)
    for public in reverie.__all__:
        assert getattr(reverie, public).__name__ == public
    with pytest.raises(AttributeError, match="no attribute 'dreamer'"):
        reverie.dreamer  # noqa: B018


def test_the_wheel_marks_its_types_and_ships_presets():
    assert (SOURCE / "py.typed").exists()
    assert (SOURCE / "presets" / "default.yaml").exists()


# ---------------------------------------------------------------------------------------------------------- sizes


def functions(path):
    """(qualified name, node, the class around it or None) of every function in a file."""

    def inside(node, prefix, owner):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", child, owner
                yield from inside(child, f"{prefix}{child.name}.", None)
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, f"{prefix}{child.name}.", child)
            else:
                yield from inside(child, prefix, owner)

    return list(inside(TREES[path], "", None))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    sizes = {where: node.end_lineno - node.lineno + 1 for where, node, _ in functions(path)}
    assert {where: size for where, size in sizes.items() if size > MAX_FUNCTION} == {}


# ---------------------------------------------------------------------------------------------------------- style


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_bare_except_and_no_star_import(path):
    for node in ast.walk(TREES[path]):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}"
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), f"line {node.lineno}"


def learning_calls(path):
    """Lines that compute gradients or step an optimiser, outside of `demo` functions."""
    demos = [node for where, node, _ in functions(path) if where.split(".")[0] == "demo"]
    shown = {id(inner) for demo in demos for inner in ast.walk(demo)}
    found = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and id(node) not in shown:
            called, arguments = ast.unparse(node.func), len(node.args) + len(node.keywords)
            if (
                called.endswith((".backward", "autograd.grad"))
                or (node.func.attr == "step" and arguments == 0 and part(path) not in NO_TORCH)  # of an optimiser
                or node.func.attr == "zero_grad"
            ):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_train_computes_gradients_and_steps(path):
    assert bool(learning_calls(path)) == (name(path) in ("train.py", "selftest/golden.py"))


# ----------------------------------------------------------------------------------------------------- docstrings

#: Methods whose contract is torch's, Gymnasium's or a Protocol's of ours; the docstring of their class says the rest.
TOLD_ELSEWHERE = {"forward", "step", "reset", "render", "close", "close_extras", "action", "observation"}
TOLD_ELSEWHERE |= {"noise", "sample", "mode", "log_prob", "entropy", "kl", "loss"}


def public(where, node, owner):
    hidden = any(word.startswith("_") for word in where.split("."))
    return not hidden and not (owner is None and "." in where)  # a function inside a function is nobody's business


def is_protocol(owner):
    return owner is not None and any(ast.unparse(base) == "Protocol" for base in owner.bases)


def trivial(node):
    """A single `return`: the name and the types say it all."""
    return len(node.body) == 1 and isinstance(node.body[0], ast.Return)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_everything_public_is_documented(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), "the file itself"
    undocumented = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    for where, node, owner in functions(path):
        told = owner is not None and (node.name in TOLD_ELSEWHERE or is_protocol(owner) or trivial(node))
        if public(where, node, owner) and not (ast.get_docstring(node) or told):
            undocumented.append(where)
    assert undocumented == []


@pytest.mark.parametrize("file", ["ops", "scalars", "networks", "rssm", "actor_critic", "world_model"])
def test_functions_of_tensors_tell_shapes(file):
    """Each public function that takes or returns tensors, or its class, has a shape like (B, T) in its docstring."""
    silent = []
    for where, node, owner in functions(SOURCE / f"{file}.py"):
        arguments = [*node.args.args, *node.args.kwonlyargs, *([node.args.vararg] if node.args.vararg else [])]
        hints = [ast.unparse(a.annotation) for a in arguments if a.annotation]
        hints += [ast.unparse(node.returns)] if node.returns else []
        if not public(where, node, owner) or is_protocol(owner) or not any("Tensor" in hint for hint in hints):
            continue
        text = (ast.get_docstring(node) or "") + (ast.get_docstring(owner) or "" if owner else "")
        if "(" not in text:
            silent.append(where)
    assert silent == []
