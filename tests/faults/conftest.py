from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.faults_disk import FaultyDisk, compiled, compiler
from fakes.faults_gateway import Centre, MakeFaulty, template
from fakes.faults_gateway import FaultyGateway as Gateway
from fakes.faults_nursery import Nursery
from fakes.loop import Loop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-write",
        action="store_true",
        help="kill at every write of the scenarios, not at some (half an hour on one core)",
    )


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


@pytest.fixture(scope="module")
def make_faulty(disk: FaultyDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFaulty]:
    """Makes gateways that never ran, or copies of one that did."""
    folder = tmp_path_factory.mktemp("g")  # short: sockets lie below it
    source = template(folder / "template")
    centre, nursery = Centre(), Nursery(disk)
    made: list[Gateway] = []

    def make(of: Gateway | None = None) -> Gateway:
        settings = source if of is None else of.settings
        made.append(Gateway(settings, folder / str(len(made)), nursery, centre))
        return made[-1]

    yield make
    nursery.close()
    centre.close()
