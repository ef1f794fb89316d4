"""Every exception fedge raises on purpose, sorted by who must act.

The parent class tells the caller what state it is in; the fields let a test,
a log or fleet state read the cause without parsing text. Wrong use by our own
code (a wrong call order) is a `RuntimeError` and not listed here.
"""

from __future__ import annotations


class FedgeError(Exception):
    """Base of every error fedge raises on purpose."""


# --- the person who configures must act -----------------------------------------------


class SettingError(FedgeError):
    """A setting or an argument is wrong; nothing was started or changed."""


class ChoiceError(SettingError):
    """The recorded choice of an adapter does not apply; nothing was planned or built with it."""


class TaskError(FedgeError):
    """A task's `task.json` or its code part is wrong, or data does not fit its schema."""


class TableError(FedgeError):
    """A table cannot be judged: unreadable, empty, or without a column that was named."""


class StateError(FedgeError):
    """A state directory cannot be used: in use, corrupt, or of another version."""


# --- the sender of some bytes must act ------------------------------------------------


class RecordError(FedgeError):
    """Bytes that should hold a record do not: malformed, of another schema, or out of range."""


class EnvelopeError(RecordError):
    """A signed envelope was refused; nothing of it was stored."""


class SignatureError(EnvelopeError):
    """The signature does not fit the envelope, its payload or the key."""


class WitnessKeyError(SignatureError):
    """A ledger was confirmed under another key than the one that is trusted."""

    def __init__(self, offered: str, trusted: str) -> None:
        super().__init__(offered, trusted)
        self.offered = offered
        self.trusted = trusted

    def __str__(self) -> str:
        return f"the witness signs with {self.offered}, trusted is {self.trusted}"


class UnknownKeyError(EnvelopeError):
    """The key that signed is not admitted."""

    def __init__(self, gateway: str) -> None:
        super().__init__(gateway)
        self.gateway = gateway

    def __str__(self) -> str:
        return f"gateway {self.gateway} is not admitted; run `fedge server admit` with its key"


class SequenceConflictError(EnvelopeError):
    """A sequence number is already stored for another payload."""

    def __init__(self, gateway: str, seq: int) -> None:
        super().__init__(gateway, seq)
        self.gateway, self.seq = gateway, seq

    def __str__(self) -> str:
        return f"gateway {self.gateway} already sent another payload as number {self.seq}"


class ProofError(RecordError):
    """A Merkle proof does not show what it is said to show."""


class WindowConflictError(EnvelopeError):
    """A window is already reported under another sequence number."""

    def __init__(self, gateway: str, window: int) -> None:
        super().__init__(gateway, window)
        self.gateway, self.window = gateway, window

    def __str__(self) -> str:
        return f"gateway {self.gateway} already sent another report of window {self.window}"


class AuditConflictError(EnvelopeError):
    """Ledger entries, or the head over them, contradict what this gateway already sent.

    Attributes:
        seq: number of the first entry that does, or of the last one under the head.
        reason: what is wrong, in words.
    """

    def __init__(
        self, gateway: str, seq: int, reason: str = "it is of another ledger than the stored ones"
    ) -> None:
        super().__init__(gateway, seq, reason)
        self.gateway, self.seq, self.reason = gateway, seq, reason

    def __str__(self) -> str:
        return (
            f"the ledger of gateway {self.gateway} does not hold at entry {self.seq}: {self.reason}"
        )


