"""What the object store promises: whole objects, written once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes.kills import KillPoints, killed
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import MissingObjectError, ObjectConflictError, SettingError, StateError
from fedge_server import objects as module
from fedge_server.objects import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def test_what_is_put_comes_back(store: ObjectStore) -> None:
    """Names are paths; what lies under one of them is listed."""
    store.put("runs/run-1/spec.json", b"{}")
    store.put("runs/run-1/initial.npy", b"\x93NUMPY")
    store.put("assessments/a.json", b"")

    assert store.get("runs/run-1/initial.npy") == b"\x93NUMPY"
    assert store.list("runs") == ("runs/run-1/initial.npy", "runs/run-1/spec.json")
    assert len(store.list()) == 3
    assert store.exists("assessments/a.json") and not store.exists("assessments")


def test_the_same_bytes_again_change_nothing(store: ObjectStore) -> None:
    """A step that is run twice puts twice."""
    store.put("a", b"one")
    store.put("a", b"one")

    assert store.list() == ("a",)


def test_other_bytes_are_refused(store: ObjectStore) -> None:
    """Who came first stays, and nothing else is left in the folder."""
    store.put("a", b"one")

    with pytest.raises(ObjectConflictError):
        store.put("a", b"two")

    assert store.get("a") == b"one"
    assert [path.name for path in store.folder.iterdir()] == ["a"]


def test_replacing_is_a_method_of_its_own(store: ObjectStore) -> None:
    """Names like `latest` move on, in one step."""
    store.replace("latest.json", b"1")
    store.replace("latest.json", b"2")

    assert store.get("latest.json") == b"2"


def test_of_many_writers_one_wins(store: ObjectStore) -> None:
    """Put-once holds between threads as between processes."""
    outcomes: list[str] = []

    def put(number: int) -> None:
        try:
            store.put("a", b"%d" % number)
            outcomes.append(str(number))
        except ObjectConflictError:
            outcomes.append("refused")

    threads = [threading.Thread(target=put, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = [outcome for outcome in outcomes if outcome != "refused"]
    assert [store.get("a").decode()] == winners


@pytest.mark.parametrize("method", ["get", "exists"])
def test_what_is_missing_is_missing(store: ObjectStore, method: str) -> None:
    """Reading it is a typed error, asking is a no."""
    store.put("folder/a", b"")
    for name in ("b", "folder", "folder/a/b", "nowhere/b"):
        if method == "exists":
            assert not store.exists(name)
        else:
            with pytest.raises(MissingObjectError):
                store.get(name)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "a/../b", "a//b", ".hidden", "a/.b", "a\\b", "a\n", "é", "a/" * 9],
)
def test_names_stay_inside(store: ObjectStore, name: str) -> None:
    """A name cannot leave the folder or collide with our temporary files."""
    for use in (store.get, store.exists):
        with pytest.raises(SettingError):
            use(name)
    with pytest.raises(SettingError):
        store.put(name, b"")


@given(st.text(max_size=20))
def test_any_name_is_inside_or_refused(name: str) -> None:
    """There is no third way."""
    store = ObjectStore(Path("/objects"))
    try:
        path = store._path(name)
    except SettingError:
        return
    assert path.resolve().is_relative_to("/objects") and path != Path("/objects")


def test_a_disk_that_refuses_is_a_typed_error(store: ObjectStore) -> None:
    """A folder where the object should go cannot be written over."""
    store.put("a", b"")
    with pytest.raises(StateError):
        store.put("a/b", b"")


def test_killed_anywhere_an_object_is_whole_or_absent(tmp_path: Path) -> None:
    """SIGKILL at each step of `put`, then the same `put` again."""
    data = b"x" * 100_000
    for moment in range(30):
        store = ObjectStore(tmp_path / str(moment))

        def work(points: KillPoints, store: ObjectStore = store) -> None:
            for name in ("fsync", "link", "unlink"):
                points.wrap(module.os, name)
            store.put("runs/a", data)

        interrupted = killed(work, moment)
        assert store.list() in ((), ("runs/a",))
        store.put("runs/a", data)
        assert store.get("runs/a") == data
        if not interrupted:
            return
    raise AssertionError("put has more steps than moments tried")
