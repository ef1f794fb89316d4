"""What fleet state shows, and how gateways are admitted."""

from __future__ import annotations

import pytest
from fakes.centre import Centre, FakeClock, Sender, server_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError
from fedge_server import fleet as module
from fedge_server.database import Database
from fedge_server.fleet import Fleet, GatewayDetail


def detail(centre: Centre, sender: Sender) -> GatewayDetail:
    found = centre.fleet.detail(sender.fingerprint)
    assert found is not None
    return found


class TestState:
    def test_nothing_heard_is_shown_as_unknown(self, centre: Centre) -> None:
        """A silent gateway has no status: it is not shown as well."""
        centre.admitted()

        (state,) = centre.fleet.state().gateways

        assert state.status is None and state.last_report is None and state.last_seen_at is None
        assert (state.envelopes, state.reports, state.next_seq, state.missing) == (0, 0, 0, 0)

    def test_the_latest_status_counts_whatever_came_last(self, centre: Centre) -> None:
        """A retried old status does not turn back what a newer one said."""
        sender = centre.admitted()
        centre.post(sender.status(7, refused_release=2, refused_reason="tampered-file"))
        centre.post(sender.status(3))

        (state,) = centre.fleet.state().gateways

        assert state.status is not None
        assert (state.status.refused_release, state.status.refused_reason) == (2, "tampered-file")

    def test_the_latest_report_is_that_of_the_latest_window(self, centre: Centre) -> None:
        """Windows order reports, not their arrival."""
        sender = centre.admitted()
        centre.post(sender.report(0, window=5, dropped=4))
        centre.post(sender.report(1, window=2))

        (state,) = centre.fleet.state().gateways

        assert state.last_report is not None
        assert (state.last_report.window, state.last_report.dropped) == (5, 4)
        assert state.reports == 2

    def test_last_seen_is_the_time_of_arrival_here(self, centre: Centre) -> None:
        """The gateway's own clock is not believed for it."""
        sender = centre.admitted()
        before = centre.clock.now
        centre.post(sender.status(0, at=1e12))

        (state,) = centre.fleet.state().gateways

        assert state.last_seen_at is not None
        assert before < state.last_seen_at < centre.fleet.state().at

    def test_a_copy_does_not_count_as_a_sign_of_life(self, centre: Centre) -> None:
        """Only stored envelopes do: anybody may replay an old one."""
        sender = centre.admitted()
        data = sender.status(0)
        centre.post(data)
        (before,) = centre.fleet.state().gateways
        centre.post(data)

        assert centre.fleet.state().gateways == (before,)

    def test_a_line_for_people_says_what_is_unknown(self, centre: Centre) -> None:
        """What was never heard is not left out of the line."""
        sender = centre.admitted()
        (silent,) = centre.fleet.state().gateways
        centre.post(sender.status(2, refused_release=3, refused_reason="tampered-file"))
        (heard,) = centre.fleet.state().gateways

        assert silent.describe() == (
            f"gateway 1 ({sender.fingerprint}): status unknown, no window reported, last seen never"
        )
        for part in ("release 1 (int8)", "refused release 3: tampered-file", "2 numbers missing"):
            assert part in heard.describe()
        assert "1970-01-01 01:2" in heard.describe()


class TestGaps:
    def test_gaps_are_shown_until_they_close(self, centre: Centre) -> None:
        """Numbers may come in any order; what is missing is named."""
        sender = centre.admitted()
        for seq in (9, 2, 3, 6):
            centre.post(sender.report(seq))

        found = detail(centre, sender)
        assert found.gaps == ((0, 1), (4, 5), (7, 8))
        assert (found.gateway.missing, found.gateway.next_seq) == (6, 10)

        for seq in (0, 1, 4, 5, 7, 8):
            centre.post(sender.report(seq))
        found = detail(centre, sender)
        assert (found.gaps, found.gateway.missing) == ((), 0)

    @given(st.sets(st.integers(0, 40), max_size=20))
    @settings(deadline=None, max_examples=15)
    def test_gaps_are_exactly_what_is_missing(
        self, tmp_path_factory: pytest.TempPathFactory, seqs: set[int]
    ) -> None:
        """Numbers stored and numbers in gaps make up all numbers below the next one."""
        chosen = server_settings(tmp_path_factory.mktemp("gaps"))
        with Database(chosen.database) as database:
            centre = Centre(chosen, database, FakeClock())
            sender = centre.admitted()
            for seq in seqs:
                centre.post(sender.status(seq))

            found = detail(centre, sender)
            missing = {n for first, last in found.gaps for n in range(first, last + 1)}
            assert missing | seqs == set(range(found.gateway.next_seq))
            assert not missing & seqs
            assert found.gateway.missing == len(missing)

    def test_a_gateway_cannot_fill_the_answer_with_gaps(
        self, centre: Centre, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The oldest gaps are listed, a bounded number of them; the sum stays right."""
        monkeypatch.setattr(module, "MAX_GAPS", 3)
        sender = centre.admitted()
        for seq in range(1, 12, 2):
            centre.post(sender.status(seq))

        found = detail(centre, sender)
        assert found.gaps == ((0, 0), (2, 2), (4, 4))
        assert found.gateway.missing == 6

    def test_a_huge_number_is_one_gap(self, centre: Centre) -> None:
        """The largest number that an envelope may carry costs no more than any other."""
        sender = centre.admitted()
        assert centre.post(sender.status(2**53 - 1))[0] == 200

        assert detail(centre, sender).gaps == ((0, 2**53 - 2),)


class TestAdmitting:
    def test_again_changes_nothing_but_the_name(self, centre: Centre) -> None:
        """Admitting is idempotent."""
        sender = Sender()
        first = centre.fleet.admit(sender.public_key, "one")

        assert centre.fleet.admit(sender.public_key.upper(), "one") == first
        renamed = centre.fleet.admit(sender.public_key, "two")
        assert renamed == first.model_copy(update={"name": "two"})
        assert centre.fleet.admitted() == (renamed,)
        assert first.fingerprint == sender.fingerprint

    @pytest.mark.parametrize("key", ["", "00", "zz" * 32, "a" * 63, "a" * 66, "not hex"])
    def test_what_is_no_key_is_refused(self, centre: Centre, key: str) -> None:
        """A slip of the clipboard admits nobody."""
        with pytest.raises(SettingError, match="public key"):
            centre.fleet.admit(key, "one")
        assert centre.fleet.admitted() == ()

    @pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "<script>"])
    def test_what_is_no_name_is_refused(self, centre: Centre, name: str) -> None:
        """Names are shown to people: plain and short."""
        with pytest.raises(SettingError, match="name"):
            centre.fleet.admit(Sender().public_key, name)

    def test_an_unknown_gateway_has_no_detail(self, centre: Centre) -> None:
        """Unknown is None, not an empty state."""
        assert Fleet(centre.database, centre.clock).detail("f" * 32) is None
