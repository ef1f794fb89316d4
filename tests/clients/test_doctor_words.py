"""`fedge gateway doctor` quotes approvals; what would steer a terminal is spelt out."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.identity import Identity
from fedge.privacy.approval import approve, write_approval
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength

EVIL = "\x1b[2J[red]Ada\u202e\x9b1m\nok"


def test_a_reviewers_name_steers_no_terminal(tmp_path: Path) -> None:
    """Whoever made the approval; a name is no markup either."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    Identity.create(state / "identity.pem")
    policy = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=4))
    write_policy(policy, state / "policy.toml")
    signer = Identity.from_seed(b"\1" * 32)
    made = approve(policy, signer, reviewer="Ada", reason="why", at=1.0)
    named = made.model_copy(update={"reviewer": EVIL})
    signature = signer.sign(named.signed).hex()
    write_approval(named.model_copy(update={"signature": signature}), state / "policy.toml")
    config = tmp_path / "gateway.toml"
    config.write_text(
        'state_dir = "state"\nruntime_dir = "run"\ncoordinator_url = "http://127.0.0.1:1"\n'
    )
    shown = CliRunner().invoke(
        app, ["gateway", "doctor", "--config", str(config)], env={"COLUMNS": "400"}
    )

    assert r"allowed by \x1b[2J[red]Ada\u202e\x9b1m\nok" in shown.output
    assert all(line.isprintable() for line in shown.output.splitlines())
