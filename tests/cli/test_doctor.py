"""What mathsft doctor checks, on which machine, and what it says."""

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from rich.console import Console

from mathsft import cli, packages
from mathsft.accounting.forecast import FinalDisk, Footprint
from mathsft.cli import main
from mathsft.commands import host_checks
from mathsft.commands.check_results import Findings
from mathsft.commands.examination import CHECKS, applicable, check_placement
from mathsft.commands.opening import CommandContext
from mathsft.config.study_schema import WandbSettings
from mathsft.errors import OK, USER_ERROR, UserError
from mathsft.layout import StudyLayout
from mathsft.runs.worker_checks import check_experiment
from mathsft.store.lock import locked
from mathsft.store.study_store import StudyStore
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.worker import Failed
from tests.build import GIB, make_machine, make_run

ROOT = Path(__file__).parents[2]
ON_CPU = make_machine()
NO_OPTIONS = {"study": None, "experiment": None, "set": []}
FOOTPRINT = Footprint(
    disk_bytes=2 * GIB,
    final_disk=FinalDisk(3 * GIB, GIB, 2),
    trainer_memory_bytes=2 * GIB,
    evaluator_memory_bytes=GIB,
    num_parameters=100,
    num_trained=100,
)


def context_for(*assignments: str) -> CommandContext:
    arguments = argparse.Namespace(**NO_OPTIONS | {"set": [*assignments]})
    heartbeat = Heartbeat(Console(quiet=True))
    return host_checks.found_settings(arguments, ON_CPU, heartbeat)[1]


# ---- which checks apply


@pytest.mark.parametrize(
    ("num_devices", "not_applicable"),
    [
        (0, {"compiler", "ranks", "sleep"}),
        (1, {"ranks"}),
        (2, {"ranks", "sleep"}),
        (3, {"sleep"}),
        (8, {"sleep"}),
    ],
)
def test_the_machine_decides_which_checks_apply(num_devices: int, not_applicable: set[str]) -> None:
    names = applicable(make_machine(cuda=[str(index) for index in range(num_devices)]))
    assert set(CHECKS) - set(names) == not_applicable
    assert [name for name in CHECKS if name in names] == [*names]


@pytest.mark.parametrize(("num_devices", "sleeps"), [(0, False), (1, True), (2, False)])
@pytest.mark.parametrize("device_gb", [None, 80])
def test_the_engine_can_sleep_where_that_is_checked(
    num_devices: int, device_gb: float | None, sleeps: bool, tmp_path: Path
) -> None:
    machine = make_machine(cuda=[str(index) for index in range(num_devices)], device_gb=device_gb)
    placement = check_placement(machine, check_experiment("bf16"), StudyLayout(tmp_path))
    assert placement.evaluators[0].settings.worker_device.sleep_mode == sleeps


# ---- findings


def test_a_check_that_raises_is_a_finding_and_the_others_go_on() -> None:
    lines: list[str] = []
    findings = Findings(lines.append, is_shown=True)

    def broken() -> str:
        raise UserError("batch size 0: must be at least 1")

    def crashed() -> str:
        raise Failed("trainer-0.advance: the worker died 3 times; the log ends with\nTraceback\nImportError: no torch")

    def unexpected() -> str:
        raise KeyError("layer")

    assert findings.check("cpu", lambda: "2 cores")
    assert findings.exit_code == OK
    assert not findings.check("settings", broken)
    assert findings.get("model", None, "settings") is None
    assert not findings.check("training", crashed)
    assert not findings.check("engine", unexpected)
    findings.applicable = ("cpu",)
    assert not findings.check("ranks", lambda: "not asked")
    assert lines == [
        "cpu         OK      2 cores",
        "settings    CHANGE  batch size 0: must be at least 1",
        "model       -       not checked: needs settings",
        "training    CHANGE  trainer-0.advance: the worker died 3 times; the log ends with ImportError: no torch",
        "engine      CHANGE  KeyError: 'layer'",
    ]
    assert findings.exit_code == USER_ERROR
    told = json.loads(findings.json())
    assert told["ok"] is False
    assert told["checks"][2] == {
        "check": "model",
        "state": "skipped",
        "text": "not checked: needs settings",
        "seconds": 0.0,
    }


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_missing_package_is_told_in_the_form_that_was_asked_for(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "NEEDED", ("pydantic", "not_installed_at_all"))
    assert main(["doctor", *options]) == USER_ERROR
    printed = capsys.readouterr().out
    if options:
        assert "not_installed_at_all is missing" in json.loads(printed)["checks"][0]["text"]
    else:
        assert re.fullmatch(r"packages    CHANGE  .*not_installed_at_all is missing.*\n", printed)


# ---- the machine


def test_a_compiler_is_told_from_none_and_headers_from_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C compiler \(no-such-compiler\)"):
        host_checks.found_compiler()
    monkeypatch.delenv("CC")
    assert "compiles against" in host_checks.found_compiler()
    monkeypatch.setattr(host_checks.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"cannot compile against .*Python\.h.*python3-dev"):
        host_checks.found_compiler()


