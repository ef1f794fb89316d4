"""The local fast path: it sees what moves on this gateway, and tells nobody else."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_clients import ALL_PURPOSES, WINDOW, Gateway, push_all, write_release

from fedge.cli.gateway import _alarms
from fedge.config import GatewaySettings, LocalDriftSettings
from fedge.data.subjects import SubjectKey
from fedge.errors import SettingError
from fedge.identity import Envelope
from fedge.records.purposes import INFERENCE, TRAINING
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.record_ids import id_prefix
from fedge_client import export
from fedge_client.agent import alarm_webhook, loops
from fedge_client.agent.alarm_webhook import ATTEMPTS, ROOM, AlarmWebhook
from fedge_client.doctor import examine
from fedge_client.local_marks import ALARMS_TABLE, CHECK, LOG_MARK
from fedge_client.metrics import exposition

MakeGateway = Callable[..., Gateway]

ROWS, GROUPS = 8, 10
BASELINE = ROWS * GROUPS
"""Rows of a baseline in these tests."""


def watching(gateway: Gateway, **settings: Any) -> Gateway:
    """Switch the fast path on and start the agent again."""
    local = LocalDriftSettings(
        enabled=True, group_rows=ROWS, baseline_groups=GROUPS, **{"detector": "adwin", **settings}
    )
    gateway.settings = gateway.settings.model_copy(update={"local_drift": local})
    gateway.start()
    return gateway


def serve(
    gateway: Gateway,
    rows: int,
    *,
    sure: float = 3.0,
    release: int = 1,
    purposes: int = ALL_PURPOSES,
    subject: bytes = NOBODY,
) -> int:
    """Rows whose first class stands out by about `sure`; answers the first slot."""
    rng = np.random.default_rng([7, gateway.writer.next_slot])
    logits = rng.normal(scale=0.5, size=(rows, 2)) + np.array([sure, 0.0])
    block_slots = gateway.block_windows * gateway.settings.window_slots
    return gateway.writer.append(
        lambda slot, now: slot // block_slots,
        release,
        gateway.wall(),
        Marks(purposes, subject),
        rng.normal(size=(rows, 2)).astype(np.float32),
        logits.astype(np.float32),
        rng.normal(size=(rows, 1)).astype(np.float32),
    )


def drain(gateway: Gateway) -> None:
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass


def facts(gateway: Gateway) -> dict[str, Any]:
    """What the operator's status says."""
    assert gateway.agent is not None
    status = gateway.agent.commands()["status"]({})
    found: dict[str, Any] = json.loads(json.dumps(status))["local"]["local_drift"]
    return found


def drift(gateway: Gateway) -> None:
    """A baseline, and then a model that is no longer sure."""
    serve(gateway, 3 * BASELINE)
    drain(gateway)
    serve(gateway, 2 * BASELINE, sure=0.2)
    drain(gateway)


def named(found: dict[str, Any]) -> list[str]:
    """The signals that alarmed, latest first."""
    return [alarm["signal"] for alarm in found["latest"]]


# --- what it sees ------------------------------------------------------------------------


