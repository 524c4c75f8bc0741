"""Settings that have an effect only with a value of another setting."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mathsft.config.conditions import applicable, conditions_first
from mathsft.config.load import load_settings
from mathsft.errors import UserError

Write = Callable[..., Path]
BATCH_SIZE = "  training.batch_size: {type: categorical, choices: [8, 16]}\n"
RANK = "  training.lora.rank: {type: categorical, choices: [4, 8]}\n"
METHOD = "  training.method: {type: categorical, choices: [full, lora]}\n"
LORA_ALPHA = ("  batch_size: 32\n", "  batch_size: 32\n  lora: {alpha: 8}\n")


def refusal(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        load_settings("mine", None, assignments)
    return str(caught.value)


def test_a_setting_of_an_adapter_is_refused_without_one(write: Write) -> None:
    write(LORA_ALPHA)
    advice = "has no effect with training.method = full; set that to lora, or leave this out"
    assert refusal() == f"experiments/mine.yaml:7: training.lora.alpha: {advice}"
    assert load_settings("mine", None, ["training.method=lora"]).experiment.training.lora.alpha == 8
    write()
    assert refusal("training.lora.dora=true") == f"--set: training.lora.dora: {advice}"
    wsd = "has no effect with training.schedule = cosine; set that to wsd, or leave this out"
    assert refusal("training.schedule=cosine", "training.decay_fraction=0.3") == f"--set: training.decay_fraction: {wsd}"


def test_a_rank_is_searched_only_where_adapters_are_trained(write: Write) -> None:
    write((BATCH_SIZE, RANK))
    assert refusal().startswith("studies/mine.yaml:4: search: training.lora.rank: has no effect with training.method = full")
    assert "training.lora.rank" in load_settings("mine", None, ["training.method=lora"]).study.search
    write((BATCH_SIZE, RANK + METHOD), LORA_ALPHA)
    assert list(load_settings("mine", None, []).study.search) == [
        "training.learning_rate",
        "training.lora.rank",
        "training.method",
    ]


def test_enqueued_settings_that_do_not_apply_are_named(write: Write) -> None:
    enqueue = "enqueue:\n  - {training.method: full, training.lora.rank: 4}\n"
    write((BATCH_SIZE, RANK + METHOD), ("trial:", f"{enqueue}trial:"))
    assert refusal().endswith("enqueue: training.lora.rank: has no effect with training.method = full; leave it out")


def test_a_setting_follows_the_one_that_it_needs() -> None:
    space = {"training.lora.rank": 1, "training.learning_rate": 2, "training.method": 3}
    assert list(conditions_first(space)) == ["training.method", "training.lora.rank", "training.learning_rate"]
    assert applicable({"training.lora.rank": 4, "training.method": "full"}) == {"training.method": "full"}
    assert applicable({"training.lora.rank": 4}) == {"training.lora.rank": 4}