def test_refused_devices_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ("CUDA device 1 is split into instances of NVIDIA MIG",)
    one = make_machine(cuda=("0",), device_gb=80, free_gb=79, refused_devices=refused)
    monkeypatch.setattr(host_checks, "detect_machine", lambda: one)
    text, machine = host_checks.found_devices()
    assert machine is one
    assert text.startswith("CUDA devices: 0 (79.0 GB of 80.0 GB free); bf16 is multiplied natively")
    assert text.endswith("; not used: CUDA device 1 is split into instances of NVIDIA MIG")
    monkeypatch.setattr(host_checks, "detect_machine", lambda: make_machine(refused_devices=refused))
    with pytest.raises(UserError, match="split into instances"):
        host_checks.found_devices()


def test_the_build_for_cuda_without_a_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "detect_machine", lambda: ON_CPU)
    monkeypatch.setattr(host_checks.metadata, "version", lambda name: "0.32.0")
    with pytest.raises(UserError, match=r"vllm 0\.32\.0 is the build for CUDA, but no CUDA device can be used"):
        host_checks.found_devices()


def test_bf16_is_told_of_the_device_that_trains() -> None:
    assert "bf16 is multiplied natively (the CPU has avx512_bf16)" in host_checks.found_cpu(ON_CPU)
    assert "training.precision auto is fp32" in host_checks.found_cpu(make_machine(bf16_flags=()))
    assert "bf16" not in host_checks.found_cpu(make_machine(cuda=("0",)))


@pytest.mark.parametrize(("num_devices", "is_enough"), [(0, True), (2, True), (3, False)])
def test_ranks_need_more_shared_memory(num_devices: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    machine = make_machine(cuda=[str(index) for index in range(num_devices)])
    if is_enough:
        assert host_checks.found_shared_memory(machine) == "64.0 MiB free in /dev/shm"
    else:
        with pytest.raises(UserError, match=r"64\.0 MiB are free in /dev/shm, 1\.00 GiB are needed"):
            host_checks.found_shared_memory(machine)


def test_memory_must_hold_one_of_the_two_workers() -> None:
    enough, little = make_machine(free_memory_bytes=4 * GIB), make_machine(free_memory_bytes=2 * GIB)
    assert "predicted: trainer 3.2 GB, evaluator" in host_checks.found_memory(enough, FOOTPRINT)
    assert host_checks.found_memory(little, None) == "2.1 GB of the host's memory are free"
    with pytest.raises(UserError, match="too little"):
        host_checks.found_memory(little, FOOTPRINT)


def test_the_disk_must_hold_study_and_final_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path / "studies" / "none")
    assert "a study takes up to 2.1 GB, its final run up to 3.2 GB" in host_checks.found_disk(layout, FOOTPRINT)
    monkeypatch.setattr(host_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    with pytest.raises(UserError, match=r"1\.1 GB are free in .*, but a study takes"):
        host_checks.found_disk(layout, FOOTPRINT)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written"):
        host_checks.found_disk(layout, None)


# ---- the study


def test_model_and_data_of_the_quickstart_are_found() -> None:
    context = context_for()
    text, local = host_checks.found_model(context)
    assert local is not None
    assert re.match(r"quickstart: \d+ MB of weights in /", text)
    assert host_checks.found_data(context, local) == (
        "quickstart: search 200, confirm 875, validation 1,000, test 1,000, train 8,192 problems; no defects"
    )
    text, footprint = host_checks.found_placement(context, local)
    assert text.startswith("study: no CUDA device: core 0 for training")
    assert footprint.num_parameters > 800_000


def test_a_model_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"'org/model' is not a local folder, and the download from the hub failed"):
        host_checks.found_model(context_for("model.path=org/model"))


def test_a_model_on_the_hub_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [SimpleNamespace(file_size=2 * 10**9, will_download=True), SimpleNamespace(file_size=7, will_download=False)]

    def snapshot_download(hub_id: str, **options: object) -> object:
        if options.get("dry_run"):
            return files
        assert options["local_files_only"], "nothing may be downloaded"
        raise FileNotFoundError(hub_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    text, local = host_checks.found_model(context_for("model.path=org/model"))
    assert (text, local) == ("org/model: the hub has it; 2.0 GB are to be downloaded when a study begins", None)


@pytest.fixture
def begun() -> Iterator[CommandContext]:
    """The context of a study that has a run."""
    context = context_for("training.precision=fp32")
    context.layout.root.mkdir(parents=True)
    store = StudyStore.open(context.layout.database_url, "quickstart")
    store.write(make_run("baseline"))
    store.close()
    yield context


def test_the_database_is_told_with_who_writes_to_it(begun: CommandContext) -> None:
    assert re.search(r"study\.db: revision \d+, 1 runs; no process writes to it$", host_checks.found_database(begun))
    with locked(begun.layout):
        assert host_checks.found_database(begun).endswith(f"; process {os.getpid()} is writing to it")
    assert "no process" in host_checks.found_database(begun)
    with begun.layout.lock.open("a") as other:  # a look does not disturb the next driver
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_study_that_has_not_begun_has_no_database() -> None:
    context = context_for()
    assert host_checks.found_database(context).endswith("has none: the study has not begun")
    assert not context.layout.root.exists()


def test_a_study_that_began_otherwise_is_told(begun: CommandContext) -> None:
    store = StudyStore.open(begun.layout.database_url, "quickstart")
    store.record_settings({"prompt.template": "other"})
    store.close()
    with pytest.raises(UserError, match=r"began with other settings .*prompt\.template: 'other' -> 'short'"):
        host_checks.found_database(begun)


def test_wandb_needs_a_key_only_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "has_api_key", lambda: False)
    assert host_checks.found_wandb(WandbSettings()) == "wandb.mode is offline, project mathsft"
    assert host_checks.found_wandb(WandbSettings(mode="disabled")) == "wandb.mode is disabled"
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        host_checks.found_wandb(WandbSettings(mode="online"))


