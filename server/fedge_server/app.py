"""The coordinator's HTTP interface: takes envelopes, shows the fleet, serves releases.

A thin shell around `ingest`, `fleet` and `releases`. Every refusal is JSON,
`{"error": "<what is wrong>"}`. Plain HTTP: a front that speaks TLS belongs before it
wherever it is reached from another host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fedge.config import ServerSettings
from fedge.errors import (
    AuditConflictError,
    EnvelopeTooLargeError,
    FedgeError,
    RecordError,
    SequenceConflictError,
    SignatureError,
    StateError,
    UnknownKeyError,
    WindowConflictError,
)
from fedge.identity import Identity
from fedge.records import Record
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledgers import Ledgers
from fedge_server.releases import ReleaseFiles
from fedge_server.verdicts import fleet_standing
from fedge_server.witness import open_witness

log = logging.getLogger(__name__)

RecordT = TypeVar("RecordT", bound=Record)
EntryNumber = Annotated[int, Query(alias="from", ge=0, lt=2**53)]
QuestionNumber = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]

STATUSES: tuple[tuple[type[FedgeError], int], ...] = (
    (EnvelopeTooLargeError, 413),
    (UnknownKeyError, 401),
    (SignatureError, 403),
    (SequenceConflictError, 409),
    (WindowConflictError, 409),
    (AuditConflictError, 409),
    (RecordError, 400),
    (StateError, 503),
)
"""HTTP status of each refusal; the first class that fits counts."""


def create_app(settings: ServerSettings, database: Database, clock: Callable[[], float]) -> FastAPI:
    """The application on an open database; makes the witness key where there is none yet.

    Args:
        settings: for the size limit, the release repository's folder, and whether this is a
            staging centre.
        clock: seconds since the epoch.

    Raises:
        SettingError: the witness key cannot be read or made.
    """
    app = FastAPI(title="fedge coordinator", docs_url=None, redoc_url=None, openapi_url=None)
    witness = open_witness(settings)
    ingest = Ingest(
        database,
        clock,
        witness,
        max_payload_bytes=settings.max_report_bytes,
        simulated=settings.simulated,
    )
    fleet = Fleet(database, clock)

    @app.post("/v1/envelopes")
    async def post_envelope(request: Request) -> Response:
        data = await _read_body(request, ingest.max_bytes)
        return _answer(await run_in_threadpool(ingest.accept, data))

    @app.get("/v1/fleet")
    def get_fleet() -> Response:
        return _answer(fleet.state())

    @app.get("/v1/gateways/{fingerprint}")
    def get_gateway(fingerprint: str) -> Response:
        detail = fleet.detail(fingerprint)
        return _answer(_admitted(detail))

    @app.get("/v1/verdicts")
    def get_verdicts() -> Response:
        return _answer(fleet_standing(settings, database, clock()))

    @app.get("/health")
    def get_health() -> Response:
        return JSONResponse({"status": "ok", "database": database.revision})

    _show_ledgers(app, Ledgers(database), witness)
    app.mount("/releases", ReleaseFiles(settings.releases_dir))
    app.add_exception_handler(FedgeError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(ClientDisconnect, _refuse_disconnected)
    app.add_exception_handler(RequestValidationError, _refuse_arguments)
    return app


def _show_ledgers(app: FastAPI, ledgers: Ledgers, witness: Identity) -> None:
    """What gateways ask about their own ledgers, and the key that vouches for the answers."""

    @app.get("/v1/witness")
    def get_witness() -> Response:
        return JSONResponse({"public_key": witness.public_key.hex()})

    @app.get("/v1/ledgers/{gateway}/standing/{nonce}")
    def get_standing(gateway: str, nonce: QuestionNumber) -> Response:
        return _answer(_admitted(ledgers.answer(gateway, nonce, witness)))

    @app.get("/v1/ledgers/{gateway}/entries")
    def get_entries(gateway: str, first: EntryNumber = 0) -> Response:
        _admitted(ledgers.standing(gateway))
        page = ledgers.page(gateway, first)
        if page is None:
            return Response(status_code=204)
        return Response(page.to_bytes(), media_type="application/octet-stream")


def status_of(error: FedgeError) -> int:
    """The HTTP status that tells a sender about `error`."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def _admitted(found: RecordT | None) -> RecordT:
    if found is None:
        raise HTTPException(404, "no such gateway is admitted")
    return found


def _answer(record: Record) -> Response:
    return Response(record.to_bytes(), media_type="application/json")


async def _read_body(request: Request, limit: int) -> bytes:
    """The request's body, never more than `limit` bytes of it in memory.

    Raises:
        EnvelopeTooLargeError: it is longer, whatever its headers say.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise EnvelopeTooLargeError(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise EnvelopeTooLargeError(limit)
    return bytes(body)


def _refuse(_request: Request, error: Exception) -> Response:
    status = status_of(error) if isinstance(error, FedgeError) else 500
    if status >= 500:
        log.error("%s", error)
    return JSONResponse({"error": str(error)}, status)


def _refuse_http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _refuse_arguments(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "an argument is not as it must be"}, 400)


def _refuse_disconnected(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "the sender went away"}, 400)  # nobody reads it
