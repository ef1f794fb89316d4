"""What drift leads to is carried out, once, whatever is killed or away."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from fakes.centre import Sender
from fakes.drifting_sites import REFERENCE, SHA, Site
from fastapi.testclient import TestClient
from flow_fakes import PLAN, Clock, FakeGateway, FileFacts, MemoryBus, MemoryInterventions
from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.config import AlertSettings, DriftSettings, PolicyRule, PolicySettings
from fedge.drift.fleet.interventions import Intervention
from fedge.drift.fleet.monitor import Due, assess
from fedge.drift.words import Action
from fedge.errors import OutboundError, SettingError
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength, WindowReport
from fedge_flows.actions import announce, carry_out
from fedge_flows.alerts import QUARANTINED, RECALIBRATED, SENSOR_CHECK, Alert, alert_of
from fedge_flows.monitor import Actions, Monitored, Planned, monitor
from fedge_flows.ports import AlertChannel
from fedge_flows.progress import Announcer, Claims
from fedge_flows.webhook import Webhook
from fedge_server.admin import init_server
from fedge_server.app import create_app
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.interventions import InterventionLog
from fedge_server.objects import ObjectStore
from fedge_server.verdicts import LATEST

NAMES = "abcd"
GATEWAYS = [name * 32 for name in NAMES]


class DriftingFacts(FileFacts):
    """File facts with reports: the first `drifted` of four gateways drift at window 14."""

    def __init__(self, folder: Path, drifted: int, windows: int) -> None:
        super().__init__(folder, [FakeGateway(g, g[0] * 64) for g in GATEWAYS])
        self.found = {
            gateway: Site(seed=n).stream(windows, onset=14.0 if n < drifted else None)
            for n, gateway in enumerate(GATEWAYS)
        }

    def reports(self) -> Mapping[str, Sequence[WindowReport]]:
        return self.found


class Loop:
    """The real rules over drifting reports, and everything that `monitor` does about them."""

    def __init__(
        self, folder: Path, action: Action | None, drifted: int = 1, windows: int = 28
    ) -> None:
        rules = (PolicyRule(action=action),) if action is not None else ()
        policy = PolicySettings(rules=rules)
        self.settings = DriftSettings(baseline_windows=12, gather_windows=10, policy=policy)
        self.facts = DriftingFacts(folder / "facts", drifted, windows)
        self.bus, self.log, self.clock = MemoryBus(), MemoryInterventions(), Clock()
        claims = Claims(folder / "claims")
        self.announcer = Announcer(self.bus, folder / "sent", claims, self.clock)
        self.channels: list[AlertChannel] = [self.bus]

    def look(self) -> Monitored:
        return monitor(
            facts=self.facts,
            references={SHA: REFERENCE},
            settings=self.settings,
            plan=lambda release: Planned(PLAN),
            release_sha256=lambda release: "e" * 64,
            task="digits",
            announcer=self.announcer,
            actions=Actions(log=self.log, channels=self.channels, clock=self.clock),
            judge=assess,
        )

    def participants(self) -> list[str]:
        return [p.gateway for run in self.facts.runs() for p in run.spec.participants]


class TestRetraining:
    def test_a_local_drift_retrains_its_gateways(self, tmp_path: Path) -> None:
        """One of four drifted: it alone trains, and so it alone is offered the release."""
        loop = Loop(tmp_path, None, drifted=1)
        looked = loop.look()

        assert looked.assessment.cohort_action == "retrain-gateway"
        assert loop.participants() == GATEWAYS[:1]

    def test_a_fleets_drift_retrains_the_fleet_but_not_who_stayed(self, tmp_path: Path) -> None:
        """Three of four moved alike: they train; the one that surely stayed keeps its model."""
        loop = Loop(tmp_path, None, drifted=3)
        looked = loop.look()

        assert looked.assessment.cohort_action == "retrain-fleet"
        assert loop.participants() == GATEWAYS[:3]

    def test_a_fleets_drift_takes_those_along_who_did_not_alarm(self, tmp_path: Path) -> None:
        """One that moved with the fleet, but too little to alarm by itself, trains as well."""
        loop = Loop(tmp_path, None, drifted=3)
        scarce = Site(seed=3)
        loop.facts.found[GATEWAYS[3]] = scarce.stream(14) + [
            scarce.report(w, faulty=1.0, slots=12, timed=True) for w in range(14, 28)
        ]
        looked = loop.look()

        assert GATEWAYS[3] not in {episode.gateway for episode in looked.assessment.episodes}
        assert loop.participants() == GATEWAYS
        (run,) = loop.facts.runs()
        assert run.spec.participants[3].first_window == 14

    def test_what_is_only_watched_starts_nothing(self, tmp_path: Path) -> None:
        """`watch` and `none` are shown, and nothing else happens."""
        for number, action in enumerate(("watch", "none")):
            loop = Loop(tmp_path / str(number), action)  # type: ignore[arg-type]
            looked = loop.look()

            assert looked.assessment.verdicts[0].state == "drift"
            assert looked.assessment.verdicts[0].action == action
            assert (looked.created, looked.interventions, looked.alerts) == (None, (), ())


EVENTS = {
    "recalibrate": RECALIBRATED,
    "check-sensor": SENSOR_CHECK,
    "quarantine": QUARANTINED,
}


@pytest.mark.parametrize("action", EVENTS)
class TestInterventions:
    def test_stored_and_announced_once(self, tmp_path: Path, action: Action) -> None:
        """However often monitor looks: one fact, one alert, no run."""
        loop = Loop(tmp_path, action)
        looks = [loop.look() for _ in range(3)]

        assert [len(looked.interventions) for looked in looks] == [1, 0, 0]
        assert [(a.event, a.gateway) for a in loop.bus.alerts] == [(EVENTS[action], GATEWAYS[0])]
        assert "Drift since window" in loop.bus.alerts[0].message
        assert loop.facts.runs() == []

    def test_an_alert_that_nobody_took_is_sent_again(self, tmp_path: Path, action: Action) -> None:
        """The fact stands while the bus is away; the alert follows under the same key."""
        loop = Loop(tmp_path, action)
        loop.bus.away = True
        assert loop.look().alerts == ()
        loop.bus.away = False
        later = loop.look()

        assert (len(loop.log.all()), len(later.interventions)) == (1, 0)
        assert later.alerts == (alert_of(loop.log.all()[0]),)

    def test_it_shows_in_the_next_verdict(self, tmp_path: Path, action: Action) -> None:
        """Recalibrated: a new baseline is learnt. Held: out of every cohort until it is lifted."""
        loop = Loop(tmp_path, action)
        loop.look()
        verdict = loop.look().assessment.verdicts[0]

        if action == "recalibrate":
            assert (verdict.state, verdict.held) == ("stable", None)
        else:
            assert (verdict.state, verdict.held) == ("drift", action)


def fact(action: str = "quarantine", episode: str = "e-1") -> Intervention:
    return Intervention(
        episode=episode,
        gateway=GATEWAYS[0],
        action=action,  # type: ignore[arg-type]
        window=7,
        at=1.0,
        by="policy",
        reason="Drift since window 5.",
    )


def test_one_deaf_channel_does_not_silence_the_other() -> None:
    """Where a webhook is away, the bus is told; the alert stays owed to the webhook."""
    log, bus, deaf = MemoryInterventions(), MemoryBus(), MemoryBus()
    deaf.away = True
    for episode in ("e-1", "e-2"):
        log.record(fact(episode=episode))

    assert announce(log, [deaf, bus]) == ()
    assert [alert.episode for alert in bus.alerts] == ["e-1", "e-2"]
    deaf.away = False
    assert len(announce(log, [deaf, bus])) == 2
    assert len({alert.key for alert in bus.alerts}) == 2
    assert [alert.episode for alert in deaf.alerts] == ["e-1", "e-2"]


# --- the stored log ---------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'fedge.sqlite'}") as database:
        yield database


def admitted(database: Database) -> str:
    sender = Sender()
    return Fleet(database, Clock()).admit(sender.public_key, "pump 1").fingerprint


class TestLog:
    def test_an_action_is_stored_once_for_an_episode(self, database: Database) -> None:
        """The second time changes nothing, not even with other words."""
        log, who = InterventionLog(database, Clock()), admitted(database)
        one = fact().model_copy(update={"gateway": who})

        assert [log.record(one), log.record(one.model_copy(update={"reason": "other"}))] == [
            True,
            False,
        ]
        assert log.all() == log.unannounced() == log.holds() == (one,)
        log.announced(one)
        assert log.unannounced() == ()
        assert log.record(one.model_copy(update={"action": "check-sensor"}))

    def test_a_hold_is_lifted_once_by_name(self, database: Database) -> None:
        """Who looked and what was found is kept; there is no second time, and no empty reason."""
        log, who = InterventionLog(database, Clock()), admitted(database)
        with pytest.raises(SettingError, match="not held"):
            log.lift(who, by="Ada", reason="fine")
        log.record(fact().model_copy(update={"gateway": who}))
        with pytest.raises(SettingError, match="say in"):
            log.lift("pump 1", by="Ada", reason="")
        with pytest.raises(SettingError, match="no admitted gateway"):
            log.lift("pump 2", by="Ada", reason="fine")

        lifted = log.lift("pump 1", by="Ada", reason="cable replaced")
        assert (lifted.by, lifted.action, log.holds()) == ("Ada", "lift", ())
        assert log.unannounced() == (fact().model_copy(update={"gateway": who}),)
        with pytest.raises(SettingError, match="not held"):
            log.lift(who, by="Ada", reason="fine")

    def test_a_clock_set_back_neither_keeps_nor_ends_a_hold(self, database: Database) -> None:
        """A lift stamped before its hold lifts it, and lifts no hold that comes after it."""
        log, who = InterventionLog(database, Clock()), admitted(database)
        late = fact().model_copy(update={"gateway": who, "at": 1e12})
        log.record(late)
        log.lift(who, by="Ada", reason="cable replaced")
        assert log.holds() == ()

        again = {"episode": "e-2", "window": late.window + 1, "at": 0.0}
        log.record(late.model_copy(update=again))
        assert [hold.episode for hold in log.holds()] == ["e-2"]


class DyingChannel:
    """Dies as soon as it has sent."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def send(self, alert: Alert) -> None:
        with self._file.open("a") as file:
            file.write(f"{alert.key}\n")
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_between_fact_and_alert(tmp_path: Path) -> None:
    """kill -9 right after sending: the fact stands once, and the repetition bears the same key."""
    url, sent = f"sqlite:///{tmp_path / 'fedge.sqlite'}", tmp_path / "sent"
    with Database(url) as database:
        who = admitted(database)
    due = one_due(who)

    def work() -> None:
        log = InterventionLog(Database(url), time.time)
        carry_out(due, log, time.time)
        announce(log, [DyingChannel(sent)])

    for _ in range(2):
        victim = multiprocessing.get_context("fork").Process(target=work)
        victim.start()
        victim.join(20)
        assert victim.exitcode == -signal.SIGKILL

    with Database(url) as database:
        log = InterventionLog(database, time.time)
        assert len(log.all()) == len(log.unannounced()) == 1
        bus = MemoryBus()
        assert carry_out(due, log, time.time) == ()
        assert len(announce(log, [bus])) == 1 and announce(log, [bus]) == ()
    assert {*sent.read_text().split()} == {bus.alerts[0].key}


