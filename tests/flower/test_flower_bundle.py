"""Which Flower bundles a gateway lets in: one, and it holds no code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedge.config import GatewaySettings, ServerSettings
from fedge.errors import BundleRefusedError, SettingError
from fedge_client.supernode import MAX_BUNDLE_BYTES, check_bundle, check_run, supernode_arguments
from fedge_server.superlink import BUNDLE, bundle_content

CONFIG = tomllib.loads((BUNDLE / "pyproject.toml").read_text())


def packed(config: dict[str, Any], files: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("pyproject.toml", tomli_w.dumps(config))
        for name, content in (files or {".info/CONTENT": b""}).items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    config = tomllib.loads(tomli_w.dumps(CONFIG))
    change(config)
    return config


def app(config: dict[str, Any]) -> dict[str, Any]:
    return config["tool"]["flwr"]["app"]  # type: ignore[no-any-return]


@pytest.fixture()
def ours(tmp_path: Path) -> bytes:
    settings = ServerSettings(data_dir=tmp_path, policy=tmp_path, flwr_home=tmp_path / "flwr")
    return bundle_content(settings)


def test_our_bundle_as_flower_packs_it_is_let_in(ours: bytes) -> None:
    """What `submit_run` sends passes; it holds pyproject.toml and Flower's manifest alone."""
    assert check_bundle(ours) == CONFIG["project"]["version"]
    with zipfile.ZipFile(io.BytesIO(ours)) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "pyproject.toml"]


REFUSED: dict[str, bytes] = {
    "code": packed(CONFIG, {".info/CONTENT": b"", "fedge_client/courier.py": b"print()"}),
    "a readme": packed(CONFIG, {".info/CONTENT": b"", "README.md": b"hi"}),
    "no manifest": packed(CONFIG, {"x/.info/CONTENT": b""}),
    "another ClientApp": packed(
        changed(lambda c: app(c)["components"].update(clientapp="os:system"))
    ),
    "another ServerApp": packed(changed(lambda c: app(c)["components"].update(serverapp="a:b"))),
    "an AgentApp": packed(changed(lambda c: app(c)["components"].update(agentapp="a:b"))),
    "no ClientApp": packed(changed(lambda c: app(c)["components"].pop("clientapp"))),
    "dependencies": packed(changed(lambda c: c["project"].update(dependencies=["evil"]))),
    "a build backend": packed(changed(lambda c: c.update({"build-system": {"requires": ["x"]}}))),
    "scripts": packed(changed(lambda c: c["project"].update(scripts={"a": "b:c"}))),
    "settings of a tool": packed(changed(lambda c: c["tool"].update(uv={"index": []}))),
    "more of Flower's tool": packed(changed(lambda c: c["tool"]["flwr"].update(x=1))),
    "another publisher": packed(changed(lambda c: app(c).update(publisher="../../x"))),
    "another name": packed(changed(lambda c: c["project"].update(name="other"))),
    "a path as version": packed(changed(lambda c: c["project"].update(version="1.0.0/../x"))),
    "an include of more": packed(changed(lambda c: app(c).update({"fab-include": ["*.py"]}))),
    "tables that are none": packed({"project": {"name": "fedge-rounds"}, "tool": {"flwr": 1}}),
    "no zip": b"PK not a zip",
    "nothing": b"",
    "too large": packed(CONFIG, {".info/CONTENT": b"x" * (MAX_BUNDLE_BYTES + 1)}),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_any_other_bundle_is_refused(content: bytes) -> None:
    """One change to our bundle, whatever it is good for, and the bundle stays out."""
    with pytest.raises(BundleRefusedError):
        check_bundle(content)


def test_a_name_that_comes_twice_is_refused() -> None:
    """Two entries of one name could be read differently by two readers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("pyproject.toml", tomli_w.dumps(CONFIG))
        bundle.writestr(".info/CONTENT", b"")
        with pytest.warns(UserWarning):
            bundle.writestr("pyproject.toml", tomli_w.dumps(CONFIG))
    with pytest.raises(BundleRefusedError):
        check_bundle(buffer.getvalue())


def test_a_bomb_is_refused_unpacked() -> None:
    """A small zip that unpacks to much is refused by what it says of itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("pyproject.toml", b"#" * 2**24)
        bundle.writestr(".info/CONTENT", b"")
    assert len(buffer.getvalue()) < MAX_BUNDLE_BYTES
    with pytest.raises(BundleRefusedError):
        check_bundle(buffer.getvalue())


@given(position=st.integers(0, 4000), value=st.integers(0, 255))
def test_damage_never_escapes_as_another_error(position: int, value: int) -> None:
    """A byte changed anywhere is either harmless or a refusal."""
    content = bytearray(packed(CONFIG))
    content[position % len(content)] = value
    with contextlib.suppress(BundleRefusedError):
        assert check_bundle(bytes(content)) == check_bundle(packed(CONFIG))


def run_of(content: bytes, **changes: str) -> SimpleNamespace:
    facts = {
        "fab_id": "fedge/fedge-rounds",
        "fab_version": "1.0.0",
        "fab_hash": hashlib.sha256(content).hexdigest(),
        "primary_task_type": "flwr-serverapp",
    }
    return SimpleNamespace(**facts | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"fab_id": "fedge/other"},
        {"fab_version": "1.0.0/../../../x"},
        {"fab_hash": "0" * 64},
        {"primary_task_type": "flwr-agentapp"},
    ],
    ids=str,
)
def test_a_run_about_another_bundle_is_refused(ours: bytes, changes: dict[str, str]) -> None:
    """Flower would load the ClientApp from where the run says, so the run must say the bundle."""
    fab = SimpleNamespace(content=ours, hash_str=hashlib.sha256(ours).hexdigest())
    check_run(run_of(ours), fab)
    with pytest.raises(BundleRefusedError):
        check_run(run_of(ours, **changes), fab)


def test_a_supernode_speaks_only_to_this_machine(tmp_path: Path) -> None:
    """Without TLS nothing but loopback is spoken to."""
    settings = GatewaySettings(state_dir=tmp_path, runtime_dir=tmp_path, superlink="10.0.0.1:8000")
    with pytest.raises(SettingError):
        supernode_arguments(settings)
