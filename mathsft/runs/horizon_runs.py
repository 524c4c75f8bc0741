"""The horizon runs, which show how the best learning rate depends on the number of training examples, and their results.

They start after the promotion and do not affect it.
"""

from asyncio import TaskGroup

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import HorizonSettings, RunSettings
from mathsft.objective import independent_responses
from mathsft.records import Overrides, Plan, Run, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import drive
from mathsft.runs.final_run import SingleRun
from mathsft.runs.new_run import new_run
from mathsft.runs.pool_names import CONFIRM_POOL
from mathsft.seeds import derive_seed
from mathsft.statistics.rate_scaling import Tried
from mathsft.store.study_store import StudyStore

LEARNING_RATE = "training.learning_rate"


def horizon_runs(
    settings: HorizonSettings, trial: RunSettings, experiment: Experiment, promoted: Overrides, study_seed: int
) -> list[Run]:
    """Return a run for each of two lengths and each learning rate around the promoted one; empty if no length is set."""
    if settings.num_examples is None:
        return []
    middle = float(promoted[LEARNING_RATE])
    exponents = range(-(settings.num_rates // 2), settings.num_rates - settings.num_rates // 2)
    return [
        new_run(
            "horizon",
            f"horizon-{num_examples}-{exponent:+d}{_around(middle)}",
            experiment=experiment,
            overrides={**promoted, LEARNING_RATE: middle * settings.spacing**exponent},
            # These scores are only compared with each other, and this pool has more problems than the search pool.
            plan=Plan(num_examples, (1.0,), CONFIRM_POOL, max_unscored=1, keep="last"),
            seed=derive_seed(study_seed, "horizon", num_examples, exponent),
        )
        for num_examples in sorted({settings.num_examples, trial.num_examples})
        for exponent in exponents
    ]


def _around(learning_rate: float) -> str:
    """Return the name suffix of the runs around a promoted learning rate: another promotion makes other runs."""
    return f"-at-{learning_rate:.6g}"


def are_over(runs: list[Run], store: StudyStore) -> bool:
    """Return whether all these runs have a result, so that no worker need start for them."""
    return all(SingleRun(run, store).done() for run in runs)


async def run_horizon(runs: list[Run], study: StudyContext) -> None:
    """Execute the runs that have no recorded result."""
    async with TaskGroup() as work:
        for run in runs:
            work.create_task(drive(SingleRun(run, study.store), study))


def recorded_horizon(store: StudyStore) -> list[Tried]:
    """Return the results of the finished runs around the promoted learning rate.

    Diverged runs are left out: the rate at which training diverges does not show which rate is best.
    """
    promotion = store.promotion()
    if promotion is None or LEARNING_RATE not in promotion.overrides:
        return []
    around = _around(float(promotion.overrides[LEARNING_RATE]))
    runs = [run for run in store.runs("horizon") if run.state == "finished" and run.name.endswith(around)]
    return [_tried(run, store.scores(run.name, CONFIRM_POOL)[-1]) for run in runs]


def _tried(run: Run, score: Score) -> Tried:
    num_independent = independent_responses(score)
    num_correct = round(score.accuracy * num_independent)
    return Tried(float(run.overrides[LEARNING_RATE]), run.plan.num_examples, num_correct, num_independent)
