"""TLS of the inference port: who we are, and whom we let in.

Protocol versions and ciphers are OpenSSL's choice from TLS 1.2 on. With a `client_ca` a
caller without a certificate of it does not get past the handshake (mutual TLS). Files that
are replaced, as renewed certificates are, count from the next connection on.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from fedge.config import TlsSettings
from fedge.errors import SettingError

log = logging.getLogger(__name__)


class ServerTls:
    """TLS that follows its files.

    Raises:
        SettingError: see `server_context`.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._seen = self._marks()
        self._context = server_context(settings)

    def context(self) -> ssl.SSLContext:
        """For the next connection. While the files do not fit together the old ones hold."""
        seen = self._marks()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = server_context(self._settings)
                log.info("read new TLS files")
            except SettingError as error:
                log.error("the TLS files before stay in use: %s", error)
        return self._context

    def _marks(self) -> list[tuple[int, ...]]:
        """Changes with any of the files."""
        wanted = self._settings
        paths = [path for path in (wanted.certificate, wanted.key, wanted.client_ca) if path]
        return [_mark(path) for path in paths]


class _LockedKeyError(Exception):
    """The key file asks for a password, and nobody is there to type it."""


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """What the listener needs to speak TLS.

    Raises:
        SettingError: a file is missing or holds something else, or certificate and key do not
            belong together; names the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("certificate", settings.certificate), ("key", settings.key)):
        _check_readable(name, path)
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_nobody_types)
    except _LockedKeyError:
        raise SettingError(f"tls.key: {settings.key} is locked with a password") from None
    except ssl.SSLError as error:
        raise SettingError(
            f"tls: {settings.certificate} and {settings.key} are no certificate (PEM) with its "
            f"key: {error.reason or error}"
        ) from error
    if settings.client_ca is not None:
        _ask_for_certificates(context, settings.client_ca)
    return context


def _ask_for_certificates(context: ssl.SSLContext, client_ca: Path) -> None:
    _check_readable("client_ca", client_ca)
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise SettingError(
            f"tls.client_ca: {client_ca} holds no certificates (PEM): {error.reason or error}"
        ) from error
    if not context.cert_store_stats()["x509_ca"]:
        # OpenSSL would take it, and then refuse every caller.
        raise SettingError(f"tls.client_ca: {client_ca} holds no certificate of an authority")
    context.verify_mode = ssl.CERT_REQUIRED


def _check_readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingError(f"tls.{name}: cannot read {path}: {error.strerror}") from error


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _nobody_types() -> str:
    raise _LockedKeyError
