"""Subjects and their consent: pseudonyms, withdrawals, and the file that workers read."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from fedge.data.consent import WITHDRAWABLE, Withdrawals, write_withdrawals
from fedge.data.consent_book import ConsentBook
from fedge.data.subjects import NO_SUBJECT, SubjectKey
from fedge.errors import SettingError, StateError
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.statefile import StateFile

WHO, OTHER = b"a" * 16, b"b" * 16


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _pseudonym(folder: Path) -> bytes:
    return SubjectKey.open(folder).pseudonym("patient 17")


class TestPseudonyms:
    def test_the_same_words_are_the_same_subject(self, tmp_path: Path) -> None:
        """Also for another process and after a restart."""
        made = SubjectKey.open(tmp_path).pseudonym("patient 17")

        assert SubjectKey.open(tmp_path).pseudonym("patient 17") == made
        assert len(made) == 16 and made != NO_SUBJECT

    def test_another_gateway_has_other_pseudonyms(self, tmp_path: Path) -> None:
        """The key is this gateway's own: nobody joins two gateways' records."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()

        assert _pseudonym(tmp_path / "one") != _pseudonym(tmp_path / "two")

    def test_only_the_owner_reads_the_key(self, tmp_path: Path) -> None:
        """Whoever has it could try names."""
        SubjectKey.open(tmp_path)

        assert stat.S_IMODE((tmp_path / "subject.key").stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["subject.key"]

    def test_processes_that_start_at_once_agree(self, tmp_path: Path) -> None:
        """Workers and agent may all be the first."""
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert len(set(pool.map(_pseudonym, [tmp_path] * 16))) == 1

    def test_any_text_is_a_subject(self, tmp_path: Path) -> None:
        """Lone surrogates, which JSON can carry, included."""
        key = SubjectKey.open(tmp_path)

        assert len({key.pseudonym(text) for text in ("", "ü", "\ud800", "\x00")}) == 4

    def test_a_damaged_key_is_not_replaced(self, tmp_path: Path) -> None:
        """A new one would find no record of anybody any more."""
        (tmp_path / "subject.key").write_bytes(b"short")

        with pytest.raises(StateError, match="backup"):
            SubjectKey.open(tmp_path)


class TestTheWorkersFile:
    def test_nobody_withdrew(self, tmp_path: Path) -> None:
        """No file: nothing is withdrawn, and records about nobody are never looked up."""
        withdrawals = Withdrawals(tmp_path / "withdrawals.bin", Seconds())

        assert withdrawals.withdrawn(WHO) == withdrawals.withdrawn(NO_SUBJECT) == 0

    def test_a_change_is_seen_within_a_second(self, tmp_path: Path) -> None:
        """And the file is looked at no more often than that."""
        path, clock = tmp_path / "withdrawals.bin", Seconds()
        withdrawals = Withdrawals(path, clock)
        write_withdrawals(path, {WHO: TRAINING})
        assert withdrawals.withdrawn(WHO) == TRAINING
        write_withdrawals(path, {WHO: TRAINING | MONITORING, OTHER: MONITORING})
        clock.now = 0.9
        assert withdrawals.withdrawn(WHO) == TRAINING

        clock.now = 1.0

        assert withdrawals.withdrawn(WHO) == TRAINING | MONITORING
        assert withdrawals.withdrawn(OTHER) == MONITORING

    @pytest.mark.parametrize("damage", [b"", b"FEDGWDR1" + b"x" * 16, b"other file"])
    def test_a_file_that_is_not_understood_permits_nothing(
        self, tmp_path: Path, damage: bytes
    ) -> None:
        """Somebody may be in it: whoever is about anybody is served and nothing else."""
        path, clock = tmp_path / "withdrawals.bin", Seconds()
        withdrawals = Withdrawals(path, clock)
        path.write_bytes(damage)

        assert withdrawals.withdrawn(OTHER) == WITHDRAWABLE
        assert withdrawals.withdrawn(NO_SUBJECT) == 0
        assert not WITHDRAWABLE & INFERENCE

        write_withdrawals(path, {WHO: TRAINING})
        clock.now = 1.0
        assert withdrawals.withdrawn(OTHER) == 0

    def test_a_lost_file_grants_nothing_again(self, tmp_path: Path) -> None:
        """What was seen to be withdrawn stays withdrawn."""
        path, clock = tmp_path / "withdrawals.bin", Seconds()
        withdrawals = Withdrawals(path, clock)
        write_withdrawals(path, {WHO: TRAINING})
        assert withdrawals.withdrawn(WHO) == TRAINING
        path.unlink()
        clock.now = 5.0

        assert withdrawals.withdrawn(WHO) == TRAINING


class TestTheBook:
    def test_withdrawals_add_up_and_last(self, tmp_path: Path, state: StateFile) -> None:
        """In the state file, and in the workers' file, which is made again from it."""
        path = tmp_path / "withdrawals.bin"
        book = ConsentBook(state, path)
        book.withdraw(WHO, TRAINING)
        book.withdraw(WHO, MONITORING)
        path.unlink()

        again = ConsentBook(state, path)

        assert again.withdrawn(WHO) == TRAINING | MONITORING
        assert again.withdrawn(OTHER) == 0
        assert Withdrawals(path, Seconds()).withdrawn(WHO) == TRAINING | MONITORING

    @pytest.mark.parametrize("bits", [0, INFERENCE, INFERENCE | TRAINING, 16])
    def test_what_cannot_be_withdrawn_is_refused(
        self, tmp_path: Path, state: StateFile, bits: int
    ) -> None:
        """A caller who wants no answer does not ask; nothing is noted."""
        book = ConsentBook(state, tmp_path / "withdrawals.bin")

        with pytest.raises(SettingError):
            book.withdraw(WHO, bits)
        with pytest.raises(SettingError):
            book.withdraw(NO_SUBJECT, TRAINING)
        assert book.withdrawn(WHO) == 0
