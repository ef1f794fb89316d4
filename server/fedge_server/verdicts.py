"""The latest stored assessment, for whoever wants to see how the fleet stands now.

Deriving one is the monitor flow's work; only its age is counted here, so that neither a
gateway nor a monitor that went silent leaves a verdict behind that looks like a new one.
What an older fedge stored is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedge.config import ServerSettings
from fedge.drift.fleet.interventions import Intervention
from fedge.drift.fleet.monitor import FleetAssessment
from fedge.drift.fleet.silence import aged, in_words
from fedge.drift.fleet.verdict import Verdict
from fedge.errors import RecordError, StateError
from fedge.records import Name, Record
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.interventions import InterventionLog
from fedge_server.objects import ObjectStore

LATEST = "assessments/latest.json"


class Standing(Record):
    """One gateway's verdict with its name and its sentence; null before the first assessment.

    The sentence ends with the age of the gateway's latest report.
    """

    name: Name
    verdict: Verdict | None
    sentence: str


class FleetStanding(Record):
    """How every admitted gateway stands, by name, and which are held.

    Attributes:
        drifted: whether any verdict says drift.
    """

    gateways: tuple[Standing, ...]
    holds: tuple[Intervention, ...]

    @property
    def drifted(self) -> bool:
        return any(g.verdict is not None and g.verdict.state == "drift" for g in self.gateways)


def fleet_standing(settings: ServerSettings, database: Database, now: float) -> FleetStanding:
    """The verdicts that `monitor` stored last, as old as they are at `now`.

    Args:
        now: seconds since the epoch, by the centre's clock.

    Raises:
        StateError: they cannot be read.
    """
    verdicts = _verdicts(settings, Facts(database, _no_clock).heard(), now)
    return FleetStanding(
        gateways=tuple(
            _standing(gateway.name, verdicts.get(gateway.fingerprint))
            for gateway in Fleet(database, _no_clock).admitted()
        ),
        holds=InterventionLog(database, _no_clock).holds(),
    )


def _verdicts(
    settings: ServerSettings, heard: Mapping[str, float], now: float
) -> dict[str, Verdict]:
    objects = ObjectStore(settings.objects_dir)
    if not objects.exists(LATEST):
        return {}
    try:
        assessment = FleetAssessment.from_bytes(objects.get(LATEST))
    except RecordError as error:
        raise StateError(f"the latest assessment cannot be read: {error}") from error
    return {
        verdict.gateway: aged(
            verdict, now, heard=heard.get(verdict.gateway), judged_at=assessment.at
        )
        for verdict in assessment.verdicts
    }


def _standing(name: str, verdict: Verdict | None) -> Standing:
    if verdict is None:
        return Standing(name=name, verdict=None, sentence="Unknown: not judged yet.")
    age = verdict.report_age_s
    heard = f" Last report {in_words(age)} ago." if age is not None else ""
    return Standing(name=name, verdict=verdict, sentence=verdict.sentence + heard)


def _no_clock() -> float:
    raise RuntimeError("nothing is written here")
