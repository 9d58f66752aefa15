"""Fingerprint of the user's source that makes an environment: has it been edited since a run was trained on it?

Of a module of the user's, its whole file counts, and the files of the user's that it imports; of the program that is
run, only what the environment needs, so that another number of steps in its last line is no edit. Comments, docstrings
and formatting do not count, nor do installed packages: `RUN/provenance.json` has their versions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from .make import EnvLike
from .names import NamedMaker, load_module

#: Files that are read at most; who imports more has a fingerprint of these.
MOST_FILES = 300
_HERE = Path(__file__).parents[1]
_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_PLAIN = (int, float, complex, str, bytes, type(None), np.ndarray, np.generic)


def fingerprint(env: EnvLike) -> str:
    """A hash of the user's source behind an environment; "" if there is none, as for an id of an installed package."""
    sources = _Sources()
    try:
        sources.add(env)
    except (SyntaxError, RecursionError, OSError, ValueError):  # a file that is being edited right now, say
        return ""
    return hashlib.sha256("\n".join(sources.found).encode()).hexdigest()[:16] if sources.any_source else ""


class _Sources:
    """What was found so far, in the order in which it was reached."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.any_source = False
        self._seen: set[Any] = set()

    def add(self, value: Any) -> None:
        """A function, class, environment, id, or a value that one of them was made with."""
        if isinstance(value, NamedMaker):
            self.found.append(value.name)
            self._module(load_module(value.where))
        elif isinstance(value, gym.Env):
            for layer in _layers(value):
                self.add(type(layer))
        elif isinstance(value, str) and value.rpartition(":")[2] in gym.registry:
            spec = gym.registry[value.rpartition(":")[2]]
            point = spec.entry_point
            self.add(load_module(point.partition(":")[0]) if isinstance(point, str) else point)
            self.add(dict(spec.kwargs))
        elif isinstance(value, functools.partial):
            self.add(value.func)
            self.add((value.args, value.keywords))
        elif isinstance(value, _PLAIN):
            self.found.append(repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value))
        elif isinstance(value, tuple | list | set | frozenset | dict):
            items = list(value.items()) if isinstance(value, dict) else value
            for item in sorted(items, key=repr) if isinstance(value, set | frozenset) else items:
                self.add(item)
        elif isinstance(value, ModuleType):
            self._module(value)
        elif isinstance(value, type | FunctionType):
            self._defined(value)
        elif hasattr(value, "__func__"):
            self.add(value.__func__)
        else:
            self.found.append(type(value).__qualname__)

    def _defined(self, value: Any) -> None:
        """A function or class: its source, and the values that it keeps."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        module = sys.modules.get(value.__module__)
        if module is None or not _is_users(module):
            return
        self.found.append(value.__qualname__)
        if isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            self.add([cells, value.__defaults__, value.__kwdefaults__])
        if module.__name__ != "__main__":
            self._module(module)
        elif (root := value.__qualname__.split(".")[0]) in (defined := _definitions(module)):
            self._reached(root, defined)
        elif isinstance(value, FunctionType):  # a lambda, or something of a notebook
            self._code(value.__code__, value.__globals__, defined)
        else:
            for part in [*value.__bases__, *vars(value).values()]:
                part = getattr(part, "__func__", part)
                if isinstance(part, FunctionType | type):
                    self.add(part)

    def _module(self, module: ModuleType) -> None:
        """The file of a module of the user's, and those of the user's that it imports."""
        file = getattr(module, "__file__", None)
        if not _is_users(module) or not file or file in self._seen or len(self._seen) > MOST_FILES:
            return
        self._seen.add(file)
        tree = ast.parse(Path(file).read_bytes())
        self.found.append(_text(tree))
        self.any_source = True
        for name in _imported(tree, module.__package__ or ""):
            imported = sys.modules.get(name) or _unloaded(name)
            if imported is not None:
                self._module(imported)

    def _reached(self, name: str, defined: dict[str, list[ast.stmt]]) -> None:
        """What binds a name at the top of the program, and what that needs."""
        for statement in defined.get(name, []):
            if id(statement) in self._seen:
                continue
            self._seen.add(id(statement))
            self.found.append(_text(statement))
            self.any_source = True
            if isinstance(statement, ast.Import | ast.ImportFrom):
                for imported in filter(None, map(sys.modules.get, _imported(statement, ""))):
                    self._module(imported)
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    self._reached(node.id, defined)

    def _code(self, code: CodeType, names: dict[str, Any], defined: dict[str, list[ast.stmt]]) -> None:
        self.found.append(code.co_code.hex())
        self.any_source = True
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, names, defined)
            else:
                self.add(constant)
        for name in code.co_names:
            if name in defined:
                self._reached(name, defined)
            elif isinstance(names.get(name), type | FunctionType | ModuleType | int | float | str):
                self.add(names[name])


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_users(module: ModuleType) -> bool:
    """Is it neither Python's nor an installed package's nor ours?"""
    file = getattr(module, "__file__", None)
    if not file:
        return module.__name__ == "__main__"
    path = Path(file).resolve()
    return path.suffix == ".py" and not any(path.is_relative_to(place) for place in (_HERE, *_INSTALLED))


def _definitions(module: ModuleType) -> dict[str, list[ast.stmt]]:
    """{name: statements that bind it} at the top of a program; {} in a notebook."""
    file = getattr(module, "__file__", None)
    found: dict[str, list[ast.stmt]] = {}
    for statement in _tree(file).body if file else []:
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            continue
        for node in ast.walk(statement) if not isinstance(statement, ast.FunctionDef | ast.ClassDef) else [statement]:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names += [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
            names += [node.asname or node.name.split(".")[0]] if isinstance(node, ast.alias) else []
            for name in names:
                found.setdefault(name, []).append(statement)
    return found


@functools.lru_cache(maxsize=4)
def _tree(file: str) -> ast.Module:
    """Parsed once: the program that runs does not change any more, and its statements are known by their identity."""
    return ast.parse(Path(file).read_bytes())


def _text(tree: ast.AST) -> str:
    """A syntax tree as text, without docstrings and places."""
    pieces = []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            pieces.append(first.value.value)
    text = ast.dump(tree)
    for piece in pieces:
        text = text.replace(f"Expr(value=Constant(value={piece!r}))", "", 1)
    return text


def _imported(tree: ast.AST, package: str) -> list[str]:
    """The modules that a piece of source imports, wherever it does."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name and name.split(".")[0] not in sys.stdlib_module_names]


def _unloaded(name: str) -> ModuleType | None:
    """A module that is imported later, without importing it now; None if it is not the user's."""
    try:
        spec = importlib.util.find_spec(name) if "." not in name else None
    except (ImportError, ValueError):
        return None
    return importlib.util.module_from_spec(spec) if spec is not None and spec.origin and spec.loader else None
