"""The rules that a machine can check: who imports whom, what loads what, how large functions are, what is documented.

One test per rule; a failing test lists every file that breaks it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reverie

SOURCE = Path(reverie.__file__).parent
MAX_FUNCTION = 60

ALGORITHM = "ops layers latents distributions networks rssm actor_critic"
BESIDE = "behavior extensions finite optim data"
LEARNER = f"{ALGORITHM} observations world_model {BESIDE} files config envs fast checkpoint build player train ranks"
RUN = f"{LEARNER} guard run"

#: part (a folder, or a file of the top folder) -> the parts that it may import. `errors` and the version are free for
#: all. A new file in a folder needs no row.
MAY_IMPORT = {
    "errors": "",
    "ranks": "",
    "ops": "",
    "layers": "",
    "optim": "ranks",
    "latents": "ops layers",
    "distributions": "ops layers",
    "networks": "ops layers distributions",
    "rssm": "ops layers latents",
    "actor_critic": "ops layers distributions",
    "observations": "ops layers networks",
    "files": "",
    "config": "files",
    "data": "files",  # and no torch
    "envs": "config data",  # and no torch
    "world_model": "data networks observations ops rssm",
    "behavior": f"{ALGORITHM} world_model config data ranks",
    "extensions": f"{ALGORITHM} observations world_model behavior data",
    "finite": "data optim rssm",
    "fast": f"{ALGORITHM} observations world_model config data",
    "checkpoint": "config envs files",
    "build": f"{ALGORITHM} observations world_model behavior extensions optim config envs fast",
    "player": f"{ALGORITHM} observations world_model extensions config envs fast build",
    "train": f"{ALGORITHM} observations world_model {BESIDE} config envs fast build player ranks",
    "guard": LEARNER,
    "selftest": LEARNER,
    "run": f"{LEARNER} guard",
    "insight": RUN,
    "share": f"{RUN} insight",
    "api": f"{RUN} share",
    "bench": RUN,
    "web": f"{RUN} share insight bench",
    "evidence": f"{RUN} insight bench",
    "commands": f"{RUN} share selftest api bench insight web evidence",
    "cli": "commands config",
    "__init__": "",
}
NO_TORCH = {"errors", "config", "data", "envs", "files", "__init__"}
#: The first files that a reader meets: they know tensors and nothing else.
PAPER = set(ALGORITHM.split())

FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def part(path):
    """The row of the table that a file belongs to: its own name, or its folder's."""
    inside = path.relative_to(SOURCE).parts
    return inside[0] if len(inside) > 1 else path.stem


def name(path):
    return str(path.relative_to(SOURCE))


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def module_file(dotted):
    """("run", "loop") -> src/reverie/run/loop.py, or the package's __init__.py; None if there is no such module."""
    path = SOURCE.joinpath(*dotted)
    if path.is_dir() and (path / "__init__.py").exists():
        return path / "__init__.py"
    return path.with_suffix(".py") if dotted and path.with_suffix(".py").exists() else None


def imports(path):
    """([(file of the package, imported name, line)], top-level names of other packages), type-only imports included."""
    inner, outer = [], set()
    here = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            outer |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outer.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - (node.level - 1)] + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                found = module_file((*base, alias.name)) or module_file(base)
                if found is not None and found != path:
                    inner.append((found, alias.name, node.lineno))
    return inner, outer


