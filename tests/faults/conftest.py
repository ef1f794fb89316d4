from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.faults_checks import STOPPED, Erasing, Undisturbed
from fakes.faults_disk import Fault, FaultyDisk, compiled, compiler
from fakes.faults_gateway import Centre, FaultyGateway, MakeFaulty, template
from fakes.faults_nursery import Nursery
from fakes.faults_worker import Serve, ServedGateway
from fakes.loop import Loop


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A centre and a gateway that serves release 1."""
    running = Loop(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FaultyDisk:
    """A disk that fails on order."""
    if compiler() is None:
        pytest.skip("needs a C compiler (cc, gcc or clang) for the library that fails writes")
    return compiled(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="session")
def make_faulty(disk: FaultyDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFaulty]:
    """Makes gateways that never ran, or copies of one that did."""
    folder = tmp_path_factory.mktemp("g")  # short: sockets lie below it
    source = template(folder / "template")
    centre, nursery = Centre(), Nursery(disk)
    made = 0

    def make(of: FaultyGateway | None = None) -> FaultyGateway:
        nonlocal made
        made += 1
        settings = source if of is None else of.settings
        return FaultyGateway(settings, folder / str(made), nursery, centre)

    yield make
    nursery.close()
    centre.close()


@pytest.fixture(scope="session")
def ran(make_faulty: MakeFaulty) -> FaultyGateway:
    """A gateway that closed four windows; three rows wait in its ring. Only to be copied."""
    gateway = make_faulty()
    assert gateway.run() == STOPPED, gateway.said()
    return gateway


@pytest.fixture(scope="session")
def undisturbed(ran: FaultyGateway) -> Undisturbed:
    """What a run without any fault wrote, and what came of it."""
    return Undisturbed(tuple(ran.calls()), ran.outcome())


@pytest.fixture(scope="session")
def writes_of_erasing(make_faulty: MakeFaulty, ran: FaultyGateway) -> range:
    """Numbers of the calls that an undisturbed erasure makes."""
    erasing = Erasing(make_faulty(ran))
    files = {path for path, _ in erasing.traces()}
    assert "ring.bin" in files and any(path.startswith("blocks/0/") for path in files)
    assert erasing.run() == STOPPED
    erasing.check_gone("undisturbed")
    return range(erasing.asked_at, len(erasing.gateway.calls()))


@pytest.fixture
def serve(disk: FaultyDisk) -> Iterator[Serve]:
    """Starts workers of gateways."""
    made: list[ServedGateway] = []

    def start(gateway: FaultyGateway, fault: Fault | None = None) -> ServedGateway:
        made.append(ServedGateway(gateway.config, gateway.state_dir, disk, fault))
        return made[-1]

    yield start
    for served in made:
        served.close()
