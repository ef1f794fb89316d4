"""Promises of the gateway's release client, against a real HTTP server on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.releases import FAMILY, GATEWAY, OTHER_GATEWAY, ReleaseWorld, served
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets

from fedge.delivery.client import ReleaseClient
from fedge.delivery.fetcher import HttpFetcher
from fedge.delivery.keys import create_key, load_signer
from fedge.delivery.names import rollout_target
from fedge.delivery.repository import Published, ReleaseRepository
from fedge.delivery.signing import signed
from fedge.delivery.store import ContentStore
from fedge.errors import (
    ExpiredMetadataError,
    OutboundError,
    TamperedFileError,
    UntrustedReleaseError,
)
from fedge.records import RolloutTable


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "gateway" / "store")


def test_nothing_offered_before_the_first_release(client: ReleaseClient) -> None:
    """An empty repository is not an error."""
    assert client.offered(GATEWAY) is None


def test_offered_release_is_fetched_whole(
    world: ReleaseWorld, client: ReleaseClient, store: ContentStore
) -> None:
    """What is offered is what was published, file by file."""
    manifest = world.release(1)

    offered = client.offered(GATEWAY)
    assert offered is not None and offered == manifest
    client.fetch(offered, store, tuple(offered.files))

    folder = world.folder / "candidates" / "1"
    for name, file in offered.files.items():
        assert store.read(file.sha256) == (folder / name).read_bytes()


def test_each_gateway_sees_its_own_release(world: ReleaseWorld, client: ReleaseClient) -> None:
    """The table, not the newest number, says what a gateway should run."""
    world.release(1)
    world.release(2, gateways=[GATEWAY])

    assert [client.offered(g).counter for g in (GATEWAY, OTHER_GATEWAY)] == [2, 1]  # type: ignore[union-attr]


def test_files_are_fetched_once(
    world: ReleaseWorld, client: ReleaseClient, store: ContentStore
) -> None:
    """Files in the store are not asked for again, so a broken download goes on where it was."""
    manifest = world.release(1)
    client.fetch(manifest, store, tuple(manifest.files))
    shutil.rmtree(world.releases_dir / "targets" / FAMILY)

    client.fetch(manifest, store, tuple(manifest.files))


def test_tampered_file_is_refused(
    world: ReleaseWorld, client: ReleaseClient, store: ContentStore
) -> None:
    """A model whose bytes changed on the server never reaches the store."""
    manifest = world.release(1)
    path = world.served_file(1, "model.int8.onnx")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])

    with pytest.raises(TamperedFileError):
        client.fetch(manifest, store, ("task.json", "model.int8.onnx"))

    assert store.has(manifest.files["task.json"].sha256)
    assert not store.has(manifest.files["model.int8.onnx"].sha256)


@pytest.mark.parametrize("change", [lambda b: b + b"x", lambda b: b[:-1], lambda b: b""])
def test_longer_and_shorter_files_are_refused(
    world: ReleaseWorld,
    client: ReleaseClient,
    store: ContentStore,
    change: Callable[[bytes], bytes],
) -> None:
    """Length is signed too: a file is cut off where it should end."""
    manifest = world.release(1)
    path = world.served_file(1, "golden.npz")
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(TamperedFileError):
        client.fetch(manifest, store, ("golden.npz",))
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["rollout", "release.json"])
def test_tampered_document_is_refused(
    world: ReleaseWorld, client: ReleaseClient, name: str
) -> None:
    """Neither the table nor a manifest can be changed without its signature."""
    world.release(1)
    if name == "rollout":
        (path,) = (world.releases_dir / "targets" / "rollout").iterdir()
    else:
        path = world.served_file(1, name)
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))

    with pytest.raises(TamperedFileError):
        client.offered(GATEWAY)


def _commit(
    world: ReleaseWorld, change: Callable[[Published], dict[str, Metadata[Targets]]]
) -> None:
    """What a thief of the online key can do: store any metadata and make it visible."""
    repository = world.repository
    published = repository.published()
    repository.commit(load_signer(world.keys.online), published, change(published))


def test_online_key_cannot_make_a_release(world: ReleaseWorld, client: ReleaseClient) -> None:
    """Whoever steals the online key cannot put a model of his own under the family's name."""
    world.release(1)

    def forge(published: Published) -> dict[str, Metadata[Targets]]:
        old = published.families[FAMILY].signed
        role = Targets(version=2, expires=old.expires, targets=dict(old.targets))
        return {FAMILY: signed(role, load_signer(world.keys.online))}

    _commit(world, forge)
    with pytest.raises(UntrustedReleaseError):
        client.offered(GATEWAY)


