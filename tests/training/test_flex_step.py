"""Whole steps with the attention of CUDA, on a CPU and against "tree": losses, gradients, and how often it is compiled.

The reference "tree" is held against stock transformers by test_step.py.
"""

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as flex_module
from torch._dynamo.exc import FailOnRecompileLimitHit

from mathsft.config.schema import TrainingSettings
from mathsft.config.study_schema import LimitSettings
from mathsft.layout import StudyLayout
from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.model import attention as attention_module
from mathsft.training.model import block_mask as block_mask_module
from mathsft.training.state import BaseModel, load_base
from mathsft.training.step import TrainingStep
from mathsft.worker_settings import WorkerSettings, WorkerSpec
from mathsft.workers.worker import Device, Worker
from tests.build import make_plan, make_run
from tests.training.gradients import CPU, assert_equal_gradients, outcome_and_gradients, random_batch
from tests.training.published import curve, weights
from tests.training.settled import Trainer

MakeModel = Callable[..., Path]
MakeSettings = Callable[..., WorkerSettings]
Compile = Callable[..., object]

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def backward_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_module, "_validate_device", lambda *tensors: None)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_compiled_flex", lambda: flex_module.flex_attention)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """Compile as on CUDA, with a backend that collects the graphs and runs them operation by operation."""
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    compile_: Compile = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(compile_, backend=backend))
    attention_module._compiled_flex.cache_clear()
    torch._dynamo.reset()
    yield compiled
    attention_module._compiled_flex.cache_clear()
    torch._dynamo.reset()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("qwen2", {}), ("qwen2", {"num_attention_heads": 6, "num_key_value_heads": 3}), ("llama", {"num_key_value_heads": 1})],
)
def test_a_step_has_the_loss_and_every_gradient_of_the_tree(
    make_model: MakeModel, kind: str, settings: dict[str, object], checkpointing: bool
) -> None:
    folder = make_model(kind, **settings)
    tree, flex = (load_base(folder, attention) for attention in ("tree", "flex"))
    assert flex.attention == "flex"
    for seed, (prefix_tokens, budget) in enumerate(((40, 10_000), (3, 400))):
        batch = random_batch(seed, prefix_tokens)
        expected_outcome, expected = outcome_and_gradients(tree, batch)
        outcome, actual = outcome_and_gradients(
            flex, batch, token_budget_tokens=budget, gradient_checkpointing=checkpointing
        )
        assert outcome.loss == pytest.approx(expected_outcome.loss, rel=1e-5)
        assert outcome.num_computed_tokens % 128 == 0
        assert_equal_gradients(actual, expected)


def test_the_masks_of_a_step_are_made_once_before_its_first_row_and_once_more_after_a_shortage(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def flex(*args: object, **options: object) -> torch.Tensor:
        events.append("row")
        assert options["kernel_options"] == {"num_stages": 2}
        if events.count("row") == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return flex_module.flex_attention(*args, **options)

    def with_block_masks(rows: Sequence[MicroBatch]) -> list[MicroBatch]:
        events.append(f"masks of {len(rows)}")
        return block_mask_module.with_block_masks(rows)

    monkeypatch.setattr(attention_module, "_compiled_flex", lambda: flex)
    monkeypatch.setattr(attention_module, "with_block_masks", with_block_masks)
    monkeypatch.setattr(attention_module, "_kernel_options", lambda device: attention_module.kernel_options((8, 9)))
    base = load_base(make_model(num_hidden_layers=1), "flex")
    outcome_and_gradients(base, random_batch(0, 3), token_budget_tokens=260)
    [first, second] = [place for place, event in enumerate(events) if event.startswith("masks")]
    assert (first, second) == (0, 3)
    assert events[second] == f"masks of {len(events) - second - 1}"
    assert len(events) > second + 3


@pytest.mark.parametrize(
    ("capability", "options"),
    [
        (None, {}),
        ((7, 5), {}),
        ((8, 0), {}),
        ((8, 6), {"num_stages": 2}),
        ((8, 7), {}),
        ((8, 9), {"num_stages": 2}),
        ((9, 0), {}),
        ((10, 0), {}),
        ((12, 0), {}),
    ],
)
def test_fewer_stages_where_shared_memory_is_small(capability: tuple[int, int] | None, options: dict[str, int]) -> None:
    assert attention_module.kernel_options(capability) == options


def batches_of_many_lengths() -> list[list[Example]]:
    """Make batches whose rows have 2 to 12 blocks: long and short ones, in no order."""
    random = np.random.default_rng(0)
    sizes = [900, 100, 1400, 300, 128, 600, 20, 1100, 256, 500]
    return [[Example("", tuple(random.integers(1, 257, n).tolist()), (5,) * 12) for n in (size, 25)] for size in sizes]


def take_steps(base: BaseModel, batches: list[list[Example]], **training: object) -> list[float]:
    settings = TrainingSettings(**({"learning_rate": 1e-3, "batch_size": 2, "precision": "fp32"} | training))
    step = TrainingStep(base, settings, len(batches), CPU)
    return [step.take(batch, number).loss for number, batch in enumerate(batches, start=1)]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flex_is_compiled_at_most_twice_for_rows_of_all_lengths(
    make_model: MakeModel, graphs: list[torch.fx.GraphModule], checkpointing: bool
) -> None:
    folder, batches = make_model(max_position_embeddings=2048), batches_of_many_lengths()
    training = {"token_budget_tokens": 4096, "gradient_checkpointing": checkpointing}
    expected = take_steps(load_base(folder, "tree"), batches, **training)
    base = load_base(folder, "flex")
    assert take_steps(base, batches, **training) == pytest.approx(expected, rel=1e-5)
    assert len(graphs) == 2
    # Another run, and a run whose budget was halved, find both kernels.
    take_steps(base, batches[::-1], **training)
    take_steps(base, batches, **(training | {"token_budget_tokens": 512}))
    assert len(graphs) == 2


def test_at_the_limit_of_recompilations_there_is_an_error_and_no_dense_attention(
    make_model: MakeModel, graphs: list[torch.fx.GraphModule]
) -> None:
    base = load_base(make_model(max_position_embeddings=2048), "flex")
    with torch._dynamo.config.patch(recompile_limit=1), pytest.raises(FailOnRecompileLimitHit):
        take_steps(base, batches_of_many_lengths()[:2])
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_ranks_with_flex_give_the_curve_and_the_weights_of_one_with_the_tree(
    make_model: MakeModel, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    alone = make_settings(make_model(tied=True))
    worker_device = replace(alone.worker_device, attention="flex")
    layout = StudyLayout(alone.layout.root.with_name("ranks"))
    ours = replace(alone, worker_device=worker_device, layout=layout)
    overrides = {
        "training.batch_size": 8,
        "training.token_budget_tokens": 400,
        "training.gradient_checkpointing": checkpointing,
    }
    run = make_run("run", overrides, make_plan(6 * 8, (1.0,)), seed=3)
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where its processes find flex_on_cpu
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    spec = WorkerSpec("flex_on_cpu:FlexTrainer", ours, "cpu:0", env, (), ranks=2)
    worker = Worker(spec, "trainer", Device(), LimitSettings())
    try:
        actual = asyncio.run(worker.call("advance", run, 6))
    finally:
        worker.close()
    expected = Trainer(alone).advance(run, 6)
    for name in ("loss", "gradient_norm"):
        own, trees = ([line[name] for line in curve(settings.layout.root, "run")] for settings in (ours, alone))
        assert len(own) == 6
        assert own == pytest.approx(trees, rel=1e-5)
    for name, weight in weights(ours.layout.root, actual).items():
        other = weights(alone.layout.root, expected)[name]
        assert float((weight - other).norm() / other.norm()) < 1e-5, name
