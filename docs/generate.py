"""Write the generated parts of the reference; with --check, only check that they are up to date.

python docs/generate.py [--check]
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import man
from option_examples import example_value
from schemas import schemas

from quaymirror.cli.help import GroupedCommand
from quaymirror.cli.main import main
from quaymirror.config.schema import config_schema
from quaymirror.errors import ExitCode
from quaymirror.settings.register import JOB_TABLE, REGISTER, RUN_TABLE, SELECTION
from quaymirror.settings.spec import Heading, OptionSpec

REFERENCE = Path(__file__).parent / "reference"
# The width that man leaves of a terminal with 80 columns.
_MAN_WIDTH = 72


def commands(group: click.Group, path: str = "quaymirror") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name, a group before its commands."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def help_of(name: str, command: click.Command, width: int = 100) -> str:
    parent = click.Context(main, help_option_names=["-h", "--help"])
    context = click.Context(command, parent, info_name=name, max_content_width=width, terminal_width=width)
    context.parent = None  # `name` includes its name
    return command.full_help(context) if isinstance(command, GroupedCommand) else command.get_help(context)


def cli() -> str:
    """Return the page about commands and options."""
    parts = [(REFERENCE / "cli.head.md").read_text(encoding="utf-8").rstrip()]
    for name, command in commands(main):
        parts.append(f"## {name}\n\n```text\n{help_of(name, command)}\n```")

    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """Return the page about the configuration file."""
    parts = [(REFERENCE / "configuration.head.md").read_text(encoding="utf-8").rstrip()]
    for title, specs in (
        ("The selection of a job", SELECTION),
        ("Options of a job, or of `[defaults]`", JOB_TABLE),
        ("`[run]`", RUN_TABLE),
    ):
        rows = [f"| `{spec.key_name}` | {_kind(spec)} | {_default(spec)} | {spec.help} |" for spec in specs]
        parts.append("\n".join([f"## {title}", "", "| key | value | default | meaning |", "|---|---|---|---|", *rows]))

    return "\n\n".join(parts) + "\n"


def option_pages() -> str:
    """Return the page that has each option of `sync` and `run` with its default and an example."""
    parts = [(REFERENCE / "options.head.md").read_text(encoding="utf-8").rstrip()]
    specs = [spec for spec in REGISTER.values() if spec.spellings]
    for heading in Heading:
        found = [spec for spec in specs if spec.heading is heading]
        if found:
            parts.append(f"## {heading.value}")
            parts += map(_option, found)

    return "\n\n".join(parts) + "\n"


def _option(spec: OptionSpec) -> str:
    value = example_value(spec)
    example = " ".join([f"--{spec.long}", *([shlex.quote(value)] if value else [])])
    names = [f"`{name}{f' {spec.metavar}' if spec.metavar else ''}`" for name in spec.spellings]
    facts = {
        "option": ", ".join(names),
        "default": _default(spec) or ("false" if spec.is_flag else "none"),
        "choices": ", ".join(f"`{choice}`" for choice in spec.choices),
        "repeatable": "yes" if spec.many else "",
        "variable": ", ".join(f"`{name}`" for name in spec.all_variables),
        "key in the file": f"`{spec.key_name}`" if spec.in_file else "",
        "commands": ", ".join(f"`{name}`" for name, _ in _top_level() if spec.belongs_to(name)),
        "example": f"`{example}`",
    }
    rows = [f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in facts.items() if text]
    return "\n".join([f"### --{spec.long}", "", spec.help, "", "| | |", "|---|---|", *rows])


def _top_level() -> Iterator[tuple[str, click.Command]]:
    for path, command in commands(main):
        name = path.removeprefix("quaymirror ")
        if " " not in name:
            yield name, command


def _kind(spec: OptionSpec) -> str:
    one = " or ".join(f"`{choice}`" for choice in spec.choices) or spec.kind.value
    return f"array of {one}" if spec.many else one


def _default(spec: OptionSpec) -> str:
    default = spec.default_text
    if default in (None, []):
        return ""

    return str(default).lower() if isinstance(default, bool) else f"`{default}`"


def exit_codes() -> str:
    """Return the page about exit codes."""
    head, tail = (REFERENCE / f"exit-codes.{part}.md" for part in ("head", "tail"))
    rows = [f"| {code.value} | {code.meaning} | {code.advice} |" for code in sorted(ExitCode)]
    table = "\n".join(["| code | meaning | what to do |", "|---|---|---|", *rows])
    severity = ", ".join(str(code.value) for code in sorted(ExitCode, key=lambda code: code.severity))
    parts = [head.read_text(encoding="utf-8"), table + "\n", tail.read_text(encoding="utf-8")]
    return "\n".join(parts).replace("{severity}", severity)


def messages() -> str:
    """Return the page about messages: each situation and mistake of the tests, with the line and the exit code."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from mistakes import MISTAKES
    from situations import GROUPS

    parts = [(REFERENCE / "messages.head.md").read_text(encoding="utf-8").rstrip()]
    for title, rows in GROUPS.items():
        lines = [(row.title, row.message, row.code, f"`{row.error}`" if row.error else "") for row in rows]
        parts.append(f"## {title}\n\n" + _table(("situation", "message", "exit code", "error"), lines))

    mistakes = [(f"`{row.shown}`", row.line, row.code) for row in MISTAKES]
    parts.append("## Mistakes\n\n" + _table(("command", "message", "exit code"), mistakes))
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [" | ".join(map(_cell, row)) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines[1:])])


