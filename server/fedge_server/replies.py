"""The replies that gateways gave in rounds: their signed headers, kept for reviewers.

Updates and counts come through Flower and leave no row in the envelope log. Whatever a
round received from its cohort is noted here, once, whether or not it was used or the
run succeeded: for each of them the gateway's ledger must hold a settled entry. Payloads
are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from fedge.errors import RecordError, StateError
from fedge.identity import Artefact
from fedge_server.objects import ObjectStore

RUNS, FOLDER = "runs", "replies"


def keep_replies(objects: ObjectStore, run_id: str, name: str, replies: Iterable[Artefact]) -> None:
    """Keep what one message of a run brought in; the same again changes nothing.

    A retry that brings in others adds them.

    Args:
        name: of the message, such as `train-0`.
    """
    lines = sorted(reply.to_bytes() for reply in replies)
    if lines:
        data = b"".join(line + b"\n" for line in lines)
        digest = hashlib.sha256(data).hexdigest()[:16]
        objects.put(f"{RUNS}/{run_id}/{FOLDER}/{name}.{digest}.jsonl", data)


def round_replies(objects: ObjectStore, run_id: str | None = None) -> tuple[Artefact, ...]:
    """Everything kept of one run, or of all of them, each once.

    Raises:
        StateError: a stored reply is damaged.
    """
    prefix = RUNS if run_id is None else f"{RUNS}/{run_id}/{FOLDER}"
    found: dict[bytes, Artefact] = {}
    for path in objects.list(prefix):
        if path.split("/")[2:3] == [FOLDER]:
            for line in objects.get(path).splitlines():
                found.setdefault(line, _read(path, line))
    return tuple(found.values())


def _read(path: str, line: bytes) -> Artefact:
    try:
        return Artefact.from_bytes(line)
    except RecordError as error:
        raise StateError(f"a reply in {path} cannot be read: {error}") from error
