"""What the connections of one listener share, and who is told about their requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fedge.serving.asgi import App

if TYPE_CHECKING:
    from fedge.serving.connection import Connection


class Observer(Protocol):
    """Who is told what becomes of requests; `fedge.serving.stats` counts it."""

    def begun(self) -> None:
        """A request is being served."""

    def answered(self, status: int, seconds: float) -> None:
        """One that had begun was answered; status 0 where its caller had gone."""

    def refused(self, why: str) -> None:
        """A limit held."""


class Unobserved:
    """Nobody is told."""

    def begun(self) -> None:
        pass

    def answered(self, status: int, seconds: float) -> None:
        pass

    def refused(self, why: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow a client may be, in seconds.

    Attributes:
        header_s: from the first byte of a request (or from connecting) to the end of its headers.
        body_s: from there to the end of its body; also for fetching its answers.
        idle_s: from an answer to the next request.
    """

    header_s: float
    body_s: float
    idle_s: float


@dataclass(slots=True)
class Front:
    """What the connections of one listener share.

    Attributes:
        draining: while true every answer is the last of its connection.
    """

    app: App
    pace: Pace
    loop: asyncio.AbstractEventLoop
    observer: Observer = field(default_factory=Unobserved)
    draining: bool = False
    connections: set[Connection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
