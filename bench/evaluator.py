"""Times the evaluator on one CPU thread: a swap of weights against a new engine, and a score against bare `LLM.generate`.

`python -m bench.evaluator` prints a table and, as its last line, JSON. For each model the bare engine and mathsft's run
alternately in two processes, which import vLLM before the clock starts. Each figure is the median of its rounds. Seconds are
CPU-seconds of the process. The content of the responses is ignored.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import new_executor, start_bench
from mathsft.config.schema import (
    DataSettings,
    EvaluationSettings,
    Experiment,
    ModelSettings,
    PoolSizes,
    PromptSettings,
    TrainingSettings,
)
from mathsft.data.models import resolve_model
from mathsft.data.weights import fingerprint
from mathsft.layout import StudyLayout
from mathsft.prompts.request import answer_format
from mathsft.records import Checkpoint
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from mathsft.workers.placement import CPU_EVALUATOR_ENV, packs_from_width

ENVIRONMENT = CPU_EVALUATOR_ENV | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
TRAINING = TrainingSettings(learning_rate=1e-5, batch_size=1)
POOL = "search"


@dataclass(frozen=True)
class Workload:
    """A model, the problems that it answers, and the number of repetitions."""

    experiment: Experiment
    num_repeats: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The engine's precision; float32 is the default on a CPU."""
    packs: bool = True
    """Whether the engine packs weights, which is mathsft's default. Without packing swaps are faster and answers slower."""

    @property
    def hardware(self) -> WorkerDevice:
        width = packs_from_width(self.dtype) if self.packs else sys.maxsize
        return WorkerDevice("cpu", 1, "sdpa", self.dtype, 0.5, False, width)


WORKLOADS = {
    "tiny": Workload(
        Experiment(
            model=ModelSettings(path="quickstart"),
            data=DataSettings(source="quickstart", pools=PoolSizes(train=1, search=200, confirm=1, validation=1, test=1)),
            prompt=PromptSettings(template="short"),
            training=TRAINING,
            evaluation=EvaluationSettings(max_tokens=96),
        ),
        num_repeats=7,
    ),
    "135m": Workload(
        Experiment(
            model=ModelSettings(path="smollm2-135m"),
            data=DataSettings(source="quickstart", pools=PoolSizes(train=1, search=24, confirm=1, validation=1, test=1)),
            training=TRAINING,
            evaluation=EvaluationSettings(max_tokens=64),
        ),
        num_repeats=5,
    ),
}
WORKLOADS["135m unpacked"] = replace(WORKLOADS["135m"], packs=False, num_repeats=3)
WORKLOADS["135m bf16"] = replace(WORKLOADS["135m"], dtype="bfloat16", num_repeats=3)


@dataclass(frozen=True)
class Round:
    """CPU-seconds of one round: one turn of mathsft's evaluator and one of a bare engine."""

    swap: float
    reload: float
    """A swap without its checks: loading the weights, packing those of a wide model, and resetting the cache."""
    logprob_check: float
    bare: float
    """LLM.generate with the same prompts and sampling."""
    generate: float
    """generate of mathsft's engine, which also computes the entropy."""
    score: float
    """The evaluator's whole work except the swap and the gold NLL: logprob_check, responses, progress, grading, storing."""
    score_and_gold: float
    """The score with the gold NLL, which other evaluators do not compute."""


@dataclass(frozen=True)
class Measurement:
    """The times of one workload. Ratios are medians over rounds: within a round the machine's speed changes least."""

    new_engine: float
    rounds: Sequence[Round]

    def median(self, figure: Callable[[Round], float]) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(map(figure, self.rounds))

    @property
    def swap_speedup(self) -> float:
        return self.new_engine / self.median(lambda each: each.swap)

    @property
    def throughput_share(self) -> float:
        return self.median(lambda each: each.bare / each.score)

    @property
    def throughput_share_with_gold(self) -> float:
        return self.median(lambda each: each.bare / each.score_and_gold)

    @property
    def entropy_cost(self) -> float:
        return self.median(lambda each: each.generate / each.bare) - 1


