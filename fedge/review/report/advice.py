"""What somebody who reads a finding can do about it, by the verifier's short word for it.

Whoever reads a report is mostly not who can mend a gateway; so each sentence names whom to ask,
for what. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedge.review.report.model import Remark

_NOTHING = "Nothing"
_NEWER = "Ask for a newer bundle"
_OPERATOR = "Ask the gateway's operator"

ADVICE: Mapping[str, str] = {
    "unpinned": "Compare the keys of this kind under Keys to compare with what their owners say, "
    "or have the report made again with these keys given.",
    "unwitnessed-entries": f"{_NEWER}: the coordinator confirms the rest once it has arrived. If "
    "the rest stays unconfirmed, ask the coordinator's operator why.",
    "unnamed-witness": "Ask the coordinator's operator for its key (fedge server witness), and "
    "have the report made again with it given.",
    "unsigned-entries": f"{_NEWER}. If the rest stays unsigned, nobody answers for these entries: "
    "ask who made the bundle where they come from.",
    "stale": f"{_NEWER}. If its last signature is as old, ask the gateway's operator why no ledger "
    "arrives any more.",
    "lagging": f"{_NEWER} when the gateway has been connected again.",
    "missing-gateway": "Ask who made the bundle for one with this gateway's ledger, or whether the "
    "gateway was ever in use.",
    "unchecked-replies": "Ask who made the bundle for one with the ledgers of all gateways that "
    "took part in this retraining.",
    "unchecked-runs": "Ask the coordinator's operator for its bundle: it shows which data these "
    "retrainings were to read.",
    "unknown-run": "Ask the coordinator's operator what became of this retraining. Its charge is "
    "counted.",
    "uncharged-block": f"{_OPERATOR} whether these windows were removed before the retraining; the "
    "ledger cannot show it.",
    "unknown-windows": f"{_OPERATOR} which data this retraining read; the ledger cannot show it.",
    "release-epsilon": "Go by the epsilon in this report, not by the model's own, and ask who "
    "published the model to correct it.",
    "unsigned-policy": "Have a reviewer sign the policy (fedge policy sign), and let gateways "
    "accept signed ones only (policy_reviewers).",
    "odd-approval-date": "Ask the reviewer when the policy was signed.",
    "older-approval": "Ask the reviewer whether the earlier policy was meant to come back.",
    "anonymous-ledger": f"{_OPERATOR} to begin a new ledger under a current version: this one's "
    "first entry names nobody.",
    "exclusion": "Decide whether what is left out may leave the gateway on other grounds; this "
    "bound says nothing about it.",
    "floating-point-noise": "Decide whether the rounding of this noise is acceptable; later "
    "retrainings avoid it without Poisson samples.",
    "recovered": f"{_NOTHING}, if the loss is known to the operator: no budget was won by it. "
    "Otherwise ask why the state was lost.",
    "odd-clock": "Have the clocks of gateway and coordinator checked. Times in this ledger are "
    "not to be relied on.",
    "short-block": f"{_OPERATOR} why blocks ended early; one after a crash is no harm.",
    "early-block": f"{_OPERATOR} whether its clock was changed: each block brings a budget of its "
    "own.",
    "missing-artefacts": f"{_NOTHING} for the bound. Ask who made the bundle where each message is "
    "to be traced.",
    "lost-draw": f"{_NOTHING}: what was lost was never sent.",
    "quota": "Tell whoever set the quota. It is a house rule, and the bound holds all the same.",
}
"""For each kind of remark a sentence or two."""

UNKNOWN = "Ask who made the bundle to explain it before you rely on the bound."

REJECTED = (
    "What to do: rely on nothing in this bundle, and keep the file with this report. Ask whoever "
    "made it for an explanation and for a new export; if that is rejected too, let somebody look "
    "at the machine that is named above, and treat what left it as not accounted for."
)
SIMULATED = (
    "What to do: ask for a bundle of the production fleet. This one is of a simulation or a "
    "staging fleet, on which nothing is at stake."
)


def what_to_do(remark: Remark) -> str:
    """What a reader can do about a remark."""
    if remark.kind == "recovered" and remark.unproven:
        return (
            f"{_OPERATOR} which of the two copies sent what: what the other one sent is not in "
            "this ledger."
        )
    return ADVICE.get(remark.kind, UNKNOWN)


def about_rejection(deviation: Remark) -> str:
    """What a reader can do about a bundle that was rejected."""
    return SIMULATED if deviation.kind == "simulated" else REJECTED
