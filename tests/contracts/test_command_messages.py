"""Commands that cannot do what is asked name what stands in the way, in a line, and end with 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fedge.cli.gateway import _rows
from fedge.cli.main import main
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength, PrivacyPolicy

NAMED = "--coordinator http://127.0.0.1:9 --root root.json --policy policy.toml"


@pytest.fixture(scope="module")
def policy() -> PrivacyPolicy:
    return new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="seconds", value=86_400))


@pytest.fixture(autouse=True)
def here(policy: PrivacyPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, a root, a gateway's settings, and a file where folders may go."""
    write_policy(policy, tmp_path / "policy.toml")
    for name in ("root.json", "file"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "gateway.toml").write_text('state_dir = "state"\nruntime_dir = "run"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("server init file --policy policy.toml", "file"),
        ("server init centre --policy none.toml", "none.toml"),
        ("server status", "server.toml"),
        (f"gateway init file {NAMED}", "file/state"),
        ("gateway run --config none.toml", "none.toml"),
        ("gateway status --json", "run/supervisor.sock"),
        ("gateway erase --record 1a2b3c4d-7-7012 --json", "run/agent-admin.sock"),
        ("gateway withdraw --purpose training --subject-file none", "none"),
        ("gateway units none --config /etc/fedge/gateway.toml", "none/"),
        ("gateway export-state file", "file"),
        ("ledger show --gateway . --json", "state/identity.pem"),
        ("policy show file/policy.toml", "file/policy.toml"),
    ],
)
def test_what_is_in_the_way_is_named(
    command: str,
    named: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr; stdout stays empty, also for programs that read JSON there."""
    before = sorted(here.iterdir())
    monkeypatch.setattr(sys, "argv", ["fedge", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()

    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.startswith("fedge: ") and named in err
    assert sorted(here.iterdir()) == before


def test_units_go_into_a_folder_or_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sample settings need no folder; units without one are wrong usage."""
    for arguments, status in (("--settings", 0), ("", 2)):
        monkeypatch.setattr(sys, "argv", ["fedge", "gateway", "units", *arguments.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == status
        assert ("state_dir" in out, "--settings" in err) == (status == 0, status == 2)


def test_doctor_says_what_a_new_gateway_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One JSON document; whatever is not well comes with what to do, admission included."""
    monkeypatch.setattr(sys, "argv", ["fedge", "gateway", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main()
        raise SystemExit

    findings = json.loads(capsys.readouterr().out)
    assert all(one["todo"] for one in findings if one["level"] != "ok")
    (ledger,) = [one for one in findings if one["check"] == "ledger"]
    assert "fedge server admit" in ledger["todo"]


@pytest.mark.parametrize(
    ("reason", "shown"), [("untrusted-metadata", "untrusted-metadata"), ("", None)]
)
def test_status_shows_why_no_release_was_taken(reason: str, shown: str | None) -> None:
    """Such as the root of another repository: nothing else on the gateway would tell."""
    nothing = dict.fromkeys(("slot", "trial", "fallback", "worker"))

    rows = _rows({**nothing, "worker_restarts": 0, "agent": {"refused_reason": reason}})

    assert rows["refused last"] == shown