@pytest.mark.parametrize("holder", ["builder", "evaluator"])
def test_one_signature_of_two_is_refused(
    world: ReleaseWorld, client: ReleaseClient, holder: str
) -> None:
    """A gateway counts the signatures itself, whatever the repository serves."""
    world.release(1)

    def half_signed(published: Published) -> dict[str, Metadata[Targets]]:
        old = published.families[FAMILY].signed
        role = Targets(version=2, expires=old.expires, targets=dict(old.targets))
        return {FAMILY: signed(role, load_signer(getattr(world.keys, holder)))}

    _commit(world, half_signed)
    with pytest.raises(UntrustedReleaseError):
        client.offered(GATEWAY)


def test_rollout_role_cannot_name_a_model(world: ReleaseWorld, client: ReleaseClient) -> None:
    """The online role signs only tables: a release that only it names is not a release."""
    world.release(1)

    def assign_unsigned(published: Published) -> dict[str, Metadata[Targets]]:
        table = RolloutTable(family=FAMILY, default=7, assigned={})
        world.repository.add_target(rollout_target(FAMILY), table.to_bytes())
        online = load_signer(world.keys.online)
        rollout = world.repository.next_rollout(online, published, [table])
        path = f"{FAMILY}/7/release.json"
        rollout.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
        return {"rollout": signed(rollout.signed, online)}

    _commit(world, assign_unsigned)
    with pytest.raises(UntrustedReleaseError, match="never signed"):
        client.offered(GATEWAY)


def test_wrong_signature_is_refused(world: ReleaseWorld, client: ReleaseClient) -> None:
    """A timestamp by a stranger's key is not believed."""
    world.release(1)
    create_key(world.folder / "stranger.pem")
    path = str(world.releases_dir / "metadata" / "timestamp.json")
    metadata = Metadata.from_file(path)
    metadata.sign(load_signer(world.folder / "stranger.pem"))
    metadata.to_file(path)

    with pytest.raises(UntrustedReleaseError):
        client.offered(GATEWAY)


def test_metadata_may_not_go_backwards(
    world: ReleaseWorld, client: ReleaseClient, tmp_path: Path
) -> None:
    """An old, honestly signed repository served again is refused, also after a restart."""
    world.release(1)
    old = tmp_path / "old"
    shutil.copytree(world.releases_dir, old)
    world.release(2)
    assert client.offered(GATEWAY).counter == 2  # type: ignore[union-attr]

    with served(old) as url:
        later = ReleaseClient(
            tmp_path / "gateway" / "tuf", world.repository.trusted_root(), url, FAMILY
        )
        with pytest.raises(UntrustedReleaseError):
            later.offered(GATEWAY)


def test_mixed_versions_are_refused(world: ReleaseWorld, client: ReleaseClient) -> None:
    """A snapshot that was not the one in the timestamp is not used."""
    world.release(1)
    world.release(2)
    path = world.releases_dir / "metadata" / "3.snapshot.json"
    metadata = Metadata[Snapshot].from_file(str(path))
    metadata.signed.meta["toy.json"].version = 1
    metadata.sign(load_signer(world.keys.online))
    metadata.to_file(str(path))

    with pytest.raises(TamperedFileError):
        client.offered(GATEWAY)


