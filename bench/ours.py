"""mathsft as a contender of bench.training, and the error of its gradients against those of plain padded batches."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from bench.meter import Counter, Measurement, Meter
from bench.workload import BATCH_SIZE, LEARNING_RATE, Workload
from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.cpu.products import NUMPY_PRODUCT
from mathsft.training.state import BaseModel, load_base
from mathsft.training.step import TrainingStep
from mathsft.workers.machine import detect_machine

Precision: TypeAlias = Literal["fp32", "bf16"]

CPU = torch.device("cpu")

ATTENTION = "tree"
"""The attention that placement chooses for a CPU."""

PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::baddbmm_", NUMPY_PRODUCT})
"""The profiler's names of matrix products; torch's for a layer with a bias is a different one."""

PLAIN_ROWS = 4
"""Padded rows whose logits plain_gradients holds at once."""


def run_ours(workload: Workload, precision: Precision) -> Measurement:
    """Train one step on each of the workload's batches."""
    meter = Meter()
    base = _load(workload)
    examples = workload.examples
    step = _step(base, workload, precision)
    counter = Counter(base.model)
    meter.start()
    outcomes = [step.take(batch, number) for number, batch in enumerate(workload.batches, start=1)]
    meter.stop()
    num_computed_tokens = sum(outcome.num_computed_tokens for outcome in outcomes)
    num_attended_tokens = sum(outcome.num_attended_tokens for outcome in outcomes)
    if (counter.num_computed_tokens, counter.num_attended_tokens) != (num_computed_tokens, num_attended_tokens):
        raise RuntimeError("the model computed other tokens than the steps report")
    num_response_tokens = sum(outcome.num_response_tokens for outcome in outcomes)
    return Measurement(
        cpu_seconds=meter.cpu_seconds,
        num_examples=len(examples),
        num_useful_tokens=sum(len(example.prompt_ids) + len(example.response_ids) for example in examples),
        num_steps=len(outcomes),
        loss=sum(outcome.loss * outcome.num_response_tokens for outcome in outcomes) / num_response_tokens,
        peak_memory_bytes=meter.peak_memory_bytes,
        num_computed_tokens=counter.num_computed_tokens,
        num_attended_tokens=counter.num_attended_tokens,
        num_predicted_tokens=num_response_tokens,
    )


def product_share(workload: Workload, precision: Precision) -> float:
    """Return the share of matrix products in the time of the last batch's step; the earlier batches are a warm-up."""
    step = _step(_load(workload), workload, precision)
    *before, last = workload.batches
    for number, batch in enumerate(before, start=1):
        step.take(batch, number)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step.take(last, len(workload.batches))
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(time for name, time in times.items() if name in PRODUCTS) / sum(times.values())


def _load(workload: Workload) -> BaseModel:
    """Load the model as a trainer on a CPU does."""
    return load_base(workload.model_folder, ATTENTION, numpy_products=detect_machine().is_slow_with_mkl)


def _step(base: BaseModel, workload: Workload, precision: Precision) -> TrainingStep:
    training = TrainingSettings(learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, precision=precision)
    return TrainingStep(base, training, len(workload.batches), CPU, common_prefix(workload.examples))


def max_gradient_error(workload: Workload) -> float:
    """Return the largest relative L2 error of a parameter's gradient in fp32, first batch, against plain_gradients."""
    batch = workload.batches[0]
    ours, plain = our_gradients(workload, batch), plain_gradients(workload, batch)
    if ours.keys() != plain.keys():
        raise RuntimeError(f"the gradients have other names than the plain ones: {sorted(ours.keys() ^ plain.keys())}")
    return max(float((ours[name] - plain[name]).norm() / plain[name].norm()) for name in plain)


def our_gradients(workload: Workload, batch: Sequence[Example]) -> dict[str, Tensor]:
    """Return the gradient of the batch's mean loss by parameter, as a training step of mathsft computes it in fp32.

    With beta1 = 0 and no clipping AdamW's first moment after one step is the gradient itself.
    """
    training = TrainingSettings(
        learning_rate=LEARNING_RATE, batch_size=len(batch), beta1=0.0, max_gradient_norm=1e30, precision="fp32"
    )
    step = TrainingStep(_load(workload), training, 1, CPU, common_prefix(batch))
    step.take(batch, 1)
    prefix = "moment1."
    return {name.removeprefix(prefix): moment for name, moment in step.tensors().items() if name.startswith(prefix)}


def plain_gradients(workload: Workload, batch: Sequence[Example]) -> dict[str, Tensor]:
    """Return the same gradient from padded rows, an attention mask, all logits and stock attention in fp32.

    All rows together need 16 GiB for a model of 135M, so the gradients of PLAIN_ROWS rows at a time are accumulated.
    """
    model = AutoModelForCausalLM.from_pretrained(
        workload.model_folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    texts = [example.prompt_ids + example.response_ids for example in batch]
    width = max(map(len, texts))
    ids_BT = torch.tensor([text + (0,) * (width - len(text)) for text in texts])
    mask_BT = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    for labels_T, example in zip(labels_BT, batch, strict=True):
        labels_T[: len(example.prompt_ids)] = -100
    num_targets = int((labels_BT[:, 1:] != -100).sum())
    for part in range(0, len(batch), PLAIN_ROWS):
        rows = slice(part, part + PLAIN_ROWS)
        logits_BTV = model(input_ids=ids_BT[rows], attention_mask=mask_BT[rows], use_cache=False).logits
        # In fp64: torch's fp32 log_softmax has an error of 3e-6 on a CPU, and gradients, where terms cancel, one of 1e-3.
        logits_NV = logits_BTV[:, :-1].flatten(0, 1).double()
        sum_loss = cross_entropy(logits_NV, labels_BT[rows, 1:].flatten(), reduction="sum")
        torch.autograd.backward(sum_loss / num_targets)
    return {name: parameter.grad for name, parameter in model.named_parameters()}
