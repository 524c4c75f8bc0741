"""What the parts of a study take, on the average: by its own trials, by measured speeds, or by arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

import numpy as np

from mathsft.config.schema import Choices, Experiment, IntRange, StudyConfig
from mathsft.costs import Speeds
from mathsft.data.examples import load_template, render_prompt
from mathsft.records import FINISHED, Checkpoint, Problem, Run
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerDevice

BATCH_SIZE = "training.batch_size"
STARTS = 4.0
"""Until the base model is scored it takes this many times as long as until the trainer has imported torch and loaded the
model: 3.7 times where the files are in memory, 5 times right after the computer's start, as measured on two cores."""
ENGINE_TOKEN_SECONDS = 8e-5
"""What vLLM adds to the forward pass for each token of each response: scheduling, sampling, text. Measured on a CPU with
models of 0.9 M parameters, where it is half of the time, and 135 M, where it is nothing."""
MOST_AT_ONCE = 256
"""Responses that vLLM generates at a time."""
PRUNED_SHARE = 0.25
"""Of a trial's work, what PercentilePruner(75) saves on the average after its first trials: so in the quickstart's study."""
FIRST_TRIALS = 5
"""Trials before which Optuna's pruners stop none, unless their argument n_startup_trials says otherwise."""
LEAST_TRIALS = 3
"""Ended trials whose mean says more than a measurement: batch sizes differ."""
ASSUMED_FLOPS = {"cpu": 3e10, "cuda": 4e13}
"""Operations a second where nothing could be measured: roughly those of one core, and of a large GPU in training."""
CHARACTERS_PER_TOKEN, ASSUMED_READY_SECONDS = 2.5, 10.0


@dataclass(frozen=True)
class Costs:
    """What the parts of a study take, in seconds, on the average."""

    start: float
    """Until the workers have started and the base model is scored."""
    train: float
    """Of a trial, on one trainer; pruned ones count."""
    score: float
    """Of the same trial, at all its eval points."""
    example: float
    """Of training on one example."""
    response: float
    """Of a response beyond the trials: generated and graded."""


def expected_costs(config: StudyConfig, experiment: Experiment, speeds: Speeds, num_search: int) -> Costs:
    """Return the costs that follow from measured speeds, given the problems in the search pool."""
    example = speeds.example_seconds + speeds.step_seconds * fmean(1 / size for size in batch_sizes(config, experiment))
    tokens = min(speeds.response_tokens, experiment.evaluation.max_tokens)
    read = speeds.prompt_tokens * speeds.read_token_seconds
    response = read + tokens * (speeds.decoded_token_seconds + ENGINE_TOKEN_SECONDS)
    gold = num_search * (read + speeds.response_tokens * speeds.read_token_seconds)  # once a trial, at its end
    score = len(config.trial.eval_points) * num_search * experiment.evaluation.num_samples * response + gold
    share = 1 - _saved_by_pruner(config)
    return Costs(
        start=speeds.ready_seconds * STARTS,
        train=share * config.trial.num_examples * example,
        score=share * score,
        example=example,
        response=response,
    )


def batch_sizes(config: StudyConfig, experiment: Experiment) -> list[int]:
    """Return the batch sizes that are searched, of a range some that stand for it; else the one that all runs have."""
    searched = config.search.get(BATCH_SIZE)
    if isinstance(searched, Choices):
        return [int(size) for size in searched.choices]
    if isinstance(searched, IntRange):
        spaced = np.geomspace if searched.log else np.linspace
        return [round(size) for size in spaced(searched.low, searched.high, 9)]
    return [experiment.training.batch_size]


def _saved_by_pruner(config: StudyConfig) -> float:
    """Return the share of all trials' work that the pruner is expected to save."""
    if config.pruner.name == "NopPruner" or len(config.trial.eval_points) == 1:
        return 0.0
    num_first = int(config.pruner.arguments.get("n_startup_trials") or FIRST_TRIALS)
    return PRUNED_SHARE * max(0, config.num_trials - num_first) / config.num_trials


def assumed_speeds(
    num_parameters: int, experiment: Experiment, problems: Sequence[Problem], hardware: WorkerDevice
) -> Speeds:
    """Return speeds by arithmetic alone: 6 FLOPs a parameter and trained token, 2 a generated one, at an assumed rate."""
    template = load_template(experiment.prompt.template)
    prompt_tokens = fmean(len(render_prompt(template, one.problem)) for one in problems) / CHARACTERS_PER_TOKEN
    response_tokens = fmean(len(one.solution) + len(one.answer) for one in problems) / CHARACTERS_PER_TOKEN
    token_seconds = 2 * num_parameters / ASSUMED_FLOPS[hardware.device]
    return Speeds(
        ready_seconds=ASSUMED_READY_SECONDS,
        step_seconds=0.0,
        example_seconds=3 * token_seconds * (prompt_tokens + response_tokens),
        decoded_token_seconds=token_seconds,
        read_token_seconds=token_seconds,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
    )


def past_costs(store: StudyStore) -> Costs | None:
    """Return what the study's trials took that have ended, on the average; None where these are too few."""
    trials = [run for run in store.runs("trial") if run.state in FINISHED]
    if len(trials) < LEAST_TRIALS:
        return None
    trained = {run.name: sum(one.costs.busy_seconds for one in store.checkpoints(run.name)) for run in trials}
    scored = [sum(one.costs.busy_seconds for one in store.scores(run.name, run.plan.pool)) for run in trials]
    promotion = store.promotion()
    # The final run has the promoted trial's batch size.
    like_final = [run for run in trials if promotion is None or run.name == promotion.run]
    num_examples = sum(_num_trained(run, store.checkpoints(run.name)) for run in like_final)
    scores = store.scores()
    generated = sum(score.costs.busy_seconds - score.costs.gold_seconds for score in scores)
    return Costs(
        start=_last_start(store),
        train=fmean(trained.values()),
        score=fmean(scored),
        example=sum(trained[run.name] for run in like_final) / max(1, num_examples),
        response=generated / max(1, sum(sum(score.counts.values()) for score in scores)),
    )


def _num_trained(run: Run, checkpoints: Sequence[Checkpoint]) -> int:
    """Return the examples of all steps whose time is recorded: that of a diverged run's last steps is not."""
    last_step = max((checkpoint.step for checkpoint in checkpoints), default=0)
    return last_step * run.experiment.training.batch_size


def _last_start(store: StudyStore) -> float:
    """Return how long it took from the start of the latest driver that had anything scored to its first score."""
    scored = [call.ended for call in store.worker_calls() if call.pool]
    took = 0.0
    for session in store.sessions():
        began = datetime.fromisoformat(session.began).timestamp()
        took = next((ended - began for ended in scored if ended > began), took)
    return took
