"""What lies in a slot: the files of one release, chosen for one hardware class.

A slot folder is complete or absent: it is built beside its place and moved there
in one rename. It holds the release's files under their names, `release.json`
and `variant.txt`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from fedge.delivery.names import MANIFEST
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import Slot
from fedge.durable import make_folder, sync_folder, write_file
from fedge.errors import (
    HardwareMismatchError,
    RecordError,
    SchemaMismatchError,
    StateError,
    TamperedFileError,
)
from fedge.records import Reference, ReleaseManifest, TaskSchema, sha256_hex

VARIANT = "variant.txt"
SLOTS: tuple[Slot, Slot] = ("A", "B")


def other_slot(active: Slot | None) -> Slot:
    """Where the next release goes: never the active slot, A on a new gateway."""
    return "B" if active == "A" else "A"


def variant_for(manifest: ReleaseManifest, hardware: str) -> str:
    """Which of the release's models this hardware class runs.

    Raises:
        HardwareMismatchError: none was made and measured for it.
    """
    if hardware not in manifest.variants:
        raise HardwareMismatchError(
            f"release {manifest.counter} is for {sorted(manifest.variants)}, not {hardware}"
        )
    return manifest.variants[hardware]


def wanted_files(manifest: ReleaseManifest, variant: str) -> tuple[str, ...]:
    """Everything in the release but the models of other variants."""
    return tuple(
        name
        for name in sorted(manifest.files)
        if name == f"model.{variant}.onnx"
        or not (name.startswith("model.") and name.endswith(".onnx"))
    )


def check_task(manifest: ReleaseManifest, store: ContentStore, task: str, version: int) -> None:
    """Refuse a release that speaks of another task, before it is put into a slot.

    Raises:
        SchemaMismatchError: `task.json` or `reference.json` is of another task or version, or
            they do not fit each other.
        TamperedFileError: a file is missing or damaged in the store.
    """
    try:
        schema = TaskSchema.from_bytes(store.read(manifest.files["task.json"].sha256))
        reference = Reference.from_bytes(store.read(manifest.files["reference.json"].sha256))
    except RecordError as error:
        raise SchemaMismatchError(f"unreadable here: {error}") from error
    if (schema.name, schema.version) != (task, version) or manifest.task_version != version:
        raise SchemaMismatchError(
            f"the release is for {schema.name} version {schema.version}, "
            f"this gateway runs {task} version {version}"
        )
    if tuple(stream.name for stream in reference.streams) != schema.streams:
        raise SchemaMismatchError("the reference does not describe the task's streams")


def fill_slot(
    slots_dir: Path,
    slot: Slot,
    manifest: ReleaseManifest,
    variant: str,
    store: ContentStore,
    before_swap: Callable[[Slot], None],
) -> None:
    """Replace a slot's content by a release. Ended anywhere, it can be done again.

    Args:
        before_swap: called when the new content is complete, before the old is touched.

    Raises:
        TamperedFileError: a file is missing or damaged in the store.
        StateError: the disk refused.
    """
    place, coming = slots_dir / slot, slots_dir / f"{slot}.coming"
    leaving = slots_dir / f"{slot}.leaving"
    try:
        make_folder(slots_dir)
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir()
        for name in wanted_files(manifest, variant):
            write_file(coming / name, store.read(manifest.files[name].sha256))
        write_file(coming / MANIFEST, manifest.to_bytes())
        write_file(coming / VARIANT, variant.encode())
        before_swap(slot)
        shutil.rmtree(leaving, ignore_errors=True)
        if place.exists():
            place.rename(leaving)
        coming.rename(place)
        sync_folder(slots_dir)
        shutil.rmtree(leaving, ignore_errors=True)
    except OSError as error:
        raise StateError(f"cannot fill slot {slot}: {error}") from error


def read_slot(slots_dir: Path, slot: Slot) -> tuple[ReleaseManifest, str]:
    """The release in a slot and its variant, every file hashed again.

    Raises:
        TamperedFileError: the slot is empty, incomplete or damaged.
    """
    place = slots_dir / slot
    try:
        manifest = ReleaseManifest.from_bytes((place / MANIFEST).read_bytes())
        variant = (place / VARIANT).read_text()
        for name in wanted_files(manifest, variant):
            if sha256_hex((place / name).read_bytes()) != manifest.files[name].sha256:
                raise TamperedFileError(f"{name} in slot {slot} is damaged on this disk")
    except (OSError, UnicodeDecodeError, RecordError) as error:
        raise TamperedFileError(f"slot {slot} holds no whole release: {error}") from error
    return manifest, variant
