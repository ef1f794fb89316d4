"""Frozen records that cross a wire or a disk: the vocabulary every part shares."""

from fedge.records.audit import (
    AuditBatch,
    GapRecord,
)
from fedge.records.base import (
    Count,
    Fingerprint,
    Name,
    NoisyCount,
    PublicKeyHex,
    Record,
    RunId,
    Sha256,
    canonical,
    sha256_hex,
)
from fedge.records.privacy import (
    BlockLength,
    BlockSpending,
    DiscreteGaussianEvent,
    PrivacyPolicy,
)
from fedge.records.receipts import (
    Receipt,
)
from fedge.records.reference import (
    CategoricalStream,
    NumericStream,
    Reference,
)
from fedge.records.releases import (
    ReleaseFile,
    ReleaseManifest,
    RolloutTable,
)
from fedge.records.reports import (
    FeatureCounts,
    GatewayStatus,
    WindowReport,
)
from fedge.records.runs import (
    AdapterKind,
    AdapterUpdate,
    PairedCounts,
    Participant,
    RoundRequest,
    RunResult,
    RunSpec,
    TrainingPlan,
)
from fedge.records.task import (
    CLASS_STREAM,
    CONFIDENCE_STREAM,
    NUMERIC_BINS,
    OOD_STREAM,
    CategoricalFeature,
    ModelInput,
    NumericFeature,
    NumericType,
    Sensitivity,
    TaskSchema,
)

__all__ = [
    "CLASS_STREAM",
    "CONFIDENCE_STREAM",
    "NUMERIC_BINS",
    "OOD_STREAM",
    "AdapterKind",
    "AdapterUpdate",
    "AuditBatch",
    "BlockLength",
    "BlockSpending",
    "CategoricalFeature",
    "CategoricalStream",
    "Count",
    "DiscreteGaussianEvent",
    "FeatureCounts",
    "Fingerprint",
    "GapRecord",
    "GatewayStatus",
    "ModelInput",
    "Name",
    "NoisyCount",
    "NumericFeature",
    "NumericStream",
    "NumericType",
    "PairedCounts",
    "Participant",
    "PrivacyPolicy",
    "PublicKeyHex",
    "Receipt",
    "Record",
    "Reference",
    "ReleaseFile",
    "ReleaseManifest",
    "RolloutTable",
    "RoundRequest",
    "RunId",
    "RunResult",
    "RunSpec",
    "Sensitivity",
    "Sha256",
    "TaskSchema",
    "TrainingPlan",
    "WindowReport",
    "canonical",
    "sha256_hex",
]
