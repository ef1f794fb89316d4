"""Making, writing and reading a policy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError
from fedge.privacy.policy import (
    check_policy,
    count_noise,
    label_event,
    new_policy,
    read_policy,
    write_policy,
)
from fedge.privacy.rdp import cap_nano, event_nano, telemetry_nano
from fedge.records import BlockLength, PrivacyPolicy, Quota

BLOCK = BlockLength(kind="seconds", value=86_400)


def test_monitoring_takes_what_the_recipes_found() -> None:
    """0.0281 at epsilon 3, and little enough at epsilon 1 to leave room for training."""
    assert new_policy(epsilon=3.0, delta=1e-5, block=BLOCK).telemetry_rho == 0.0281
    assert 0.006 < new_policy(epsilon=1.0, delta=1e-5, block=BLOCK).telemetry_rho <= 0.0077


@settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(0.2, 20), delta=st.floats(1e-9, 1e-3))
def test_every_computed_policy_leaves_room_for_training(epsilon: float, delta: float) -> None:
    """Monitoring never takes more than a quarter of the budget by itself."""
    policy = new_policy(epsilon=epsilon, delta=delta, block=BLOCK)

    assert 0 < telemetry_nano(policy) <= cap_nano(policy) / 4 + 1


def test_a_file_gives_the_same_policy(tmp_path: Path) -> None:
    """What is written is read back exactly, and the folder holds no remains."""
    policy = new_policy(epsilon=1.0, delta=1e-6, block=BLOCK, telemetry_rho=0.007, window_rho=0.005)

    write_policy(policy, tmp_path / "policy.toml")

    assert read_policy(tmp_path / "policy.toml") == policy
    assert [path.name for path in tmp_path.iterdir()] == ["policy.toml"]


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200)
TASKS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63}", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    st.integers(1, 1000),
    st.lists(TEXTS, max_size=3),
    st.dictionaries(
        st.tuples(st.sampled_from(["training", "evaluation"]), st.one_of(st.just("*"), TASKS)),
        st.floats(0, 1, exclude_min=True),
        max_size=4,
    ),
)
def test_any_policy_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    draw: st.DataObject,
    max_records: int,
    public: list[str],
    shares: dict[tuple[str, str], float],
) -> None:
    """Units, quotas, every text and every float: the same policy, and the same hash of it."""
    made = new_policy(
        epsilon=draw.draw(st.floats(0.2, 20)),
        delta=draw.draw(st.floats(1e-12, 1e-3)),
        block=BlockLength(kind="windows", value=draw.draw(st.integers(1, 10**6))),
        unit="subject" if max_records > 1 else draw.draw(st.sampled_from(["record", "subject"])),
        max_records=max_records,
        quotas=[
            Quota.model_validate({"purpose": purpose, "task": task, "share": share})
            for (purpose, task), share in shares.items()
        ],
    )
    policy = made.model_copy(update={"public": tuple(public)})  # also one that `new_policy` refuses
    path = tmp_path_factory.mktemp("policy") / "policy.toml"

    write_policy(policy, path)

    assert read_policy(path) == policy
    assert read_policy(path).content_sha256 == policy.content_sha256


def test_a_file_of_the_first_version_is_read_as_it_was(tmp_path: Path) -> None:
    """Its hash, and those of the ledger entries that hold it, do not change."""
    later = new_policy(epsilon=3.0, delta=1e-5, block=BLOCK)
    policy = PrivacyPolicy.model_validate(later.model_dump() | {"schema_version": 1})
    write_policy(policy, tmp_path / "policy.toml")

    assert "max_records" not in (tmp_path / "policy.toml").read_text()
    assert read_policy(tmp_path / "policy.toml") == policy
    assert policy.content_sha256 != later.content_sha256


class TestSubjects:
    """A subject's records that count add up in a count, and so does the noise."""

    def policy(self, max_records: int) -> PrivacyPolicy:
        return new_policy(
            epsilon=3.0,
            delta=1e-5,
            block=BLOCK,
            label_rho=0.005,
            unit="subject",
            max_records=max_records,
        )

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 1000))
    def test_labels_cost_no_more_than_for_a_record(self, max_records: int) -> None:
        """m times the sensitivity, m squared times the variance: the charge fits what is left."""
        policy, record = self.policy(max_records), label_event(self.policy(1))
        event = label_event(policy)

        assert event is not None and record is not None
        assert event.sensitivity2 == max_records**2
        left = telemetry_nano(policy) - math.ceil(1e9 * policy.alpha * policy.window_rho)
        assert event_nano(event, policy.alpha) <= left + 1
        assert abs(event.sigma2 / (record.sigma2 * max_records**2) - 1) < 0.02

    def test_records_have_one_record(self) -> None:
        """A number of records of one subject says nothing where the unit is a record."""
        with pytest.raises(SettingError, match="max_records"):
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, max_records=5)
        for max_records in (0, -1, 1001):
            with pytest.raises(SettingError, match=f"max_records is {max_records}"):
                self.policy(max_records)


