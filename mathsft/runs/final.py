"""The final run: a single long run from given settings, watched on one pool, reported on another."""

import hashlib
import json
from asyncio import TaskGroup
from dataclasses import replace

from mathsft.config.schema import RunSettings
from mathsft.records import Checkpoint, Overrides, Plan, Promotion, Run, RunState, Score
from mathsft.runs.crew import Crew
from mathsft.runs.execute import drive, scored
from mathsft.runs.retention import TEST_POOL, best_step, delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.book import Book

WATCH_POOL = "watch"


class One:
    """A source that proposes a single run, unless the book says that it is over."""

    def __init__(self, run: Run, book: Book) -> None:
        self._book = book
        self.run = book.run(run.name) or run
        if self.run.state == "failed":  # asked for again, so try again
            self.run = run
        self._is_proposed = False

    def done(self) -> bool:
        return self.run.state != "running"

    async def next(self) -> Run | None:
        if self._is_proposed:
            return None
        self._is_proposed = True
        return self.run

    async def judge(self, run: Run, index: int, score: Score) -> bool:
        return False

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        self.run = closed(run, state, reason, self._book)
        self._book.write(self.run)


def closed(run: Run, state: RunState, reason: str, book: Book) -> Run:
    """Return the run as it ended, with its last score's accuracy where it finished and 0 where it diverged."""
    value = {"finished": lambda: book.scores(run.name, run.plan.pool)[-1].accuracy, "diverged": lambda: 0.0}.get(state)
    return replace(run, state=state, reason=reason, value=value() if value else None)


def final_plan(settings: RunSettings, max_unscored: int) -> Plan:
    """Return the final run's plan; it always begins with the baseline."""
    eval_points = tuple(sorted({0.0, *settings.eval_points}))
    return Plan(settings.num_examples, eval_points, WATCH_POOL, max_unscored, keep="best_and_last")


def final_run(overrides: Overrides, plan: Plan, study_seed: int) -> Run:
    """Return the final run of these settings, named by them: other settings are another run."""
    seed = derive_seed(study_seed, "final")
    identity = [dict(overrides), plan.num_examples, plan.eval_points, seed]
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return Run(f"final-{digest}", dict(overrides), plan, seed)


async def run_final(run: Run, promotion: Promotion | None, crew: Crew, book: Book) -> Run:
    """Execute the final run, compare the promoted trial on the same problems, and report baseline, best and last on test."""
    async with TaskGroup() as work:
        if promotion is not None:
            work.create_task(_score_trial(promotion, crew, book))
        final = One(run, book)
        await drive(final, crew, book)
    if final.run.state == "finished":
        best = best_step(book.scores(run.name, WATCH_POOL))
        reported = [book.checkpoint(run.name, step) for step in {0, best, crew.eval_steps(run)[-1]}]
        for checkpoint in reported:
            if checkpoint is not None:
                await scored(final.run, checkpoint, TEST_POOL, crew, book)
        delete_weights(book, crew.study_dir)
    return final.run


async def _score_trial(promotion: Promotion, crew: Crew, book: Book) -> None:
    """Score the promoted trial's last weights on the watch pool, so that trial and final run compare on equal problems."""
    trial = book.run(promotion.run)
    checkpoints: list[Checkpoint] = book.checkpoints(promotion.run)
    if trial is not None and checkpoints:
        await scored(trial, checkpoints[-1], WATCH_POOL, crew, book)