def _cell(value: object) -> str:
    text = str(value).strip()
    return text if text.startswith("`") else text.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")


def man_page() -> str:
    """Return quaymirror(1): every command with its help."""
    lines = [
        '.TH QUAYMIRROR 1 "" "quaymirror" "User Commands"',
        ".SH NAME",
        r"quaymirror \- mirror whole quay.io organizations",
        ".SH SYNOPSIS",
        r".B quaymirror",
        r"\fICOMMAND\fR [\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        _roff(main.help or "").partition("\x08")[0].strip(),
        ".SH COMMANDS",
    ]
    for name, command in commands(main):
        lines += [f".SS {_roff(name)}", ".nf", _roff(help_of(name, command, _MAN_WIDTH)), ".fi"]

    lines.append(".SH EXIT STATUS")
    for code in sorted(ExitCode):
        lines += [".TP 10", str(code.value), _roff(". ".join(filter(None, (code.meaning, code.advice))))]

    for title, entries in (("ENVIRONMENT", man.ENVIRONMENT), ("FILES", man.FILES)):
        lines.append(f".SH {title}")
        for name, text in entries:
            lines += [".TP", rf".B {_roff(name)}", _roff(text)]

    lines.append(".SH EXAMPLES")
    for text, command in man.EXAMPLES:
        lines += [_roff(text), ".PP", ".RS 4", ".nf", _roff(command), ".fi", ".RE", ".PP"]

    lines += [".SH SEE ALSO", ".BR skopeo (1),", ".BR podman\\-pull (1),", ".BR systemd.timer (5)"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def pages() -> dict[str, str]:
    """Return the content of every generated file, by name."""
    return {
        "cli.md": cli(),
        "options.md": option_pages(),
        "configuration.md": configuration(),
        "exit-codes.md": exit_codes(),
        "messages.md": messages(),
        "config.schema.json": json.dumps(config_schema(), indent=2) + "\n",
        "quaymirror.1": man_page(),
        **{name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas().items()},
    }


def stale() -> list[str]:
    """Return the names of the files that are out of date."""
    return [
        name
        for name, text in pages().items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text(encoding="utf-8") != text
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        old = stale()
        sys.exit(f"out of date, run python docs/generate.py: {', '.join(old)}" if old else 0)

    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
