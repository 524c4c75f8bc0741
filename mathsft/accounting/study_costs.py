"""Estimates the mean time of the parts of a study from its own trials, from measured speeds, or by arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

import numpy as np

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import Choices, IntRange, StudyConfig
from mathsft.costs import Speeds
from mathsft.prompts.request import fill, request_template
from mathsft.records import STATES_WITH_RESULT, Problem
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerDevice

BATCH_SIZE = "training.batch_size"
START_RATIO = 4.0
"""Ratio of the time until the base model is scored to the time in which the trainer imports torch and loads the model.
Measured on two cores: 3.7 with the files in memory, 5 right after the computer's start."""
ENGINE_TOKEN_SECONDS = 8e-5
"""Time that vLLM adds to the forward pass for each token of each response: scheduling, sampling, detokenisation. Measured
on a CPU: it is half of the time with a model of 0.9 M parameters, and negligible with 135 M."""
MAX_CONCURRENT_RESPONSES = 256
"""Responses that vLLM generates concurrently."""
PRUNED_SHARE = 0.25
"""Mean share of a trial's work that PercentilePruner(75) saves after its first trials, as in the quickstart's study."""
FIRST_TRIALS = 5
"""First trials, which Optuna's pruners never stop, unless their argument n_startup_trials gives another number."""
LEAST_TRIALS = 3
"""Ended trials that are needed before their mean replaces a measurement: batch sizes differ."""
ASSUMED_FLOPS = {"cpu": 3e10, "cuda": 4e13}
"""Operations per second if they cannot be measured: roughly those of one core, and of a large GPU in training."""
CHARACTERS_PER_TOKEN, ASSUMED_READY_SECONDS = 2.5, 10.0


@dataclass(frozen=True)
class MeanCosts:
    """The mean seconds of the parts of a study."""

    start: float
    """Until the workers have started and the base model is scored."""
    train: float
    """Of a trial's training on one trainer, pruned trials included."""
    score: float
    """Of a trial's scoring at all its eval points, pruned trials included."""
    example: float
    """Of training on one example."""
    response: float
    """Of generating and grading one response, outside the trials."""


def expected_costs(config: StudyConfig, experiment: Experiment, speeds: Speeds, num_search: int) -> MeanCosts:
    """Return the costs that follow from measured speeds; num_search is the number of problems in the search pool."""
    example = speeds.example_seconds + speeds.step_seconds * fmean(1 / size for size in batch_sizes(config, experiment))
    tokens = min(speeds.response_tokens, experiment.evaluation.max_tokens)
    read = speeds.prompt_tokens * speeds.read_token_seconds
    response = read + tokens * (speeds.decoded_token_seconds + ENGINE_TOKEN_SECONDS)
    gold = num_search * (read + speeds.response_tokens * speeds.read_token_seconds)  # once per trial, at its end
    score = len(config.trial.eval_points) * num_search * experiment.evaluation.num_samples * response + gold
    share = 1 - _saved_by_pruner(config)
    return MeanCosts(
        start=speeds.ready_seconds * START_RATIO,
        train=share * config.trial.num_examples * example,
        score=share * score,
        example=example,
        response=response,
    )


def batch_sizes(config: StudyConfig, experiment: Experiment) -> list[int]:
    """Return the searched batch sizes (nine values of a range), or the one that all runs have."""
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
    num_parameters: int, experiment: Experiment, problems: Sequence[Problem], worker_device: WorkerDevice
) -> Speeds:
    """Return speeds by arithmetic: 6 FLOPs per parameter and trained token, 2 per generated token, at an assumed rate."""
    template = request_template(experiment.prompt)
    prompt_tokens = fmean(len(fill(template, problem.problem)) for problem in problems) / CHARACTERS_PER_TOKEN
    response_tokens = fmean(len(problem.solution) + len(problem.answer) for problem in problems) / CHARACTERS_PER_TOKEN
    token_seconds = 2 * num_parameters / ASSUMED_FLOPS[worker_device.device]
    return Speeds(
        ready_seconds=ASSUMED_READY_SECONDS,
        step_seconds=0.0,
        example_seconds=3 * token_seconds * (prompt_tokens + response_tokens),
        decoded_token_seconds=token_seconds,
        read_token_seconds=token_seconds,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
    )


def past_costs(store: StudyStore) -> MeanCosts | None:
    """Return the mean costs of the study's ended trials; None if there are too few."""
    trials = [run for run in store.runs("trial") if run.state in STATES_WITH_RESULT]
    if len(trials) < LEAST_TRIALS:
        return None
    checkpoints = {run.name: store.checkpoints(run.name) for run in trials}
    trained = {name: sum(checkpoint.costs.busy_seconds for checkpoint in of_run) for name, of_run in checkpoints.items()}
    scored = [sum(score.costs.busy_seconds for score in store.scores(run.name, run.plan.pool)) for run in trials]
    promotion = store.promotion()
    # The final run has the promoted trial's batch size.
    like_final = [run for run in trials if promotion is None or run.name == promotion.run]
    # The last steps of a diverged run have no recorded time.
    num_steps = {name: max((checkpoint.step for checkpoint in of_run), default=0) for name, of_run in checkpoints.items()}
    num_examples = sum(num_steps[run.name] * run.experiment.training.batch_size for run in like_final)
    scores = store.scores()
    generated = sum(score.costs.busy_seconds - score.costs.gold_seconds for score in scores)
    return MeanCosts(
        start=_last_start(store),
        train=fmean(trained.values()),
        score=fmean(scored),
        example=sum(trained[run.name] for run in like_final) / max(1, num_examples),
        response=generated / max(1, sum(sum(score.counts.values()) for score in scores)),
    )


def _last_start(store: StudyStore) -> float:
    """Return the seconds from the start of the latest driver that has a score to its first score."""
    scored = [call.ended for call in store.worker_calls() if call.pool]
    seconds = 0.0
    for session in store.sessions():
        began = datetime.fromisoformat(session.began).timestamp()
        seconds = next((ended - began for ended in scored if ended > began), seconds)
    return seconds
