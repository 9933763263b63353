"""Every option takes legal values, and refuses illegal ones in one line, through each of its channels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from quaymirror.cli import main
from quaymirror.cli.options import make_job
from quaymirror.cli.run import run
from quaymirror.cli.sync import sync
from quaymirror.config.document import read_config
from quaymirror.settings import Options
from quaymirror.settings.register import REGISTER, SUBJECTS
from quaymirror.settings.spec import OptionSpec, OptionType

FLAG = ("true", "maybe")
# A legal and an illegal text for each option; the files and directories exist where the tests run.
VALUES = {
    "cluster": ("tls://scheduler.example:8786", "tcp://scheduler.example:8786"),
    "organization": ("kolla", "Kolla!"),
    "globs": ("nova-*", "["),
    "tags": ("2025.1-*", "a b"),
    "exclude": ("*-base", "["),
    "select": ("kolla/*:2025.1", "[:x"),
    "since": ("7d", "2025-02-30"),
    "source": ("quay://kolla", "quay://Kolla"),
    "exclude_tags": ("*-aarch64", "a b"),
    "newest": ("3", "0"),
    "labels": ("build-date=2025*", "=x"),
    "images": ("file", "missing"),
    "default_registry": ("quay.io", "quay.io/kolla"),
    "renames": ("kolla/*=mirror/*", "kolla"),
    "allow_unmatched": FLAG,
    "from_lock": ("file", "missing"),
    "config": ("quaymirror.toml", "missing"),
    "target": ("elsewhere", "s4://bucket"),
    "referrers": ("all", "some"),
    "artifact_types": ("application/*", "é"),
    "referrers_every": ("3d", "often"),
    "max_repositories": ("5000", "0"),
    "plan_only": ("new.json", "missing/new.json"),
    "plan": ("file", "missing"),
    "shard": ("0/2", "2/2"),
    "shard_timeout": ("5m", "soon"),
    "server": ("https://quay.example", "https://quay.example/path"),
    "allow_foreign_layers": FLAG,
    "src_cert_dir": ("directory", "missing"),
    "src_tls_verify": FLAG,
    "authfile": ("file", "missing"),
    "allow_realms": ("sso.example:8443", "https://sso.example"),
    "cafile": ("file", "missing"),
    "retries": ("0", "-1"),
    "filters": ("normalize-timestamps:ts=0", "=x"),
    "allow_extract": FLAG,
    "dry_run": FLAG,
    "fsync": ("batch", "sometimes"),
    "wait": FLAG,
    "dest_cert_dir": ("directory", "file"),
    "dest_tls_verify": FLAG,
    "state": ("new", "file"),
    "check_target": FLAG,
    "verify_target": FLAG,
    "concurrency": ("8", "0"),
    "layer_concurrency": ("8", "5000"),
    "limit_rate": ("20M", "20X"),
    "max_requests_per_second": ("2.5", "nan"),
    "max_duration": ("90m", "soon"),
    "platforms": ("linux/arm64", "arm64"),
    "discovery": ("registry", "guess"),
    "full_check_every": ("12h", "0"),
    "expect_at_least": ("3", "3.5"),
    "max_missing": ("5", "101"),
    "allow_empty": FLAG,
    "accept_failed": ("file", "missing"),
    "require_private": FLAG,
    "prune": FLAG,
    "grace": ("0", "now"),
    "max_delete": ("50", "-5"),
    "signature_policy": ("file", "missing"),
    "trusted_root": ("file", "missing"),
    "publish": ("end", "never"),
    "max_failed": ("3", "-1"),
    "snapshot_label": ("release", "\u200b"),
    "settle": ("30m", "soon"),
    "settle_timeout": ("1h", "later"),
    "dated_tags": ("{tag}-{date}", "{date}"),
    "refuse_older": FLAG,
    "keep_last": ("7", "0"),
    "keep_daily": ("7", "-1"),
    "keep_weekly": ("4", "-4"),
    "keep_monthly": ("12", "1.5"),
    "keep_labels": ("release", "\u200b"),
    "progress": ("plain", "loud"),
    "verbose": FLAG,
    "quiet": FLAG,
    "log_file": ("new.log", "missing/new.log"),
    "log_format": ("json", "xml"),
    "report": ("new.json", "directory"),
    "report_html": ("new.html", "missing/new.html"),
    "lock_file": ("new.lock", "missing/new.lock"),
    "metrics_textfile": ("new.prom", "directory"),
    "ping_url": ("https://hc.example/id", "hc.example/id"),
    "report_age": ("30d", "never"),
    "notify_command": ("cat", "'"),
    "check_space": FLAG,
    "full_check": FLAG,
    "ignore_max_delete": FLAG,
    "cert_dir": ("directory", "missing"),
    "tls_verify": FLAG,
    "token_file": ("file", "missing"),
    "username": ("kolla+robot", "me:secret"),
    "password_stdin": FLAG,
    "dest_username": ("me", "me:secret"),
    "dest_password_stdin": FLAG,
}
ON_COMMAND_LINE = [name for name, spec in REGISTER.items() if spec.spellings]
IN_ENVIRONMENT = [name for name, spec in REGISTER.items() if spec.all_variables]
IN_FILE = [name for name, spec in REGISTER.items() if spec.in_file]
TEXTS = [name for name in IN_FILE if REGISTER[name].kind in (OptionType.TEXT, OptionType.PATH, OptionType.TARGET)]
RUN_TABLE = {
    "progress",
    "log_file",
    "log_format",
    "report",
    "report_html",
    "lock_file",
    "metrics_textfile",
    "ping_url",
    "notify_command",
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which has a file, a directory, and a configuration file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a secret")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "directory").mkdir()
    (tmp_path / "quaymirror.toml").write_text('[jobs.one]\norganization = "kolla"\n')
    return tmp_path


def words(name: str, value: str) -> list[str]:
    spec = REGISTER[name]
    long = f"--{spec.long}"
    if spec.is_flag:
        return [long] if value == "true" else [f"{long}={value}"]

    return [long, value]


def command(name: str) -> tuple[click.Command, list[str]]:
    return (run, []) if name == "config" else (sync, ["ocidir://directory" if name == "select" else "kolla"])


def write(directory: Path, name: str, value: str) -> str:
    """Write a configuration file with `value`, and return the path of its key."""
    spec = REGISTER[name]
    item = value if is_literal(spec, value) else json.dumps(value)
    line = f"{spec.key_name} = " + (f"[{item}]" if spec.many else item)
    if name in SUBJECTS:
        text, key = f"[jobs.x]\n{line}\n", f"jobs.x.{name}"
    elif name in RUN_TABLE:
        text, key = f'[run]\n{line}\n[jobs.x]\norganization = "kolla"\n', f"run.{spec.key_name}"
    else:
        text, key = f'[jobs.x]\n{line}\norganization = "kolla"\n', f"jobs.x.{spec.key_name}"

    (directory / "quaymirror.toml").write_text(text)
    return key


def is_literal(spec: OptionSpec, value: str) -> bool:
    if spec.kind is OptionType.FLAG:
        return value in ("true", "false")

    return spec.kind in (OptionType.NUMBER, OptionType.DECIMAL)


def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Run a command, check that it ends with exit code 2, and return its output."""
    monkeypatch.setattr(sys, "argv", ["quaymirror", *arguments])
    monkeypatch.setattr(main, "prepare_streams", lambda: None)
    with pytest.raises(SystemExit) as end:
        main.entry()

    code = end.value.code
    out, err = capsys.readouterr()
    assert code == 2, err
    assert "internal error" not in err
    assert err.count("\n") == 1, err
    return out, err


