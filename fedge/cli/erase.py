"""`fedge gateway erase` and `fedge gateway withdraw`: the rights of those whom records are about.

Both ask the running agents. Exit status 0: done, also where nothing was found; 1: not
done, the message says why, and asking again is safe; 2: wrong usage. Who a record is
about is printed and logged nowhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedge.config import GatewaySettings
from fedge.errors import SettingError

Config = Annotated[Path, typer.Option("--config", help="The gateway's settings file.")]
Subject = Annotated[
    str, typer.Option("--subject", help="Who the records are about, as in fedge_subject.")
]
SubjectFile = Annotated[
    str, typer.Option("--subject-file", help="A file with one subject a line; - reads stdin.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
CONFIG = Path("gateway.toml")


def erase(
    record: Annotated[
        list[str] | None, typer.Option("--record", help="A record's id; may be repeated.")
    ] = None,
    subject: Subject = "",
    subject_file: SubjectFile = "",
    config: Config = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Erase records by id, or all records of a subject, everywhere on this gateway.

    A subject on the command line is seen by whoever lists processes: prefer --subject-file.
    """
    if sum(map(bool, (record, subject, subject_file))) != 1:
        raise typer.BadParameter("give --record, --subject or --subject-file")
    answers = _Answers(config)
    if record:
        answers.ask("erase", record_ids=record)
    for text in _subjects(subject, subject_file):
        answers.ask("erase", subject=text)
    answers.show("erased", as_json)
    if record and (foreign := len(record) - answers.own(len(record))):
        raise SettingError(f"{foreign} record ids are not of this gateway; the others are done")


def withdraw(
    purpose: Annotated[
        list[str], typer.Option("--purpose", help="training, monitoring or escalation; repeat.")
    ],
    subject: Subject = "",
    subject_file: SubjectFile = "",
    config: Config = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Note that a subject withdraws a purpose: later records no longer serve it.

    Withdrawing `training` also erases the subject's records that are kept.
    """
    if bool(subject) == bool(subject_file):
        raise typer.BadParameter("give --subject or --subject-file")
    answers = _Answers(config)
    for text in _subjects(subject, subject_file):
        answers.ask("withdraw", subject=text, purposes=purpose)
    answers.show("withdrawn; erased", as_json)


class _Answers:
    """What the agent of each served model answered, added up."""

    def __init__(self, config: Path) -> None:
        from fedge_client.admin_client import AdminClient, admin_socket

        settings = GatewaySettings.load(config)
        families = [None, *(model.family for model in settings.models)]
        self._agents = {
            family or settings.family: AdminClient(admin_socket(settings.runtime_dir, family))
            for family in families
        }
        self._models: dict[str, dict[str, Any]] = {
            family: {"records": 0, "blocks": [], "foreign": 0} for family in self._agents
        }

    def ask(self, command: str, **fields: Any) -> None:
        for family, agent in self._agents.items():
            answer, total = agent.ask(command, **fields), self._models[family]
            total["records"] += answer["records"]
            total["foreign"] += answer["foreign"]
            total["blocks"] = sorted({*total["blocks"], *answer["blocks"]})

    def own(self, asked: int) -> int:
        """Record ids that were some served model's."""
        return sum(asked - total["foreign"] for total in self._models.values())

    def show(self, done: str, as_json: bool) -> None:
        """Print how many records were `done` (a participle), in all, or as JSON by model."""
        records = sum(total["records"] for total in self._models.values())
        if as_json:
            models = {
                family: {"records": total["records"], "blocks": total["blocks"]}
                for family, total in self._models.items()
            }
            typer.echo(json.dumps({"records": records, "models": models}, sort_keys=True))
        else:
            typer.echo(f"{done} {records} records")


def _subjects(subject: str, subject_file: str) -> list[str]:
    if not subject_file:
        return [subject] if subject else []
    try:
        data = sys.stdin.buffer.read() if subject_file == "-" else Path(subject_file).read_bytes()
        # Some editors begin a file with a mark, which is no part of the first name.
        found = [line for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    except OSError as error:
        raise SettingError(f"cannot read {subject_file}: {error}") from error
    except UnicodeDecodeError:
        raise SettingError(f"{subject_file} is not UTF-8") from None  # the error shows the bytes
    if not found:
        raise SettingError(f"{'stdin' if subject_file == '-' else subject_file} names nobody")
    return [line.removesuffix("\r") for line in found]