class TestMonitoringQuotas:
    """A quota must not silence monitoring by accident."""

    @pytest.mark.parametrize(
        ("purpose", "share", "holds"),
        [
            ("features", 0.2, True),
            ("features", 0.01, False),
            ("labels", 0.03, True),
            ("labels", 0.01, False),
        ],
    )
    def test_one_report_fits(self, purpose: str, share: float, holds: bool) -> None:
        """Features take 0.103 of the cap here and labels 0.022."""
        quota = Quota.model_validate({"purpose": purpose, "share": share})

        def make() -> PrivacyPolicy:
            return new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, label_rho=0.005, quotas=[quota])

        if holds:
            check_policy(make())
            return
        with pytest.raises(SettingError, match=f"the quota of {purpose}, {share}"):
            make()

    def test_windows_have_one_task(self) -> None:
        """A quota for one task's windows would count nothing that the others do not."""
        quota = Quota(purpose="features", task="digits", share=0.5)
        with pytest.raises(SettingError, match="'digits'"):
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, quotas=[quota])


class TestAbsurdValues:
    """What is no number of this world is refused when it is given and when a file is read."""

    def test_a_report_drowns_in_no_noise(self, tmp_path: Path) -> None:
        """Ten thousand records in a count is the most: 5e-9 zCDP of a count at sensitivity 1."""
        assert count_noise(5e-9) == pytest.approx(10_000)
        for rho in (4.9e-9, 1e-300, 5e-324):
            with pytest.raises(SettingError, match=r"telemetry_rho is .* records in each count"):
                new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, telemetry_rho=rho)
        with pytest.raises(SettingError, match="window_rho is 1e-300"):
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, window_rho=1e-300)
        with pytest.raises(SettingError, match="label_rho is 1e-300"):
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, label_rho=1e-300)
        least = new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, telemetry_rho=5.0001e-9)
        path = tmp_path / "policy.toml"
        write_policy(least, path)
        assert read_policy(path) == least
        path.write_text(path.read_text().replace("window_rho = 5.0001e-09", "window_rho = 5e-10"))
        with pytest.raises(SettingError, match="window_rho is 5e-10"):
            read_policy(path)

    @pytest.mark.parametrize(
        ("kind", "most"), [("seconds", 10 * 365 * 86_400), ("windows", 1_000_000)]
    )
    def test_a_block_ends_in_ones_lifetime(
        self, tmp_path: Path, kind: Literal["seconds", "windows"], most: int
    ) -> None:
        path = tmp_path / "policy.toml"
        write_policy(
            new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind=kind, value=most)), path
        )
        read_policy(path)
        for value in (most + 1, 10**20):
            with pytest.raises(SettingError, match=f"a block of {value} {kind} is too long"):
                new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind=kind, value=value))
        path.write_text(path.read_text().replace(f"value = {most}", f"value = {10**20}"))
        with pytest.raises(SettingError, match="too long"):
            read_policy(path)

    @pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
    def test_a_delta_is_a_probability(self, delta: float) -> None:
        """And the message says so, in words that need no formula."""
        with pytest.raises(SettingError) as refused:
            new_policy(epsilon=3.0, delta=delta, block=BLOCK)
        assert f"delta is {delta}" in str(refused.value)
        assert "between 0 and 1" in str(refused.value) and "records" in str(refused.value)
        assert "alpha" not in str(refused.value)

    @pytest.mark.parametrize(
        "text", ["a\nb", "\x1b[2J", "a\x7f", "\x9b31m", "\u202eevil", "\u2028", "\ud800"]
    )
    def test_a_declaration_steers_no_terminal(self, text: str) -> None:
        """Refused, and the refusal does not print it."""
        with pytest.raises(SettingError, match="control characters") as refused:
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, public=["hours", text])
        assert str(refused.value).isprintable()

    @pytest.mark.parametrize("text", ["Öffnungszeiten", "heures\xa0creuses", "می\u200cشود", "営業"])
    def test_every_script_may_be_written(self, text: str) -> None:
        """Blanks of other widths and what joins letters are no commands."""
        policy = new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, public=[text])
        assert policy.public == (text,)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("max_records = 0", "max_records is 0"),
        ("max_records = 2", "max_records"),
        ('public = [""]', "public.0 is ''"),
        ("public = 5", "public is 5"),
        ('public = ["a", 5]', "public.1 is 5"),
        ("epsilon = 1e9", "epsilon is 1000000000.0"),
        ("epsilon = -3.0", "epsilon is -3.0"),
        ("epsilon = nan", "epsilon is nan"),
        ("epsilon = 1e-6", "epsilon 1e-06"),
        ("alpha = 100000000000000000000", "alpha is 100000000000000000000"),
        ("delta = 1e-400", "delta is 0.0"),
        ("quotas = 3", "quotas is 3"),
        ('quotas = [{purpose = "spying", share = 0.5}]', "quotas.0.purpose is 'spying'"),
        ('quotas = [{purpose = "training", share = 1.5}]', "quotas.0.share is 1.5"),
        ('quotas = [{purpose = "training", share = nan}]', "quotas.0.share is nan"),
        ('quotas = [{purpose = "training", share = -0.5}]', "quotas.0.share is -0.5"),
    ],
)
def test_the_refusal_names_the_value(tmp_path: Path, line: str, named: str) -> None:
    """Whoever wrote it finds it; a huge value is cut."""
    path = tmp_path / "policy.toml"
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=BLOCK), path)
    name = line.split(" =")[0]
    lines = [other for other in path.read_text().splitlines() if not other.startswith(name)]
    path.write_text("\n".join([line, *lines]))

    with pytest.raises(SettingError) as refused:
        read_policy(path)

    assert named in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", "nan"),
        ("epsilon", "inf"),
        ("delta", "nan"),
        ("delta", "0.5"),
        ("window_rho", "nan"),
        ("telemetry_rho", "0.3"),
        ("alpha", "2"),
        ("alpha", "8.0"),
        ("epsilon", '"3"'),
        ("surprise", "1"),
        ("adjacency", '"replace-one"'),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """NaN, a wrong type, an unknown key, an order or a share that leaves nothing."""
    path = tmp_path / "policy.toml"
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=BLOCK), path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} =")]
    path.write_text("\n".join([f"{name} = {value}", *lines]))

    with pytest.raises(SettingError):
        read_policy(path)