def test_every_option_of_the_register_is_tried() -> None:
    assert set(VALUES) == set(REGISTER)


@pytest.mark.parametrize("name", ON_COMMAND_LINE)
def test_the_command_line_takes_a_legal_value(name: str) -> None:
    chosen, arguments = command(name)
    context = chosen.make_context("x", [*arguments, *words(name, VALUES[name][0])])
    assert context.params[name] == REGISTER[name].value(VALUES[name][0])


@pytest.mark.parametrize("name", ON_COMMAND_LINE)
def test_the_command_line_refuses_an_illegal_value_and_names_the_option(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, arguments = command(name)
    _, line = invoke(monkeypatch, capsys, str(chosen.name), *arguments, *words(name, VALUES[name][1]))
    assert ("target" if name == "target" else f"--{REGISTER[name].long}") in line
    assert "secret" not in line


# An empty path of a directory is the working directory.
@pytest.mark.parametrize(
    "name", [name for name in TEXTS if name in ON_COMMAND_LINE and name != "state" and not name.endswith("cert_dir")]
)
def test_an_empty_value_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, arguments = command(name)
    _, line = invoke(monkeypatch, capsys, str(chosen.name), *arguments, f"--{REGISTER[name].long}=")
    assert ("target" if name == "target" else f"--{REGISTER[name].long}") in line
    assert "  " not in line


def test_history_of_an_empty_target_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, line = invoke(monkeypatch, capsys, "history", "--to=")
    assert "the target needs a path" in line


@pytest.mark.parametrize("url", ["http://", "https://hc.example:x/id"])
def test_a_url_that_can_not_be_pinged_is_refused_without_showing_it(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, line = invoke(monkeypatch, capsys, "sync", "kolla", "--ping-url", url)
    assert "--ping-url" in line
    assert url not in line


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_the_environment_takes_a_legal_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in REGISTER[name].all_variables:
        monkeypatch.setenv(variable, VALUES[name][0])
        chosen, arguments = command(name)
        assert chosen.make_context("x", arguments).params[name] == REGISTER[name].value(VALUES[name][0])
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_the_environment_refuses_an_illegal_value_and_names_the_variable(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = REGISTER[name].all_variables[0]
    monkeypatch.setenv(variable, VALUES[name][1].replace(" ", "!"))
    chosen, arguments = command(name)
    _, line = invoke(monkeypatch, capsys, str(chosen.name), *arguments)
    assert ("target" if name == "target" else variable) in line
    assert "secret" not in line


@pytest.mark.parametrize("name", IN_FILE)
def test_the_file_takes_a_legal_value(name: str, directory: Path) -> None:
    write(directory, name, VALUES[name][0])
    read = read_config(directory / "quaymirror.toml")
    spec = REGISTER[name]
    given = (read.run if name in RUN_TABLE else read.jobs["x"])[spec.key_name]
    legal = VALUES[name][0]
    is_path = spec.kind in (OptionType.PATH, OptionType.TARGET)
    assert spec.value(given.value) == spec.value(str(directory / legal) if is_path else legal)


@pytest.mark.parametrize("name", IN_FILE)
def test_the_file_refuses_an_illegal_value_at_its_place(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write(directory, name, VALUES[name][1])
    place = "quaymirror.toml:"
    if name == "target":
        # Targets depend on the selection: the place is that of the job.
        _, line = invoke(monkeypatch, capsys, "config", "validate")
        assert "jobs.x" in line
        assert place in line
        return

    _, line = invoke(monkeypatch, capsys, "run")
    assert f"{place}2" in line
    assert f" {key}" in line
    if REGISTER[name].on_disk is None:
        out, _ = invoke(monkeypatch, capsys, "config", "validate")
        assert out.startswith(f"{place}2:")
        assert f" {key}" in out


@pytest.mark.parametrize("name", TEXTS)
def test_a_nul_is_refused_on_the_command_line_and_in_the_file(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if REGISTER[name].spellings:
        _, line = invoke(monkeypatch, capsys, "sync", "kolla", f"--{REGISTER[name].long}", "a\0b")
        assert f"--{REGISTER[name].long}" in line

    key = write(directory, name, "a\0b")
    out, _ = invoke(monkeypatch, capsys, "config", "validate")
    assert f" {key}" in out


@pytest.mark.parametrize("name", ["list", "info", "verify", "prune", "watch"])
def test_a_nul_in_an_argument_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(monkeypatch, capsys, name, "a\0b")


@pytest.mark.parametrize("values", [{"concurrency": 0}, {"max_missing": 101}, {"server": "quay.io/x"}], ids=str)
def test_a_program_gets_the_same_checks(values: dict[str, Any]) -> None:
    from quaymirror.errors import ConfigError

    with pytest.raises(ConfigError, match=f"^{next(iter(values)).replace('_', '-')}: "):
        Options.of(**values)


def test_an_option_for_both_sides_yields_to_that_of_one_side(directory: Path) -> None:
    given = sync.make_context("sync", ["kolla", "--cert-dir", "directory", "--dest-tls-verify", "no"]).params
    options = make_job({**given, "tls_verify": True}).options
    assert options.source.src_cert_dir == options.target.dest_cert_dir == Path("directory")
    assert (options.source.src_tls_verify, options.target.dest_tls_verify) == (True, False)