@pytest.mark.parametrize("detector", ["adwin", "page-hinkley"])
def test_a_fall_of_confidence_is_told(
    make_gateway: MakeGateway, detector: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the status, in the log, in the history; once."""
    gateway = watching(make_gateway(), signals=("confidence",), detector=detector)
    serve(gateway, 3 * BASELINE)
    drain(gateway)
    assert facts(gateway)["signals"]["confidence"]["state"] == "stable"
    assert facts(gateway)["alarms"] == 0

    with caplog.at_level(logging.WARNING):
        serve(gateway, 2 * BASELINE, sure=0.2)
        drain(gateway)

    found = facts(gateway)
    (alarm,) = found["latest"]
    assert alarm["signal"] == "confidence" and alarm["after"] < alarm["before"] - 0.05
    assert (alarm["release"], alarm["at"]) == (1, gateway.wall())
    assert found["alarms"] == 1
    assert sum(LOG_MARK in record.getMessage() for record in caplog.records) == 1


def test_confidence_that_rises_is_none(make_gateway: MakeGateway) -> None:
    """Only the direction that means harm is told."""
    gateway = watching(make_gateway(), signals=("confidence",))
    serve(gateway, 3 * BASELINE, sure=0.5)
    serve(gateway, 3 * BASELINE, sure=4.0)
    drain(gateway)
    assert facts(gateway)["alarms"] == 0


def test_strange_rows_are_told(make_gateway: MakeGateway) -> None:
    """By their rank among the reference's rows, which the release brought."""
    gateway = watching(make_gateway(), signals=("ood",))
    serve(gateway, 3 * BASELINE, sure=0.5)
    drain(gateway)
    before = facts(gateway)["signals"]["ood"]["baseline"]
    serve(gateway, 2 * BASELINE, sure=-2.0)  # the energy is -log(1 + e^-2), where it was about -1
    drain(gateway)
    assert named(facts(gateway)) == ["ood"]
    assert facts(gateway)["latest"][0]["before"] == before < facts(gateway)["latest"][0]["after"]


def test_errors_on_labelled_rows_are_told(make_gateway: MakeGateway) -> None:
    """From feedback as it comes, each record once."""
    gateway = watching(make_gateway(), signals=("error",))
    first = serve(gateway, 6 * BASELINE)
    gateway.label(range(first, first + 3 * BASELINE), label=0)
    drain(gateway)
    assert facts(gateway)["signals"]["error"]["rows"] == 3 * BASELINE

    gateway.label(range(first + 3 * BASELINE, first + 5 * BASELINE), label=1)
    gateway.label(range(first, first + 3 * BASELINE), label=1)  # were judged already
    drain(gateway)

    found = facts(gateway)
    assert named(found) == ["error"] and found["signals"]["error"]["rows"] == 5 * BASELINE
    assert found["latest"][0]["before"] == 0.0


def test_a_label_must_fit_its_record(make_gateway: MakeGateway) -> None:
    """Neither an unknown slot nor another block than the record's is judged."""
    gateway = watching(make_gateway(), signals=("error",))
    first = serve(gateway, 10)
    slots, labels = np.arange(first, first + 10), np.zeros(10, dtype=np.int32)
    gateway.writer.append_labels(slots, labels, np.full(10, 5, dtype=np.int64))
    gateway.writer.append_labels(slots + 1000, labels)
    drain(gateway)
    assert facts(gateway)["signals"]["error"]["rows"] == 0
    gateway.writer.append_labels(slots, labels, np.zeros(10, dtype=np.int64))
    drain(gateway)
    assert facts(gateway)["signals"]["error"]["rows"] == 10


def test_all_signals_beside_each_other(make_gateway: MakeGateway) -> None:
    """A model that loses its footing is less sure, and finds its rows strange."""
    gateway = watching(make_gateway())
    drift(gateway)
    assert sorted(named(facts(gateway))) == ["confidence", "ood"]


def test_each_row_counts_once(make_gateway: MakeGateway) -> None:
    """Also where the agent reads rows again because a window could not be made final."""
    gateway = watching(make_gateway(), signals=("confidence",))
    agent = gateway.agent
    assert agent is not None
    serve(gateway, 7)
    drain(gateway)
    agent.watcher._astray = True  # as after an error of the disk
    serve(gateway, 5)
    drain(gateway)
    assert facts(gateway)["signals"]["confidence"]["rows"] == 12


def test_two_releases_do_not_disturb_each_other(make_gateway: MakeGateway) -> None:
    """While a worker drains, rows of both come in turn; each release has its own baseline."""
    gateway = make_gateway()
    write_release(gateway.settings.state_dir / "slots" / "B", counter=2)
    watching(gateway, signals=("confidence",))
    for _ in range(3 * GROUPS):
        serve(gateway, ROWS, sure=3.0, release=1)
        serve(gateway, ROWS, sure=0.2, release=2)
        drain(gateway)
    found = facts(gateway)
    assert found["release"] == 2 and found["alarms"] == 0
    assert found["signals"]["confidence"]["rows"] == 3 * BASELINE
    assert found["signals"]["confidence"]["state"] == "stable"


def test_rows_of_a_release_that_is_gone_are_left_alone(make_gateway: MakeGateway) -> None:
    gateway = watching(make_gateway())
    serve(gateway, 50, release=9)
    drain(gateway)
    found = facts(gateway)
    assert (found["release"], found["signals"], found["failures"]) == (None, {}, 0)


def test_what_is_not_calibrated_is_said(make_gateway: MakeGateway) -> None:
    """A reference without quantiles of the score: no threshold, or no signal at all."""
    gateway = watching(make_gateway())
    serve(gateway, 10)
    drain(gateway)
    strange = facts(gateway)["strange"]
    assert strange["recent_share"] is None and "energy" in strange["why"]

    watching(gateway, ood_score="maxlogit")
    serve(gateway, 10)
    drain(gateway)
    found = facts(gateway)
    assert "maxlogit" in found["unwatched"]["ood"] and "ood" not in found["signals"]


def test_rows_without_an_answer_are_counted(make_gateway: MakeGateway) -> None:
    """Logits that are not finite say nothing of drift, and do not look fine."""
    gateway = watching(make_gateway(), signals=("confidence",))
    serve(gateway, 10, sure=float("nan"))
    drain(gateway)
    signal = facts(gateway)["signals"]["confidence"]
    assert (signal["rows"], signal["skipped"]) == (0, 10)


# --- whose rows it may see ---------------------------------------------------------------


def test_only_rows_that_may_be_watched(make_gateway: MakeGateway) -> None:
    """Without the purpose `monitoring` a row does not exist here; its label neither."""
    gateway = watching(make_gateway())
    first = serve(gateway, 30, purposes=INFERENCE | TRAINING)
    gateway.label(range(first, first + 30))
    serve(gateway, 5)
    drain(gateway)
    rows = {name: signal["rows"] for name, signal in facts(gateway)["signals"].items()}
    assert rows == {"confidence": 5, "ood": 5, "error": 0}


def test_a_subject_that_withdrew_is_not_watched(make_gateway: MakeGateway) -> None:
    gateway = watching(make_gateway(), signals=("confidence",))
    assert gateway.agent is not None
    subject = SubjectKey.open(gateway.settings.state_dir).pseudonym("someone")
    gateway.agent.commands()["withdraw"]({"subject": "someone", "purposes": ["monitoring"]})
    serve(gateway, 20, subject=subject)
    serve(gateway, 3)
    drain(gateway)
    assert facts(gateway)["signals"]["confidence"]["rows"] == 3


def test_an_erasure_starts_baselines_anew(make_gateway: MakeGateway) -> None:
    """They were taken from rows of which some are to be gone."""
    gateway = watching(make_gateway(), signals=("confidence", "error"))
    agent = gateway.agent
    assert agent is not None
    first = serve(gateway, 2 * BASELINE)
    drain(gateway)
    assert agent.state.rows("SELECT signal FROM local_baselines") == [("confidence",)]

    name = f"{id_prefix(gateway.identity.fingerprint)}-0-{first}"
    agent.commands()["erase"]({"record_ids": [name]})

    assert agent.state.rows("SELECT signal FROM local_baselines") == []
    gateway.label(range(first, first + 10))
    serve(gateway, ROWS)
    drain(gateway)
    signals = facts(gateway)["signals"]
    assert (signals["confidence"]["state"], signals["confidence"]["rows"]) == ("warming-up", ROWS)
    assert signals["error"]["rows"] == 0


# --- what stays over a restart -----------------------------------------------------------


def test_a_restarted_agent_goes_on_with_its_baseline(make_gateway: MakeGateway) -> None:
    """What it saw since is lost; what was normal is not, so that drift is drift all the same."""
    gateway = watching(make_gateway(), signals=("confidence",))
    serve(gateway, 2 * BASELINE)
    drain(gateway)
    before = facts(gateway)["signals"]["confidence"]["baseline"]

    gateway.start()
    serve(gateway, 4 * BASELINE, sure=0.2)
    drain(gateway)

    (alarm,) = facts(gateway)["latest"]
    assert alarm["before"] == before
    gateway.start()
    assert [a["at"] for a in facts(gateway)["latest"]] == [alarm["at"]]


def test_a_restart_does_not_repeat_an_alarm(make_gateway: MakeGateway) -> None:
    """The baseline that a drift ended is no baseline for the next process."""
    gateway = watching(make_gateway(), signals=("confidence",))
    serve(gateway, 2 * BASELINE)
    drain(gateway)
    serve(gateway, BASELINE, sure=0.2)
    drain(gateway)
    assert facts(gateway)["alarms"] == 1

    gateway.start()
    serve(gateway, 3 * BASELINE, sure=0.2)
    drain(gateway)
    assert facts(gateway)["alarms"] == 1


def test_a_baseline_of_another_setting_is_not_used(make_gateway: MakeGateway) -> None:
    gateway = watching(make_gateway(), signals=("confidence",))
    serve(gateway, 2 * BASELINE)
    drain(gateway)
    watching(gateway, signals=("confidence",), ood_score="msp")
    serve(gateway, ROWS)
    drain(gateway)
    assert facts(gateway)["signals"]["confidence"]["state"] == "warming-up"


def test_the_history_is_bounded(make_gateway: MakeGateway) -> None:
    """And nothing in it outlives the records' own age."""
    now, steady = [1000.0], [0.0]
    gateway = make_gateway(wall=lambda: now[0], steady=lambda: steady[0])
    watching(gateway, signals=("confidence",), history=2)
    for _ in range(3):
        steady[0] += 1000.0
        now[0] += 1000.0
        serve(gateway, 4 * BASELINE, sure=4.0)
        serve(gateway, 3 * BASELINE, sure=0.0)
        drain(gateway)
    assert facts(gateway)["alarms"] == 2
    assert [alarm["at"] for alarm in facts(gateway)["latest"]] == [4000.0, 3000.0]

    now[0] += gateway.settings.retention.max_age_s + 2000.0
    assert gateway.agent is not None
    gateway.agent.tidy_once()
    assert facts(gateway)["alarms"] == 0


def test_alarms_in_a_row_are_one(make_gateway: MakeGateway) -> None:
    """A signal that jumps to and fro is told once a minute at most; the rest is counted."""
    steady = [0.0]
    gateway = watching(make_gateway(steady=lambda: steady[0]), signals=("confidence",))
    for _ in range(3):
        serve(gateway, 4 * BASELINE, sure=4.0)
        serve(gateway, 3 * BASELINE, sure=0.0)
        drain(gateway)
    found = facts(gateway)
    assert found["alarms"] == 1 and found["repeats"] == 2


# --- nobody else is told -----------------------------------------------------------------


def test_not_a_byte_that_leaves_depends_on_it(make_gateway: MakeGateway) -> None:
    """Same rows, same labels, alarms on one of two gateways: the same envelopes, bit by bit."""
    plain = make_gateway()
    watched = make_gateway(identity=plain.identity)
    watching(watched, webhook="http://127.0.0.1:9/")
    sent = []
    for gateway in (plain, watched):
        first = serve(gateway, 3 * BASELINE)
        gateway.label(range(first, first + 3 * BASELINE), label=0)
        drain(gateway)
        second = serve(gateway, 3 * BASELINE, sure=0.0)
        gateway.label(range(second, second + 3 * BASELINE), label=1)
        drain(gateway)
        assert gateway.agent is not None
        gateway.agent.report_facts_once()
        gateway.agent.tell_alarms_once()
        push_all(gateway.agent)
        sent.append(gateway.centre.taken)

    assert plain.agent is not None and watched.agent is not None
    assert facts(watched)["alarms"] >= 2
    assert sent[0] == sent[1]
    kinds = [Envelope.from_bytes(data).header.kind for data in sent[0]]
    assert kinds.count("report") == 6 * BASELINE // WINDOW
    assert {"audit", "status"} <= set(kinds)
    assert plain.agent.ledger.entries() == watched.agent.ledger.entries()
    assert plain.agent.public_facts() == watched.agent.public_facts()


def test_a_failure_in_it_costs_no_window(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports go on; the failure is counted, and its text is in no log."""
    gateway = watching(make_gateway())

    def fail(*_: object) -> None:
        raise ValueError("secret 0.7316894")

    monkeypatch.setattr("fedge_client.agent.local_drift.LocalDrift._take_release", fail)
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fedge_client").addHandler(handler)
    try:
        for _ in range(5):
            serve(gateway, WINDOW)
            drain(gateway)
    finally:
        logging.getLogger("fedge_client").removeHandler(handler)
    assert gateway.agent is not None and gateway.agent.watcher.windows == 5
    assert facts(gateway)["failures"] == 5
    assert sum("ValueError" in line for line in lines) == 3  # of the first, second, fourth
    assert "secret" not in "".join(lines)


def test_off_by_default(make_gateway: MakeGateway) -> None:
    """Then there is no table, no fact, and nothing of it is looked at."""
    gateway = make_gateway()
    drift(gateway)
    assert gateway.agent is not None
    assert gateway.agent.local is None and facts(gateway) is None
    tables = gateway.agent.state.rows("SELECT name FROM sqlite_master WHERE name LIKE 'local_%'")
    assert tables == []
    assert not GatewaySettings(state_dir=Path("s"), runtime_dir=Path("r")).local_drift.enabled


def test_metrics_do_not_know_it(make_gateway: MakeGateway) -> None:
    """A scrape leaves the machine: it is the same with alarms as without."""
    gateway = watching(make_gateway())
    drift(gateway)
    assert gateway.agent is not None
    agent = gateway.agent.commands()["status"]({})
    without = {**agent, "local": {**agent["local"], "local_drift": None}}
    pages = [exposition({"models": {"pump": {"agent": found}}}) for found in (agent, without)]
    assert pages[0] == pages[1] and "fedge_windows_total" in pages[0]


def test_the_export_for_support_leaves_it_out(make_gateway: MakeGateway, tmp_path: Path) -> None:
    """The doctor tells the operator; neither that nor the log's lines go to anybody else."""
    gateway = watching(make_gateway(), signals=("confidence",))
    drift(gateway)
    (found,) = [f for f in examine(gateway.settings, gateway.wall) if f.check == CHECK]
    assert found.level == "warn" and "confidence" in found.detail
    logs = gateway.settings.state_dir / "logs"
    logs.mkdir(exist_ok=True)
    line = f"12:00:00 WARNING agent {LOG_MARK} confidence fell from 0.95 to 0.52"
    (logs / "agent.log").write_text(f"before\n{line}\nafter\n")
    config = tmp_path / "gateway.toml"
    config.write_text("[local_drift]\nenabled = true\n")

    names = export.export_state(gateway.settings, config, tmp_path / "out.zip")

    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        content = {name: archive.read(name) for name in names}
    assert content["pump/logs/agent.log"] == b"before\nafter\n"
    del content["settings.json"]
    assert [name for name, data in content.items() if b"confidence" in data] == []
    assert [name for name, data in content.items() if CHECK.encode() in data] == []


def test_telling_alarms_leaves_no_trace() -> None:
    """A span of each delivery would tell a collector elsewhere that there was an alarm."""
    spans: list[str] = []

    class Agent:
        class telemetry:  # noqa: N801
            @staticmethod
            def span(name: str) -> contextlib.AbstractContextManager[None]:
                spans.append(name)
                return contextlib.nullcontext()

    for name in (loops.ALARMS, "push"):
        stop = threading.Event()

        def step(stop: threading.Event = stop) -> float:
            stop.set()
            return 0.0

        loops._loop(Agent(), name, step, stop)  # type: ignore[arg-type]
    assert spans == ["push"]


# --- for the operator --------------------------------------------------------------------


def test_the_doctor_knows_what_is_missing(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finding where it is off, `ok` without alarms, old ones worry nobody, river is needed."""
    gateway = make_gateway()

    def found(now: float = 1000.0) -> list[tuple[str, str]]:
        findings = examine(gateway.settings, lambda: now)
        return [(f.level, f.detail) for f in findings if f.check == CHECK]

    assert found() == []
    watching(gateway)
    assert found() == [("ok", "pump: no alarm is kept")]
    drift(gateway)
    assert found()[0][0] == "warn" and found(now=200_000.0)[0][0] == "ok"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert found() == [("fail", "pump: river is not installed")]


def test_a_damaged_state_file_is_unknown_to_the_doctor(make_gateway: MakeGateway) -> None:
    gateway = watching(make_gateway())
    gateway.close()
    path = gateway.settings.state_dir / "state.sqlite"
    path.write_bytes(b"no database" * 1000)
    levels = {f.level for f in examine(gateway.settings, gateway.wall) if f.check == CHECK}
    assert levels == {"unknown"}


def test_the_status_line(make_gateway: MakeGateway) -> None:
    """How many, how long ago, and what; a dash where it is off."""
    gateway = watching(make_gateway(), signals=("confidence",))
    assert _alarms(None) is None
    assert _alarms(facts(gateway)) == "none"
    serve(gateway, ROWS)
    drain(gateway)
    assert _alarms(facts(gateway)) == "none yet, taking a baseline"
    drift(gateway)
    line = _alarms(facts(gateway))
    assert line is not None and line.startswith("1, the last ") and ": confidence " in line


# --- the webhook -------------------------------------------------------------------------


@contextlib.contextmanager
def listener(status: int = 200) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A program on this host that writes down what it is told."""
    heard: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, body))
            self.send_response(status)
            self.send_header("Location", "http://example.com/")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/alarms?site=3", heard
        finally:
            server.shutdown()
            thread.join()


def test_an_alarm_is_posted_once(make_gateway: MakeGateway) -> None:
    with listener() as (url, heard):
        gateway = watching(make_gateway(), signals=("confidence",), webhook=url)
        assert gateway.agent is not None
        drift(gateway)
        assert heard == []  # watching waits for nobody
        assert gateway.agent.tell_alarms_once() > 0 and gateway.agent.tell_alarms_once() > 0
    ((path, body),) = heard
    assert path == "/alarms?site=3"
    alarm = json.loads(body)
    assert (alarm["family"], alarm["signal"], alarm["release"]) == ("pump", "confidence", 1)
    assert facts(gateway)["webhook"] == {"sent": 1, "given_up": 0, "waiting": 0}


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_listener_that_refuses_is_asked_a_few_times(status: int) -> None:
    """And never followed to where it points."""
    with listener(status) as (url, heard):
        webhook = AlarmWebhook(url)
        webhook.enqueue({"signal": "ood"})
        pauses = [webhook.deliver() for _ in range(ATTEMPTS + 2)]
    assert len(heard) == ATTEMPTS and min(pauses) > 0
    assert (webhook.sent, webhook.given_up, webhook.waiting) == (0, 1, 0)


def test_a_listener_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt takes a bounded time, also where the connection is taken and kept."""
    monkeypatch.setattr(alarm_webhook, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = AlarmWebhook(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        webhook.enqueue({})
        for _ in range(ATTEMPTS):
            webhook.deliver()
    assert webhook.given_up == 1


def test_alarms_that_find_no_room_are_counted() -> None:
    webhook = AlarmWebhook("http://127.0.0.1:9/")
    for _ in range(ROOM + 3):
        webhook.enqueue({})
    assert (webhook.waiting, webhook.given_up) == (ROOM, 3)


@pytest.mark.parametrize(
    "url",
    [
        *("http://192.168.0.7:9000/", "http://example.com/", "http://localhost:9000/"),
        *("https://127.0.0.1/", "http://user@127.0.0.1/", "http://127.0.0.1.example.com/"),
        *("http://0.0.0.0:9000/", "http://127.0.0.1:99999/", "file:///etc/passwd", "nonsense"),
    ],
)
def test_only_this_host_may_be_told(url: str) -> None:
    """Refused where settings are read, and once more where it would be used."""
    with pytest.raises(SettingError, match="this host"):
        LocalDriftSettings.parse({"webhook": url}, Path())
    with pytest.raises(SettingError, match="loopback"):
        AlarmWebhook(url)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"signals": []}, {"signals": ["ood", "ood"]}, {"signals": ["labels"]}),
        *({"detector": "ddm"}, {"ood_score": "odin"}, {"ood_rate": 0.0}, {"ood_rate": 1.0}),
        *({"group_rows": 1}, {"baseline_groups": 5}, {"history": 0}, {"enable": True}),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(SettingError, match=name):
        LocalDriftSettings.parse(wrong, Path())


def test_alarms_hold_no_value_of_a_row(make_gateway: MakeGateway) -> None:
    """What is kept on the disk are averages of many rows, to two digits."""
    gateway = watching(make_gateway(), signals=("confidence",))
    drift(gateway)
    with contextlib.closing(sqlite3.connect(gateway.settings.state_dir / "state.sqlite")) as db:
        bodies = [json.loads(b) for (b,) in db.execute(f"SELECT body FROM {ALARMS_TABLE}")]
    for body in bodies:
        assert set(body) == {"at", "signal", "detector", "release", "rows", "before", "after"}
        assert all(body[name] == round(body[name], 2) for name in ("before", "after"))
