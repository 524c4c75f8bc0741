"""What training.precision "auto" becomes, for how long, and what a user is told of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mathsft import cli
from mathsft.commands import config, opening, precision
from mathsft.commands.precision import warn_if_emulated, with_precision
from mathsft.config.load import Loaded, identity, load_settings
from mathsft.store.study_store import StudyStore
from mathsft.workers.machine import Machine
from tests.build import make_baseline, make_machine

NATIVE, EMULATED = make_machine(), make_machine(bf16_flags=())
OLD_GPU = make_machine(cuda=("0",), capability=(7, 5))


def loaded_with(*assignments: str) -> Loaded:
    return load_settings("quickstart", None, list(assignments))


def begin(store: StudyStore, loaded: Loaded) -> None:
    """Record what a study records when it begins."""
    store.record_settings(identity(loaded))
    store.write(make_baseline())


def test_auto_is_what_the_machine_computes_natively() -> None:
    native, emulated = (with_precision(loaded_with(), machine, None) for machine in (NATIVE, EMULATED))
    assert (native.experiment.training.precision, emulated.experiment.training.precision) == ("bf16", "fp32")
    assert native.sources["training.precision"] == "auto: the CPU has avx512_bf16"
    assert replace(native, experiment=loaded_with().experiment, sources={}) == replace(loaded_with(), sources={})


def test_a_study_goes_on_in_the_precision_it_began_with(store: StudyStore) -> None:
    begun = with_precision(loaded_with(), NATIVE, store)
    begin(store, begun)
    elsewhere = with_precision(loaded_with(), EMULATED, store)
    assert identity(elsewhere) == identity(begun)
    assert elsewhere.sources["training.precision"] == "auto: the study began with it"
    store.check(identity(elsewhere))


def test_settings_recorded_before_any_run_bind_nobody(store: StudyStore) -> None:
    store.record_settings(identity(with_precision(loaded_with(), NATIVE, store)))
    assert with_precision(loaded_with(), EMULATED, store).experiment.training.precision == "fp32"


def test_an_explicit_precision_is_obeyed_and_auto_overrides_nothing(store: StudyStore) -> None:
    explicit = loaded_with("training.precision=bf16")
    assert with_precision(explicit, EMULATED, store) is explicit
    assert with_precision(loaded_with("training.precision=auto"), NATIVE, store).overrides == {}


def test_an_emulated_precision_is_told_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(loaded: Loaded, machine: Machine) -> str:
        console = Console(width=1000)
        with console.capture() as captured:
            warn_if_emulated(loaded, machine, console)
        return captured.get()

    explicit = loaded_with("training.precision=bf16")
    assert told(explicit, NATIVE) == told(with_precision(loaded_with(), EMULATED, None), EMULATED) == ""
    # Really measured; this machine's ratio may be anything above 0.
    line = told(explicit, EMULATED)
    assert re.search(r"none of amx_bf16.*matrix products take \d+ times as long as in fp32, measured now", line)
    assert len(line.splitlines()) == 1
    monkeypatch.setattr(precision, "MEASURE", ("false",))  # no CPU is measured for a GPU
    assert "CUDA compute capability 7.5, native bf16 needs 8.0" in told(explicit, OLD_GPU)


def test_auto_cannot_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "experiment: quickstart\nsearch:\n  training.precision: {type: categorical, choices: [auto, fp32]}\n"
        "trial: {num_examples: 64, eval_points: [1]}\nfinal: {num_examples: 128, eval_points: [1]}\n"
    )
    assert cli.main(["study", "--study", "mine.yaml", "--dry-run"]) == 2
    assert "training.precision: auto cannot be searched" in capsys.readouterr().err


@pytest.mark.parametrize(("machine", "shown"), [(NATIVE, "bf16"), (EMULATED, "fp32")])
def test_config_and_dry_run_show_what_auto_became(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured: None, machine: Machine, shown: str
) -> None:
    monkeypatch.setattr(opening, "WIDTH", 400)
    for command in (config, opening):
        monkeypatch.setattr(command, "detect_machine", lambda: machine)
    assert cli.main(["config"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"training\.precision\W+{shown}\W+auto: the CPU has", printed)
    assert re.search(r"evaluation\.precision\W+fp32\W+auto: a CPU", printed)
    assert cli.main(["study", "--dry-run"]) == 0
    assert re.search(rf"precision +{shown} \(from auto: the CPU has", capsys.readouterr().out)
