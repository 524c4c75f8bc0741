"""The parts of bench.device that train: attention, speed and memory of a step, capped memory, and equal bits.

They need torch, transformers, pydantic and psutil, and neither vLLM nor mathsft's other packages.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bench.device_model import QWEN2_5_1_5B, TINY, filling_batch, make_model, several_rows_batch
from bench.device_part import Clock, Context, Figures, free_memory, rounded
from mathsft.config.schema import TrainingSettings
from mathsft.footprint import ModelSize, fits
from mathsft.records import Example
from mathsft.training.batching.microbatches import common_prefix, packed_micro_batches, padded_micro_batches
from mathsft.training.cpu.memory import OutOfMemoryError
from mathsft.training.device_check import examples_of_two_questions, loss_and_gradient
from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.meter.flops import model_flops
from mathsft.training.meter.gemm import best_gemm_flops_per_second
from mathsft.training.meter.peak_memory import predicted_peak
from mathsft.training.model.attention import with_masks
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.state import BaseModel, load_base
from mathsft.training.step import DTYPES, StepOutcome, TrainingStep, packing_of
from mathsft.workers.capacity import DEVICE_SHARE

ATTENTION = {"cuda": "flex", "cpu": "tree"}
PACKED = {"cuda": ("flex", "tree"), "cpu": ("tree",)}
"""Packed attention by device; flex_attention has no backward pass on a CPU."""
CAPS_GB = (24, 40, 48)
NUM_TIMED_STEPS = 3


@dataclass(frozen=True)
class Mode:
    """A way to take a step: settings of the run, and options of TrainingStep and of its predicted peak."""

    name: str
    training: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


MODES = (
    Mode("plain"),
    Mode("checkpointing", {"gradient_checkpointing": True}),
    Mode("offload", {"gradient_checkpointing": True}, {"offload": True}),
)


@dataclass(frozen=True)
class Sizes:
    """The lengths of rows and the token budget."""

    row_tokens: tuple[int, ...]
    budget_tokens: int


FULL, SMOKE = Sizes((256, 512, 1024, 2048, 4096, 8192), 8192), Sizes((256, 384), 384)


@dataclass(frozen=True)
class StepFigures:
    """The measurements of some steps with one batch."""

    first_seconds: float
    """Of the first step, which compiles what is not compiled."""
    seconds: float
    """Median of the later steps."""
    outcome: StepOutcome
    peak_bytes: int | None
    """Allocated on a CUDA device; None on a CPU."""
    predicted_bytes: int | None
    max_fitting_tokens: int | None
    """The token budget that was found to fit after memory had run out; None if it never did."""

    @property
    def memory(self) -> Figures:
        """The peak, the predicted peak and their ratio."""
        peak, predicted = self.peak_bytes, self.predicted_bytes
        return {
            "peak_gb": None if peak is None else rounded(peak / 1e9),
            "predicted_gb": None if predicted is None else rounded(predicted / 1e9),
            "peak_over_predicted": None if peak is None or predicted is None else rounded(peak / predicted),
            "halved_to_tokens": self.max_fitting_tokens,
        }


def sizes_of(context: Context) -> Sizes:
    """Return the sizes of this context's rows."""
    return SMOKE if context.is_smoke else FULL


def precision_of(device: str) -> Literal["bf16", "fp32"]:
    """Return the precision in which mathsft would train here."""
    return "bf16" if device == "cuda" and torch.cuda.get_device_capability() >= (8, 0) else "fp32"


# ---- the parts


