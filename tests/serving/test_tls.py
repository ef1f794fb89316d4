"""TLS and mutual TLS on the inference port, with certificates made here."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fakes.gateways import FAMILY, fill_slot, infer_body, toy_inputs, wait_until
from fakes.listeners import QUICK, RunningListener, Wire, echo, request
from fakes.workers import StartWorker

from fedge.config import GatewaySettings, LimitSettings, TlsSettings
from fedge.errors import SettingError
from fedge.serving.asgi import Receive, Scope, Send
from fedge.serving.tls import ServerTls, server_context


class Authority:
    """Signs certificates, and keeps them with their keys as files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, authority=True)
        self.file = self._write(f"{name}.pem", self._certificate)

    def issue(self, name: str, password: bytes | None = None) -> tuple[Path, Path]:
        """Certificate and key files of `name`, valid for this host."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._write(f"{name}.crt", self._sign(subject, key, authority=False))
        key_file = self._folder / f"{name}.key"
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            locked = serialization.BestAvailableEncryption(password)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(encoding, form, locked))
        return certificate, key_file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        host = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(host, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self._folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "plant")


def own_tls(authority: Authority, client_ca: Path | None = None) -> TlsSettings:
    certificate, key = authority.issue("gateway")
    return TlsSettings(certificate=certificate, key=key, client_ca=client_ca)


def client(authority: Authority, files: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if files is not None:
        context.load_cert_chain(*files)
    return context


def connect(port: int, context: ssl.SSLContext) -> Wire:
    plain = socket.create_connection(("127.0.0.1", port), 10)
    return Wire(context.wrap_socket(plain, server_hostname="localhost"))


async def scheme(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how it was asked."""
    body = b'"%s"' % scope["scheme"].encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def test_a_worker_speaks_tls(
    gateway: GatewaySettings, start_worker: StartWorker, authority: Authority
) -> None:
    """By its settings, on the shared port; nothing is answered in the clear."""
    certificate, key = authority.issue("gateway")
    config = gateway.state_dir.parent / "gateway.toml"
    config.write_text(
        f'{config.read_text()}\n[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    )
    fill_slot(gateway.state_dir, "A", 1)
    port = start_worker("A").serve().port
    wire = connect(port, client(authority))
    answered = wire.ask(f"/v2/models/{FAMILY}/infer", infer_body(toy_inputs(2)))
    assert answered.status == 200 and answered.value["model_name"] == FAMILY
    plain = Wire(socket.create_connection(("127.0.0.1", port), 10))
    assert plain.send(request("/v2/health/live", method="GET")).closed()


def test_tls_carries_all_that_http_does(authority: Authority) -> None:
    """Kept alive, pipelined, and large; with a protocol version of today."""
    with RunningListener(scheme, tls=ServerTls(own_tls(authority))) as served:
        wire = connect(served.port, client(authority))
        assert wire.ask("/").value == "https"
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.version() in ("TLSv1.2", "TLSv1.3")
        wire.send(request("/") * 3)
        assert [wire.answer().value for _ in range(3)] == ["https"] * 3
    with RunningListener(echo, tls=ServerTls(own_tls(authority))) as served:
        wire = connect(served.port, client(authority))
        assert wire.ask("/", bytes(4 * 2**20)).value["size"] == 4 * 2**20
        last = wire.ask("/", connection="close")
        assert last.headers["connection"] == "close" and wire.closed()


def test_old_versions_are_refused(authority: Authority) -> None:
    """Below TLS 1.2 there is no connection."""
    tls = ServerTls(own_tls(authority))
    assert tls.context().minimum_version == ssl.TLSVersion.TLSv1_2
    old = client(authority)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with RunningListener(echo, tls=tls) as served:
        with pytest.raises((ssl.SSLError, OSError)):
            connect(served.port, old).ask("/")
        assert connect(served.port, client(authority)).ask("/").status == 200


def test_only_callers_with_a_certificate_come_in(authority: Authority, tmp_path: Path) -> None:
    """Mutual TLS: none, or one of another authority, gets no answer; the right one is served."""
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    tls = ServerTls(own_tls(authority, client_ca=authority.file))
    with RunningListener(echo, tls=tls) as served:
        for files in (None, stranger.issue("intruder")):
            # With TLS 1.3 the client believes to be connected until it reads.
            with pytest.raises((ssl.SSLError, OSError, AssertionError)):
                connect(served.port, client(authority, files)).ask("/")
        known = connect(served.port, client(authority, authority.issue("press-7")))
        assert known.ask("/").status == 200
        wait_until(lambda: served.listener.connections == 1, what="only the known one is there")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_handshake_that_does_not_go_on_is_cut(authority: Authority, said: bytes) -> None:
    """Silent, halfway, or no TLS at all: it counts as a connection, and ends in time."""
    limits = QUICK.model_copy(update={"max_connections": 2})
    with RunningListener(echo, limits, tls=ServerTls(own_tls(authority))) as served:
        stuck = served.connect().send(said)
        assert connect(served.port, client(authority)).ask("/").status == 200
        assert stuck.closed()
        wait_until(lambda: served.listener.connections == 0, what="nobody is left")


def test_handshakes_count_as_connections(authority: Authority) -> None:
    """Who never finishes one cannot take more places than there are."""
    limits = LimitSettings(max_connections=2)
    with RunningListener(echo, limits, tls=ServerTls(own_tls(authority))) as served:
        stuck = [served.connect() for _ in range(2)]
        wait_until(lambda: served.listener.connections == 2, what="both wait")
        assert served.connect().closed()
        stuck[0].close()
        wait_until(lambda: served.listener.connections == 1, what="one left")
        assert connect(served.port, client(authority)).ask("/").status == 200


def test_a_drain_ends_handshakes(authority: Authority) -> None:
    """One that is under way does not hold the process."""
    with RunningListener(echo, tls=ServerTls(own_tls(authority))) as served:
        stuck = served.connect()
        wait_until(lambda: served.listener.connections == 1, what="it waits")
        served.run(served.listener.drain(0.05))
        assert stuck.closed()


def test_a_renewed_certificate_counts_from_the_next_connection(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where certificate and key are replaced one after the other; none is cut or refused."""

    def serial(wire: Wire) -> str:
        assert isinstance(wire.socket, ssl.SSLSocket)
        certificate = wire.socket.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])

    settings = own_tls(authority)
    with RunningListener(echo, tls=ServerTls(settings)) as served:
        kept = connect(served.port, client(authority))
        before = serial(kept)
        certificate, key = authority.issue("renewed")
        certificate.replace(settings.certificate)
        assert serial(connect(served.port, client(authority))) == before
        key.replace(settings.key)
        renewed = connect(served.port, client(authority))
        assert serial(renewed) != before
        assert renewed.ask("/").status == kept.ask("/").status == 200
    assert caplog.text.count("before stay in use") == 1


def missing(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"certificate": Path("/nowhere/gateway.crt")})


def other_key(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"key": authority.issue("other")[1]})


def no_key(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"key": settings.certificate})


def locked_key(settings: TlsSettings, authority: Authority) -> TlsSettings:
    certificate, key = authority.issue("locked", password=b"secret")
    return TlsSettings(certificate=certificate, key=key)


def no_authority(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"client_ca": settings.certificate})


def no_certificates(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"client_ca": settings.key})


def missing_authority(settings: TlsSettings, authority: Authority) -> TlsSettings:
    return settings.model_copy(update={"client_ca": Path("/nowhere/ca.pem")})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (missing, "tls.certificate: cannot read /nowhere"),
        (other_key, "tls: .*MISMATCH"),
        (no_key, "tls: .*no certificate"),
        (locked_key, "tls.key: .*locked"),
        (no_authority, "tls.client_ca: .*no certificate of an authority"),
        (no_certificates, "tls.client_ca: .*no certificates"),
        (missing_authority, "tls.client_ca: cannot read"),
    ],
)
def test_wrong_files_are_wrong_settings(
    authority: Authority, change: Callable[[TlsSettings, Authority], TlsSettings], says: str
) -> None:
    """The gateway does not start, and says which setting is wrong."""
    with pytest.raises(SettingError, match=says):
        server_context(change(own_tls(authority), authority))
