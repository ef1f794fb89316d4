"""Settings of the central host (`server.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fedge.config.base import Settings
from fedge.config.drift import AlertSettings, DriftSettings
from fedge.records import PublicKeyHex


class TrainingSettings(Settings):
    """How a retraining is planned (`[training]` in `server.toml`). Chosen on public data.

    Attributes:
        choice: record of the study that chose (`python -m fedge.learning.choice`). It then decides
            adapter, clip, learning rate, rounds and steps where they are not set here, and those
            that are set must be its own. Without it no choice is recorded.
        records: planned labelled records of a gateway.
        sample_above: planned records beyond which every step reads a Poisson sample.
        sample: records expected in such a sample.
    """

    choice: Path | None = None
    adapter: Literal["input", "head", "lora-b", "lora", "conv"] = "input"
    rounds: int = Field(default=2, ge=1)
    steps: int = Field(default=20, ge=1)
    clip: float = Field(default=0.5, gt=0)
    learning_rate: float = Field(default=2.4, gt=0)
    records: int = Field(default=300, ge=1)
    sample_above: int = Field(default=2000, ge=1)
    sample: int = Field(default=500, ge=1)
    evaluation_rho: float = Field(default=0.005, gt=0)
    round_timeout_s: float = Field(default=180.0, gt=0)
    min_gain_sigmas: float = Field(default=3.0, gt=0)


class KeySettings(Settings):
    """Key files (`[keys]`). A process reads only those that it names; none holds them all.

    `witness` countersigns the heads of gateways' ledgers; where it is not named, the coordinator
    makes one in its data folder at its first start.
    """

    builder: Path | None = None
    evaluator: Path | None = None
    online: Path | None = None
    witness: Path | None = None


class ComplianceSettings(Settings):
    """The report that is made on schedule (`[compliance]` in `server.toml`).

    Attributes:
        interval_s: seconds between reports.
        folder: where each gets a folder of its own, named by its moment; `compliance` in the data
            folder unless set.
        audits: folder with audit evidence that goes into the bundle; none unless set.
        controller: TOML with the controller's contacts, for its record of processing.
        reviewers: public keys, 64 hex digits, of those who may approve policies; without any the
            bundle's own word is taken, and the report says so.
        keep: folders of reports that are kept, the latest ones.
        one_run_audit: audits the training of each release with canaries, on the task's public
            data; for a staging centre alone (`simulated`).
    """

    interval_s: float = Field(default=86_400.0, ge=60)
    folder: Path | None = None
    audits: Path | None = None
    controller: Path | None = None
    reviewers: tuple[PublicKeyHex, ...] = ()
    keep: int = Field(default=400, ge=1)
    one_run_audit: bool = False


class ServerSettings(Settings):
    """The central host (`server.toml`), read by coordinator, rounds, evaluator and flows.

    Attributes:
        data_dir: database, objects and release repository live here unless set apart.
        policy: the privacy policy file that gateways of this fleet run under (public).
        simulated: makes this a staging centre: it takes what gateways with `simulated` send, and
            nothing that a real one does. What it releases proves nothing to a reviewer.
        superlink: `host:port` of the SuperLink; loopback only.
        flwr_home: Flower's own folder (configuration, installed bundles).
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=0, le=65535)
    database_url: str = ""
    policy: Path
    simulated: bool = False
    task: str = "digits"
    family: str = "digits"
    superlink: str = "127.0.0.1:8000"
    flwr_home: Path = Path("flwr")
    max_report_bytes: int = Field(default=4 * 2**20, ge=1024)
    monitor_interval_s: float = Field(default=60.0, gt=0)
    drift: DriftSettings = DriftSettings()
    training: TrainingSettings = TrainingSettings()
    alerts: AlertSettings = AlertSettings()
    keys: KeySettings = KeySettings()
    compliance: ComplianceSettings = ComplianceSettings()

    @model_validator(mode="after")
    def _canaries_in_staging_alone(self) -> Self:
        if self.compliance.one_run_audit and not self.simulated:
            raise ValueError(
                "[compliance] one_run_audit is for a staging centre, whose settings and those of "
                "its gateways say simulated = true"
            )
        return self

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'fedge.sqlite'}"

    @property
    def objects_dir(self) -> Path:
        return self.data_dir / "objects"

    @property
    def releases_dir(self) -> Path:
        return self.data_dir / "releases"