def main() -> None:
    """Run the bench; print its table and its JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluator", description="The evaluator against bare vLLM.")
    parser.parse_args()
    start_bench()
    os.environ.update(ENVIRONMENT)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    measured = {}
    for name, workload in WORKLOADS.items():
        console.print(f"{name}: {workload.num_repeats} repeats")
        with tempfile.TemporaryDirectory() as scratch, _processes() as (ours, bare):
            measured[name] = _measure(workload, Path(scratch), ours, bare)
    console.print(_table(measured))
    tiny, large, unpacked = measured["tiny"], measured["135m"], measured["135m unpacked"]
    result = {
        "swap_speedup_tiny": round(tiny.swap_speedup, 1),
        "swap_speedup_135m": round(large.swap_speedup, 1),
        "swap_speedup_135m_unpacked": round(unpacked.swap_speedup, 1),
        # Each is compared with the bare engine of its own rounds, because the two workloads did not run alternately.
        "unpacked_answers_cost": round((1 + unpacked.entropy_cost) / (1 + large.entropy_cost) - 1, 3),
        "swap_speedup_135m_bf16": round(measured["135m bf16"].swap_speedup, 1),
        "throughput_share": round(large.throughput_share, 3),
        "entropy_cost": round(large.entropy_cost, 3),
    }
    # The console would wrap the line.
    print(json.dumps(result), flush=True)


Call = Callable[..., Any]


@contextmanager
def _processes() -> Iterator[tuple[Call, Call]]:
    """Yield two functions, each of which runs a given function with its arguments in its own process."""
    with new_executor(1) as ours, new_executor(1) as bare:
        yield (
            lambda function, *arguments: ours.submit(function, *arguments).result(),
            lambda function, *arguments: bare.submit(function, *arguments).result(),
        )


def _measure(workload: Workload, scratch: Path, ours: Call, bare: Call) -> Measurement:
    folder = resolve_model(workload.experiment.model.path)
    experiment = workload.experiment.model_copy(update={"model": ModelSettings(path=str(folder))})
    checkpoints = ours(publish_two, folder, scratch, workload.dtype)
    prompts_ids, max_model_len = ours(
        start_ours, WorkerSettings(experiment, workload.hardware, StudyLayout(scratch)), checkpoints[0]
    )
    starts = [bare(start_bare, scratch / checkpoints[0].path, max_model_len, workload.dtype) for _ in range(3)]
    stop = list(answer_format(experiment.prompt).stop)
    rounds = [
        Round(**ours(time_ours, checkpoints), bare=bare(time_bare, prompts_ids, experiment.evaluation, stop))
        for _ in range(workload.num_repeats)
    ]
    return Measurement(statistics.median(starts), rounds)


def _table(measured: dict[str, Measurement]) -> Table:
    table = Table(title="Median CPU-seconds on one thread", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in measured:
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[Measurement], str]]] = [
        ("new engine", lambda each: f"{each.new_engine:.3f}"),
        ("swap", lambda each: f"{each.median(lambda turn: turn.swap):.4f}"),
        ("  times faster than a new engine", lambda each: f"{each.swap_speedup:.0f}"),
        ("  loading only", lambda each: f"{each.median(lambda turn: turn.reload):.4f}"),
        ("logprob_check", lambda each: f"{each.median(lambda turn: turn.logprob_check):.4f}"),
        ("bare LLM.generate", lambda each: f"{each.median(lambda turn: turn.bare):.3f}"),
        ("mathsft's generate, with entropy", lambda each: f"{each.median(lambda turn: turn.generate):.3f}"),
        ("  cost of the entropy", lambda each: f"{each.entropy_cost:.1%}"),
        ("mathsft's score, with grading and storing", lambda each: f"{each.median(lambda turn: turn.score):.3f}"),
        ("  share of the bare throughput", lambda each: f"{each.throughput_share:.1%}"),
        ("mathsft's score with the gold NLL", lambda each: f"{each.median(lambda turn: turn.score_and_gold):.3f}"),
        ("  share of the bare throughput", lambda each: f"{each.throughput_share_with_gold:.1%}"),
    ]
    for row, show in rows:
        table.add_row(row, *map(show, measured.values()))
    return table


# ---- functions that run in the two processes; _STATE keeps the engines between calls

_STATE: dict[str, Any] = {}


def publish_two(folder: Path, study_dir: Path, dtype: str) -> list[Checkpoint]:
    """Publish the model and a slightly changed copy as checkpoints with their logprob checks."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    from mathsft.prompts.request import load_template
    from mathsft.training.logprob_check import NUM_CHECK_TOKENS, make_logprob_check
    from mathsft.training.state import load_base

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    token_ids = tuple(tokenizer(load_template("r1_zero"))["input_ids"][:NUM_CHECK_TOKENS])
    checkpoints = []
    for step, factor in enumerate((1.0, 1.001)):
        path = f"runs/bench/step-{step:06d}"
        shutil.copytree(folder, study_dir / path)
        for file in (study_dir / path).glob("*.safetensors"):
            save_file({name: tensor * factor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        base = load_base(study_dir / path, "sdpa")
        logprob_check = make_logprob_check(base.model, base.weights, token_ids, getattr(torch, dtype))
        checkpoints.append(Checkpoint("bench", step, path, fingerprint(study_dir / path), logprob_check=logprob_check))
    return checkpoints


def start_ours(settings: WorkerSettings, checkpoint: Checkpoint) -> tuple[list[tuple[int, ...]], int]:
    """Start mathsft's evaluator with a first score; return the pool's prompts and the engine's max_model_len."""
    from mathsft.data.pools import load_pools, select_pool
    from mathsft.evaluation.evaluator import Evaluator
    from mathsft.prompts.renderer import make_renderer

    evaluator = _STATE["evaluator"] = Evaluator(settings)
    evaluator.score(checkpoint, settings.experiment, POOL, False)
    problems = select_pool(load_pools(settings.experiment.data), POOL)
    renderer = make_renderer(settings.experiment.prompt, evaluator._tokenizer)
    prompts_ids = [example.prompt_ids for example in renderer.examples(problems)]
    _STATE.update(
        layout=settings.layout,
        experiment=settings.experiment,
        prompts_ids=prompts_ids,
        sampling=settings.experiment.evaluation,
        ends=(renderer.stop, (renderer.end_id,)),
    )
    return prompts_ids, evaluator._engine.max_model_len


def time_ours(checkpoints: list[Checkpoint]) -> dict[str, float]:
    """Return the seconds of a swap to the first checkpoint, its parts, generate and a score, each with an empty cache."""
    evaluator, (checkpoint, other) = _STATE["evaluator"], checkpoints
    engine = evaluator._engine

    def with_empty_cache(action: Callable[[], Any]) -> float:
        engine._llm.reset_prefix_cache()
        return _seconds(action)

    layout = _STATE["layout"]
    engine.swap(layout / other.path, other.fingerprint)
    return {
        "swap": _seconds(lambda: engine.swap(layout / checkpoint.path, checkpoint.fingerprint)),
        "reload": _seconds(lambda: engine._reload(layout / checkpoint.path)),
        "logprob_check": _seconds(lambda: evaluator._check_logprobs(engine, checkpoint)),
        "generate": with_empty_cache(lambda: engine.generate(_STATE["prompts_ids"], _STATE["sampling"], *_STATE["ends"])),
        "score_and_gold": with_empty_cache(lambda: evaluator.score(checkpoint, _STATE["experiment"], POOL, True)),
        "score": with_empty_cache(lambda: evaluator.score(checkpoint, _STATE["experiment"], POOL, False)),
    }


def start_bare(folder: Path, max_model_len: int, dtype: str) -> float:
    """Return the seconds of a new bare engine with the options of mathsft's; an earlier engine is closed first."""
    from vllm import LLM

    if "llm" in _STATE:
        _STATE.pop("llm").llm_engine.engine_core.shutdown()

    def start() -> None:
        _STATE["llm"] = LLM(
            str(folder),
            dtype=dtype,
            max_model_len=max_model_len,
            enforce_eager=True,
            block_size=32,
            async_scheduling=False,
        )

    return _seconds(start)


def time_bare(prompts_ids: list[tuple[int, ...]], sampling: EvaluationSettings, stop: list[str]) -> float:
    """Return the seconds of LLM.generate with an empty cache."""
    from vllm import SamplingParams

    _STATE["llm"].reset_prefix_cache()
    parameters = SamplingParams(temperature=0, max_tokens=sampling.max_tokens, stop=stop, include_stop_str_in_output=True)
    requests = [{"prompt_token_ids": list(prompt_ids)} for prompt_ids in prompts_ids]
    return _seconds(lambda: _STATE["llm"].generate(requests, parameters, use_tqdm=False))


def _seconds(action: Callable[[], Any]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


if __name__ == "__main__":
    main()
