"""Count the structure of a source tree from its syntax: imports, classes, size, and patterns that name a concern.

What a count stands for is written at its function. The last five go by names of this project, and are 0 for others.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_LISTINGS = {"list_candidates", "pages"}
_TARGET = re.compile(r"\w*Target(?:Spec|Address)?|LayoutSpec|OCILayout")
_ERROR_FIELDS = {"scope", "side", "phase", "status", "codes", "args", "path", "retry_after", "message"}


@dataclass(frozen=True)
class Tree:
    """The modules of a package, without those of its tests and of `testing/`."""

    root: Path

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The file of each module, by its dotted name."""
        return {self._name(path): path for path in sorted(self.root.rglob("*.py")) if not self._is_test(path)}

    @cached_property
    def syntax(self) -> dict[str, ast.Module]:
        """The syntax tree of each module."""
        return {name: ast.parse(path.read_text()) for name, path in self.paths.items()}

    def _name(self, path: Path) -> str:
        parts = [self.root.name, *path.relative_to(self.root).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _is_test(self, path: Path) -> bool:
        return not {"testing", "tests"}.isdisjoint(path.relative_to(self.root).parts)

    def imports(self, name: str) -> Iterator[str]:
        """Yield the modules of the tree that the module imports anywhere, also for types only."""
        package = name if self.paths[name].name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(self.syntax[name]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.paths)
            elif isinstance(node, ast.ImportFrom):
                base = _base(node, package)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield from (module for module in [inner if inner in self.paths else base] if module in self.paths)


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""

    parents = package.split(".")
    return ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])


def lines(tree: Tree) -> int:
    """Return the number of physical lines."""
    return sum(len(path.read_text().splitlines()) for path in tree.paths.values())


def closure(tree: Tree, start: str) -> tuple[int, int]:
    """Return how many classes and modules the module `start` imports, directly or not, itself included.

    An import of a name from a package counts as one of its `__init__`; an import of a module from it does not.
    """
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(tree.imports(name))

    nodes = (node for name in seen for node in ast.walk(tree.syntax[name]))
    return sum(isinstance(node, ast.ClassDef) for node in nodes), len(seen)


def kind_checks(tree: Tree) -> Iterator[str]:
    """Yield each `isinstance` and `case` on a class that is named as a target, outside of the package `targets`."""
    for name, node in _nodes(tree):
        if ".targets" not in name and any(_TARGET.fullmatch(kind) for kind in _checked_kinds(node)):
            yield f"{name}:{getattr(node, 'lineno', 0)}"


def _checked_kinds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.MatchClass):
        yield _last_name(node.cls)
    elif isinstance(node, ast.Call) and _last_name(node.func) == "isinstance" and len(node.args) == 2:
        yield from (_last_name(kind) for kind in ast.walk(node.args[1]) if isinstance(kind, ast.Name | ast.Attribute))


def discovery_pipelines(tree: Tree) -> Iterator[str]:
    """Yield the modules, apart from those of catalogs, that read the pages of a listing themselves."""
    for name, syntax in tree.syntax.items():
        calls = {_last_name(node.func) for node in ast.walk(syntax) if isinstance(node, ast.Call)}
        if not {"catalog", "quay"} & set(name.split(".")) and calls & _LISTINGS:
            yield name


def reducers(tree: Tree) -> Iterator[str]:
    """Yield the classes that change themselves for at least three classes of events.

    That is: a method has a `match` or `isinstance` with three of the classes of `events`, and a method assigns to an
    attribute, or to an item of one, by `+=`, of `self`.
    """
    module = tree.syntax.get(f"{tree.root.name}.events")
    events = {node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)} if module else set()
    for name, node in _nodes(tree):
        if isinstance(node, ast.ClassDef):
            inner = list(ast.walk(node))
            kinds = {kind for one in inner for kind in _checked_kinds(one)} & events
            if len(kinds) >= 3 and any(_counts_up(one) for one in inner):
                yield f"{name}.{node.name}"


def _counts_up(node: ast.AST) -> bool:
    target: ast.expr | None = node.target if isinstance(node, ast.AugAssign) else None
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value

    return isinstance(target, ast.Name) and target.id == "self"


def registrations(tree: Tree) -> Mapping[str, int]:
    """Return in how many places each option is declared, or named by a string of its own.

    An option is a field of a class of options in `settings`, and its declaration there counts 1, whatever it contains.
    In `cli`, `config` and elsewhere in `settings`, each string counts that is the command-line option, or the field's
    name, with dashes or not, unless that is an ordinary word.
    """
    declared = [node for name, syntax in tree.syntax.items() if _is_in(name, "settings") for node in _fields(syntax)]
    found = Counter(_last_name(node.target) for node in declared)
    inside = {id(inner) for node in declared for inner in ast.walk(node)}
    for name, node in _nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_in(name, "cli", "config", "settings"):
            text = node.value.partition("/")[0]
            option = text.removeprefix("--").replace("-", "_")
            if option in found and (text.startswith("--") or "_" in option) and id(node) not in inside:
                found[option] += 1

    return found


def _is_in(module: str, *packages: str) -> bool:
    return not set(packages).isdisjoint(module.split("."))


def _fields(syntax: ast.Module) -> Iterator[ast.AnnAssign]:
    for node in syntax.body:
        if isinstance(node, ast.ClassDef) and re.search(r"Settings|[a-z]Options|Limits", node.name):
            yield from (one for one in node.body if isinstance(one, ast.AnnAssign) and not _is_shared(one.annotation))


def _is_shared(annotation: ast.expr) -> bool:
    """Return True for the annotation of a class variable."""
    return any(isinstance(node, ast.Name) and node.id == "ClassVar" for node in ast.walk(annotation))


def error_edits(tree: Tree) -> Iterator[str]:
    """Yield each assignment to a field of an exception that something else has made."""
    for name, node in _nodes(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr in _ERROR_FIELDS and _is_an_error(target.value):
                yield f"{name}:{target.lineno}"


def _is_an_error(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and re.fullmatch(r"\w*error|exc|failure|trouble|problem", value.id) is not None


def declared_names(tree: Tree) -> int:
    """Return how many names `__all__` of the package has."""
    for node in ast.walk(tree.syntax[tree.root.name]):
        if isinstance(node, ast.Assign) and any(_last_name(target) == "__all__" for target in node.targets):
            return len(ast.literal_eval(node.value)) if isinstance(node.value, ast.List | ast.Tuple) else 0

    return 0


def exported_names(tree: Tree) -> int:
    """Return how many public names the public modules define: classes with their members, functions and variables."""
    public = [name for name in tree.syntax if not any(part.startswith("_") for part in name.split("."))]
    return sum(_public(tree.syntax[name].body) for name in public)


def _public(body: list[ast.stmt]) -> int:
    count = 0
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [_last_name(target) for target in node.targets]
        else:
            names = [_last_name(node.target)] if isinstance(node, ast.AnnAssign) else []

        count += sum(bool(name) and not name.startswith("_") for name in names)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            count += _public(node.body)

    return count


def _nodes(tree: Tree) -> Iterator[tuple[str, ast.AST]]:
    return ((name, node) for name, syntax in tree.syntax.items() for node in ast.walk(syntax))


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