def one_due(gateway: str) -> tuple[Due, ...]:
    """One quarantine that is due."""
    return (Due(episode="e-1", gateway=gateway, action="quarantine", window=3, reason="Drift."),)


# --- the webhook ------------------------------------------------------------------------


class Receiver:
    """An operator's server on loopback that answers as told, one status after the other."""

    def __init__(self, *statuses: int) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, object]]] = []
        answers = iter(statuses)
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(next(answers, 200))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class TestWebhook:
    def test_posts_the_alert_with_its_key(self, tmp_path: Path) -> None:
        """One POST of JSON with the token and the key by which a repetition is known."""
        token = tmp_path / "token"
        token.write_text("secret\n")
        with Receiver() as receiver:
            settings = AlertSettings(webhook_url=f"{receiver.url}/hook", token_file=token)
            Webhook(settings, Clock().sleep).send(alert_of(fact()))
        ((path, headers, body),) = receiver.seen

        assert path == "/hook"
        assert headers["authorization"] == "Bearer secret"
        assert headers["idempotency-key"] == body["key"] == alert_of(fact()).key
        assert (body["event"], body["gateway"]) == (QUARANTINED, GATEWAYS[0])

    def test_tries_again_and_gives_up(self) -> None:
        """A server in trouble is asked again after a pause, a few times, under one key."""
        clock = Clock()
        with Receiver(500, 503, 204) as receiver:
            Webhook(AlertSettings(webhook_url=receiver.url), clock.sleep).send(alert_of(fact()))
        assert [path for path, _, _ in receiver.seen] == ["/"] * 3
        assert len({headers["idempotency-key"] for _, headers, _ in receiver.seen}) == 1
        assert clock.now == 1001.5

        with Receiver(500, 500, 500) as receiver:
            webhook = Webhook(AlertSettings(webhook_url=receiver.url), clock.sleep)
            with pytest.raises(OutboundError, match="500"):
                webhook.send(alert_of(fact()))
        with pytest.raises(OutboundError):
            webhook.send(alert_of(fact()))

    def test_a_refused_alert_is_asked_once_and_holds_up_no_other(self) -> None:
        """One that the receiver does not take stays owed; one that it knows already is taken."""
        clock, log = Clock(), MemoryInterventions()
        for episode in ("e-1", "e-2", "e-3"):
            log.record(fact(episode=episode))
        with Receiver(422, 409, 200) as receiver:
            webhook = Webhook(AlertSettings(webhook_url=receiver.url), clock.sleep)
            taken = announce(log, [webhook])

        assert [alert.episode for alert in taken] == ["e-2", "e-3"]
        assert [owed.episode for owed in log.unannounced()] == ["e-1"]
        assert len(receiver.seen) == 3

    @pytest.mark.parametrize("url", ["http://alerts.example/hook", "http://10.0.0.5", "ftp://x"])
    def test_only_https_or_this_host(self, url: str) -> None:
        """Alerts name gateways: in the clear they go nowhere but to this host."""
        with pytest.raises(SettingError):
            Webhook(AlertSettings(webhook_url=url), Clock().sleep)

    def test_an_empty_token_file_is_no_token(self, tmp_path: Path) -> None:
        """Sending without the token that was asked for would be silently wrong."""
        (tmp_path / "token").touch()
        settings = AlertSettings(
            webhook_url="https://alerts.example", token_file=tmp_path / "token"
        )
        with pytest.raises(SettingError, match="no token"):
            Webhook(settings, Clock().sleep)


