"""Where masters and moments are does not change a run: on the device, parked between its steps, or always on the host."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mathsft.config.schema import TrainingSettings
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Diverged, Run
from mathsft.training import offload
from mathsft.training.full_state import SavePace
from mathsft.training.host_buffers import HostBuffers
from mathsft.training.logprob_check import NUM_CHECK_TOKENS, make_logprob_check
from mathsft.training.meter.peak_memory import predicted_peak
from mathsft.training.optimizer import MasterAdamW
from mathsft.training.state import load_base
from mathsft.worker_settings import WorkerSettings
from mathsft.workers.placement import CUDA_TRAINER_ENV
from tests.build import make_plan, make_run
from tests.native import needs_bf16
from tests.training.fake_device import CPU, CUDA, ByteBudget, FakeCuda
from tests.training.gradients import random_batch
from tests.training.published import curve
from tests.training.settled import Trainer
from tests.training.test_out_of_memory import ONE_ROW, SEVERAL_ROWS, new_step

NUM_STEPS = 3
BF16_AND_FP32 = pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "PIECE_ELEMENTS", 64 * 37)


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SavePace, "is_due", lambda self, seconds: True)


class PlayedTrainer(Trainer):
    """A trainer whose accelerator is the CPU: as it is, or as the fake device, with memory of its own.

    It loads the model without the fake device, which knows no meta tensors.
    """

    budget = ByteBudget()

    @contextmanager
    def playing(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self._device == CUDA:
                stack.enter_context(self.budget)
                stack.enter_context(FakeCuda(self.budget))
            yield

    def advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        with self.playing():
            return super().advance(run, to_step)

    def park(self) -> None:
        with self.playing():
            super().park()


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> ByteBudget:
    budget = ByteBudget()
    monkeypatch.setattr(PlayedTrainer, "budget", budget)
    monkeypatch.setattr("mathsft.training.meter.utilization.best_gemm_flops_per_second", lambda dtype, device: 1e9)
    return budget


def settings_at(settings: WorkerSettings, name: str, device: str, *, is_offload: bool) -> WorkerSettings:
    """Return settings for a study folder of this name; checkpointing is on with offload, as placement has it."""
    worker_device = replace(settings.worker_device, device=device, offload=is_offload, gradient_checkpointing=is_offload)
    return replace(settings, worker_device=worker_device, layout=StudyLayout(settings.layout.root / name))


@dataclass(frozen=True)
class Left:
    curve: list[dict[str, float]]
    published: list[bytes]
    state_header: dict[str, str]
    """With a hash of all tensors of the full state."""


def left_by(settings: WorkerSettings, run: Run) -> Left:
    """Return all that a run leaves: curve, published weights, and the header of its last full state."""
    layout = settings.layout
    published = [(layout.checkpoint(run.name, step) / "model.safetensors").read_bytes() for step in range(1, NUM_STEPS + 1)]
    with safe_open(layout.full_state(run.name), framework="pt") as file:
        header = file.metadata()
    return Left(curve(layout.root, run.name), published, header)


@pytest.mark.slow
@BF16_AND_FP32
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_resident_parked_and_offloaded_runs_leave_the_same_bytes_and_each_goes_on_where_another_stopped(
    make_model: Callable[..., Path],
    make_settings: Callable[..., WorkerSettings],
    save_always: None,
    device: str,
    precision: str,
) -> None:
    # Several micro-batches in a step, and clipping in every step.
    settings = make_settings(
        make_model(tied=True), precision=precision, token_budget_tokens=200, max_gradient_norm=0.1, weight_decay=0.1
    )
    run = make_run("trial-0", {}, make_plan(4 * NUM_STEPS), seed=0)

    def train(name: str, *ways: tuple[bool, bool]) -> Left:
        """Train a step each way, with offload or not, parked after it or not; a new trainer comes with another mode."""
        trainer = None
        for step, (is_offload, is_parked) in enumerate(ways, start=1):
            at = settings_at(settings, name, device, is_offload=is_offload)
            if trainer is None or trainer._settings != at:
                trainer = PlayedTrainer(at)
            trainer.advance(run, step)
            if is_parked:
                trainer.park()
        return left_by(at, run)

    resident, parked, offloaded, both = (False, False), (False, True), (True, False), (True, True)
    expected = train("resident", resident, resident, resident)
    assert len({line["loss"] for line in expected.curve}) == NUM_STEPS
    assert all(line["gradient_norm"] > 0.1 for line in expected.curve), "each step is clipped"
    assert train("offloaded", offloaded, offloaded, both) == expected
    assert train("in-turn", parked, both, resident) == expected
    if device == "cuda":
        assert train("parked", parked, parked, parked) == expected
        assert train("both", both, both, both) == expected


def test_a_parked_run_leaves_the_device_empty_and_never_returns_for_another_run(
    settings: WorkerSettings, budget: ByteBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_parameters = sum(
        weight.numel() for weight in load_base(Path(settings.experiment.model.path), "tree").weights.values()
    )
    returned: list[torch.device] = []
    move_to = MasterAdamW.move_to
    run, other = (make_run(f"trial-{number}", {}, make_plan(40), seed=number) for number in range(2))
    # In fp32 the model computes with the master weights, or with a copy of them.
    for is_offload, parameter_bytes in ((False, 16), (True, 8)):
        trainer = PlayedTrainer(settings_at(settings, str(is_offload), "cuda", is_offload=is_offload))
        trainer.advance(run, 1)
        held = budget.held
        assert held == pytest.approx(parameter_bytes * num_parameters, rel=0.05)
        for number in (2, 3):
            trainer.park()
            assert budget.held == 0
            trainer.advance(run, number)
            assert budget.held == held
        trainer.park()
        with monkeypatch.context() as patched:
            patched.setattr(MasterAdamW, "move_to", lambda adamw, device: returned.append(device) or move_to(adamw, device))
            trainer.advance(other, 1)
        assert CUDA not in returned
        assert budget.held == held
        del trainer
        gc.collect()


def test_host_memory_is_allocated_once_for_all_runs(settings: WorkerSettings) -> None:
    for is_offload in (False, True):
        trainer = PlayedTrainer(settings_at(settings, str(is_offload), "cuda", is_offload=is_offload))
        addresses = set()
        for number in range(3):
            trainer.advance(make_run(f"trial-{number}", {}, make_plan(40), seed=number), 1)
            trainer.park()
            vectors = trainer._base.buffers._vectors
            addresses.add(tuple((name, vector.data_ptr()) for name, vector in sorted(vectors.items())))
        assert len(addresses) == 1
        assert [*sorted(vectors)] == [*["gradient"] * is_offload, "master", "moment1", "moment2"]


def test_gradients_travel_during_the_last_backward_pass_and_the_update_waits_for_them(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Streams:
        """A device's module that records what is asked of it."""

        Stream = staticmethod(lambda: SimpleNamespace(wait_stream=lambda stream: events.append("after backward so far")))
        current_stream = staticmethod(lambda: None)

        @staticmethod
        @contextmanager
        def stream(stream: object) -> Iterator[None]:
            events.append("copy")
            yield

        @staticmethod
        def synchronize() -> None:
            events.append("wait")

    backward = Tensor.backward

    def recorded(loss: Tensor) -> None:
        events.append("backward")
        backward(loss)
        events.append("end")

    monkeypatch.setattr(torch, "get_device_module", lambda device: Streams)
    monkeypatch.setattr(Tensor, "backward", recorded)
    base = load_base(make_model(), "tree")
    batch = random_batch(0, prefix_tokens=0)
    step = new_step(base, budget_tokens=SEVERAL_ROWS, offload=True)
    events.clear()
    step.take(batch, 1)
    num_weights = len(base.weights)
    num_passes = events.count("backward")
    assert num_passes > 1
    assert events == [
        *["backward", "end"] * (num_passes - 1),
        *["backward", *["after backward so far", "copy"] * num_weights, "end"],
        "wait",
    ]


