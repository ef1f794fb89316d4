"""Ends a forked child with SIGKILL at its n-th dangerous moment, and says whether it got there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


class KillPoints:
    """Counts the moments just before and just after each wrapped call."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def moment(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def wrap(self, owner: Any, name: str) -> None:
        """Replace `owner.name`; only ever done in a child that is about to die."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.moment()
            answer = original(*args, **kwargs)
            self.moment()
            return answer

        setattr(owner, name, wrapped)


def killed(work: Callable[[KillPoints], None], kill_at: int) -> bool:
    """Run `work` in a fork that dies at moment `kill_at`.

    Returns:
        True if it was killed there, False if it finished before.

    Raises:
        AssertionError: it ended in another way.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(KillPoints(kill_at))
            code = 0
        except BaseException:  # noqa: BLE001  a child must never return into pytest
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
    return False
