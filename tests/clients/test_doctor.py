"""`doctor` names what is wrong, and what to do; what it cannot see is never fine."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fakes.gateways import make_gateway

from fedge.config import GatewaySettings
from fedge.identity import Identity
from fedge_client.doctor import Finding, examine
from fedge_client.state_layout import LAYOUT, bring_up_to_date


class _Centre(BaseHTTPRequestHandler):
    """Answers every GET; the standard library adds the Date header."""

    def do_GET(self) -> None:
        self.send_response(404 if "missing" in self.path else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def centre() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Centre)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, centre: str) -> GatewaySettings:
    made = make_gateway(tmp_path, coordinator_url=centre, releases_url=f"{centre}/releases")
    made.state_dir.chmod(0o700)
    (made.state_dir / "root.json").write_text("{}")
    return made


def found(settings: GatewaySettings, check: str, **options: object) -> Finding:
    """The worst finding of one check."""
    order = ["fail", "unknown", "warn", "ok"]
    findings = [f for f in examine(settings, **options) if f.check == check]  # type: ignore[arg-type]
    assert findings, f"no finding about {check}"
    return min(findings, key=lambda f: order.index(f.level))


def test_a_sound_gateway_has_no_failure(settings: GatewaySettings) -> None:
    assert [f for f in examine(settings) if f.level in ("fail", "unknown")] == []


def test_everything_that_is_not_ok_says_what_to_do(settings: GatewaySettings) -> None:
    (settings.state_dir / "identity.pem").chmod(0o644)

    assert all(f.todo for f in examine(settings) if f.level != "ok")


def test_a_clock_far_from_the_centres_fails(settings: GatewaySettings) -> None:
    import time

    finding = found(settings, "clock", clock=lambda: time.time() + 3600)

    assert finding.level == "fail"
    assert "+360" in finding.detail


def test_a_clock_that_was_never_set_fails(settings: GatewaySettings) -> None:
    assert found(settings, "clock", clock=lambda: 12.0).level == "fail"


def test_without_a_server_the_clock_is_unknown_not_fine(tmp_path: Path) -> None:
    alone = make_gateway(tmp_path)

    assert found(alone, "clock").level == "unknown"


@pytest.mark.parametrize("name", ["identity.pem", "subject.key"])
def test_a_secret_that_others_can_read_fails(settings: GatewaySettings, name: str) -> None:
    path = settings.state_dir / name
    path.touch()
    path.chmod(0o640)

    finding = found(settings, "permissions")

    assert (finding.level, str(path) in finding.todo) == ("fail", True)


def test_a_damaged_state_file_fails(settings: GatewaySettings) -> None:
    (settings.state_dir / "state.sqlite").write_bytes(b"this is no database" * 100)

    assert found(settings, "state file").level == "fail"


def test_a_state_file_in_use_is_unknown_not_damaged(settings: GatewaySettings) -> None:
    """Nobody shall throw a state folder away because somebody else had it locked."""
    path = settings.state_dir / "state.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE one (two INTEGER)")
        db.execute("BEGIN EXCLUSIVE")
        finding = found(settings, "state file")

    assert (finding.level, "identity" in finding.todo) == ("unknown", False)


def test_a_sound_state_file_is_left_as_it_is(settings: GatewaySettings) -> None:
    path = settings.state_dir / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE one (two INTEGER)")
    before = path.read_bytes()

    assert found(settings, "state file").level == "ok"
    assert path.read_bytes() == before


def test_an_unreachable_centre_is_a_warning_because_the_gateway_works_on(
    settings: GatewaySettings,
) -> None:
    cut_off = settings.model_copy(update={"releases_url": "http://127.0.0.1:9/releases"})

    assert found(cut_off, "releases").level == "warn"


def test_a_centre_that_answers_something_else_is_a_warning(
    settings: GatewaySettings, centre: str
) -> None:
    wrong = settings.model_copy(update={"releases_url": f"{centre}/missing"})

    assert "404" in found(wrong, "releases").detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_folder_that_cannot_be_written_fails(settings: GatewaySettings) -> None:
    settings.state_dir.chmod(0o500)
    try:
        assert found(settings, "disk writes").level == "fail"
    finally:
        settings.state_dir.chmod(0o700)


def test_a_missing_identity_is_unknown_and_named(settings: GatewaySettings) -> None:
    (settings.state_dir / "identity.pem").unlink()

    finding = found(settings, "identity and policy")

    assert finding.level == "unknown"
    assert "identity.pem" in finding.detail


def test_it_leaves_nothing_behind(settings: GatewaySettings) -> None:
    before = sorted(p.name for p in settings.state_dir.iterdir())

    examine(settings)

    assert sorted(p.name for p in settings.state_dir.iterdir()) == before


def test_a_layout_that_this_build_does_not_have_is_a_warning(settings: GatewaySettings) -> None:
    bring_up_to_date(settings.state_dir)
    (settings.state_dir / "layout.json").write_text(f'{{"layout": {LAYOUT + 1}}}')

    assert found(settings, "state layout").level == "warn"


def test_each_served_model_has_an_identity_of_its_own(settings: GatewaySettings) -> None:
    """Its key is as secret as the first one's."""
    other = settings.state_dir / "models" / "other"
    other.mkdir(parents=True)
    Identity.create(other / "identity.pem")
    (other / "policy.toml").write_bytes((settings.state_dir / "policy.toml").read_bytes())
    (other / "root.json").write_text("{}")
    served = GatewaySettings.model_validate(
        {**settings.model_dump(), "models": [{"family": "other", "task": "other"}]}
    )

    details = [f.detail for f in examine(served) if f.check == "identity"]

    assert len({detail.partition(": ")[2] for detail in details}) == 2
    assert found(served, "permissions").level == "ok"
    (other / "identity.pem").chmod(0o604)
    assert str(other / "identity.pem") in found(served, "permissions").todo


def test_a_token_file_may_be_readable_by_the_group_that_it_is_lent_to(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret")
    lent = settings.model_copy(update={"token_file": tokens})

    tokens.chmod(0o640)
    assert found(lent, "permissions").level == "ok"
    tokens.chmod(0o644)
    assert found(lent, "permissions").level == "fail"


@pytest.mark.parametrize(
    ("state", "level"), [("in-step", "ok"), ("unknown", "warn"), ("out-of-step", "fail")]
)
def test_a_ledger_out_of_step_fails(settings: GatewaySettings, state: str, level: str) -> None:
    """What the agent noted about its ledger is shown; while it is not known reports wait."""
    with sqlite3.connect(settings.state_dir / "state.sqlite") as db:
        db.execute("CREATE TABLE IF NOT EXISTS ledger_standing (one, state TEXT, detail TEXT)")
        db.execute("INSERT INTO ledger_standing VALUES (1, ?, 'why')", (state,))

    finding = found(settings, "ledger")

    assert finding.level == level and "why" in finding.detail
    assert bool(finding.todo) == (level != "ok")
