"""The live display of a run on a terminal; plain lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from fedge.demo.watch import View


class Display:
    """Shows phase, windows, drift, release and budget of every gateway.

    Talk goes to stderr: stdout belongs to results.
    """

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._console = Console(file=sys.stderr)
        self._elapsed = elapsed
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._phase = ""

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def say(self, phase: str) -> None:
        """Show a phase that needs no table."""
        if phase == self._phase:
            return
        self._phase = phase
        if self._live.is_started:
            self._live.update(Panel(self._headline()))
        else:
            self._console.print(self._headline(), highlight=False)

    def show(
        self,
        view: View,
        gateways: Mapping[str, str],
        correct: Mapping[str, Sequence[bool]],
        recent: int,
    ) -> None:
        """Show a whole view.

        Args:
            gateways: name -> fingerprint.
            correct: each gateway's record of right answers; the last `recent` are shown.
        """
        if not self._live.is_started:
            self.say(view.phase)
            return
        self._phase = view.phase
        table = Table(expand=False, pad_edge=False)
        for column in ("gateway", "release", "windows", "accuracy", "state", "budget"):
            table.add_column(column, justify="left" if column == "state" else "right")
        states: dict[str, str] = {}
        if view.assessment is not None:
            states |= {verdict.gateway: verdict.state for verdict in view.assessment.verdicts}
            kinds = {
                v.gateway: f" ({v.cause}, {v.scope})" for v in view.assessment.verdicts if v.cause
            }
            states |= {
                episode.gateway: f"{episode.state}{kinds.get(episode.gateway, '')}"
                for episode in view.assessment.episodes
            }
        for name, fingerprint in gateways.items():
            latest = correct[name][-recent:]
            accuracy = f"{sum(latest) / len(latest):.0%}" if latest else "-"
            state = states.get(fingerprint, "unknown")
            table.add_row(name, *_facts(view, name), accuracy, state, _budget(view, name))
        self._live.update(Group(Panel(self._headline()), table))

    def _headline(self) -> str:
        return f"{self._elapsed():5.0f} s  {self._phase}"


def _facts(view: View, name: str) -> tuple[str, str]:
    status = view.statuses.get(name)
    if status is None:
        return "-", "-"
    return f"{status.release} ({status.variant})", str(status.windows)


def _budget(view: View, name: str) -> str:
    status = view.statuses.get(name)
    if status is None or not status.blocks:
        return "-"
    return f"{max(block.epsilon for block in status.blocks):.2f}"
