"""Takes up a release on one gateway, or refuses it, at any point where power may fail.

    idle -> offered -> downloaded -> staged -> trial -> probation -> committed
                                                    (or -> stepped-back)

Each state is journaled before the next action begins, and each action may be
done twice, so going on after a kill is the same as going on. The installer
judges signatures (through its release source), floor, hardware class and task;
golden vectors and latency are judged by the worker in its trial. Starting and
stopping workers is the `SlotSwitch`'s work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedge.delivery.journal import Install, InstallJournal, InstallState, Running
from fedge.delivery.slots import (
    check_task,
    fill_slot,
    other_slot,
    read_slot,
    variant_for,
    wanted_files,
)
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import ProbeReport, ReleaseSource, Slot, SlotSwitch
from fedge.errors import (
    RollbackError,
    TamperedFileError,
    TrialFailedError,
    UntrustedReleaseError,
    UpdateRejectedError,
)
from fedge.records import ReleaseManifest
from fedge.statefile import StateFile

__all__ = ["InstallStatus", "Installer", "ProbeReport", "ReleaseSource", "Slot", "SlotSwitch"]

TRIES = 3
"""Trials that may be started for one release: an agent that is killed during one says nothing
about the model, a machine that goes down each time does."""

RETRY_S = 600.0
"""Damaged bytes say nothing about the release itself; after this time they are fetched again."""

BEFORE_TRIAL: frozenset[InstallState] = frozenset(
    {"idle", "offered", "downloaded", "staged", "committed", "stepped-back"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallStatus:
    """Public facts for fleet state.

    Attributes:
        state: where the install stands.
        release, sha256, variant, slot: what serves now; 0, "" and "none" before the first.
        refused_release, refused_reason: the latest refusal since the last commit; 0 with a
            reason when what was offered could not be read at all.
        refused_detail: the same in words, for the local log.
    """

    state: InstallState
    release: int
    sha256: str
    variant: str
    slot: str
    refused_release: int
    refused_reason: str
    refused_detail: str


class Installer:
    """One gateway's way from an offered release to a committed one.

    Args:
        state: the gateway's state file; the journal lives in it.
        releases: what is offered, and its files.
        store: where verified files wait.
        slots_dir: holds the folders `A` and `B`.
        switch: starts, swaps and stops the workers of slots.
        gateway: this gateway's fingerprint.
        task, task_version: the only ones accepted.
        hardware: this machine's hardware class.
        clock: seconds since the epoch.
        trial_s: seconds that a new release must serve before it is committed.
    """

    def __init__(
        self,
        state: StateFile,
        releases: ReleaseSource,
        store: ContentStore,
        slots_dir: Path,
        switch: SlotSwitch,
        *,
        gateway: str,
        task: str,
        task_version: int,
        hardware: str,
        clock: Callable[[], float],
        trial_s: float,
    ) -> None:
        self._journal = InstallJournal(state)
        self._releases, self._store, self._switch = releases, store, switch
        self._slots_dir, self._gateway = slots_dir, gateway
        self._task, self._task_version, self._hardware = task, task_version, hardware
        self._clock, self._trial_s = clock, trial_s
        self._actions: dict[InstallState, Callable[[Install], None]] = {
            "offered": self._download,
            "downloaded": self._stage,
            "staged": self._try,
            "trial": self._try,
            "probation": self._soak,
        }

    def step(self) -> InstallStatus:
        """Look at what is offered and go on as far as possible now. Call it regularly.

        A refusal is recorded and shown in the status; it is not raised.

        Raises:
            OutboundError: repository or supervisor did not answer; the next step goes on.
            StateError: this gateway's disk refused; the next step goes on.
        """
        self._notice_fallback()
        if self._journal.install().state in BEFORE_TRIAL and not self._ask():
            return self.status()
        while action := self._actions.get((install := self._journal.install()).state):
            try:
                action(install)
            except UpdateRejectedError as error:
                self._refuse(install, error)
            if self._journal.install() == install:
                break
        return self.status()

    def status(self) -> InstallStatus:
        """What is known now; asks nobody."""
        install, running = self._journal.install(), self._journal.running()
        refusal = self._journal.current_refusal()
        serving: Running | Install | None = install if install.state == "probation" else running
        manifest = serving.manifest if serving else None
        return InstallStatus(
            state=install.state,
            release=manifest.counter if manifest else 0,
            sha256=manifest.content_sha256 if manifest else "",
            variant=serving.variant if serving and manifest else "none",
            slot=(serving.slot or "none") if serving and manifest else "none",
            refused_release=refusal.counter if refusal else 0,
            refused_reason=refusal.reason if refusal else "",
            refused_detail=refusal.detail if refusal else "",
        )

    def _ask(self) -> bool:
        """Whether the install may go on: with the same release, or with a newly offered one.

        An install that has not reached its trial goes on only while fresh metadata still
        offers it.
        """
        install = self._journal.install()
        try:
            manifest = self._releases.offered(self._gateway)
        except UpdateRejectedError as error:
            self._journal.end(install, refused=None, error=error, at=self._clock())
            return False
        self._journal.metadata_is_readable()
        if manifest is None or self._settled(manifest):
            if install.state in self._actions:
                self._journal.write(Install(state=self._resting()))
            return False
        if install.state in self._actions and install.manifest == manifest:
            return True
        try:
            self._check_offer(manifest)
            variant = variant_for(manifest, self._hardware)
        except UpdateRejectedError as error:
            self._refuse(Install(manifest=manifest), error)
            return False
        self._journal.write(Install(state="offered", manifest=manifest, variant=variant))
        return True

    def _settled(self, manifest: ReleaseManifest) -> bool:
        """Nothing to do: it serves already, or it was refused."""
        running = self._journal.running()
        if running is not None and running.manifest == manifest:
            return True
        refusal = self._journal.refusal_of(manifest)
        if refusal is None:
            return False
        # abs: a clock that was set back must not make the wait endless.
        waited = abs(self._clock() - refusal.at) >= RETRY_S
        return not (refusal.reason == TamperedFileError.reason and waited)

    def _check_offer(self, manifest: ReleaseManifest) -> None:
        running = self._journal.running()
        if running is None:
            return
        if manifest.counter < running.floor:
            raise RollbackError(manifest.counter, running.floor)
        if manifest.counter == running.manifest.counter:
            raise UntrustedReleaseError(f"release {manifest.counter} exists with other content")

    def _download(self, install: Install) -> None:
        manifest = _manifest(install)
        names = wanted_files(manifest, install.variant)
        self._releases.fetch(manifest, self._store, names)
        check_task(manifest, self._store, self._task, self._task_version)
        self._journal.write(replace(install, state="downloaded"))

    def _stage(self, install: Install) -> None:
        slot = other_slot(self._switch.active())
        manifest = _manifest(install)
        fill_slot(
            self._slots_dir, slot, manifest, install.variant, self._store, self._switch.discard
        )
        self._journal.write(replace(install, state="staged", slot=slot, tries_left=TRIES))

    def _try(self, install: Install) -> None:
        slot = _slot(install)
        if self._switch.active() != slot:
            if install.tries_left == 0:
                raise TrialFailedError(f"{TRIES} trials were started and none ended")
            # Counted down on disk before the model runs: it may take the machine with it.
            started = replace(install, state="trial", tries_left=install.tries_left - 1)
            self._journal.write(started)
            self._switch.discard(slot)  # whatever a trial that was cut short left running
            read_slot(self._slots_dir, slot)
            self._switch.trial(slot)
            self._switch.takeover(slot)
        self._journal.write(replace(install, state="probation", since=self._clock()))

    def _soak(self, install: Install) -> None:
        slot, manifest = _slot(install), _manifest(install)
        if self._switch.active() != slot:
            raise TrialFailedError("its worker failed and the supervisor stepped back")
        now = self._clock()
        if now < install.since:  # the clock was set back: start the wait again
            self._journal.write(replace(install, since=now))
            return
        if now - install.since < self._trial_s:
            return
        running = Running(
            slot=slot, variant=install.variant, manifest=manifest, floor=manifest.counter
        )
        self._journal.commit(replace(install, state="committed"), running)
        self._store.keep_only({file.sha256 for file in manifest.files.values()})

    def _refuse(self, install: Install, error: UpdateRejectedError) -> None:
        """End an install. What served before it serves on."""
        ended = Install(state=self._resting())
        if install.slot is not None:
            ended = replace(install, state="stepped-back")
            if self._switch.active() != install.slot:
                self._switch.discard(install.slot)
        self._journal.end(ended, refused=install.manifest, error=error, at=self._clock())

    def _notice_fallback(self) -> None:
        """The supervisor may have gone back to the other slot by itself, any time after commit."""
        running, install = self._journal.running(), self._journal.install()
        # Between staging and commit the other slot is the new release's, not a fallback.
        if running is None or (install.state in self._actions and install.slot is not None):
            return
        active = self._switch.active()
        if active is None or active == running.slot:
            return
        try:
            manifest, variant = read_slot(self._slots_dir, active)
            serving = Running(slot=active, variant=variant, manifest=manifest, floor=running.floor)
        except TamperedFileError:
            serving = None  # nobody can say what serves; a newer release will replace it
        self._journal.end(
            Install(state="stepped-back", manifest=running.manifest, slot=running.slot),
            refused=running.manifest,
            error=TrialFailedError("its worker kept failing after it was committed"),
            at=self._clock(),
            running=serving,
        )

    def _resting(self) -> InstallState:
        return "idle" if self._journal.running() is None else "committed"


def _manifest(install: Install) -> ReleaseManifest:
    if install.manifest is None:
        raise RuntimeError(f"the journal is in state {install.state} without a release")
    return install.manifest


def _slot(install: Install) -> Slot:
    if install.slot is None:
        raise RuntimeError(f"the journal is in state {install.state} without a slot")
    return install.slot
