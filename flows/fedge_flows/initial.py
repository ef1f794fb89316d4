"""The first release of a family: from public data alone, through the same gates but the gain.

Not a flow: whoever sets up a central host runs it once, the builder's half with the
builder's settings and the publisher's half with the publisher's.
"""

from __future__ import annotations

from pathlib import Path

from fedge.config import ServerSettings
from fedge.delivery.candidate import Publication
from fedge_flows import candidates
from fedge_flows.context import bring_to_signatures
from fedge_flows.publish import online_key, publish
from fedge_flows.releases import ReleaseShelf


def build_initial(builder: ServerSettings, code: str, *, seed: int) -> Path:
    """Train the base model and bring it to two signatures; an evaluator must be running.

    Run again, also after a kill, it goes on from what is there.

    Args:
        code: the task's code part, `module:object`.

    Returns:
        the candidate's folder.

    Raises:
        GateFailedError: a gate refused it.
        OutboundError: no evaluator answered in time; run again.
        TaskError: the code part cannot be imported.
    """
    shelf = ReleaseShelf(builder.releases_dir, builder.objects_dir, builder.family)
    return bring_to_signatures(
        builder,
        shelf,
        name=candidates.INITIAL,
        result=None,
        build=candidates.builder(code, lambda task: task.base_weights(seed), seed),
    )


def publish_initial(publisher: ServerSettings) -> Publication:
    """Offer the signed first candidate to every gateway; twice is the same as once.

    Raises:
        CandidateError: it is not there or not signed twice.
    """
    folder = publisher.objects_dir / "candidates" / candidates.INITIAL
    return publish(publisher.releases_dir, folder, online_key(publisher.keys))
