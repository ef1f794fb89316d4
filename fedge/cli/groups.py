"""Groups of commands whose help pages say what each positional argument is.

Typer 0.20 notes an argument's help before it calls click's own constructor, and from click 8.5
on that one has a help of its own, which is empty then. A group puts it back, from the same
annotation that Typer read.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import click
from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo


class Group(TyperGroup):
    """A group as Typer makes it; no argument of its commands has lost its help."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.commands.values():
            _put_back(command)


def _put_back(command: click.Command) -> None:
    bare = [one for one in command.params if isinstance(one, TyperArgument) and not one.help]
    if not bare or command.callback is None:
        return
    written = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for argument in bare:
        notes = getattr(written.get(argument.name or ""), "__metadata__", ())
        for note in notes:
            if isinstance(note, ArgumentInfo):
                argument.help = note.help