def test_expired_metadata_has_its_own_name(tmp_path: Path) -> None:
    """A frozen repository is told apart from a forged one, and works again once renewed."""
    long_ago = time.time() - 40 * 86400
    world = ReleaseWorld(tmp_path / "centre", clock=lambda: long_ago)
    world.release(1)
    with served(world.releases_dir) as url:
        client = ReleaseClient(tmp_path / "tuf", world.repository.trusted_root(), url, FAMILY)
        with pytest.raises(ExpiredMetadataError):
            client.offered(GATEWAY)

        ReleaseRepository(world.releases_dir).renew(world.keys.online)

        assert client.offered(GATEWAY).counter == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["garbage", "empty", "no-root-link", "deleted"])
def test_damaged_cache_is_rebuilt(
    world: ReleaseWorld, client: ReleaseClient, tmp_path: Path, damage: str
) -> None:
    """A power cut in the metadata cache costs a download, not the next update."""
    world.release(1)
    client.offered(GATEWAY)
    cache = tmp_path / "gateway" / "tuf"
    if damage == "deleted":
        shutil.rmtree(cache)
    elif damage == "no-root-link":
        (cache / "root.json").unlink()
    else:
        for path in cache.rglob("*.json"):
            if not path.is_symlink():
                path.write_bytes(b"" if damage == "empty" else b"\xff{half")

    assert client.offered(GATEWAY).counter == 1  # type: ignore[union-attr]


def test_unreachable_server_is_outbound(world: ReleaseWorld, tmp_path: Path) -> None:
    """A server that is down is a reason to ask later, not a reason to refuse a release."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = ReleaseClient(
        tmp_path / "tuf", world.repository.trusted_root(), f"http://127.0.0.1:{port}", FAMILY
    )

    with pytest.raises(OutboundError):
        client.offered(GATEWAY)


def test_missing_file_is_outbound(
    world: ReleaseWorld, client: ReleaseClient, store: ContentStore
) -> None:
    """A 404 says nothing about the release either."""
    manifest = world.release(1)
    world.served_file(1, "golden.npz").unlink()

    with pytest.raises(OutboundError):
        client.fetch(manifest, store, ("golden.npz",))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["cut-body", "cut-chunks", "redirect", "no-http", "closed"],
)
def test_broken_answers_are_outbound(world: ReleaseWorld, tmp_path: Path, answer: bytes) -> None:
    """A connection that breaks off, however it does, is a transport error and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, answer), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = ReleaseClient(
            tmp_path / "tuf", world.repository.trusted_root(), url, FAMILY, HttpFetcher()
        )
        with pytest.raises(OutboundError):
            client.offered(GATEWAY)
        thread.join(5)


@pytest.mark.parametrize("limits", [{"timeout_s": 0.2}, {"transfer_s": 0.2}])
def test_slow_server_is_given_up(
    world: ReleaseWorld, tmp_path: Path, limits: dict[str, float]
) -> None:
    """Neither silence nor a trickle of bytes holds the agent for long."""
    stop = threading.Event()
    trickle = "transfer_s" in limits

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
            while not stop.wait(0.02):
                if trickle:
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = ReleaseClient(
            tmp_path / "tuf", world.repository.trusted_root(), url, FAMILY, HttpFetcher(**limits)
        )
        try:
            with pytest.raises(OutboundError):
                client.offered(GATEWAY)
        finally:
            stop.set()
            thread.join(5)


def _answer(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_gateway_side_stays_lean() -> None:
    """The agent, which lives for months, loads no numerical or second HTTP library for this."""
    code = (
        "import sys; import fedge.delivery.client, fedge.delivery.installer;"
        "heavy = {'torch', 'scipy', 'numpy', 'pandas', 'onnxruntime', 'pyarrow', 'requests',"
        " 'httpx', 'flwr', 'prefect'}; print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