class EnvelopeTooLargeError(EnvelopeError):
    """More bytes than this server takes; they were not read."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"larger than the {self.limit} bytes that are taken"


class BundleError(RecordError):
    """A ledger bundle cannot be read: truncated, changed, or not of this form."""


class NonFiniteValueError(FedgeError):
    """A value that must be finite is NaN or infinite; nothing changed."""


class RequestError(FedgeError):
    """An inference or feedback request was refused with a 4xx.

    Attributes:
        status: the HTTP status, 400 to 499; 503 where no request of its kind can be served now.
        field: the part of the request that is wrong, as a path such as `inputs[0].shape`.
    """

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(status, field, message)
        self.status, self.field, self.message = status, field, message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class TooManyRequestsError(RequestError):
    """A limit was reached (429); the same request may be sent again after `retry_after_s`."""

    def __init__(self, field: str, message: str, retry_after_s: float) -> None:
        super().__init__(429, field, message)
        self.args = (field, message, retry_after_s)  # survives pickling
        self.retry_after_s = retry_after_s


class InferenceError(FedgeError):
    """The model could not be run on a valid input; the caller gets a 422, the worker goes on."""


# --- privacy: nothing was released ----------------------------------------------------


class BudgetError(FedgeError):
    """The ledger refused; nothing was charged and nothing may be released."""


class BudgetExhaustedError(BudgetError):
    """A block has too little left for what was asked.

    Attributes:
        block: the data block.
        asked_nano: what was asked, in nano-RDP at the policy's order.
        left_nano: what the block has left.
    """

    def __init__(self, block: int, asked_nano: int, left_nano: int) -> None:
        super().__init__(block, asked_nano, left_nano)
        self.block, self.asked_nano, self.left_nano = block, asked_nano, left_nano

    def __str__(self) -> str:
        return f"block {self.block} has {self.left_nano} nano-RDP left, {self.asked_nano} asked"


class RecoveredBlockError(BudgetExhaustedError):
    """A block lost its budget with the state that knew what was spent of it."""

    def __init__(self, block: int) -> None:
        super().__init__(block, 0, 0)
        self.args = (block,)  # survives pickling

    def __str__(self) -> str:
        return f"block {self.block} has no budget left since the ledger was recovered"


class QuotaExceededError(BudgetError):
    """A purpose has used up the part of a block's cap that the policy gives it.

    Attributes:
        block: the data block.
        purpose, task: of the quota; `*` is every task.
        asked_nano: what was asked, in nano-RDP at the policy's order.
        left_nano: what the quota has left.
    """

    def __init__(
        self, block: int, purpose: str, task: str, asked_nano: int, left_nano: int
    ) -> None:
        super().__init__(block, purpose, task, asked_nano, left_nano)
        self.block, self.purpose, self.task = block, purpose, task
        self.asked_nano, self.left_nano = asked_nano, left_nano

    def __str__(self) -> str:
        return (
            f"the quota of {self.purpose} ({self.task}) in block {self.block} has "
            f"{self.left_nano} nano-RDP left, {self.asked_nano} asked"
        )


class UnknownEventError(BudgetError):
    """The accountant does not know this mechanism; its cost is unknown, so it is refused."""


class AuditRefusedError(BudgetError):
    """Canaries were about to enter real data: audits of a run are for staging ledgers only."""


class ReservationError(BudgetError):
    """Noise was asked for without a reservation, a second time, or for other parameters."""


class DrawLostError(ReservationError):
    """Noise was drawn and what it made was lost: the charge stands, and nothing is drawn again."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"what was noised under {key!r} was lost before it was stored; its charge stands, and "
            "it is not drawn a second time"
        )
        self.key = key


# --- a gateway keeps the model it has -------------------------------------------------


class UpdateRejectedError(FedgeError):
    """A release was refused; the gateway keeps the model it has.

    `reason` is a short fixed word that travels to fleet state.
    """

    reason = "rejected"


class UntrustedReleaseError(UpdateRejectedError):
    """Metadata is not signed as it must be, is expired, or went backwards."""

    reason = "untrusted-metadata"


class ExpiredMetadataError(UntrustedReleaseError):
    """Metadata is past its date: new installs wait for fresh metadata, the running model stays."""

    reason = "expired-metadata"


class TamperedFileError(UpdateRejectedError):
    """A file's bytes are not those that were signed."""

    reason = "tampered-file"


class RollbackError(UpdateRejectedError):
    """The offered release is older than the oldest this gateway may run."""

    reason = "older-than-floor"

    def __init__(self, offered: int, floor: int) -> None:
        super().__init__(offered, floor)
        self.offered, self.floor = offered, floor

    def __str__(self) -> str:
        return f"offered release {self.offered}, the floor is {self.floor}"


class HardwareMismatchError(UpdateRejectedError):
    """The release holds no variant for this hardware class."""

    reason = "wrong-hardware"


class SchemaMismatchError(UpdateRejectedError):
    """The release speaks another task or task version than this gateway was set up for."""

    reason = "wrong-task"


class TrialFailedError(UpdateRejectedError):
    """The model did not start, or failed its golden vectors or its latency probe."""

    reason = "trial-failed"


# --- training and the centre ----------------------------------------------------------


class MissingObjectError(FedgeError):
    """No object is stored under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no object is stored as {self.name}"


class ObjectConflictError(FedgeError):
    """Other bytes are already stored under this name; they stay."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"other bytes are already stored as {self.name}"


class BundleRefusedError(FedgeError):
    """A Flower bundle holds code, or names another ClientApp than ours."""


class ParticipationRefusedError(FedgeError):
    """A gateway does not take part in a run. `reason` is a public fact."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UpdateInvalidError(FedgeError):
    """An adapter update failed a check (shape, finite, norm) and was not summed."""


class RunFailedError(FedgeError):
    """A retraining run ended without a result; it may be retried under the same run id."""


class CandidateError(FedgeError):
    """A candidate or its signatures are not as they must be; nothing was signed or published."""


class GateFailedError(FedgeError):
    """A candidate did not pass a gate and does not become a release."""


class OutboundError(FedgeError):
    """A server could not be reached or did not answer as it should; try again later."""


class OutboundRefusedError(OutboundError):
    """A server was reached and refused this very message; others may be taken."""


class OutboundTimeoutError(OutboundError):
    """A server did not answer in the time that it was given."""
