"""What flows can rely on: runs are decided once, reports come in order."""

from __future__ import annotations

import pytest
from fakes.centre import Centre, report
from fakes.runs import run_spec
from sqlalchemy import update

from fedge.errors import StateError
from fedge_server.tables import envelopes


class TestReports:
    def test_one_gateway_can_be_asked_for(self, centre: Centre) -> None:
        """Others are left out, and who never reported is absent."""
        one, two, silent = (centre.admitted(n) for n in (1, 2, 3))
        centre.post(one.report(0))
        centre.post(two.report(0))

        assert centre.facts.reports(two.fingerprint) == {two.fingerprint: (report(0),)}
        assert centre.facts.reports(silent.fingerprint) == {}
        assert set(centre.facts.reports()) == {one.fingerprint, two.fingerprint}

    def test_a_status_is_no_report(self, centre: Centre) -> None:
        """Only reports are evidence."""
        centre.post(centre.admitted().status(0))

        assert centre.facts.reports() == {}

    def test_a_damaged_row_is_never_skipped(self, centre: Centre) -> None:
        """A verdict from a part of the reports would pass for one from all."""
        centre.post(centre.admitted().report(0))
        with centre.database.writing() as connection:
            connection.execute(update(envelopes).values(envelope=b"damaged"))

        with pytest.raises(StateError):
            centre.facts.reports()

    def test_gateways_carry_the_key_that_a_run_names(self, centre: Centre) -> None:
        """A participant is named with its public key, in hex."""
        sender = centre.admitted()

        (gateway,) = centre.facts.gateways()

        assert (gateway.fingerprint, gateway.public_key) == (sender.fingerprint, sender.public_key)


class TestRuns:
    def test_a_run_is_decided_once(self, centre: Centre) -> None:
        """Who comes second changes nothing, even with other content."""
        first, other = run_spec("run-1"), run_spec("run-1", episodes=("b-1-9",))

        assert centre.facts.create_run(first) is True
        assert centre.facts.create_run(first) is False
        assert centre.facts.create_run(other) is False
        (run,) = centre.facts.runs()
        assert (run.spec, run.state, run.detail, run.release) == (first, "created", "", None)

    def test_states_move_on_and_are_remembered(self, centre: Centre) -> None:
        """The latest state counts; how the run came there can be read."""
        centre.facts.create_run(run_spec())
        centre.facts.set_run_state("run-1", "training")
        centre.facts.set_run_state("run-1", "training")
        centre.facts.set_run_state("run-1", "failed", "no result")

        (run,) = centre.facts.runs()
        history = centre.facts.run_history("run-1")
        assert (run.state, run.detail) == ("failed", "no result")
        assert [(h.state, h.detail) for h in history] == [
            ("created", ""),
            ("training", ""),
            ("failed", "no result"),
        ]
        assert run.created_at == history[0].at < run.updated_at == history[-1].at

    def test_a_state_may_come_back(self, centre: Centre) -> None:
        """A retry returns to a state it was in: that is a new fact."""
        centre.facts.create_run(run_spec())
        for state in ("training", "created", "training"):
            centre.facts.set_run_state("run-1", state)

        assert len(centre.facts.run_history("run-1")) == 4

    def test_runs_come_oldest_first(self, centre: Centre) -> None:
        """Whatever their names."""
        for name in ("run-c", "run-a", "run-b"):
            centre.facts.create_run(run_spec(name))

        assert [run.spec.run_id for run in centre.facts.runs()] == ["run-c", "run-a", "run-b"]

    def test_a_run_leads_to_one_release(self, centre: Centre) -> None:
        """Recording it again is nothing, recording another is a bug that must show."""
        centre.facts.create_run(run_spec())
        centre.facts.record_release("run-1", 2)
        centre.facts.record_release("run-1", 2)

        with pytest.raises(RuntimeError, match="release 2"):
            centre.facts.record_release("run-1", 3)
        assert centre.facts.runs()[0].release == 2

    def test_a_run_that_was_never_created(self, centre: Centre) -> None:
        """Has no state and no release to set."""
        with pytest.raises(RuntimeError, match="never created"):
            centre.facts.set_run_state("run-9", "training")
        with pytest.raises(RuntimeError, match="never created"):
            centre.facts.record_release("run-9", 2)
        assert centre.facts.runs() == ()
        assert centre.facts.run_history("run-9") == ()
