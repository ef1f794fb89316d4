"""What a worker is made of by its settings, as its callers see it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gateways import (
    FAMILY,
    Caller,
    Load,
    fill_slot,
    infer_body,
    make_gateway,
    toy_inputs,
    toy_logits,
    wait_until,
)
from fakes.workers import StartWorker, WorkerProcess

from fedge.config import GatewaySettings
from fedge.serving.composition import compose
from fedge.serving.escalation_counts import counts_path, read_counts
from fedge.serving.ring_reader import RingReader
from fedge.serving.stats import read_stats, stats_path

INFER = f"/v2/models/{FAMILY}/infer"
OTHER = "pumps"


def add_settings(settings: GatewaySettings, text: str) -> None:
    """Add sections (or, before any section, values) to the gateway's settings."""
    config = settings.state_dir.parent / "gateway.toml"
    config.write_text(f"{config.read_text()}\n{text}\n")


def test_limits_and_token_hold_on_the_shared_port(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """By the settings: 401 without the token, 429 beyond the burst, health for everybody."""
    token = gateway.state_dir / "token"
    token.write_text("line-7\n")
    limits = "[limits]\nrequests_per_s = 0.001\nburst = 3\nmax_connections = 5"
    add_settings(gateway, f'token_file = "state/token"\n{limits}')
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    caller, body = Caller(worker.port), infer_body(toy_inputs(1))
    status, answer, headers = caller.ask("POST", INFER, body)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="fedge"')
    known = {"Authorization": "Bearer line-7"}
    assert [caller.ask("POST", INFER, body, **known)[0] for _ in range(2)] == [200, 200]
    status, answer, headers = caller.ask("POST", INFER, body, **known)
    assert (status, headers["retry-after"]) == (429, "1000") and "error" in answer
    assert caller.ask("GET", "/v2/health/ready")[0] == 200
    counted: dict[str, Any] = read_stats(stats_path(gateway.runtime_dir, FAMILY, "A"))
    assert (counted["refused"]["token"], counted["refused"]["rate"]) == (1, 1)
    caller.close()


def test_a_gateway_without_its_token_file_does_not_serve(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """What was meant to be closed does not open, and the supervisor hears why."""
    add_settings(gateway, 'token_file = "state/missing"')
    fill_slot(gateway.state_dir, "A", 1)
    said = start_worker("A").hear()
    assert (said["event"], said["reason"]) == ("failed", "not-ready")
    assert said["detail"].startswith("token_file: cannot take tokens")


def test_requests_that_meet_run_together(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """With batching each caller gets its own rows' answers, and a drain loses none."""
    add_settings(gateway, "[batching]\nmax_rows = 8\nmax_delay_ms = 5.0")
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    with Load(worker.port, callers=4) as load:
        wait_until(lambda: load.served > 100, what="some requests")
    assert load.failed == []
    assert len(set(load.record_ids)) == len(load.record_ids) == 2 * load.served
    reader = RingReader(gateway.state_dir / "ring.bin")
    rows, _ = reader.read(0, 10**6)
    assert rows["slot"].tolist() == list(range(2 * load.served))
    worker.tell("drain", seconds=1.0)
    assert worker.process.wait(10) == 0


def test_without_monitoring_nothing_is_observed(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """The gateway serves, makes no ring, and takes no labels."""
    add_settings(gateway, "monitoring = false")
    fill_slot(gateway.state_dir, "A", 1)
    caller = Caller(start_worker("A").serve().port)
    status, answer = caller.infer(toy_inputs(2))
    assert status == 200 and len(answer["parameters"]["fedge_record_ids"]) == 2
    label = {"labels": [{"id": answer["parameters"]["fedge_record_ids"][0], "label": "red"}]}
    assert caller.ask("POST", "/fedge/v1/feedback", json.dumps(label).encode())[0] == 404
    assert not (gateway.state_dir / "ring.bin").exists()
    caller.close()


def test_serving_goes_on_without_counters(gateway: GatewaySettings) -> None:
    """A runtime folder that cannot be written costs the numbers, not the answers."""
    fill_slot(gateway.state_dir, "A", 1)
    gateway.runtime_dir.rmdir()
    assert compose(gateway, FAMILY, "A").stats is None


class TwoModels:
    """Workers of two models, each on a port of its own so that a test knows whom it asks."""

    def __init__(self, folder: Path) -> None:
        settings = make_gateway(folder / "two")
        source = make_gateway(folder / "source", family=OTHER)
        state = settings.state_dir / "models" / OTHER
        state.parent.mkdir()
        source.state_dir.rename(state)
        (settings.state_dir / "token").write_text("line-7\n")
        model = f'[[models]]\nfamily = "{OTHER}"\ntask = "toy"'
        add_settings(settings, f'token_file = "state/token"\n{model}')
        fill_slot(settings.state_dir, "A", 1)
        fill_slot(state, "A", 2, family=OTHER)
        self._settings = settings
        self._sockets: dict[str, tuple[socket.socket, socket.socket]] = {}
        self.workers: list[WorkerProcess] = []
        for family in (FAMILY, OTHER):
            local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            local.bind(str(settings.runtime_dir / f"model-{family}.sock"))
            self._sockets[family] = local, socket.create_server(("127.0.0.1", 0))
            self.start(family)

    def start(self, family: str) -> None:
        local, listening = self._sockets[family]
        config = self._settings.state_dir.parent / "gateway.toml"
        worker = WorkerProcess(config, "A", listening, model=family, local=local)
        self.workers.append(worker)
        worker.serve()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for pair in self._sockets.values():
            for opened in pair:
                opened.close()


@pytest.fixture
def two_models(tmp_path: Path) -> Iterator[TwoModels]:
    with closing(TwoModels(tmp_path)) as models:
        yield models


KNOWN = {"Authorization": "Bearer line-7"}


def test_each_worker_answers_for_both_models(two_models: TwoModels) -> None:
    """Requests, labels and refusals reach the model that they name; the token is asked for once."""
    inputs = toy_inputs(3)
    for worker in two_models.workers:
        caller = Caller(worker.port)
        for family, release in ((FAMILY, 1), (OTHER, 2)):
            target = f"/v2/models/{family}/infer"
            assert caller.ask("POST", target, infer_body(inputs))[0] == 401
            status, answer, _ = caller.ask("POST", target, infer_body(inputs), **KNOWN)
            assert (status, answer["model_name"]) == (200, family)
            logits = np.array(answer["outputs"][0]["data"]).reshape(3, 3)
            assert np.allclose(logits, toy_logits(release, inputs), atol=1e-4)
            name = answer["parameters"]["fedge_record_ids"][0]
            label = json.dumps({"labels": [{"id": name, "label": "red"}]}).encode()
            taken = caller.ask("POST", "/fedge/v1/feedback", label, **KNOWN)
            assert taken[:2] == (200, {"accepted": 1})
            status, answer, _ = caller.ask("POST", target, b"{}", **KNOWN)
            assert status == 400 and answer["error"].startswith("inputs: ")
            assert caller.ask("GET", f"/v2/models/{family}/ready")[1]["ready"] is True
        assert caller.ask("GET", "/v2/models/none/ready")[0] == 404
        caller.close()


def test_a_model_that_restarts_keeps_its_callers_waiting(two_models: TwoModels) -> None:
    """They get their answer from the next worker; the other model's callers never notice."""
    first, second = two_models.workers
    second.kill()
    waiting, other, body = Caller(first.port), Caller(first.port), infer_body(toy_inputs(1))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(waiting.ask, "POST", f"/v2/models/{OTHER}/infer", body, **KNOWN)
        for _ in range(20):
            assert other.ask("POST", INFER, body, **KNOWN)[0] == 200
        assert not asked.done()
        two_models.start(OTHER)
        status, answer, _ = asked.result(20)
    assert (status, answer["model_name"]) == (200, OTHER)
    waiting.close()
    other.close()


def test_an_unknown_model_is_a_wrong_setting(gateway: GatewaySettings) -> None:
    """The process says so and ends; it does not serve another one instead."""
    listening = socket.create_server(("127.0.0.1", 0))
    worker = WorkerProcess(
        gateway.state_dir.parent / "gateway.toml", "A", listening, model="missing"
    )
    assert worker.process.wait(20) == 1
    worker.close()
    listening.close()


def test_escalation_is_off_where_it_cannot_be_counted(
    gateway: GatewaySettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Its file of counts says that latencies are no public fact: without it nothing is sent on.
    Where escalation is off again no such file is left."""
    fill_slot(gateway.state_dir, "A", 1)
    config = gateway.state_dir.parent / "gateway.toml"
    counts = counts_path(gateway.runtime_dir, FAMILY, "A")
    plain = config.read_text()
    add_settings(gateway, '[escalation]\nurl = "http://127.0.0.1:9"\nmodel = "m"')
    compose(GatewaySettings.load(config), FAMILY, "A")
    assert read_counts(counts)["escalated"] == 0
    counts.unlink()
    counts.with_suffix(".part").mkdir()
    compose(GatewaySettings.load(config), FAMILY, "A")
    assert "nothing is escalated" in caplog.text and not counts.exists()
    counts.with_suffix(".part").rmdir()
    counts.write_bytes(b"of a worker before")
    config.write_text(plain)
    compose(GatewaySettings.load(config), FAMILY, "A")
    assert not counts.exists()
