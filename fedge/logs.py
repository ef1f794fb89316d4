"""How fedge's processes write their logs: lines for people, or one JSON object each for machines.

Standard library alone, because the supervisor uses it. What is logged are events and
public facts, never a value that a request held: that is the callers' promise, and a
test searches all logs for planted values. For errors that nobody expected it is kept here:
their kind and place are logged and not their text, which other libraries fill with values.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class TextLines(logging.Formatter):
    """A line for people; an error follows with kind and place, without its text."""

    def format(self, record: logging.LogRecord) -> str:
        # Another handler may have left its own words for the error there, and with them its text.
        record = copy.copy(record)
        record.exc_text = None
        return super().format(record)

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the library's name
        """Places and kinds of an error and its causes, first cause first; see `TextLines`."""
        lines: list[str] = []
        told: set[int] = set()  # an error may be its own cause
        error: BaseException | None = ei[1]
        while error is not None and id(error) not in told:
            told.add(id(error))
            # As Python prints them: the first cause comes first.
            lines = [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}\n", *lines]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "".join(lines).rstrip("\n")


class JsonLines(TextLines):
    """One JSON object a line: `at` (UTC), `level`, `logger`, `process`, `message`, `error`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; `error` is there only where an exception was logged."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(process: str, log_format: str = "text") -> None:
    """Send this process's log to standard error.

    Args:
        process: its name in JSON lines: supervisor, agent, worker.
        log_format: `text` or `json`, as the setting of that name.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process) if log_format == "json" else TextLines(TEXT_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logging.getLogger(__name__).critical("ended by a bug", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
