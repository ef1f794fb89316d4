"""The guard: tokens from a file, rates per client, requests at once, and whom it never stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.listeners import Held, RunningListener, echo

from fedge.config import LimitSettings
from fedge.errors import SettingError, TooManyRequestsError
from fedge.serving.guard import BearerToken, Guard, RateLimit, checks, client_key
from fedge.serving.stats import WorkerStats, read_stats

INFER = "/v2/models/toy/infer"
HEALTH = ("/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready")
HEALTH_OF_VERSION = "/v2/models/toy/versions/3/ready"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("# of the line controllers\nalpha-token\n")
    return path


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_only_who_knows_the_token_is_served(token_file: Path) -> None:
    """No token, a wrong one or another scheme: 401, and the connection stays usable."""
    guard = Guard(echo, checks(token_file, LimitSettings()), max_concurrent=10)
    with RunningListener(guard) as served:
        wire = served.connect()
        refusals = [
            {},
            bearer("beta-token"),
            bearer("alpha-toke"),
            bearer("alpha-token2"),
            bearer(""),
            {"authorization": "Basic alpha-token"},
            {"authorization": "alpha-token"},
            bearer("\xe4\xff"),
            bearer("# of the line controllers"),
        ]
        for headers in refusals:
            refusal = wire.ask(INFER, b"{}" * 50_000, **headers)
            assert refusal.status == 401
            assert refusal.headers["www-authenticate"] == 'Bearer realm="fedge"'
            assert refusal.value["error"].startswith("authorization: ")
        for headers in (bearer("alpha-token"), {"authorization": "bearer  alpha-token "}):
            assert wire.ask(INFER, **headers).status == 200


def test_health_is_told_to_everybody(token_file: Path) -> None:
    """Whoever restarts or routes needs no token, and no rate holds it up; looking is all it may."""
    limits = LimitSettings(requests_per_s=0.001, burst=1)
    guard = Guard(echo, checks(token_file, limits), max_concurrent=10)
    with RunningListener(guard) as served:
        wire = served.connect()
        for path in (*HEALTH, HEALTH_OF_VERSION) * 3:
            assert wire.ask(path, method="GET").status == 200
        others = [("/v2/health/live", "POST"), ("/v2/models/toy", "GET"), ("/fedge/ready", "GET")]
        others += [("/v2/health/ready/", "GET"), ("/v2", "GET"), ("/ready", "GET")]
        assert {wire.ask(path, method=method).status for path, method in others} == {401, 429}


def test_a_changed_token_file_counts_at_once(token_file: Path) -> None:
    """Two tokens overlap for as long as the owner wants; a removed one is refused."""
    guard = Guard(echo, checks(token_file, LimitSettings()), max_concurrent=10)
    with RunningListener(guard) as served:
        wire = served.connect()

        def known(*tokens: str) -> list[bool]:
            return [wire.ask(INFER, **bearer(token)).status == 200 for token in tokens]

        assert known("alpha-token", "beta-token") == [True, False]
        token_file.write_text("alpha-token\nbeta-token\n")
        assert known("alpha-token", "beta-token") == [True, True]
        replacement = token_file.with_suffix(".new")
        replacement.write_text("beta-token\n")
        replacement.replace(token_file)
        assert known("alpha-token", "beta-token") == [False, True]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("# none\n")])
def test_without_tokens_nobody_is_let_in(
    token_file: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    """A lost or emptied file shuts the door, says so once, and opens it when it is back."""
    guard = Guard(echo, checks(token_file, LimitSettings()), max_concurrent=10)
    with RunningListener(guard) as served:
        wire = served.connect()
        assert wire.ask(INFER, **bearer("alpha-token")).status == 200
        damage(token_file)
        for _ in range(3):
            assert wire.ask(INFER, **bearer("alpha-token")).status == 401
        assert wire.ask("/v2/health/live", method="GET").status == 200
        token_file.write_text("alpha-token")
        assert wire.ask(INFER, **bearer("alpha-token")).status == 200
    assert caplog.text.count("nobody is let in") == 1 and "alpha" not in caplog.text


@pytest.mark.parametrize("text", ["", "\n# comment\n", "two words\n", "t\xf6ken\n", "x" * 70_000])
def test_a_token_file_that_holds_none_is_a_wrong_setting(tmp_path: Path, text: str) -> None:
    """A gateway that was meant to be closed does not start open."""
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(SettingError, match="token_file"):
        BearerToken(path)
    with pytest.raises(SettingError, match="token_file"):
        BearerToken(tmp_path / "missing")


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asks(limit: RateLimit, host: str = "10.0.0.1") -> float:
    """Seconds to wait; 0 where the request passes."""
    try:
        limit({"client": (host, 1234)})
    except TooManyRequestsError as error:
        return error.retry_after_s
    return 0.0


def test_a_burst_passes_then_a_steady_rate() -> None:
    """Five at once, then two a second; being refused costs nothing; silence fills up again."""
    clock = Clock()
    limit = RateLimit(2.0, 5, clock=clock)
    assert [asks(limit) for _ in range(5)] == [0.0] * 5
    assert [asks(limit) for _ in range(3)] == [pytest.approx(0.5)] * 3
    clock.now += 0.25
    assert asks(limit) == pytest.approx(0.25)
    clock.now += 0.25
    assert [asks(limit), asks(limit) > 0] == [0.0, True]
    clock.now += 3600
    assert [asks(limit) for _ in range(6)] == [0.0] * 5 + [pytest.approx(0.5)]


def test_over_hours_the_rate_is_what_was_set() -> None:
    """No drift by rounding: who always asks gets burst + rate x time."""
    clock = Clock()
    limit = RateLimit(3.0, 10, clock=clock)
    passed = 0
    for _ in range(40_000):
        clock.now += 0.1
        passed += asks(limit) == 0.0
    assert abs(passed - (10 + 3.0 * 4000)) <= 2


def test_each_client_has_its_own_rate() -> None:
    """An IPv6 client is its /64 network; IPv4 within IPv6 is the IPv4 client."""
    limit = RateLimit(1.0, 1, clock=Clock())
    assert asks(limit, "10.0.0.1") == 0 and asks(limit, "10.0.0.2") == 0
    assert asks(limit, "10.0.0.1") > 0 and asks(limit, "::ffff:10.0.0.1") > 0
    assert asks(limit, "2001:db8::1") == 0
    assert asks(limit, "2001:db8::2") > 0 and asks(limit, "2001:db8::ffff:1:2:3") > 0
    assert asks(limit, "2001:db8:0:1::1") == 0
    assert client_key(("fe80::1%eth0", 1)) == client_key(("fe80::2%eth1", 1))
    assert client_key(None) == b""


def test_the_memory_of_clients_is_bounded() -> None:
    """However many addresses ask, only the latest are remembered."""
    limit = RateLimit(0.001, 1, clock=Clock(), max_clients=100)
    for number in range(1000):
        asks(limit, f"10.0.{number // 256}.{number % 256}")
    assert len(limit) == 100
    assert asks(limit, "10.0.3.231") > 0, "the latest is remembered"
    assert asks(limit, "10.0.0.1") == 0, "the first is forgotten"


@pytest.mark.parametrize("wrong", [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_a_rate_that_is_none_is_a_wrong_setting(wrong: tuple[float, int]) -> None:
    with pytest.raises(SettingError):
        RateLimit(*wrong)


def test_a_hasty_client_is_told_when_to_come_back(tmp_path: Path) -> None:
    """429 with whole seconds in `Retry-After`; afterwards the same connection is served again."""
    clock, stats = Clock(), WorkerStats(tmp_path / "stats.bin")
    limit = RateLimit(0.4, 2, clock=clock)
    guard = Guard(echo, [("rate", limit)], max_concurrent=10, observer=stats)
    with RunningListener(guard, observer=stats) as served:
        wire = served.connect()
        answers = [wire.ask(INFER, b"123") for _ in range(3)]
        assert [a.status for a in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "3"
        assert answers[2].value == {"error": "requests: there are too many of this client"}
        clock.now += 2.4
        assert wire.ask(INFER).headers["retry-after"] == "1"
        clock.now += 0.2
        assert wire.ask(INFER).status == 200
    counted = read_stats(tmp_path / "stats.bin")
    assert counted["refused"] == {"token": 0, "rate": 2, "concurrency": 0, "connections": 0}
    assert counted["requests"] == {"1xx": 0, "2xx": 3, "3xx": 0, "4xx": 2, "5xx": 0}


def test_more_at_once_than_allowed_are_sent_back(tmp_path: Path) -> None:
    """429 while others are being served; health and, afterwards, everybody gets through."""
    held, stats = Held(), WorkerStats(tmp_path / "stats.bin")
    with RunningListener(Guard(held, max_concurrent=1, observer=stats), observer=stats) as served:
        first, second = served.connect(), served.connect()
        first.send(b"POST /slow HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        assert held.asked.wait(10)
        assert read_stats(tmp_path / "stats.bin")["inflight"] == 1
        refusal = second.ask("/quick")
        assert (refusal.status, refusal.headers["retry-after"]) == (429, "1")
        assert refusal.value == {"error": "requests: 1 are being served already"}
        served.run(held.go())
        assert first.answer().status == 200
        assert second.ask("/quick").status == 200
        assert second.ask("/v2/health/live", method="GET").status == 200
    counted = read_stats(tmp_path / "stats.bin")
    assert (counted["inflight"], counted["refused"]) == (
        0,
        {"token": 0, "rate": 0, "concurrency": 1, "connections": 0},
    )


def test_a_place_is_given_back_whatever_happens() -> None:
    """A request that breaks, or whose caller leaves, holds no place for ever."""

    async def broken(*_: object) -> None:
        raise ValueError

    with RunningListener(Guard(broken, max_concurrent=1)) as served:
        assert [served.connect().ask("/").status for _ in range(3)] == [500] * 3


def test_the_rate_comes_before_the_token(token_file: Path) -> None:
    """Tokens cannot be tried faster than the rate allows."""
    names = [name for name, _ in checks(token_file, LimitSettings(requests_per_s=1.0))]
    assert names == ["rate", "token"]
    assert checks(None, LimitSettings()) == []


def test_looking_at_the_token_file_is_no_reading(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unchanged file is not opened again: many requests a second pass here."""
    check = BearerToken(token_file)

    def read(path: Path) -> bytes:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(Path, "read_bytes", read)
    check({"headers": [(b"authorization", b"Bearer alpha-token")]})
