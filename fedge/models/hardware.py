"""Which hardware class this machine is: what decides which of a release's models it may run.

INT8 kernels differ between classes, in speed and (without VNNI) in saturation, so a
release is measured and approved per class. Standard library alone.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

from fedge.errors import SettingError

HardwareClass = Literal["x86-vnni", "x86-avx2", "x86", "arm64"]

VNNI_FLAGS = {"avx512_vnni", "avx_vnni"}
X86_MACHINES, ARM_MACHINES = {"x86_64", "amd64", "i686"}, {"aarch64", "arm64"}


def classify(machine: str, cpuinfo: str) -> HardwareClass:
    """The class of a machine from its architecture name and the text of `/proc/cpuinfo`.

    Raises:
        SettingError: no release is ever made for such a machine.
    """
    if machine.lower() in ARM_MACHINES:
        return "arm64"
    if machine.lower() not in X86_MACHINES:
        raise SettingError(f"no hardware class for {machine}: fedge serves on x86 and arm64")
    # Every core must have a flag: a process may be moved to any of them.
    cores = [
        set(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.startswith("flags")
    ]
    flags = set.intersection(*cores) if cores else set()
    if flags & VNNI_FLAGS:
        return "x86-vnni"
    return "x86-avx2" if "avx2" in flags else "x86"


def hardware_class() -> HardwareClass:
    """The class of this machine.

    Raises:
        SettingError: it has none, or its processor cannot be read.
    """
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError as error:
        raise SettingError(f"cannot tell the hardware class: {error}") from error
    return classify(platform.machine(), cpuinfo)
