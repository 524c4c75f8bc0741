"""Each shipped experiment for a model of the hub is checked with a stand-in of the model's shape and rows of its layout."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mathsft.accounting.forecast import model_size
from mathsft.config.load import apply_overrides, load_experiment
from mathsft.config.schema import Experiment
from mathsft.data.examples import encode
from mathsft.data.model_check import check_model
from mathsft.data.pools import load_pools
from mathsft.footprint import fits
from mathsft.layout import StudyLayout
from mathsft.prompts.renderer import make_renderer
from mathsft.workers.placement import place
from tests.build import make_machine
from tests.config.stand_ins import NUM_PARAMETERS, SHAPES, write_stand_in

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if any(f"path: {model}" in path.read_text() for model in SHAPES))
FACTS = ("Model", "Data", "Memory", "Time")
OF_ALL = sorted(set(NAMES) - {"qwen2.5-math-1.5b", "qwen2.5-math-1.5b-lora"})
"""Those that state model, data, memory and time at their head."""


def write_rows(source: str, folder: Path, prefix: str, num_rows: int) -> str:
    """Write rows in the layout of GSM8K or MATH."""
    rows: list[dict[str, object]] = []
    for i in range(num_rows):
        text = f"{prefix} {i}: what is {i} plus {i}?"
        if "gsm8k" in source:
            rows.append({"question": text, "answer": f"It is {i}+{i} = <<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}"})
        else:
            solution = rf"It is $\boxed{{{2 * i}}}$."
            rows.append({"problem": text, "level": "Level 1", "type": "Prealgebra", "solution": solution})
    path = folder / f"{prefix}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def local(name: str, folder: Path) -> Experiment:
    """Return the experiment with the stand-in and the rows in place of what is on the hub."""
    experiment = load_experiment(str(FOLDER / f"{name}.yaml"), [])
    data = experiment.data
    assert data.test_source is not None
    return apply_overrides(
        experiment,
        {
            "model.path": str(write_stand_in(experiment.model.path, folder / "model")),
            "data.source": write_rows(data.source, folder, "train", 4400),
            "data.test_source": write_rows(data.test_source, folder, "test", 300),
        },
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_validates_with_a_model_of_its_shape(name: str, tmp_path: Path) -> None:
    experiment = local(name, tmp_path)
    model, training = Path(experiment.model.path), experiment.training
    pools = load_pools(experiment.data, experiment.task)
    assert {pool: len(problems) for pool, problems in pools.items() if pool in ("search", "test")} == {
        "search": 200,
        "test": 300,
    }
    check_model(model, experiment, [*pools["train"], *pools["test"]], on_cpu=False)
    renderer = make_renderer(experiment.prompt, AutoTokenizer.from_pretrained(model, local_files_only=True))
    encoded = encode(pools["train"][:50], renderer, training.max_length_tokens)
    assert (len(encoded.examples), encoded.num_dropped) == (50, 0)

    machine = make_machine(tuple(range(16)), ("0",), device_gb=80, free_memory_bytes=128 * 10**9)
    placement = place(machine, experiment, StudyLayout(tmp_path), "study", model=model_size(model))
    assert placement.trainers[0].settings.worker_device.device == "cuda"


@pytest.mark.parametrize("model", SHAPES)
def test_a_stand_in_has_as_many_parameters_as_its_model(model: str, tmp_path: Path) -> None:
    size = model_size(write_stand_in(model, tmp_path / "model"))
    assert size.num_parameters == NUM_PARAMETERS[model]
    assert size.dimensions is not None


@pytest.mark.parametrize("name", OF_ALL)
def test_its_head_states_source_licence_memory_and_time(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    stated = dict(re.findall(r"^# (Model|Data|Memory|Time): +(.*)$", text, re.MULTILINE))
    assert tuple(stated) == FACTS
    experiment = load_experiment(str(FOLDER / f"{name}.yaml"), [])
    precision = "bf16" if experiment.training.precision == "auto" else experiment.training.precision
    training = experiment.training.model_copy(update={"precision": precision})
    fit = next(fits(model_size(write_stand_in(experiment.model.path, tmp_path / "model")), training))
    gigabytes = int(stated["Memory"].partition(" GB")[0])
    assert fit.peak_bytes / 1e9 == pytest.approx(gigabytes, abs=0.5)
    assert re.search(r"MIT", stated["Data"])
    assert re.search(r"Apache-2\.0|Llama 3\.2 Community License", stated["Model"])