class _Partial(nn.Module):
    """A model of which one weight is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused, self.bias = (nn.Parameter(torch.randn(size)) for size in ((70, 3), (5, 5), (7,)))

    def loss(self, seed: int) -> Tensor:
        """Return a loss whose gradients are random numbers."""
        generator = torch.Generator().manual_seed(seed)
        terms = [
            (parameter * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)).sum()
            for parameter in (self.used, self.bias)
        ]
        return terms[0] + terms[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_without_a_gradient_only_decays_as_without_offload(dtype: torch.dtype) -> None:
    """The memory of the gradient in host memory is used for the way back to the device, too."""
    tensors: list[dict[str, Tensor]] = []
    training = TrainingSettings(learning_rate=0.1, batch_size=1, weight_decay=0.5)
    for kind in (MasterAdamW, offload.OffloadedAdamW):
        model = _Partial()
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = kind(model, weights, training, dtype, CPU, HostBuffers())
        for step in range(1, 4):
            for index in range(2):
                with optimizer.collecting(first=index == 0, last=index == 1):
                    model.loss(10 * step + index).backward()
            optimizer.update(step, 0.1, 0.5)
        expected = weights["unused"] * (1 - 0.1 * 0.5) ** 3
        torch.testing.assert_close(optimizer.master_weights()["unused"], expected)
        assert not torch.equal(optimizer.master_weights()["used"], weights["used"])
        tensors.append({name: tensor.clone() for name, tensor in optimizer.tensors().items()})
    assert all(torch.equal(tensors[1][name], tensor) for name, tensor in tensors[0].items())


@BF16_AND_FP32
@pytest.mark.parametrize("budget_tokens", [SEVERAL_ROWS, ONE_ROW])
def test_the_peak_with_offload_is_near_the_predicted_one(
    make_model: Callable[..., Path], budget: ByteBudget, precision: str, budget_tokens: int
) -> None:
    base = load_base(make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32), "tree")
    batch = random_batch(0, prefix_tokens=0)
    with budget, FakeCuda(budget):
        step = new_step(base, CUDA, budget_tokens, offload=True, precision=precision, gradient_checkpointing=True)
        predicted = predicted_peak(base, step._training, step.largest_micro_batch(batch), CUDA, offload=True)
        step.take(batch, 1)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        make_logprob_check(base.model, step.weights(), tuple(range(1, NUM_CHECK_TOKENS + 1)), dtype)
    assert predicted is not None
    assert 0.9 < budget.peak / predicted.total < 1.15


def test_the_installed_torch_reads_the_settings_of_the_allocators() -> None:
    text = CUDA_TRAINER_ENV["PYTORCH_ALLOC_CONF"]
    before = torch._C._accelerator_getAllocatorSettings()
    try:
        torch._C._accelerator_setAllocatorSettings(text)
        name, _, number = text.rpartition(":")
        assert number.isdigit()
        with pytest.raises((RuntimeError, ValueError)):  # a setting that nobody reads takes any value
            torch._C._accelerator_setAllocatorSettings(f"{name}:many")
    finally:
        torch._C._accelerator_setAllocatorSettings(before)
