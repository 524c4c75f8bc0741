"""Placement by memory, as a table on hardware that this machine does not have; sizes in 10^9 bytes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from mathsft.errors import UserError
from mathsft.footprint import Dimensions, ModelSize, fits
from mathsft.layout import StudyLayout
from mathsft.workers.capacity import DEVICE_SHARE, SLEEPING_ENGINE_BYTES, host_bytes
from mathsft.workers.placement import Placement, place
from tests.build import make_experiment, make_machine

EXPERIMENT = make_experiment(precision="bf16", max_length_tokens=2048, token_budget_tokens=8192)
"""The lengths and the budget of the experiment for Qwen2.5-Math-1.5B."""


def model_of(
    hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, head: int, vocabulary: int
) -> ModelSize:
    sizes = Dimensions(
        SimpleNamespace(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            head_dim=head,
            vocab_size=vocabulary,
        )
    )
    num_parameters = sizes.num_matrix_weights
    return ModelSize(num_parameters, 2 * num_parameters, sizes)


MODELS = {
    "0.1B": model_of(576, 1536, 30, 9, 3, 64, 49_152),  # SmolLM2-135M
    "0.5B": model_of(896, 4864, 24, 14, 2, 64, 151_936),  # Qwen2.5-0.5B
    "1.5B": model_of(1536, 8960, 28, 12, 2, 128, 151_936),  # Qwen2.5-Math-1.5B
    "3B": model_of(2048, 11_008, 36, 16, 2, 128, 151_936),  # Qwen2.5-3B
    "7B": model_of(3584, 18_944, 28, 28, 4, 128, 152_064),  # Qwen2.5-7B with a tied head
}


def placed(
    num_devices: int,
    device_gb: float,
    model: ModelSize,
    purpose: Literal["study", "final"] = "study",
    ranks: int | None = None,
    *,
    host_gb: float = 1000,
    **machine: Any,
) -> Placement:
    cuda = [str(index) for index in range(num_devices)]
    hardware = make_machine(range(16), cuda, device_gb=device_gb, free_memory_bytes=int(host_gb * 1e9), **machine)
    return place(hardware, EXPERIMENT, StudyLayout(Path("studies/demo")), purpose, ranks, model=model)


def told(placement: Placement) -> str:
    """Return trainers x ranks, token budget ("+" with checkpointing), offload, and how trainer and engine share a device."""
    [evaluator] = placement.evaluators
    device, trainer = evaluator.settings.worker_device, placement.trainers[0]
    text = f"{len(placement.trainers)}x{trainer.ranks} {device.budget_tokens}{'+' if device.gradient_checkpointing else ''}"
    text += " offload" if device.offload else ""
    if not placement.shares_device:
        return text
    return f"{text} {'park' if device.sleep_mode else 'resident'}"


STUDIES = {
    "0.1B": {
        1: ["1x1 8192 resident"] * 5,
        2: ["1x1 8192"] * 5,
        4: ["3x1 8192"] * 5,
        8: ["7x1 8192"] * 5,
    },
    "0.5B": {
        1: ["1x1 2048 resident", *["1x1 8192 resident"] * 4],
        2: ["1x1 8192"] * 5,
        4: ["3x1 8192"] * 5,
        8: ["7x1 8192"] * 5,
    },
    "1.5B": {
        1: ["1x1 8192+ offload park", "1x1 8192+ park", "1x1 4096 park", "1x1 8192 resident", "1x1 8192 resident"],
        2: ["1x1 8192+ offload", "1x1 2048", "1x1 4096", "1x1 8192", "1x1 8192"],
        4: ["3x1 8192+ offload", "3x1 2048", "3x1 4096", "3x1 8192", "3x1 8192"],
        8: ["7x1 8192+ offload", "7x1 2048", "7x1 4096", "7x1 8192", "7x1 8192"],
    },
    "7B": {
        1: ["an engine", "4.3 B", "5.2 B", "1x1 8192+ offload park", "1x1 8192+ offload resident"],
        2: ["2.7 B", "4.5 B", "5.4 B", "1x1 8192+ offload", "1x1 8192+ offload"],
        4: ["2.7 B", "4.5 B", "5.4 B", "3x1 8192+ offload", "3x1 8192+ offload"],
        8: ["2.7 B", "4.5 B", "5.4 B", "6x1 8192+ offload", "6x1 8192+ offload"],
    },
}
"""By model and number of devices: what is placed on devices of 24, 40, 48, 80 and 141 GB, or words of the error."""

FINALS = {
    "0.1B": {4: ["1x3 8192"] * 5, 8: ["1x7 8192"] * 5},
    "0.5B": {4: ["1x3 8192"] * 5, 8: ["1x7 8192"] * 5},
    "1.5B": {
        4: ["1x3 2048", *["1x3 8192"] * 4],
        8: ["1x7 4096", *["1x7 8192"] * 4],
    },
    "7B": {
        4: ["B parameters", "B parameters", "B parameters", "1x3 4096", "1x3 8192"],
        8: ["B parameters", "1x7 2048", "1x7 2048", "1x7 4096", "1x7 8192"],
    },
}
"""The same of final runs, which train in ranks."""

TABLE = [
    (purpose, model, num_devices, device_gb, expected)
    for purpose, table in (("study", STUDIES), ("final", FINALS))
    for model, by_number in table.items()
    for num_devices, by_size in by_number.items()
    for device_gb, expected in zip((24, 40, 48, 80, 141), by_size, strict=True)
]


@pytest.mark.parametrize(("purpose", "model", "num_devices", "device_gb", "expected"), TABLE)
def test_memory_decides_what_is_placed_where(
    purpose: Literal["study", "final"], model: str, num_devices: int, device_gb: int, expected: str
) -> None:
    if "x" in expected:
        assert told(placed(num_devices, device_gb, MODELS[model], purpose)) == expected
        return
    with pytest.raises(UserError) as raised:
        placed(num_devices, device_gb, MODELS[model], purpose)
    text = str(raised.value)
    assert expected in text and "take a smaller model or a larger device" in text and "\n" not in text


def test_what_is_placed_is_predicted_to_fit() -> None:
    model = MODELS["1.5B"]
    for device_gb in (24, 32, 40, 48, 80, 141):
        placement = placed(1, device_gb, model)
        device = placement.evaluators[0].settings.worker_device
        training = device.fitting(EXPERIMENT.training)
        peak = next(
            fit.peak_bytes
            for fit in fits(model, EXPERIMENT.training)
            if (fit.budget_tokens, fit.gradient_checkpointing, fit.offload)
            == (training.token_budget_tokens, training.gradient_checkpointing, device.offload)
        )
        engine = SLEEPING_ENGINE_BYTES if device.sleep_mode else device.engine_memory_share * device_gb * 1e9
        assert peak + engine <= DEVICE_SHARE * device_gb * 1e9 + 1
        assert (placement.max_unscored == 1) == device.sleep_mode
        assert (placement.trainers[0].device == placement.evaluators[0].device) == device.sleep_mode
        assert bool(device.cache_bytes) != device.sleep_mode


def test_memory_in_use_by_others_is_not_counted_on() -> None:
    model = MODELS["1.5B"]
    assert told(placed(2, 80, model, free_gb=50)) == "1x1 4096"
    share = placed(2, 80, model, free_gb=50).evaluators[0].settings.worker_device.engine_memory_share
    assert share == pytest.approx(DEVICE_SHARE * 50 / 80), "vLLM refuses to start if less is free"
    with pytest.raises(UserError, match=r"an engine with a model of 1.54 B parameters needs .*3.0 GB of 80.0 GB are free"):
        placed(2, 80, model, free_gb=3)


def test_host_memory_limits_trainers_and_ranks() -> None:
    model = MODELS["1.5B"]
    assert [told(placed(8, 80, model, host_gb=host))[:3] for host in (200, 100, 64)] == ["7x1", "3x1", "2x1"]
    assert placed(8, 80, model, host_gb=64).description.endswith("; not used: 2, 3, 4, 5, 6")
    assert [told(placed(8, 80, model, "final", host_gb=host))[:3] for host in (200, 100, 64)] == ["1x7", "1x4", "1x2"]
    with pytest.raises(UserError, match=r"final.ranks: 7, but host memory has room for 2; lower it"):
        placed(8, 80, model, "final", 7, host_gb=64)
    with pytest.raises(UserError, match=r"^host memory: 31.\d GB are needed to load and save .*, and 16.0 GB are free; "):
        placed(1, 80, model, host_gb=16)
    assert told(placed(1, 48, model, host_gb=32)) == "1x1 4096 park", "a parked run takes what saving it takes"


def test_offload_is_placed_where_nothing_else_fits_and_host_memory_has_room() -> None:
    model = MODELS["1.5B"]
    assert 12e9 < min(fit.peak_bytes for fit in fits(model, EXPERIMENT.training)) < 14e9, "and 27.8 GB without offload"
    assert told(placed(1, 32, model)) == "1x1 8192+ offload resident"
    assert placed(2, 24, model).description == (
        "CUDA devices: 0 for training, 1 for scoring, with gradient checkpointing and AdamW's state in host memory, because "
        "device memory is small"
    )
    assert [told(placed(8, 24, model, host_gb=host))[:3] for host in (300, 110, 64)] == ["7x1", "3x1", "1x1"]
    for num_devices in (1, 2):
        with pytest.raises(UserError, match=r"^host memory: 37.\d GB are needed to train .* there, .* 35.0 GB are free; "):
            placed(num_devices, 24, model, host_gb=35)
    added = host_bytes(model, 1, 1, 1, offload=True) - host_bytes(model, 1, 1, 1, offload=False)
    assert added == 4 * model.num_parameters, "the gradient"
    assert not any(fit.offload for fit in fits(model, EXPERIMENT.training, num_ranks=2)), "ranks shard instead"


def test_what_to_change_is_said_where_the_model_fits_otherwise() -> None:
    with pytest.raises(UserError, match=r"in 2 ranks needs .*; set final.ranks to \d$"):
        placed(8, 48, MODELS["7B"], "final", 2)
    with pytest.raises(UserError, match=r"in 2 ranks needs .*; set final.ranks to 1$"):
        placed(3, 28, MODELS["3B"], "final")
    assert told(placed(3, 28, MODELS["3B"], "final", 1)) == "1x1 8192+ offload"
    long = EXPERIMENT.model_copy(update={"training": EXPERIMENT.training.model_copy(update={"max_length_tokens": 65_536})})
    machine = make_machine((0, 1), ("0", "1"), device_gb=24, free_memory_bytes=10**12)
    with pytest.raises(UserError, match=r"; set training.max_length_tokens to \d+, or take a smaller model"):
        place(machine, long, StudyLayout(Path("studies/demo")), "study", model=MODELS["1.5B"])


def test_a_model_of_another_kind_is_placed_by_what_it_holds() -> None:
    def other(billions: float) -> ModelSize:
        return ModelSize(int(billions * 1e9), int(2e9 * billions), None)

    assert told(placed(2, 24, other(0.5))) == "1x1 None"
    assert told(placed(1, 80, other(0.5))) == "1x1 None park"
    with pytest.raises(UserError, match=r"training a model of 1.50 B parameters needs 27.0 GB .*; up to about 1.2 B"):
        placed(2, 24, other(1.5))


def test_without_nvmls_word_on_memory_all_is_taken_to_fit() -> None:
    machine = make_machine((0, 1), ("0",), free_memory_bytes=10**12)
    assert (
        told(place(machine, EXPERIMENT, StudyLayout(Path("studies/demo")), "study", model=MODELS["7B"])) == "1x1 None park"
    )


def test_a_run_gets_the_budget_that_fits_and_never_a_larger_one() -> None:
    device = placed(1, 40, MODELS["1.5B"]).trainers[0].settings.worker_device
    training = EXPERIMENT.training
    assert device.fitting(training).gradient_checkpointing
    small = training.model_copy(update={"token_budget_tokens": 100})
    assert device.fitting(small).token_budget_tokens == 100
    halved = placed(2, 48, MODELS["1.5B"]).trainers[0].settings.worker_device
    assert halved.fitting(training).token_budget_tokens == 4096
    assert not halved.fitting(training).gradient_checkpointing
