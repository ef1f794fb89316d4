"""However a run ends, none of its processes stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fedge.demo.guard import MARK, marked_processes
from fedge.demo.services import ServiceEndedError, Services

STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = textwrap.dedent(
    f"""
    import subprocess, sys, time
    from pathlib import Path
    from fedge.demo.services import Services
    services = Services(Path(sys.argv[1]))
    # A process in a session of its own that starts another one, which ignores SIGTERM.
    child = "import subprocess,sys,time; " \\
            "subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True); " \\
            "time.sleep(600)"
    services.start("tree", [sys.executable, "-c", child])
    print(services.mark, flush=True)
    time.sleep(600)
    """
)


def wait_until(condition: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """The guard ends children and grandchildren, stubborn ones too, after any kind of end."""
    run = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    mark = run.stdout.readline().strip()
    wait_until(lambda: len(marked_processes(mark)) == 2)

    os.kill(run.pid, number)
    run.wait()

    wait_until(lambda: not marked_processes(mark))
    run.stdout.close()


def test_a_clean_end_waits_until_all_are_gone(tmp_path: Path) -> None:
    """After `end` there is nothing to wait for."""
    services = Services(tmp_path)
    services.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
    wait_until(lambda: len(marked_processes(services.mark)) == 1)

    services.end()

    assert marked_processes(services.mark) == []
    assert MARK not in os.environ


def test_a_process_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    """The error names the process and quotes its log."""
    services = Services(tmp_path)
    try:
        services.start("broken", [sys.executable, "-c", "raise SystemExit('no such thing')"])

        with pytest.raises(ServiceEndedError, match=r"broken ended.*no such thing"):
            services.wait_for("nothing", lambda: False, 20)
    finally:
        services.end()


def test_an_errand_may_end_before_it_is_waited_for(tmp_path: Path) -> None:
    """Done early is done; failed early is still noticed."""
    services = Services(tmp_path)
    try:
        done = services.start("quick", [sys.executable, "-c", "pass"], errand=True)
        done.wait(20)
        services.check()
        services.finish("quick", 20)

        failed = services.start(
            "failing", [sys.executable, "-c", "raise SystemExit(3)"], errand=True
        )
        failed.wait(20)
        with pytest.raises(ServiceEndedError, match="failing"):
            services.check()
    finally:
        services.end()
