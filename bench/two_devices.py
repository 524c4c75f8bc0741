"""Measures how much scoring on a second device slows training on the first, and how long both are busy at once.

`python -m bench.two_devices` prints a table and, as its last line, JSON. A pair trains the same final run of the quickstart
twice, to the same checkpoints: once without scoring, and once while the evaluator scores them. Both use the workers,
placement and loop of run_final.py; on a machine with two cores trainer and evaluator have one each. The result is the speed
with scoring as a share of the speed without, the median over the pairs, whose order alternates. By wall-clock time it holds
on an idle machine only. By the trainer's processor seconds other programs have little effect, but waiting does not count.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import start_bench
from mathsft.accounting.concurrency import Concurrency, concurrency
from mathsft.accounting.ledger import Timekeeper
from mathsft.commands.common import with_local_model
from mathsft.config.load import load_settings
from mathsft.layout import StudyLayout
from mathsft.records import Run
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import advanced, drive
from mathsft.runs.final_run import SingleRun, final_plan, final_run
from mathsft.runs.publishing import Publishing, published
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import detect_machine
from mathsft.workers.placement import place

NUM_PAIRS = 5
WARM_UP = "final-warm-up"
SHORTER = ("final.num_examples=3072", "data.pools.validation=500", "training.batch_size=8")
"""A quarter of the examples of the quickstart's final run and half of its validation problems: relative to training, the
evaluator has more work than in the quickstart, and all pairs take minutes."""
GOAL = 0.9


@dataclass(frozen=True)
class Speed:
    """Trained tokens of examples per wall-clock second and per processor second of the trainer."""

    by_clock: float
    by_processor: float


@dataclass(frozen=True)
class Pair:
    """The speeds of a training without scoring and of one with scoring."""

    alone: Speed
    scored: Speed

    @property
    def share(self) -> float:
        """Return the wall-clock speed with scoring as a share of the speed without."""
        return self.scored.by_clock / self.alone.by_clock

    @property
    def processor_share(self) -> float:
        """Return the same share by the trainer's processor seconds, which do not include waiting."""
        return self.scored.by_processor / self.alone.by_processor


def main() -> None:
    """Run the pairs and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench.two_devices", description="Training with and without scoring.")
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help=f"pairs of runs (default: {NUM_PAIRS})")
    num_pairs = parser.parse_args().pairs
    if num_pairs < 1:
        parser.error(f"--pairs must be at least 1, but is {num_pairs}")
    start_bench()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as scratch:
        pairs, busy = measure(num_pairs, Path(scratch), console)
    console.print(table(pairs))
    console.print(words(busy), soft_wrap=True)
    console.print(f"Goal: training with evaluation has at least {GOAL:.0%} of the speed without evaluation.")
    print(result_line(pairs, busy))


def measure(num_pairs: int, folder: Path, console: Console) -> tuple[list[Pair], Concurrency]:
    """Return the pairs, and the concurrency of trainer and evaluator in the scored runs."""
    loaded = load_settings("quickstart", None, SHORTER)
    experiment = with_local_model(loaded.experiment, Heartbeat(console))
    layout = StudyLayout(folder)
    placement = place(detect_machine(), experiment, layout, "final")
    console.print(f"{num_pairs} pairs; {placement.description}")
    store = StudyStore.open(layout.database_url, "two-devices")
    store.observers.append(Timekeeper(store, len(placement.trainers), len(placement.evaluators)))
    plan = final_plan(loaded.study.final, placement.max_unscored)
    run = final_run(loaded.experiment, {}, plan, loaded.study.seed)

    async def paired(study: StudyContext) -> list[Pair]:
        await drive(SingleRun(replace(run, name=WARM_UP), store), study)  # starts processes and engine, encodes examples
        pairs = []
        for number in range(num_pairs):
            speeds = {}
            for kind in ("alone", "scored") if number % 2 == 0 else ("scored", "alone"):
                named = replace(run, name=f"final-{kind}-{number}")
                await (drive(SingleRun(named, store), study) if kind == "scored" else train_alone(named, study))
                speeds[kind] = training_speed(store, named.name)
            pairs.append(Pair(**speeds))
            console.print(f"pair {number + 1}: training has {pairs[-1].share:.1%} of its speed without evaluation")
        return pairs

    with StudyWorkers.started(placement, loaded.study.limits) as workers:
        pairs = asyncio.run(paired(StudyContext(store, workers, layout, loaded.experiment)))
    busy = concurrency(store, [f"final-scored-{number}" for number in range(num_pairs)])
    store.close()
    assert busy is not None
    return pairs, busy


async def train_alone(run: Run, study: StudyContext) -> None:
    """Train the run to the same checkpoints without scoring them."""
    study.store.write(run)
    async with study.workers.trainers.lease() as trainer:
        outcomes = [await advanced(run, step, trainer, study) for step in run.eval_steps]
        for outcome in outcomes:
            assert isinstance(outcome, Publishing)
            await published(outcome, study)
    study.store.write(replace(run, state="finished"))


def training_speed(store: StudyStore, run: str) -> Speed:
    """Return the training speed from the start of the run's first training call to the end of its last."""
    worker_calls = [call for call in store.worker_calls() if call.run == run and not call.pool]
    num_tokens = sum(checkpoint.costs.num_tokens for checkpoint in store.checkpoints(run))
    by_clock = num_tokens / (worker_calls[-1].ended - worker_calls[0].began)
    return Speed(by_clock, num_tokens / sum(call.cpu_seconds for call in worker_calls))


def table(pairs: list[Pair]) -> Table:
    """Return the pairs as a table."""
    shown = Table(title="Training speed, tokens of examples per second", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("pair", "without evaluation", "with evaluation", "share", "share by processor seconds"):
        shown.add_column(header, justify="right")
    for number, pair in enumerate(pairs, 1):
        speeds = (f"{pair.alone.by_clock:,.0f}", f"{pair.scored.by_clock:,.0f}")
        shown.add_row(str(number), *speeds, f"{pair.share:.1%}", f"{pair.processor_share:.1%}")
    return shown


def words(busy: Concurrency) -> str:
    """Return sentences on how busy the workers were and how long checkpoints waited in the scored runs."""
    shares = (part / busy.wall_seconds for part in (busy.both_seconds, busy.trainer_seconds, busy.evaluator_seconds))
    both, trainer, evaluator = (f"{share:.1%}" for share in shares)
    until_scored = statistics.median(wait.until_scored_seconds for wait in busy.waits)
    return (
        f"With evaluation, in {busy.wall_seconds:.0f} s of wall-clock time: both busy {both}, trainer {trainer}, evaluator "
        f"{evaluator}. The scoring of {len(busy.waits)} checkpoints began after a median wait of "
        f"{busy.median_wait_seconds:.1f} s ({busy.max_wait_seconds:.1f} s at most) and ended after {until_scored:.1f} s."
    )


def result_line(pairs: list[Pair], busy: Concurrency) -> str:
    """Return the ratios and waits as one JSON line."""
    return json.dumps(
        {
            "training_speed_share": round(statistics.median(pair.share for pair in pairs), 4),
            "training_processor_share": round(statistics.median(pair.processor_share for pair in pairs), 4),
            "both_busy_share": round(busy.both_busy_share, 4),
            "median_wait_seconds": round(busy.median_wait_seconds, 2),
            "max_wait_seconds": round(busy.max_wait_seconds, 2),
        }
    )


if __name__ == "__main__":
    main()
