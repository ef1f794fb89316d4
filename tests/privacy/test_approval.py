"""Who allowed a policy: signed beside it, asked for by gateways, made by the command line."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.errors import SettingError, SignatureError
from fedge.identity import Identity
from fedge.privacy.approval import (
    approval_path,
    approve,
    check_approval,
    copy_policy,
    read_policy_and_approval,
    write_approval,
)
from fedge.privacy.policy import read_policy, write_policy
from fedge.records import PolicyApproval, PrivacyPolicy, Quota

ADA, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))


def approved(policy: PrivacyPolicy, by: Identity = ADA) -> PolicyApproval:
    return approve(policy, by, reviewer="Ada Obi", reason="first policy", at=1000.0)


@pytest.fixture
def path(tmp_path: Path, policy: PrivacyPolicy) -> Path:
    """A policy file that nobody signed yet."""
    write_policy(policy, tmp_path / "policy.toml")
    return tmp_path / "policy.toml"


class TestFiles:
    def test_what_was_signed_is_read_back(self, path: Path, policy: PrivacyPolicy) -> None:
        """The approval lies beside the policy, under its name."""
        written = write_approval(approved(policy), path)

        assert written == path.with_name("policy.toml.approval")
        assert read_policy_and_approval(path) == (policy, approved(policy))
        assert read_policy_and_approval(path, [ADA.public_key.hex()])[1] == approved(policy)

    def test_an_unsigned_policy_is_taken_where_nobody_asks(
        self, path: Path, policy: PrivacyPolicy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And the log says so."""
        with caplog.at_level(logging.WARNING):
            assert read_policy_and_approval(path) == (policy, None)

        assert "is not signed" in caplog.text

    def test_a_reviewer_is_asked_for(self, path: Path, policy: PrivacyPolicy) -> None:
        """Neither nobody nor somebody else will do."""
        reviewers = [ADA.public_key.hex()]
        with pytest.raises(SettingError, match="not signed"):
            read_policy_and_approval(path, reviewers)
        write_approval(approved(policy, by=BOB), path)
        with pytest.raises(SettingError, match="none of"):
            read_policy_and_approval(path, reviewers)
        assert read_policy_and_approval(path, [*reviewers, BOB.public_key.hex()])[1] is not None

    def test_a_changed_policy_needs_another_approval(
        self, path: Path, policy: PrivacyPolicy
    ) -> None:
        """Whatever changed in it, and whether or not somebody asks."""
        write_approval(approved(policy), path)
        for changed in (
            policy.model_copy(update={"epsilon": 2.9}),
            policy.model_copy(update={"public": ("opening hours",)}),
            policy.model_copy(update={"quotas": (Quota(purpose="training", share=0.5),)}),
        ):
            write_policy(changed, path)
            with pytest.raises(SettingError, match="another policy"):
                read_policy_and_approval(path)

    @pytest.mark.parametrize(
        "change",
        [
            {"reviewer": "Eve"},
            {"reason": "because"},
            {"at": 2000.0},
            {"public_key": BOB.public_key.hex()},
            {"signature": "00" * 64},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_forged_approval_is_refused(
        self, path: Path, policy: PrivacyPolicy, change: dict[str, object]
    ) -> None:
        """Every field is signed."""
        forged = approved(policy).model_copy(update=change)
        with pytest.raises(SignatureError):
            check_approval(forged, policy)
        write_approval(forged, path)

        with pytest.raises(SettingError, match="signature"):
            read_policy_and_approval(path)

    @pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[]", b'{"reviewer": "Ada"}'])
    def test_a_file_that_is_no_approval_is_refused(self, path: Path, text: bytes) -> None:
        """What lies there is not passed over."""
        approval_path(path).write_bytes(text)

        with pytest.raises(SettingError, match="does not approve"):
            read_policy_and_approval(path)

    def test_a_copy_is_signed_like_its_source(
        self, path: Path, tmp_path: Path, policy: PrivacyPolicy
    ) -> None:
        """Setting up a gateway takes both files; an unsigned policy leaves no old approval."""
        target = tmp_path / "copy.toml"
        write_approval(approved(policy), path)
        copy_policy(path, target)
        assert read_policy_and_approval(target) == (policy, approved(policy))

        approval_path(path).unlink()
        copy_policy(path, target)
        assert read_policy_and_approval(target) == (policy, None)

    @pytest.mark.parametrize(("reviewer", "reason"), [("", "why"), ("Ada", ""), ("A" * 201, "why")])
    def test_somebody_allows_it_for_a_reason(
        self, policy: PrivacyPolicy, reviewer: str, reason: str
    ) -> None:
        """Empty names and reasons tell a later reader nothing."""
        with pytest.raises(SettingError, match="cannot approve"):
            approve(policy, ADA, reviewer=reviewer, reason=reason, at=0.0)


class TestCommands:
    def run(self, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["policy", *map(str, words)])

    def test_new_always_signs(self, tmp_path: Path) -> None:
        """With a key that it makes, readable by its owner alone, and uses again."""
        first, second = tmp_path / "first.toml", tmp_path / "second.toml"
        made = self.run("new", first, "--reviewer", "Ada Obi", "--reason", "a start")
        assert made.exit_code == 0
        key = tmp_path / "reviewer.pem"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert str(key) in made.stderr and Identity.load(key).public_key.hex() in made.stderr

        assert self.run("new", second).exit_code == 0

        approvals = [read_policy_and_approval(path)[1] for path in (first, second)]
        assert approvals[0] is not None and approvals[1] is not None
        assert (approvals[0].reviewer, approvals[0].reason) == ("Ada Obi", "a start")
        assert approvals[1].reason == "first policy"
        assert approvals[0].public_key == approvals[1].public_key

    def test_sign_allows_a_file_as_it_stands(self, path: Path, tmp_path: Path) -> None:
        """Also one that somebody changed since it was signed."""
        key = tmp_path / "keys" / "ada.pem"
        key.parent.mkdir()
        done = self.run("sign", path, "--reviewer", "Ada", "--reason", "checked", "--key", key)

        assert done.exit_code == 0
        approval = read_policy_and_approval(path, [Identity.load(key).public_key.hex()])[1]
        assert approval is not None and approval.reason == "checked"
        assert self.run("sign", path).exit_code == 2  # no reason given

    def test_show_says_who_allowed_it(self, path: Path, policy: PrivacyPolicy) -> None:
        """In words and as JSON; nobody is an answer, a forgery is none."""
        assert "Nobody signed it" in self.run("show", path).output
        assert json.loads(self.run("show", path, "--json").output)["approval"] is None

        write_approval(approved(policy), path)
        assert "Allowed by Ada Obi on 1970-01-01 (first policy)" in self.run("show", path).output
        shown = json.loads(self.run("show", path, "--json").output)
        assert shown["approval"]["signature"] == approved(policy).signature
        assert (shown["sha256"], shown["alpha"]) == (policy.content_sha256, 8)

        write_approval(approved(policy).model_copy(update={"reason": "else"}), path)
        assert self.run("show", path).exit_code == 1

    def test_a_subjects_policy_with_quotas(self, tmp_path: Path) -> None:
        """What is bounded, for whom, and who may take how much of it."""
        path = tmp_path / "policy.toml"
        made = self.run(
            *("new", path, "--unit", "subject", "--max-records", "5", "--label-rho", "0.004"),
            *("--quota", "training=0.6", "--quota", "evaluation:digits=0.1"),
            *("--public", "opening hours"),
        )

        assert made.exit_code == 0
        policy = read_policy(path)
        assert (policy.unit, policy.max_records) == ("subject", 5)
        assert policy.public == ("opening hours",)
        assert policy.quotas == (
            Quota(purpose="training", share=0.6),
            Quota(purpose="evaluation", task="digits", share=0.1),
        )
        for words in (
            "One subject, of which 5 records count in a block",
            "At most 60% of it go to training.",
            "At most 10% of it go to evaluation of digits.",
            "opening hours",
            "5 times as large",
            "noise of 56 records",
            "Retrainings that may read one block: 1 at full strength",
        ):
            assert words in made.output

    @pytest.mark.parametrize(
        "words",
        [
            ["--epsilon", "-1"],
            ["--epsilon", "nan"],
            ["--epsilon", "1e-9"],
            ["--delta", "0"],
            ["--max-records", "3"],
            ["--quota", "training"],
            ["--quota", "training=2"],
            ["--quota", "spying=0.5"],
            ["--quota", "training=0.5", "--quota", "training=0.6"],
            ["--quota", "features:digits=0.5"],
            ["--delta", "1"],
            ["--telemetry-rho", "1e-300"],
            ["--label-rho", "1e-300"],
            ["--reason", ""],
            ["--reviewer", "Ada\x1b[2J"],
            ["--reason", "first\npolicy"],
            ["--public", "a\x9b1m"],
            ["--key", "/nowhere/key.pem"],
        ],
        ids=lambda words: " ".join(words).encode("unicode_escape").decode(),
    )
    def test_a_wrong_option_leaves_no_policy(self, tmp_path: Path, words: list[str]) -> None:
        """Refused before anything is written."""
        answer = self.run("new", tmp_path / "policy.toml", *words)

        assert isinstance(answer.exception, SettingError)
        assert not (tmp_path / "policy.toml").exists()

    def test_show_spells_out_what_would_steer_a_terminal(
        self, path: Path, policy: PrivacyPolicy
    ) -> None:
        """Policies and approvals come from anywhere; also an earlier version made them."""
        evil = "\x1b]0;owned\x07\u202e\x9b2J\nAllowed by nobody"
        declared = policy.model_copy(update={"public": (evil,)})
        write_policy(declared, path)
        write_approval(_signed(declared, reviewer=evil, reason=evil), path)
        shown, as_json = self.run("show", path), self.run("show", path, "--json")

        assert shown.exit_code == as_json.exit_code == 0
        lines = shown.output.splitlines()
        assert all(line.isprintable() for line in lines) and as_json.output.strip().isprintable()
        assert shown.output.count(r"\x1b]0;owned\x07\u202e\x9b2J\nAllowed by nobody") == 3
        assert sum(line.startswith("Allowed by") for line in lines) == 1
        assert json.loads(as_json.output)["approval"]["reviewer"] == evil

    def test_a_moment_beyond_the_calendar_is_shown(self, path: Path, policy: PrivacyPolicy) -> None:
        """Whoever signs says when."""
        write_approval(_signed(policy, at=1e300), path)

        assert "Allowed by Ada Obi on 1e+300 seconds" in self.run("show", path).output


def _signed(policy: PrivacyPolicy, **changes: object) -> PolicyApproval:
    """An approval as other software may make it."""
    unsigned = approved(policy).model_copy(update=changes)
    return unsigned.model_copy(update={"signature": ADA.sign(unsigned.signed).hex()})


class TestUsage:
    """Exit status 2 is the caller's mistake, 1 a refusal; neither is a traceback."""

    def run(self, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["policy", *map(str, words)])

    @pytest.mark.parametrize(
        "words",
        [
            ["--block-windows", "-1"],
            ["--block-windows", "0"],
            ["--block-windows", "1000001"],
            ["--block-seconds", "0"],
            ["--block-seconds", "99999999999999999999"],
            ["--block-windows", "5", "--block-seconds", "60"],
            ["--block-windows", "5", "--block-seconds", "86400"],
        ],
        ids=" ".join,
    )
    def test_a_block_has_one_length(self, tmp_path: Path, words: list[str]) -> None:
        """None is dropped without a word, nor taken for another."""
        answer = self.run("new", tmp_path / "policy.toml", *words)

        assert answer.exit_code == 2 and words[0] in answer.output
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("words", "kind", "value"),
        [
            ([], "seconds", 86_400),
            (["--block-windows", "1"], "windows", 1),
            (["--block-seconds", "60"], "seconds", 60),
        ],
        ids=str,
    )
    def test_the_length_that_was_given(
        self, tmp_path: Path, words: list[str], kind: str, value: int
    ) -> None:
        """A day where none was."""
        assert self.run("new", tmp_path / "policy.toml", *words).exit_code == 0
        block = read_policy(tmp_path / "policy.toml").block
        assert (block.kind, block.value) == (kind, value)

    @pytest.mark.parametrize("target", [".", "/", "..", "folder"])
    @pytest.mark.parametrize("command", [["new"], ["sign", "--reason", "x"], ["show"]], ids=str)
    def test_a_folder_is_no_policy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], target: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        answer = self.run(*command, target)

        assert answer.exit_code == 2 and "directory" in answer.output
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_a_name_that_no_disk_takes(self, tmp_path: Path) -> None:
        assert isinstance(self.run("new", tmp_path / ("a" * 300)).exception, SettingError)

    def test_nothing_that_is_there_is_replaced_unasked(self, tmp_path: Path) -> None:
        """Neither a policy nor what allows it; with --force both are, and both are named."""
        path = tmp_path / "policy.toml"
        assert self.run("new", path, "--reviewer", "Ada Obi").exit_code == 0
        before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
        refused = self.run("new", path, "--epsilon", "5", "--reviewer", "Bob")

        assert isinstance(refused.exception, SettingError)
        for words in (str(path), str(approval_path(path)), "Ada Obi", "no longer fit", "--force"):
            assert words in str(refused.exception)
        assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
        forced = self.run("new", path, "--epsilon", "5", "--reviewer", "Bob", "--force")
        assert forced.exit_code == 0 and "Ada Obi" in forced.stderr
        policy, approval = read_policy_and_approval(path)
        assert policy.epsilon == 5 and approval is not None and approval.reviewer == "Bob"

    def test_an_approval_alone_is_in_the_way_too(self, tmp_path: Path) -> None:
        """Whatever lies there; signing anew names what it replaces."""
        path = tmp_path / "policy.toml"
        approval_path(path).write_bytes(b"\xff")
        assert "can be read" in str(self.run("new", path).exception)
        assert not path.exists() and not (tmp_path / "reviewer.pem").exists()
        assert self.run("new", path, "--force", "--reviewer", "Ada Obi").exit_code == 0

        signed = self.run("sign", path, "--reason", "again", "--reviewer", "Bob")
        assert signed.exit_code == 0 and "by Ada Obi" in signed.stderr
