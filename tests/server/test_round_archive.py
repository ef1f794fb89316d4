"""What the centre keeps of replies in rounds, so that a reviewer can link each to a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.centre import Sender

from fedge.errors import ObjectConflictError, StateError
from fedge.identity import MAGIC, Artefact, Envelope
from fedge.privacy.heads import check_signature
from fedge_server.objects import ObjectStore
from fedge_server.replies import keep_replies, round_replies


def reply(number: int, payload: bytes) -> Artefact:
    sealed = Envelope.from_bytes(Sender(number).seal("update", 0, payload))
    return Artefact.of(sealed, "reply")


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path)


def test_each_reply_is_kept_once_however_often_it_came(objects: ObjectStore) -> None:
    """A retry that brings in the same and one more leaves each of them once."""
    one, two = reply(1, b"one"), reply(2, b"two")
    keep_replies(objects, "run-1", "train-0", [one])
    keep_replies(objects, "run-1", "train-0", [one])
    keep_replies(objects, "run-1", "train-0", [two, one])
    keep_replies(objects, "run-1", "train-1", [])

    assert sorted(r.payload_sha256 for r in round_replies(objects, "run-1")) == sorted(
        [one.payload_sha256, two.payload_sha256]
    )


def test_two_answers_of_one_gateway_both_stay(objects: ObjectStore) -> None:
    """A gateway that noised twice for one message cannot hide the second one."""
    keep_replies(objects, "run-1", "train-0", [reply(1, b"first")])
    keep_replies(objects, "run-1", "train-0", [reply(1, b"second")])

    assert len(round_replies(objects)) == 2


def test_what_is_kept_shows_who_signed_what(objects: ObjectStore) -> None:
    """Without the payload the signature can still be checked."""
    keep_replies(objects, "run-1", "evaluate-2", [reply(3, b"noised")])
    (found,) = round_replies(objects)

    key = Sender(3).identity.public_key
    check_signature(key, found.signature, MAGIC + found.header.to_bytes())
    assert found.header.payload_sha256 == found.payload_sha256


def test_other_files_of_a_run_are_no_replies(objects: ObjectStore) -> None:
    """Specifications and results lie beside them; a damaged reply is an error."""
    objects.put("runs/run-1/result.json", b"{}")
    assert round_replies(objects) == ()
    objects.put("runs/run-1/replies/train-0.x.jsonl", b"{}\n")
    with pytest.raises(StateError, match="cannot be read"):
        round_replies(objects)
    with pytest.raises(ObjectConflictError):
        objects.put("runs/run-1/replies/train-0.x.jsonl", b"other\n")