@pytest.mark.parametrize(
    "text", [b"", b"epsilon = ", b"\xff\xfe", b"epsilon = 3.0", b"a = " + 10_000 * b"["]
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: bytes) -> None:
    """Broken, foreign or partial bytes never give a policy."""
    path = tmp_path / "policy.toml"
    path.write_bytes(text)

    with pytest.raises(SettingError):
        read_policy(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """There is no default policy."""
    with pytest.raises(SettingError):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("epsilon", "delta", "telemetry_rho", "window_rho"),
    [
        (math.nan, 1e-5, None, None),
        (math.inf, 1e-5, None, None),
        (3.0, math.nan, None, None),
        (3.0, 1e-5, math.nan, None),
        (3.0, 1e-5, 0.01, math.nan),
        (3.0, 1e-5, 0.01, 0.02),
        (3.0, 1e-5, 0.5, None),
        (3.0, 1e-5, 0.0, None),
        (0.0, 1e-5, None, None),
        (-1.0, 1e-5, None, None),
        (1e-6, 1e-9, None, None),
    ],
)
def test_a_bound_that_is_none_is_refused(
    epsilon: float, delta: float, telemetry_rho: float | None, window_rho: float | None
) -> None:
    """NaN, infinity, and shares that exceed what they are part of."""
    with pytest.raises(SettingError):
        new_policy(
            epsilon=epsilon,
            delta=delta,
            block=BLOCK,
            telemetry_rho=telemetry_rho,
            window_rho=window_rho,
        )