# --- what people see --------------------------------------------------------------------


def test_verdicts_holds_and_lift_for_people(tmp_path: Path) -> None:
    """Unknown before the first look, then sentences and status 3; a hold is shown and lifted."""
    policy = tmp_path / "policy.toml"
    block = BlockLength(kind="windows", value=60)
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), policy)
    settings = init_server(tmp_path / "host", policy=policy)
    config = ["--config", str(tmp_path / "host" / "server.toml")]
    with Database(settings.database) as database:
        facts = Facts(database, time.time)
        who = Fleet(database, time.time).admit(Sender().public_key, "pump 1").fingerprint
        before = CliRunner().invoke(app, ["server", "verdicts", *config])

        reports = {who: Site(seed=1).stream(20, onset=14.0)}
        rules = (PolicyRule(action="quarantine"),)
        drift = DriftSettings(baseline_windows=12, policy=PolicySettings(rules=rules))
        found = assess(reports, {SHA: REFERENCE}, drift, ())
        ObjectStore(settings.objects_dir).replace(LATEST, found.to_bytes())
        carry_out(found.due, facts.interventions, time.time)
        served = TestClient(create_app(settings, database, time.time)).get("/v1/verdicts").json()

    after = CliRunner().invoke(app, ["server", "verdicts", *config])
    as_json = json.loads(CliRunner().invoke(app, ["server", "verdicts", "--json", *config]).stdout)
    holds = CliRunner().invoke(app, ["server", "holds", *config])
    lift = ["server", "lift", "pump 1", "--by", "Ada", "--reason", "cable replaced", *config]
    lifted = CliRunner().invoke(app, lift)

    assert (before.exit_code, before.stdout) == (0, "pump 1: Unknown: not judged yet.\n")
    assert after.exit_code == 3 and "pump 1: Drift since window" in after.stdout
    assert after.stdout.endswith(" d ago.\n") and "Last report" in after.stdout
    # Asked for at two moments.
    ages = [said["gateways"][0]["verdict"].pop("report_age_s") for said in (served, as_json)]
    assert as_json == served and served["holds"][0]["action"] == "quarantine"
    assert ages[0] < ages[1]
    assert served["gateways"][0]["sentence"] in after.stdout
    assert f"{who} quarantine after window 19" in holds.stdout
    assert lifted.exit_code == 0 and "no longer held" in lifted.stdout
    assert CliRunner().invoke(app, ["server", "holds", *config]).stdout == ""
