"""Lines on standard error."""

from __future__ import annotations

import click

from ..events import Event, NameUnmatched, Notice
from ..text import escape_controls


def say(text: str) -> None:
    """Print a line for people."""
    click.echo(f"quaymirror: {escape_controls(text)}", err=True)


def show_notice(event: Event) -> None:
    """Print the message of a notice and names that match nothing; an observer for commands without a display."""
    if isinstance(event, Notice):
        say(event.message)
    elif isinstance(event, NameUnmatched):
        near = ", ".join(event.nearest)
        say(f"unmatched: {event.name}{f'; nearest: {near}' if near else ''}")
