"""Times SFT on one CPU thread: mathsft against a plain loop, transformers' Trainer and TRL's SFTTrainer.

`python -m bench.training --model 50m|135m --precision fp32|bf16` prints a table and, as its last line, JSON. All contenders
train the same batches of GSM8K with the r1_zero prompt in the same precision, alternately, each in its own process. A peer
may have several candidate settings: each trains one batch (a heat), and the fastest one is the contender. Every repeat
trains two new batches. Heats are not counted, because the libraries compile kernels for new shapes in their first calls,
which are few in a run of hundreds of steps. A contender that is several times slower than the others trains one batch once.
The bench measures speed, memory and the error of the gradients.
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.cpu import cpu_line, native_bf16
from bench.meter import Measurement, give_back_memory
from bench.processes import new_executor, start_bench
from bench.workload import BATCH_SIZE, MODELS, Workload, load_config, make_workload, result_line
from mathsft.training.meter.flops import ModelFlops, model_flops

NUM_BATCHES = 2
"""Batches per repeat; a heat has one. A process returns its memory after a call, so the first batch allocates it again."""

MAX_SECONDS = 13 * 60
"""A repeat after the first that would probably end later is not started; the comparison of the gradients follows."""

SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
QUIET = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""glibc keeps freed memory. Otherwise it would return the memory to the kernel, which zeroes it at each new allocation."""


@dataclass(frozen=True)
class Contender:
    """One way to train: a function of this package and its settings."""

    group: str
    name: str
    function: str
    settings: dict[str, Any] = field(default_factory=dict)
    is_slow: bool = False
    """Several times slower than the others: it has no heat and runs once."""
    environment: dict[str, str] = field(default_factory=lambda: KEEP_MEMORY)


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""The dtype of a peer's weights and arithmetic, by precision."""


def all_contenders(precision: str) -> tuple[Contender, ...]:
    """Return all contenders in this precision; only TRL's default uses bf16 arithmetic on fp32 weights."""
    dtype = DTYPES[precision]
    # On a CPU that emulates bf16, TRL's default would take longer than all other contenders together.
    trl_default = {"bf16": False} if precision == "fp32" else {}
    hf = {"dtype": dtype, "attention": "eager"}
    trl = {"dtype": dtype, "attention": "eager", "bf16": False, "gradient_checkpointing": False}
    return (
        Contender("loop", "one example per step", "bench.peers:run_one_example_per_step", {"dtype": dtype}, is_slow=True),
        Contender("HF best", "HF Trainer, by length, 2 at once", "bench.peers:run_hf", {**hf, "per_device": 2}),
        Contender("HF best", "HF Trainer, by length, 4 at once", "bench.peers:run_hf", {**hf, "per_device": 4}),
        Contender("HF best", "HF Trainer, by length, 1 at once", "bench.peers:run_hf", {**hf, "per_device": 1}),
        Contender(
            "TRL defaults",
            "TRL SFTTrainer, defaults but bf16 off" if trl_default else "TRL SFTTrainer, defaults",
            "bench.peers:run_trl",
            {"dtype": "float32", "attention": "sdpa", "per_device": 8, **trl_default},
            is_slow=True,
            environment={},
        ),
        Contender(
            "TRL best",
            "TRL SFTTrainer, packing to 1024",
            "bench.peers:run_trl",
            {**trl, "per_device": 1, "packing": True, "gradient_accumulation_steps": 4},
        ),
        Contender(
            "TRL best",
            "TRL SFTTrainer, packing to 512",
            "bench.peers:run_trl",
            {**trl, "per_device": 1, "packing": True, "gradient_accumulation_steps": 9, "max_length": 512},
        ),
        Contender(
            "TRL best",
            "TRL SFTTrainer, padding-free, 4 at once",
            "bench.peers:run_trl",
            {**trl, "per_device": 4, "padding_free": True, "max_length": None},
        ),
        Contender(
            "TRL best",
            "TRL SFTTrainer, by length, 4 at once",
            "bench.peers:run_trl",
            {**trl, "per_device": 4, "train_sampling_strategy": "group_by_length"},
        ),
        Contender("ours", "mathsft, default settings", "bench.ours:run_ours", {"precision": precision}),
    )


