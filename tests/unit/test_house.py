"""The rules of the house, enforced: who may import whom, and what the public face is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quaymirror

SOURCE = Path(quaymirror.__file__).parent

# A room may import the rooms named here; `.` are the modules beside them.
ALLOWED = {
    "oci": {"untrusted", "errors"},
    "http": {"errors", "events", "secret", "__about__"},
    "auth": {"untrusted", "errors", "http", "secret"},
    "store": {"untrusted", "errors", "events", "oci"},
    "emit": {"errors", "events", "oci", "store"},
    "progress": {"errors", "events", "oci", "text"},
    "ui": {"untrusted", "errors", "events", "oci", "progress", "text"},
    "config": {"untrusted", "errors"},
    "registry": {"untrusted", "errors", "events", "oci", "http"},
    "selection": {"untrusted", "errors", "oci"},
    "catalog": {"untrusted", "errors", "events", "oci", "http", "selection"},
    "discovery": {"untrusted", "errors", "events", "oci", "store", "selection", "catalog", "run", "settings", "tasks"},
    "transfer": {"errors", "events", "oci", "progress", "http", "store", "registry", "tasks"},
    "testing": {"testing"},
}
# One third-party library, one door.
DOORS = {
    "aiohttp": {"http/transport.py", "testing"},
    "tenacity": {"http/retry.py"},
    "rich": {"ui/dashboard/"},
    "click": {"cli"},
    "sqlite3": {"store/database.py"},
    "fcntl": {"store/lock.py"},
    "occystrap": {"emit/"},
    "prometheus_client": {"run/metrics.py"},
    "yaml": {"config/convert.py"},
    "zstandard": {"emit/inflate.py", "testing"},
}
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield what a module imports: ('ours', first part below quaymirror) or ('other', top-level name)."""
    depth = len(Path(module).parts) - 1
    for node in ast.walk(ast.parse((SOURCE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (("other", alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            top, _, rest = (node.module or "").partition(".")
            yield ("ours", rest.partition(".")[0]) if top == "quaymirror" else ("other", top)
        elif isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            yield from (("ours", (node.module or alias.name).partition(".")[0]) for alias in node.names)


@pytest.mark.parametrize("module", [module for module in MODULES if module.partition("/")[0] in ALLOWED])
def test_dependencies_point_one_way(module: str) -> None:
    room = module.partition("/")[0]
    strangers = {name for kind, name in imports(module) if kind == "ours" and name} - ALLOWED[room] - {room}
    assert not strangers


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    users = {module for module in MODULES if ("other", library) in set(imports(module))}
    assert users
    assert {user for user in users if not any(user.startswith(door) for door in DOORS[library])} == set()


@pytest.mark.parametrize("name", ["create_task", "ensure_future", "gather", "get_event_loop"])
def test_concurrency_is_structured(name: str) -> None:
    callers = {
        module
        for module in MODULES
        for node in ast.walk(ast.parse((SOURCE / module).read_text()))
        if isinstance(node, ast.Attribute) and node.attr == name
    }
    assert not callers


def test_the_public_names_are_sorted_importable_and_documented() -> None:
    assert quaymirror.__all__ == sorted(quaymirror.__all__)
    for name in quaymirror.__all__:
        thing = getattr(quaymirror, name)
        if callable(thing) and not name.startswith("__"):
            assert thing.__doc__ or name in {"Event", "Observer"}


def test_help_does_not_wait_for_the_network_stack() -> None:
    code = "import sys; import quaymirror.cli.main; sys.exit('aiohttp' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_occystrap_stays_out_of_the_process_that_the_loop_is_in() -> None:
    code = "import sys; import quaymirror.cli.sync, quaymirror.targets.derived; sys.exit('occystrap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
