"""Whether a policy can take the place of the one before it."""

from __future__ import annotations

from fedge.errors import SettingError, SignatureError
from fedge.privacy.approval import check_approval
from fedge.privacy.policy import check_policy
from fedge.records import BlockLength, PolicyApproval, PrivacyPolicy


def check_adoptable(policy: PrivacyPolicy, approval: PolicyApproval | None) -> None:
    """Refuse a policy that could never release anything.

    Raises:
        SettingError: it is such a one, or the approval is not its own.
    """
    check_policy(policy)
    if approval is not None:
        try:
            check_approval(approval, policy)
        except SignatureError as error:
            raise SettingError(f"the policy's approval does not fit: {error}") from error


def check_goes_on(
    before: BlockLength, after: BlockLength, *, newest_block: int, now: float, next_window: int
) -> None:
    """Refuse another length of blocks under which no new block would come for a long time.

    Blocks are numbered from the beginning of time, or of the stream, and no number comes back:
    with longer blocks they would begin far below those that were opened, and every record
    would lie in the newest one, whose budget is spent.

    Args:
        newest_block: the largest number that was opened; -1 for none.
        now: seconds since the epoch.
        next_window: of which nothing is reserved yet.

    Raises:
        SettingError: says what to do.
    """
    present = int((now if after.kind == "seconds" else next_window) // after.value)
    if present + 1 < newest_block:
        raise SettingError(
            f"blocks of {after.value} {after.kind} would now be at number {present}, and this "
            f"ledger is at {newest_block} with blocks of {before.value} {before.kind}: all records "
            "would lie in that one. Keep the length or choose a shorter one; for longer blocks set "
            "the gateway up anew, with a new identity"
        )