def model(context: Context) -> Iterator[Figures]:
    """Write the model, and one of the same width with fewer layers."""
    shape = TINY if context.is_smoke else QWEN2_5_1_5B
    device, dtype = torch.device(context.device), DTYPES[precision_of(context.device)]
    clock, num_parameters = Clock(context.device), 0

    def write(folder: Path, num_layers: int) -> None:
        nonlocal num_parameters
        num_parameters = make_model(folder, shape, num_layers, device, dtype)

    seconds = clock.seconds(lambda: write(context.model_folder, shape.num_layers))
    yield {"parameters": num_parameters, "seconds": rounded(seconds)}
    write(context.shallow_folder, max(1, shape.num_layers // 7))


def attention(context: Context) -> Iterator[Figures]:
    """Compare loss and gradient with those of sdpa attention over padded rows in fp32, in the model with fewer layers."""
    device = torch.device(context.device)
    expected = _loss_and_gradient(context.shallow_folder, "sdpa", "fp32", device)
    for precision in dict.fromkeys(("fp32", precision_of(context.device))):
        # In fp32 sdpa is the reference; in bf16 its error is what rounding alone explains.
        others = () if precision == "fp32" else ("sdpa",)
        for name in (*PACKED[context.device], *others):
            actual = _loss_and_gradient(context.shallow_folder, name, precision, device)
            loss, gradient = (
                float((one - other).norm() / other.norm()) for one, other in zip(actual, expected, strict=True)
            )
            yield {
                "attention": name,
                "precision": precision,
                "loss_error": rounded(loss),
                "gradient_error": rounded(gradient),
            }


def lengths(context: Context) -> Iterator[Figures]:
    """Take steps with one row of each length: seconds, and how often torch compiled."""
    base = _load(context)
    for row_tokens in sizes_of(context).row_tokens:
        batch, before = filling_batch(_vocabulary_size(base), row_tokens), counters["stats"]["unique_graphs"]
        figures = take_steps(context, base, MODES[0], batch, row_tokens)
        yield {
            "row_tokens": figures.outcome.num_computed_tokens,
            "first_seconds": rounded(figures.first_seconds),
            "seconds": rounded(figures.seconds),
            "compiled": counters["stats"]["unique_graphs"] - before,
        }


def speed(context: Context) -> Iterator[Figures]:
    """Take steps with one row of the whole token budget, in every mode: use of the device, and peak of memory."""
    base, budget_tokens = _load(context), sizes_of(context).budget_tokens
    flops, precision = model_flops(base.model.config), precision_of(context.device)
    best = best_gemm_flops_per_second(DTYPES[precision], torch.device(context.device))
    batch = filling_batch(_vocabulary_size(base), budget_tokens)
    for mode in MODES:
        figures = take_steps(context, base, mode, batch, budget_tokens)
        outcome = figures.outcome
        counts = (outcome.num_computed_tokens, outcome.num_attended_tokens, outcome.num_response_tokens)
        rate = flops.total(*counts) / figures.seconds
        yield {
            "mode": mode.name,
            "seconds": rounded(figures.seconds),
            "tokens_per_second": rounded(outcome.num_tokens / figures.seconds),
            "tflops": rounded(rate / 1e12),
            "gemm_tflops": rounded(best / 1e12),
            "mfu": rounded(rate / best),
            **figures.memory,
        }


def memory(context: Context) -> Iterator[Figures]:
    """Do the same on a device that has less memory, and say what mathsft would have chosen there before the run."""
    base, budget_tokens = _load(context), sizes_of(context).budget_tokens
    batch = filling_batch(_vocabulary_size(base), budget_tokens)
    for cap_gb in CAPS_GB[:1] if context.is_smoke else CAPS_GB:
        if not _cap(context.device, cap_gb):
            yield {"cap_gb": cap_gb, "skipped": "the device has less memory"}
            continue
        for mode in MODES:
            chosen = {"cap_gb": cap_gb, "mode": mode.name, "fitting_tokens": _fitting_tokens(base, context, mode, cap_gb)}
            try:
                figures = take_steps(context, base, mode, batch, budget_tokens)
            except OutOfMemoryError as error:  # what a small device is expected to say
                yield {**chosen, "out_of_memory": str(error)}
            else:
                yield {**chosen, "seconds": rounded(figures.seconds), **figures.memory}


def repeat(context: Context) -> Iterator[Figures]:
    """Train the same steps three times, the third time with a park between them: are the bits equal?"""
    base, budget_tokens = _load(context), sizes_of(context).budget_tokens // 2
    batch = several_rows_batch(_vocabulary_size(base), budget_tokens, num_rows=3)
    device, clock = torch.device(context.device), Clock(context.device)
    expected_losses: list[float] = []
    expected_weights: dict[str, Tensor] = {}
    for kind in ("first", "again", "parked"):
        step = _new_step(context, base, MODES[0], batch, budget_tokens)
        losses, seconds = [], []
        for number in range(1, 2 + NUM_TIMED_STEPS):
            if kind == "parked" and number == 3:
                seconds = [clock.seconds(partial(step.move_to, place)) for place in (torch.device("cpu"), device)]
            losses.append(step.take(batch, number).loss)
        if kind == "first":
            expected_losses = losses
            expected_weights = {name: weight.cpu() for name, weight in step.weights().items()}
            # On a CPU, .cpu() is the tensor itself.
            expected_weights = {name: weight.clone() for name, weight in expected_weights.items()}
        else:
            yield {
                "kind": kind,
                "same_losses": losses == expected_losses,
                **_weight_difference(step.weights(), expected_weights),
                **({"park_seconds": rounded(seconds[0]), "return_seconds": rounded(seconds[1])} if seconds else {}),
            }
        del step
        free_memory(context.device)


# ---- steps


def take_steps(context: Context, base: BaseModel, mode: Mode, batch: Sequence[Example], budget_tokens: int) -> StepFigures:
    """Take a first step and some timed ones from the base weights, all with the same batch."""
    free_memory(context.device)
    is_cuda, clock = context.device == "cuda", Clock(context.device)
    step = _new_step(context, base, mode, batch, budget_tokens)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    training, largest = _settings(context, mode, batch, budget_tokens), step.largest_micro_batch(batch)
    predicted = predicted_peak(base, training, largest, torch.device(context.device), **mode.options)
    outcomes: list[StepOutcome] = []
    seconds = [
        clock.seconds(lambda number=number: outcomes.append(step.take(batch, number)))
        for number in range(1, 2 + NUM_TIMED_STEPS)
    ]
    return StepFigures(
        first_seconds=seconds[0],
        seconds=statistics.median(seconds[1:]),
        outcome=outcomes[-1],
        peak_bytes=torch.cuda.max_memory_allocated() if is_cuda else None,
        predicted_bytes=predicted.total if predicted else None,
        max_fitting_tokens=step.max_fitting_tokens,
    )


def _new_step(context: Context, base: BaseModel, mode: Mode, batch: Sequence[Example], budget_tokens: int) -> TrainingStep:
    training = _settings(context, mode, batch, budget_tokens)
    device = torch.device(context.device)
    return TrainingStep(base, training, 1 + NUM_TIMED_STEPS, device, common_prefix(batch), **mode.options)


def _settings(context: Context, mode: Mode, batch: Sequence[Example], budget_tokens: int) -> TrainingSettings:
    return TrainingSettings(
        learning_rate=1e-5,
        batch_size=max(1, len(batch)),
        precision=precision_of(context.device),
        token_budget_tokens=budget_tokens,
        **mode.training,
    )


def _load(context: Context) -> BaseModel:
    """Load the model. Raises RuntimeError if it is not packed, because then other things would be measured."""
    base = load_base(context.model_folder, ATTENTION[context.device])
    if base.attention != ATTENTION[context.device]:
        raise RuntimeError(f"the model got {base.attention} attention instead of {ATTENTION[context.device]}")
    return base


def _vocabulary_size(base: BaseModel) -> int:
    return int(base.model.get_input_embeddings().num_embeddings)


def _loss_and_gradient(folder: Path, attention: str, precision: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient on the host, with packed rows if the attention is for those."""
    base = load_base(folder, attention)
    if base.attention != attention:
        raise RuntimeError(f"the model got {base.attention} attention instead of {attention}")
    batch = examples_of_two_questions(_vocabulary_size(base))
    budget_tokens = 4096
    model = base.model.to(device, DTYPES[precision])
    packing = packing_of(base, common_prefix(batch), budget_tokens)
    if packing is None:
        micro_batches = padded_micro_batches(batch, budget_tokens, device)
    else:
        micro_batches = with_masks(attention, packed_micro_batches(batch, packing, device))
    loss, gradient = loss_and_gradient(MicroBatchLoss(model), micro_batches)
    return loss.cpu(), gradient.cpu()


def _fitting_tokens(base: BaseModel, context: Context, mode: Mode, cap_gb: int) -> int | None:
    """Return the token budget that placement would choose for this mode on such a device; None if none fits."""
    weight_bytes = sum(weight.nbytes for weight in base.weights.values())
    size = ModelSize(sum(weight.numel() for weight in base.model.parameters()), weight_bytes, dimensions_of(base.model))
    training = _settings(context, mode, [], sizes_of(context).budget_tokens)
    wanted = {name for name, value in (mode.training | mode.options).items() if value is True}
    for fit in fits(size, training):
        is_of_mode = {name for name, value in asdict(fit).items() if value is True} == wanted
        if is_of_mode and fit.peak_bytes <= DEVICE_SHARE * cap_gb * 1e9:
            return fit.budget_tokens
    return None


def _cap(device: str, cap_gb: int) -> bool:
    """Make torch refuse more than this memory; return False if the device has less. A CPU's memory is not capped."""
    if device != "cuda":
        return True
    share = cap_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory
    if share <= 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return share <= 1


def _weight_difference(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> Figures:
    num_other, largest = 0, 0.0
    for name, weight in weights.items():
        difference = (weight.cpu() - expected[name]).abs()
        num_other += int((difference != 0).sum())
        largest = max(largest, float(difference.max()))
    num_weights = sum(weight.numel() for weight in weights.values())
    return {"other_weights_share": rounded(num_other / num_weights), "largest_difference": rounded(largest)}
