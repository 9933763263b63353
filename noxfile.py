"""`nox` runs everything that has to pass; `nox -l` lists what there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs"]

_GROUPS = nox.project.load_toml("pyproject.toml")
# Independent clients and servers that the tests hold quaymirror against: program and Debian package.
_PEERS = {"skopeo": "skopeo", "docker-registry": "docker-registry", "htpasswd": "apache2-utils"}


def _install(session: nox.Session, *groups: str) -> None:
    for group in groups:
        session.install(*nox.project.dependency_groups(_GROUPS, group))

    session.install("-e", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*nox.project.dependency_groups(_GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    _install(session, "lint", "test")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, those against real peers included; installs the peers where it may."""
    _install_peers(session)
    _install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz every parser of outside input for five minutes: `nox -s fuzz -- --seconds 3600` for longer."""
    _install(session, "test", "fuzz")
    session.run("python", "tests/fuzz.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; what comes from the code has to be up to date, and a warning is an error."""
    _install(session, "docs")
    session.run("python", "docs/generate.py", "--check")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks by their names: `nox -s bench -- cold derived`; options go to the one before them."""
    _install(session, "test")
    runs: list[list[str]] = []
    for word in session.posargs or ["cold"]:
        if word.startswith("-") or not Path("benchmarks", f"{word}.py").exists():
            runs[-1].append(word)
        else:
            runs.append([word])

    for name, *options in runs:
        session.run("python", f"benchmarks/{name}.py", *options)


def _install_peers(session: nox.Session) -> None:
    missing = [package for program, package in _PEERS.items() if shutil.which(program) is None]
    if not missing:
        return

    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        session.warn(f"tests against {', '.join(missing)} are skipped: install these packages to run them")
        return

    session.run("apt-get", "update", "-q", external=True, silent=True)
    session.run("apt-get", "install", "-qy", "--no-install-recommends", *missing, external=True, silent=True)