# ---- hardware that one does not have


@pytest.mark.parametrize(
    ("hardware", "study", "final"),
    [
        ("1x12", "does not fit: model.path: an engine with a model of 1.54 B", "does not fit: model.path: an engine"),
        ("2x12", "does not fit: model.path: training a model of 1.54 B", "does not fit: model.path: training"),
        ("1x24", "CUDA device 0: training and scoring take turns, with gradient checkpointing and AdamW's state in", "host"),
        ("2x24", "0 for training, 1 for scoring, with gradient checkpointing and AdamW's state in host memory", "host"),
        ("1x80", "CUDA device 0: training and scoring at the same time", "CUDA device 0: training and scoring"),
        (
            "8x80",
            "0, 1, 2, 3, 4 for training, 5, 6, 7 for scoring; on one device a trial takes about",
            "in 4 ranks, 4, 5, 6, 7",
        ),
    ],
)
def test_a_placement_is_shown_for_other_hardware(
    hardware: str, study: str, final: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code = main(["doctor", "--hardware", hardware])
    assert exit_code == (USER_ERROR if "does not fit" in study else OK)
    printed = capsys.readouterr().out
    assert "Qwen/Qwen2.5-Math-1.5B (1.54 B parameters)" in printed
    placed = dict(line.split(": ", 1) for line in printed.splitlines()[1:] if not line.startswith("  "))
    assert study in placed["study"]
    assert final in placed["final"]
    assert main(["doctor", "--hardware", hardware, "--json"]) == exit_code
    assert study in json.loads(capsys.readouterr().out)["placements"]["study"][0]


def test_a_small_model_fits_everywhere_and_an_unknown_one_is_not_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert main(["doctor", "--hardware", "3x24", "--study", "quickstart", "--set", "evaluators=1"]) == OK
    printed = capsys.readouterr().out
    assert len(re.findall("trainer on CUDA", printed)) == 2 + 1
    assert "trainer on CUDA 0,1 in 2 ranks: flex attention, 4,096 tokens at once" in printed
    assert "estimated" not in printed, "the setting decides, not the estimate"
    assert main(["doctor", "--hardware", "3x24", "--study", "quickstart", "--set", "evaluators=2"]) == OK
    assert capsys.readouterr().out.count("evaluator on CUDA") == 2 + 2
    assert main(["doctor", "--hardware", "3x24", "--study", "quickstart", "--set", "evaluators=3"]) == USER_ERROR
    assert "evaluators: 3, but 3 CUDA devices have room for 2 beside a trainer; lower it" in capsys.readouterr().out
    assert main(["doctor", "--hardware", "1x24", "--set", "model.path=org/model"]) == OK
    assert "org/model (not on this machine, so memory is not planned)" in capsys.readouterr().out


def test_hardware_of_another_form_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("h100", "0x80", "8x", "8×80"):
        assert cli.main(["doctor", "--hardware", text]) == USER_ERROR
        assert re.fullmatch(rf".*--hardware {text}: expected .*8x80\n", capsys.readouterr().err)


# ---- the whole command


@pytest.mark.slow
def test_the_doctor_on_this_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mathsft", "doctor", "--json", "--study", "quickstart"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["ok"], told
    assert done.returncode == OK
    checks = {check["check"]: check for check in told["checks"]}
    assert [*checks] == [name for name in CHECKS if name not in ("compiler", "ranks", "sleep")]
    assert re.match(r"tree attention on cpu: loss and gradient are sdpa's up to", checks["attention"]["text"])
    assert re.match(r"3 steps of the quickstart's model in (bf16|fp32), .* loss \d", checks["training"]["text"])
    assert re.match(r"Qwen2ForCausalLM: log probabilities are the trainer's before and after", checks["engine"]["text"])
    assert re.match(r"study about \d+ \w+, final run about \d+ \w+; 0\.9 M parameters", checks["forecast"]["text"])
    assert not list(tmp_path.glob("mathsft-doctor-*"))
    assert not (tmp_path / "studies").exists()
