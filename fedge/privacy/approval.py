"""Who allowed a policy, and why: signed with a reviewer's own key, in a file beside it.

The signature is over the hash of the policy, so that a policy that was changed in any
way needs another one. Which keys may sign is a setting of the gateway.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from fedge.durable import write_file
from fedge.errors import RecordError, SettingError, SignatureError
from fedge.identity import Identity
from fedge.privacy.heads import UNSIGNED, check_signature
from fedge.privacy.policy import read_policy
from fedge.records import PolicyApproval, PrivacyPolicy
from fedge.texts import is_plain

log = logging.getLogger(__name__)


def approval_path(policy_path: Path) -> Path:
    """Where the approval of the policy file at `policy_path` lies."""
    return policy_path.with_name(policy_path.name + ".approval")


def approve(
    policy: PrivacyPolicy, identity: Identity, *, reviewer: str, reason: str, at: float
) -> PolicyApproval:
    """Sign a policy.

    Args:
        identity: the reviewer's key.
        reviewer, reason: for people.
        at: seconds since the epoch.

    Raises:
        SettingError: reviewer or reason is empty or too long, or holds what would steer the
            terminal that shows it.
    """
    for name, text in (("reviewer", reviewer), ("reason", reason)):
        if not is_plain(text):
            raise SettingError(
                f"cannot approve the policy: {name} {text!r:.80} holds control characters"
            )
    try:
        unsigned = PolicyApproval(
            policy_sha256=policy.content_sha256,
            reviewer=reviewer,
            reason=reason,
            at=at,
            public_key=identity.public_key.hex(),
            signature=UNSIGNED,
        )
    except ValueError as error:
        raise SettingError(f"cannot approve the policy: {error}") from error
    return unsigned.model_copy(update={"signature": identity.sign(unsigned.signed).hex()})


def check_approval(approval: PolicyApproval, policy: PrivacyPolicy) -> None:
    """Check that an approval is of this very policy and was signed by the key that it names.

    Raises:
        SignatureError: it is not; another policy, or a forged signature.
    """
    if approval.policy_sha256 != policy.content_sha256:
        raise SignatureError("it is for another policy")
    check_signature(bytes.fromhex(approval.public_key), approval.signature, approval.signed)


def write_approval(approval: PolicyApproval, policy_path: Path) -> Path:
    """Write an approval beside its policy, all or nothing; answers where.

    Raises:
        SettingError: it cannot be written.
    """
    path = approval_path(policy_path)
    try:
        write_file(path, approval.to_bytes() + b"\n")
    except OSError as error:
        raise SettingError(f"cannot write the approval {path}: {error}") from error
    return path


def copy_policy(source: Path, target: Path) -> None:
    """Copy a policy file, and the approval beside it where there is one, as they are.

    Raises:
        SettingError: the policy is wrong, its approval does not fit, or they cannot be copied.
    """
    _, approval = read_policy_and_approval(source)
    try:
        write_file(target, source.read_bytes())
        if approval is None:
            approval_path(target).unlink(missing_ok=True)
    except OSError as error:
        raise SettingError(f"cannot copy the policy {source}: {error}") from error
    if approval is not None:
        write_approval(approval, target)


def read_policy_and_approval(
    path: Path, reviewers: Collection[str] = ()
) -> tuple[PrivacyPolicy, PolicyApproval | None]:
    """Read a policy file and the approval beside it.

    Args:
        reviewers: public keys in hex, one of which must have signed; if there are none, a
            policy that nobody signed is taken, and the log says so.

    Raises:
        SettingError: the policy is wrong, or its approval is missing though asked for, of
            another policy, forged, or of nobody who may sign.
    """
    policy, file = read_policy(path), approval_path(path)
    if not file.exists():
        if reviewers:
            raise SettingError(f"{path} is not signed; let a reviewer run `fedge policy sign`")
        log.warning("%s is not signed: a review will find nobody who allowed it", path)
        return policy, None
    try:
        approval = PolicyApproval.from_bytes(file.read_bytes())
        check_approval(approval, policy)
    except (OSError, RecordError) as error:
        raise SettingError(f"{file} does not approve {path.name}: {error}") from error
    if reviewers and approval.public_key not in reviewers:
        raise SettingError(
            f"{file} is signed by {approval.public_key}, who is none of `policy_reviewers`"
        )
    return policy, approval
