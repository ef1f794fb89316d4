"""What the coordinator's HTTP interface promises to whoever calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.centre import Centre
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.errors import (
    EnvelopeError,
    FedgeError,
    RecordError,
    SequenceConflictError,
    SignatureError,
    StateError,
    UnknownKeyError,
)
from fedge_server.app import status_of
from fedge_server.releases import WHOLE_BYTES

SAME_CENTRE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


@pytest.fixture
def releases(centre: Centre) -> Path:
    """A repository's folder with a file in it, and a secret beside it."""
    folder = centre.settings.releases_dir
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / "timestamp.json").write_bytes(b'{"v":1}')
    (folder / ".lock").write_bytes(b"hidden")
    (folder / "metadata" / ".timestamp.json.part").write_bytes(b"hidden")
    (folder.parent / "secret.txt").write_bytes(b"secret")
    return folder


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (UnknownKeyError("a" * 32), 401),
            (SignatureError("no"), 403),
            (SequenceConflictError("a" * 32, 1), 409),
            (EnvelopeError("no"), 400),
            (RecordError("no"), 400),
            (StateError("away"), 503),
            (FedgeError("a bug"), 500),
        ],
    )
    def test_statuses(self, error: FedgeError, status: int) -> None:
        """Each refusal tells the sender whether sending again can help."""
        assert status_of(error) == status

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/v1/envelopes", 405),
            ("POST", "/v1/fleet", 405),
            ("GET", "/v1/gateways/unknown", 404),
            ("GET", "/docs", 404),
            ("POST", "/releases/metadata/timestamp.json", 405),
        ],
    )
    def test_refusals_are_json(self, centre: Centre, method: str, path: str, status: int) -> None:
        """Also those that no handler of ours made."""
        answer = centre.client.request(method, path)

        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


class TestViews:
    def test_fleet_and_gateway_show_the_same(self, centre: Centre) -> None:
        """`/v1/fleet` holds what `/v1/gateways/<fingerprint>` holds, less the gaps."""
        sender = centre.admitted()
        centre.post(sender.status(1))
        centre.post(sender.report(2))

        fleet = centre.client.get("/v1/fleet").json()
        gateway = centre.client.get(f"/v1/gateways/{sender.fingerprint}").json()

        assert fleet["gateways"] == [gateway["gateway"]]
        assert gateway["gaps"] == [[0, 0]]
        assert fleet["gateways"][0]["status"]["variant"] == "int8"
        assert fleet["gateways"][0]["last_report"]["window"] == 2

    def test_views_hold_no_counts(self, centre: Centre) -> None:
        """The fleet view is for public facts; even noised counts stay in the log."""
        sender = centre.admitted()
        centre.post(sender.report(0))

        text = centre.client.get(f"/v1/gateways/{sender.fingerprint}").text

        assert "counts" not in text and "sigma2" not in text

    def test_health_asks_the_database(
        self, centre: Centre, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A coordinator that could not store anything is not healthy."""
        assert centre.client.get("/health").json()["status"] == "ok"

        def away() -> None:
            raise StateError("away")

        monkeypatch.setattr(centre.database, "reading", away)
        assert centre.client.get("/health").status_code == 503


class TestReleases:
    def test_files_are_served_as_they_are(self, centre: Centre, releases: Path) -> None:
        """Byte for byte, small and large."""
        large = bytes(range(256)) * (WHOLE_BYTES // 256 + 1)
        (releases / "targets").mkdir()
        (releases / "targets" / "model.onnx").write_bytes(large)

        small = centre.client.get("/releases/metadata/timestamp.json")
        assert (small.status_code, small.content) == (200, b'{"v":1}')
        assert centre.client.get("/releases/targets/model.onnx").content == large

    def test_a_replaced_file_is_seen_at_once(self, centre: Centre, releases: Path) -> None:
        """A new timestamp is what makes a release visible."""
        centre.client.get("/releases/metadata/timestamp.json")
        (releases / "metadata" / "timestamp.json").write_bytes(b'{"v":2,"longer":true}')

        answer = centre.client.get("/releases/metadata/timestamp.json")
        assert answer.content == b'{"v":2,"longer":true}'

    @pytest.mark.parametrize(
        "path",
        [
            "../secret.txt",
            "%2e%2e/secret.txt",
            "%2e%2e%2fsecret.txt",
            "metadata/../../secret.txt",
            "metadata/%2e%2e/%2e%2e/secret.txt",
            "..%5csecret.txt",
            "%2fetc%2fpasswd",
            "//etc/passwd",
            ".lock",
            "metadata/.timestamp.json.part",
            "",
            "metadata",
            "metadata/",
            "link",
            "nul%00byte",
            "x" * 5000,
        ],
    )
    def test_nothing_else_is(self, centre: Centre, releases: Path, path: str) -> None:
        """No way out of the folder, no hidden file, no listing."""
        (releases / "link").symlink_to(releases.parent / "secret.txt")

        answer = centre.client.get(f"/releases/{path}")

        assert answer.status_code == 404
        assert b"secret" not in answer.content and b"hidden" not in answer.content

    @given(st.text(max_size=60))
    @SAME_CENTRE
    def test_any_path_is_found_or_not(self, centre: Centre, path: str) -> None:
        """Never a 5xx, never a byte from outside the folder."""
        quoted = "".join(f"%{byte:02x}" for byte in path.encode(errors="surrogatepass"))

        assert centre.client.get(f"/releases/{quoted}").status_code == 404
        assert centre.client.get(f"/v1/gateways/{quoted}").status_code in (307, 404)