def main() -> None:
    """Run the bench; print its table and its JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description="SFT on one CPU thread, against peers.")
    parser.add_argument("--model", choices=MODELS, default="50m", help="Qwen2 of 50 million parameters, or SmolLM2 135M")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of two batches by every contender (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the batches and the 50m model's weights (default 0)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="bf16" if native_bf16() else "fp32",
        help="precision of weights and arithmetic (default: bf16 if this CPU has bf16 matrix products, else fp32)",
    )
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, but is {arguments.repeats}")
    start_bench()
    os.environ.update(SINGLE_THREADED | QUIET)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory() as scratch:
        workload = make_workload(arguments.model, 1 + NUM_BATCHES * arguments.repeats, arguments.seed, Path(scratch))
        _compare(console, arguments.model, arguments.precision, workload, arguments.repeats)


def _compare(console: Console, model: str, precision: str, workload: Workload, num_repeats: int) -> None:
    started = time.monotonic()
    candidates = all_contenders(precision)
    with _processes(candidates) as call:
        console.print("Heats of one batch, which also warm up; the fastest candidate of each group is a contender")
        contenders = _run_heats(console, call, candidates, workload)
        ours = next(contender for contender in contenders if contender.group == "ours")
        measurements: dict[str, list[Measurement]] = {contender.group: [] for contender in contenders}
        gemm_rates = []
        repeat_seconds = 0.0
        for repeat in range(num_repeats):
            repeat_started = time.monotonic()
            if repeat > 0 and repeat_started - started + repeat_seconds > MAX_SECONDS:
                console.print(f"There is no time for repeat {repeat + 1} of {num_repeats}")
                break
            gemm_rates.append(call(ours, "bench.gemm:best_gemm_flops_per_second", precision))
            console.print(f"Repeat {repeat + 1} of {num_repeats}; {precision} GEMM {gemm_rates[-1] / 1e9:.0f} GFLOP/s")
            for contender in contenders:
                if contender.is_slow and repeat > 0:
                    continue
                part = workload.part(1 + NUM_BATCHES * repeat, 1 if contender.is_slow else NUM_BATCHES)
                measurement = call(contender, contender.function, part, **contender.settings)
                measurements[contender.group].append(measurement)
                _print_progress(console, contender, measurement)
            repeat_seconds = time.monotonic() - repeat_started
        products = call(ours, "bench.ours:product_share", workload.part(0, 2), **ours.settings)
        console.print("Gradients of the first batch in fp32, mathsft against plain padded rows")
        max_grad_error = call(ours, "bench.ours:max_gradient_error", workload)

    flops, gemm_rate = model_flops(load_config(workload)), max(gemm_rates)
    console.print(_table(model, precision, contenders, measurements, flops, gemm_rate))
    ratios = {group: _median_ratio(taken, measurements["ours"]) for group, taken in measurements.items() if group != "ours"}
    share = _gemm_share(measurements["ours"], flops, gemm_rate)
    console.print(
        f"Matrix products are {products:.0%} of mathsft's time. If all other work took no time, TRL's best would take "
        f"{ratios['TRL best'] / products:.2f} times as long, the strongest peer {min(ratios.values()) / products:.2f} times"
    )
    # The console would wrap the line.
    line = result_line(model, precision, ratios["TRL best"], min(ratios.values()), share, products, max_grad_error)
    print(line, flush=True)


Call = Callable[..., Any]


@contextmanager
def _processes(contenders: Sequence[Contender]) -> Iterator[Call]:
    """Yield call(contender, "module:function", *arguments), which runs the function in the contender's own process."""
    with ExitStack() as stack:
        executors = {contender.name: stack.enter_context(new_executor(1)) for contender in contenders}

        def call(contender: Contender, function: str, *arguments: Any, **settings: Any) -> Any:
            # The process starts with the first call and inherits the environment of that moment.
            with _environment(contender.environment):
                future = executors[contender.name].submit(_call, function, arguments, settings)
            return future.result()

        yield call


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _call(function: str, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """Run a function, given as "module:function", in this process on one thread."""
    import torch

    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(*arguments, **settings)
    finally:
        # A waiting process must not hold its peak memory, because the others need it.
        give_back_memory()


def _run_heats(console: Console, call: Call, candidates: Sequence[Contender], workload: Workload) -> list[Contender]:
    """Return the fastest candidate of each group, in the given order; a slow one is alone in its group and is not run."""
    heats: dict[str, list[tuple[float, Contender]]] = {}
    for contender in candidates:
        if contender.is_slow:
            heats[contender.group] = [(0.0, contender)]
            continue
        measurement = call(contender, contender.function, workload.part(0, 1), **contender.settings)
        heats.setdefault(contender.group, []).append((_batch_seconds(measurement), contender))
        _print_progress(console, contender, measurement)
    return [min(heat, key=lambda entry: entry[0])[1] for heat in heats.values()]


def _print_progress(console: Console, contender: Contender, measurement: Measurement) -> None:
    console.print(
        f"  {contender.name:<40} {_batch_seconds(measurement):6.2f} CPU-seconds per batch, "
        f"{measurement.num_examples} examples in {measurement.num_steps} steps, loss {measurement.loss:.3f}"
    )


def _table(
    model: str,
    precision: str,
    contenders: Sequence[Contender],
    measurements: dict[str, list[Measurement]],
    flops: ModelFlops,
    gemm_rate: float,
) -> Table:
    title = (
        f"SFT of {model} in {precision} on one thread, batches of {BATCH_SIZE}; medians of "
        f"{len(measurements['ours'])} repeats. Best {precision} GEMM: {gemm_rate / 1e9:.0f} GFLOP/s\n{cpu_line()}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    headers = ("CPU-s / batch", "vs mathsft", "useful tokens/s", "peak memory", "loss", "GEMM share", "computed / useful")
    for header in headers:
        table.add_column(header, justify="right")
    for contender in contenders:
        taken = measurements[contender.group]
        table.add_row(
            contender.name,
            f"{_median(taken, _batch_seconds):.2f}",
            f"{_median_ratio(taken, measurements['ours']):.2f}x",
            f"{_median(taken, lambda each: each.num_useful_tokens / each.cpu_seconds):,.0f}",
            f"{_median(taken, lambda each: each.peak_memory_bytes) / 2**20:,.0f} MiB",
            f"{_median(taken, lambda each: each.loss):.3f}",
            f"{_gemm_share(taken, flops, gemm_rate):.0%}",
            f"{_median(taken, lambda each: each.num_computed_tokens / each.num_useful_tokens):.2f}",
        )
    return table


def _gemm_share(taken: Sequence[Measurement], flops: ModelFlops, gemm_rate: float) -> float:
    """Return the rate of the model's operations on the computed tokens as a share of the GEMM rate."""

    def share(run: Measurement) -> float:
        operations = flops.total(run.num_computed_tokens, run.num_attended_tokens, run.num_predicted_tokens)
        return operations / run.cpu_seconds / gemm_rate

    return _median(taken, share)


def _median_ratio(taken: Sequence[Measurement], ours: Sequence[Measurement]) -> float:
    """Return a contender's CPU-seconds per batch divided by mathsft's, the median over repeats."""
    # A slow contender ran in the first repeat only.
    return statistics.median(_batch_seconds(their) / _batch_seconds(our) for their, our in zip(taken, ours, strict=False))


def _median(taken: Sequence[Measurement], figure: Callable[[Measurement], float]) -> float:
    return statistics.median(map(figure, taken))


def _batch_seconds(measurement: Measurement) -> float:
    return measurement.cpu_seconds * BATCH_SIZE / measurement.num_examples


if __name__ == "__main__":
    main()