def at_import_time(path):
    """Files that importing this one loads at once: its imports outside of functions and of type checking."""
    late = {
        id(inner)
        for node in ast.walk(TREES[path])
        if is_type_checking(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    lines = {node.lineno for node in ast.walk(TREES[path]) if isinstance(node, ast.ImportFrom) and id(node) not in late}
    return {found for found, _, line in imports(path)[0] if line in lines}


# ------------------------------------------------------------------------------------------------------------ layout


def test_the_top_folder_is_the_paper_and_little_else():
    modules = {path.name for path in SOURCE.glob("*.py")} - {"__main__.py"}
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"golden", "__pycache__"}
    assert len(modules) <= 21, sorted(modules)
    assert len(folders) <= 15, sorted(folders)
    assert {part(path) for path in FILES} == set(MAY_IMPORT) | {"__main__"}


def test_a_part_imports_only_what_it_may():
    wrong = [
        f"{name(path)}:{line} imports {name(found)}"
        for path in FILES
        if part(path) != "__main__"
        for found, _, line in imports(path)[0]
        if part(found) not in {"errors", "__init__", part(path), *MAY_IMPORT[part(path)].split()}
    ]
    assert wrong == []


def test_the_package_is_imported_relatively():
    assert [name(path) for path in FILES if "reverie" in imports(path)[1]] == []


def test_the_table_goes_upwards_only():
    done: set[str] = set()
    for key, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= done, f"{key} may import what stands below it: {set(allowed.split()) - done}"
        done.add(key)


def test_no_circle_among_files_type_checking_included():
    left = {path: {found for found, _, _ in imports(path)[0] if found.name != "__init__.py"} for path in FILES}
    left = {path: needs for path, needs in left.items() if path.name != "__init__.py"}
    while left:
        free = {path for path, needs in left.items() if not needs & left.keys()}
        assert free, f"a circle among {sorted(map(name, left))}"
        left = {path: needs for path, needs in left.items() if path not in free}


def test_what_runs_in_workers_imports_no_torch():
    guilty = [name(path) for path in FILES if part(path) in NO_TORCH and imports(path)[1] & {"torch", "torchvision"}]
    assert guilty == []


def test_a_player_needs_no_training_code():
    found, waiting = set(), [SOURCE / "player.py"]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += list(at_import_time(here))
    assert {part(path) for path in found} & {"train", "run", "guard", "api", "cli", "checkpoint", "optim"} == set()


def test_the_algorithm_sees_no_configuration_batch_or_environment():
    for key in PAPER:
        assert set(MAY_IMPORT[key].split()) <= PAPER


@pytest.mark.parametrize(
    ("path", "of", "allowed"),
    [
        ("world_model.py", "data", {"Batch"}),
        ("extensions", "data", {"Batch"}),
        ("behavior.py", "data", {"Batch"}),
        ("envs", "config", {"coerce"}),
        ("envs", "data", None),
    ],
)
def test_some_parts_take_little_from_another(path, of, allowed):
    """allowed: names; None: only `data.data_report`."""
    files = [p for p in FILES if name(p).split("/")[0] == path]
    taken = [(found, what) for p in files for found, what, _ in imports(p)[0] if part(found) == of]
    if allowed is None:
        assert {found.stem for found, _ in taken} <= {"data_report"}
    else:
        assert {what for _, what in taken} <= allowed


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
    assert (SOURCE / "config" / "presets" / "default.yaml").exists()


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


def test_functions_stay_small():
    sizes = {f"{name(p)}:{where}": node.end_lineno - node.lineno + 1 for p in FILES for where, node, _ in functions(p)}
    assert {where: size for where, size in sizes.items() if size > MAX_FUNCTION} == {}
    core = {
        where: size
        for where, size in sizes.items()
        if part(SOURCE / where.split(":")[0]) in {*PAPER, "behavior", "train"}
    }
    assert {where: size for where, size in core.items() if size > 40 and not where.endswith(":demo")} == {}


# ---------------------------------------------------------------------------------------------------------- style


def test_no_bare_except_and_no_star_import():
    for path in FILES:
        for node in ast.walk(TREES[path]):
            where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), where
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), where


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


def test_only_train_and_optim_compute_gradients_and_step():
    assert {name(path) for path in FILES if learning_calls(path)} <= {"train.py", "optim.py", "selftest/golden.py"}


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


def undocumented(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), "the file itself"
    missing = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    for where, node, owner in functions(path):
        told = owner is not None and (node.name in TOLD_ELSEWHERE or is_protocol(owner) or trivial(node))
        if public(where, node, owner) and not (ast.get_docstring(node) or told):
            missing.append(where)
    return [f"{name(path)}:{where}" for where in missing]


def test_everything_public_is_documented():
    assert [where for path in FILES for where in undocumented(path)] == []


@pytest.mark.parametrize(
    "file", ["ops", "layers", "latents", "networks", "rssm", "actor_critic", "world_model", "behavior"]
)
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
