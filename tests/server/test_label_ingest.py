"""Label reports in the centre: taken once for each window, read back, refused when bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.centre import WITNESS, Centre, FakeClock, Sender
from sqlalchemy import update

from fedge.errors import StateError
from fedge.records import LabelReport, canonical
from fedge_flows.monitor import labelled
from fedge_server.database import HEAD, MIGRATIONS, Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.tables import envelopes


def pair(window: int = 0, **changes: Any) -> LabelReport:
    values: dict[str, Any] = {
        "task": "digits",
        "window": window,
        "block": 0,
        "release": 1,
        "watermark_windows": 24,
        "right": 40,
        "wrong": -3,
        "sigma2": 100,
    }
    return LabelReport(**(values | changes))


def sealed(sender: Sender, seq: int, report: LabelReport) -> bytes:
    return sender.seal("labels", seq, report.to_bytes())


def test_a_pair_comes_back_as_it_was_sent(centre: Centre) -> None:
    """In window order, beside the report of the same window, and as the drift rules want it."""
    one, two, silent = (centre.admitted(n) for n in (1, 2, 3))
    for seq, window in enumerate((5, 3)):
        assert centre.post(sealed(one, seq, pair(window)))[0] == 200
    assert centre.post(one.report(2, window=5))[0] == 200
    assert centre.post(sealed(two, 0, pair(5, right=7)))[0] == 200
    assert centre.post(silent.status(0))[0] == 200

    found = centre.facts.labels()

    assert found == {
        one.fingerprint: (pair(3), pair(5)),
        two.fingerprint: (pair(5, right=7),),
    }
    assert [r.window for r in centre.facts.reports()[one.fingerprint]] == [5]
    (seen,) = labelled(found)[two.fingerprint]
    assert (seen.window, seen.right, seen.wrong, seen.sigma2) == (5, 7, -3, 100.0)


def test_a_window_has_one_pair(centre: Centre) -> None:
    """The same envelope again is stored once; another pair of the window is a conflict."""
    sender = centre.admitted()
    data = sealed(sender, 0, pair(3))

    assert [centre.post(data)[0] for _ in range(2)] == [200, 200]
    code, body = centre.post(sealed(sender, 1, pair(3, right=41)))

    assert code == 409 and "window 3" in body["error"]
    assert centre.facts.labels() == {sender.fingerprint: (pair(3),)}


@pytest.mark.parametrize(
    "changes",
    [
        {"right": 1.5},
        {"wrong": 2**31},
        {"right": None},
        {"sigma2": 0},
        {"sigma2": "NaN"},
        {"window": -1},
        {"watermark_windows": 0},
        {"release": 0},
        {"extra": 1},
    ],
)
def test_a_bad_one_is_refused(centre: Centre, changes: dict[str, Any]) -> None:
    """For good, and nothing of it is stored: a count that is none is no evidence."""
    sender = centre.admitted()
    payload = canonical(json.loads(pair().to_bytes()) | changes)

    assert centre.post(sender.seal("labels", 0, payload))[0] == 400
    assert centre.facts.labels() == {}


def test_another_kind_of_payload_is_no_pair(centre: Centre) -> None:
    """A status under the name of labels, and labels under the name of a status."""
    sender = centre.admitted()

    assert centre.post(sender.seal("status", 0, pair().to_bytes()))[0] == 400
    assert centre.post(sender.seal("labels", 1, b"{}"))[0] == 400


def test_a_strangers_pair_is_refused(centre: Centre) -> None:
    """Not admitted, or signed by another than it names."""
    stranger, known = Sender(9), centre.admitted()
    forged = sealed(known, 0, pair())

    assert centre.post(sealed(stranger, 0, pair()))[0] == 401
    assert centre.post(forged.replace(b'"right":40', b'"right":99'))[0] == 403
    assert centre.facts.labels() == {}


def test_a_damaged_row_is_never_skipped(centre: Centre) -> None:
    """A rate from a part of the pairs would pass for one from all."""
    centre.post(sealed(centre.admitted(), 0, pair()))
    with centre.database.writing() as connection:
        connection.execute(update(envelopes).values(envelope=b"damaged"))

    with pytest.raises(StateError, match="label report"):
        centre.facts.labels()


def test_an_older_file_takes_pairs_after_its_migration(tmp_path: Path) -> None:
    """What it held is there, and the new kind has its place."""
    from alembic import command
    from alembic.config import Config

    address = f"sqlite:///{tmp_path / 'fedge.sqlite'}"
    clock, sender = FakeClock(), Sender()
    with Database(address) as database:
        Fleet(database, clock).admit(sender.public_key, "one")
        Ingest(database, clock, WITNESS, max_payload_bytes=20_000).accept(sender.report(0))
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with database.writing() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "0003")

    with Database(address) as database:
        assert database.revision == HEAD
        Ingest(database, clock, WITNESS, max_payload_bytes=20_000).accept(sealed(sender, 1, pair()))
        facts = Facts(database, clock)
        assert facts.labels() == {sender.fingerprint: (pair(),)}
        assert set(facts.reports()) == {sender.fingerprint}
