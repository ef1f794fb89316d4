"""What a centre's commands say about the choice of its adapter."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.choices import choice_of, studied
from fakes.digits_base import demo_policy
from fakes.releases import FILES, HARDWARE, toy_reference, toy_task

from fedge.cli.main import main
from fedge.config import ServerSettings
from fedge.delivery.candidate import countersign, describe_files, publish, stage
from fedge.errors import CandidateError
from fedge.learning.chosen import chosen_training, shipped_choice
from fedge.privacy.policy import read_policy, write_policy
from fedge.records import CHOICE_FILE, AdapterChoice, PrivacyPolicy, ReleaseManifest
from fedge_server.admin import init_server, troubles
from fedge_server.published import releases

Run = Callable[..., tuple[int, str, str]]
CHOICE = choice_of(demo_policy(), studied(demo_policy(), learning_rate=0.7))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as the console script runs it: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedge", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def policy_file(folder: Path, policy: PrivacyPolicy) -> Path:
    write_policy(policy, folder / "policy.toml")
    return folder / "policy.toml"


# --- setting up -------------------------------------------------------------------------


def test_a_new_centre_for_digits_names_the_shipped_choice(tmp_path: Path, run: Run) -> None:
    """Every role's settings do, and it decides what that centre trains."""
    policy = policy_file(tmp_path, demo_policy())
    status, _, err = run("server", "init", tmp_path / "host", "--policy", policy)
    settings = ServerSettings.load(tmp_path / "host" / "server.toml")

    assert status == 0 and "not recorded" not in err
    for role in ("server", "builder", "evaluator", "publisher"):
        values = tomllib.loads((tmp_path / "host" / f"{role}.toml").read_text())
        assert values["training"] == {"choice": "adapter-choice.json"}
    assert (tmp_path / "host" / "adapter-choice.json").read_bytes() == shipped_choice("digits")
    chosen = chosen_training(settings.training, read_policy(settings.policy), settings.task)
    best = chosen.choice.chosen if chosen.choice else None
    assert best is not None and chosen.settings.learning_rate == best.learning_rate


def test_under_another_budget_none_is_named_and_that_is_said(tmp_path: Path, run: Run) -> None:
    policy = policy_file(tmp_path, demo_policy(1.0))
    status, _, err = run("server", "init", tmp_path / "host", "--policy", policy)

    assert status == 0 and "not recorded" in err and "fedge.learning.choice" in err
    assert ServerSettings.load(tmp_path / "host" / "server.toml").training.choice is None
    assert not (tmp_path / "host" / "adapter-choice.json").exists()


@pytest.mark.parametrize("training", [{"choice": "own.json"}, {"adapter": "head"}], ids=str)
def test_what_the_caller_says_is_kept(tmp_path: Path, training: dict[str, object]) -> None:
    """His own file, or another adapter than was chosen."""
    settings = init_server(
        tmp_path / "host",
        policy=policy_file(tmp_path, demo_policy()),
        settings={"training": training},
    )

    values = tomllib.loads((tmp_path / "host" / "server.toml").read_text())
    assert values["training"] == training
    assert not (tmp_path / "host" / "adapter-choice.json").exists()
    assert (settings.training.choice is None) == ("choice" not in training)


# --- asking -----------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A centre whose settings name `CHOICE`."""
    folder = tmp_path / "host"
    init_server(
        folder,
        policy=policy_file(tmp_path, demo_policy()),
        settings={"training": {"choice": "adapter-choice.json"}},
    )
    (folder / "adapter-choice.json").write_bytes(CHOICE.to_bytes())
    return folder


def test_a_choice_that_does_not_apply_is_named_before_it_is_needed(host: Path, run: Run) -> None:
    """`status` says so while nothing has drifted yet."""
    settings = ServerSettings.load(host / "server.toml")
    assert troubles(settings) == ()
    (host / "adapter-choice.json").write_bytes(CHOICE.to_bytes().replace(b"0.7", b"0.9"))

    (trouble,) = troubles(settings)
    assert "adapter-choice.json" in trouble and "changed after the study" in trouble
    assert trouble in run("server", "status", "--config", host / "server.toml")[2]
    (host / "policy.toml").unlink()
    assert "policy.toml" in troubles(settings)[0]


def released(host: Path, counter: int, choice: AdapterChoice | None) -> Path:
    """Publish a toy release that carries this choice."""
    settings = ServerSettings.load(host / "server.toml")
    folder = settings.objects_dir / "candidates" / f"run-{counter}"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes(f"{counter} {file}".encode())
    (folder / "task.json").write_bytes(toy_task().to_bytes())
    (folder / "reference.json").write_bytes(toy_reference(toy_task()).to_bytes())
    if choice is not None:
        (folder / CHOICE_FILE).write_bytes(choice.to_bytes())
    names = [*FILES, *([CHOICE_FILE] if choice is not None else [])]
    manifest = ReleaseManifest(
        family="digits",
        task_version=1,
        counter=counter,
        parent=counter - 1,
        run_id=f"run-{counter}" if counter > 1 else "initial",
        variants={HARDWARE: "int8"},
        files=describe_files(folder, names),
        cohort=("a" * 32,) if counter > 1 else (),
        privacy_epsilon=2.5 if counter > 1 else 0.0,
        measures={},
    )
    keys = host / "keys"
    stage(settings.releases_dir, folder, manifest, keys / "builder.pem")
    countersign(settings.releases_dir, folder, keys / "evaluator.pem")
    publish(settings.releases_dir, folder, keys / "online.pem", gateways=None)
    return folder


def test_releases_are_listed_with_what_chose_their_adapter(host: Path, run: Run) -> None:
    """One of an earlier version, or without a study, says that nothing is recorded."""
    for counter, choice in ((1, None), (2, None), (3, CHOICE)):
        released(host, counter, choice)
    status, out, _ = run("server", "releases", "--config", host / "server.toml")
    lines = out.splitlines()

    assert status == 0 and len(lines) == 6
    assert "digits 1 from public data alone, for every gateway" in lines[0]
    assert "none was trained" in lines[1] and "not recorded" in lines[3]
    assert "digits 3 from 2 by run-3, for 1 gateway, epsilon 2.500" in lines[4]
    assert CHOICE.describe() in lines[5]
    _, out, _ = run("server", "releases", "--config", host / "server.toml", "--json")
    assert [one["study"] for one in json.loads(out)] == [None, None, CHOICE.summary()]


def test_a_file_that_is_not_the_signed_one_is_no_study(host: Path) -> None:
    """Whoever can write into the centre's folder cannot change what a release says."""
    released(host, 1, None)
    folder = released(host, 2, CHOICE)
    better = CHOICE.chosen.model_copy(update={"accuracies": (0.99, 0.99)})
    (folder / CHOICE_FILE).write_bytes(choice_of(demo_policy(), better).to_bytes())

    with pytest.raises(CandidateError, match="not the file that the manifest names"):
        releases(ServerSettings.load(host / "server.toml"))


def test_a_centre_without_releases_lists_none(host: Path, run: Run) -> None:
    assert run("server", "releases", "--config", host / "server.toml") == (0, "", "")
