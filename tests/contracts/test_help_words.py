"""`--help` shows every word that was written for it: brackets are no markup."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from fedge.cli.main import app


def texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Each help text below a command, with where it stands."""
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    if isinstance(command, click.Group):
        for word, below in command.commands.items():
            yield from texts(below, f"{name} {word}")


ALL = dict(texts(typer.main.get_command(app), "fedge"))


@pytest.mark.parametrize("place", sorted(ALL))
def test_no_bracket_is_taken_for_markup(place: str) -> None:
    """Text in brackets would vanish from the help page."""
    shown = Text.from_markup(ALL[place]).plain.split()

    assert shown == ALL[place].split()


def test_nothing_is_left_unsaid() -> None:
    """Every command and each of its options and positional arguments has a word on its page."""
    assert [place for place, text in ALL.items() if not text] == []


def test_whole_sentences_are_shown() -> None:
    """On the pages themselves."""
    pages = {
        ("policy", "new"): "made where there is none (reviewer.pem)",
        ("policy", "show"): "A policy file (TOML).",
        ("ledger", "plan"): "by the server's training settings",
        ("server", "admit"): "64 hex digits, from fedge gateway init.",
    }
    for command, words in pages.items():
        page = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300"}).output
        assert words in " ".join(page.split())
