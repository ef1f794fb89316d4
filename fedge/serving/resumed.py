"""Going on, in a task, with a coroutine whose first step was taken without one."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def resumed(call: Coroutine[Any, Any, None], awaited: object) -> Generator[object, Any, None]:
    """Go on with a coroutine that was started by hand and awaits something."""
    go_on: Callable[[Any], Any]
    while True:
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - a cancellation, most of all: passed on
            go_on, given = call.throw, error
        else:
            go_on, given = call.send, sent
        try:
            awaited = go_on(given)
        except StopIteration:
            return
