"""Processes that must not outlive whoever started them (Linux, standard library alone)."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to end this process when its parent ends, however the parent ends.

    The request survives `exec`, so it also serves as a `preexec_fn`. Where the parent is
    gone already, the process ends at once.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)
