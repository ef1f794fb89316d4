"""A gateway whose policy was changed: entered at its next start, and open blocks only fall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests_clients import WINDOW, Gateway

from fedge.errors import SettingError
from fedge.identity import Identity
from fedge.privacy.approval import approve, write_approval
from fedge.privacy.entries import Adopted, Created, read_entry
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.records import BlockLength, PrivacyPolicy

ADA, EVE = (Identity.from_seed(bytes([number]) * 32) for number in (61, 62))


def change(gateway: Gateway, policy: PrivacyPolicy, by: Identity = ADA) -> Path:
    """Put a signed policy into the gateway's folder, as its owner would."""
    path = gateway.settings.state_dir / "policy.toml"
    write_policy(policy, path)
    write_approval(approve(policy, by, reviewer="Ada", reason="less is enough", at=5.0), path)
    return path


def stricter(gateway: Gateway, **values: object) -> PrivacyPolicy:
    old = read_policy(gateway.settings.state_dir / "policy.toml")
    made = new_policy(epsilon=2.0, delta=1e-5, block=old.block, telemetry_rho=0.02)
    return PrivacyPolicy.model_validate(made.model_dump() | values)


def test_a_stricter_policy_is_entered_and_holds(make_gateway: Callable[..., Gateway]) -> None:
    """The open block's cap falls, its windows are still reported, the next block is new."""
    gateway = make_gateway(block_windows=2)
    assert gateway.agent is not None
    gateway.serve(WINDOW)
    gateway.agent.watch_once()
    before = gateway.agent.ledger.spending(0)
    change(gateway, stricter(gateway))

    agent = gateway.start()
    gateway.serve(2 * WINDOW)
    while agent.watch_once():
        pass

    entries = [read_entry(data) for data in agent.ledger.entries()]
    first, adopted = entries[0], [e for e in entries if isinstance(e, Adopted)]
    assert isinstance(first, Created)
    assert (first.gateway, first.public_key) == (
        gateway.identity.fingerprint,
        gateway.identity.public_key.hex(),
    )
    assert [entry.policy.epsilon for entry in adopted] == [3.0, 2.0]
    assert adopted[0].approval is None and adopted[1].approval is not None
    assert adopted[1].approval.reason == "less is enough"
    spendings = {spending.block: spending for spending in agent.ledger.spendings()}
    assert spendings[0].cap_nano < before.cap_nano
    assert agent.ledger.policy_of(0).epsilon == 3.0
    assert agent.ledger.policy_of(1).epsilon == 2.0
    charged = [entry.block for entry in entries if entry.kind == "window"]
    assert charged == [0, 0, 1]
    agent.ledger.check_chain()


@pytest.mark.parametrize("value", [1, 16])
def test_blocks_may_get_shorter_and_never_start_over(
    make_gateway: Callable[..., Gateway], value: int
) -> None:
    """Longer ones would begin at a lower number: all records would lie in the newest block."""
    gateway = make_gateway(block_windows=2)
    assert gateway.agent is not None
    gateway.serve(8 * WINDOW)
    while gateway.agent.watch_once():
        pass
    size = gateway.agent.ledger.size
    change(gateway, stricter(gateway, block=BlockLength(kind="windows", value=value)))

    if value == 1:
        assert gateway.start().ledger.size == size + 1
        return
    with pytest.raises(SettingError, match=r"16 windows.*with blocks of 2 windows"):
        gateway.start()


def test_only_who_may_approve_changes_it(make_gateway: Callable[..., Gateway]) -> None:
    """An unsigned, a foreign and a forged approval stop the start, and the ledger stays."""
    gateway = make_gateway()
    assert gateway.agent is not None
    entries = gateway.agent.ledger.entries()
    gateway.agent.close()
    gateway.agent = None
    gateway.settings = gateway.settings.model_copy(
        update={"policy_reviewers": (ADA.public_key.hex(),)}
    )
    with pytest.raises(SettingError, match="not signed"):
        gateway.start()
    change(gateway, stricter(gateway), by=EVE)
    with pytest.raises(SettingError, match="policy_reviewers"):
        gateway.start()
    path = change(gateway, stricter(gateway))
    write_policy(stricter(gateway, public=("everything",)), path)
    with pytest.raises(SettingError, match="another policy"):
        gateway.start()

    change(gateway, stricter(gateway))
    assert gateway.start().ledger.entries()[: len(entries)] == entries
