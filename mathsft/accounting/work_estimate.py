"""Estimates how long training and scoring take on one device, to split devices between them before anything is measured.

Only the ratio of the two times matters. The constants are estimates for large GPUs and for one core, not measurements.
"""

from mathsft.accounting.study_costs import MeanCosts, expected_costs, past_costs
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.costs import Speeds
from mathsft.store.study_store import StudyStore
from mathsft.workers.placement import Purpose
from mathsft.workers.split import WorkEstimate

LENGTH_SHARE = 0.25
"""Mean length of training examples, as a share of training.max_length_tokens; half of it is the prompt."""
FLOPS = {"cpu": 3e10, "cuda": 3e14}
"""Operations per second of forward and backward passes over packed rows."""
CUDA_STEP_SECONDS = 8e-3
"""Time of one decoding step of a batch, which the launch of kernels and the scheduler determine for a small model."""
BYTES_PER_SECOND = 2e12
"""Rate at which a decoding step reads the weights, which determine its time for a large model."""
CUDA_UPDATE_SECONDS = 0.03
"""Least time of an optimizer step, which the launch of kernels determines for a small model."""
MAX_BATCH = 256
"""Responses that one engine generates at a time."""


def estimated_work(
    config: StudyConfig,
    experiment: Experiment,
    num_parameters: int | None,
    purpose: Purpose,
    store: StudyStore | None,
    *,
    on_cuda: bool,
) -> WorkEstimate | None:
    """Return the work of a trial or of the final run, from the study's trials if enough have ended.

    Returns None if neither trials nor the model's size are known.
    """
    pools, num_samples = experiment.data.pools, experiment.evaluation.num_samples
    costs, basis = past_costs(store) if store is not None else None, "by this study's trials"
    if costs is None:
        if num_parameters is None:
            return None
        speeds = _assumed_speeds(experiment, num_parameters, on_cuda=on_cuda)
        costs, basis = expected_costs(config, experiment, speeds, pools.search), "estimated"
    if purpose == "study":
        return WorkEstimate(costs.train, costs.score, "a trial", basis)
    return _of_final_run(config, costs, pools.validation * num_samples, basis)


def _of_final_run(config: StudyConfig, costs: MeanCosts, num_validation: int, basis: str) -> WorkEstimate:
    num_points = len({0.0, *config.final.eval_points})
    train, score = config.final.num_examples * costs.example, num_points * num_validation * costs.response
    return WorkEstimate(train, score, "the final run", basis)


def _assumed_speeds(experiment: Experiment, num_parameters: int, *, on_cuda: bool) -> Speeds:
    """Return speeds by arithmetic: 2 FLOPs per parameter and token in a forward pass, 6 in training.

    On CUDA a batch takes the steps of its longest response, which is taken to have evaluation.max_tokens, however few
    responses are left. On a CPU each token takes its operations.
    """
    token_seconds = 2 * num_parameters / FLOPS["cuda" if on_cuda else "cpu"]
    num_tokens = LENGTH_SHARE * experiment.training.max_length_tokens / 2  # of a prompt, and of a response
    decoded_seconds = token_seconds
    if on_cuda:
        num_at_once = min(MAX_BATCH, experiment.data.pools.search * experiment.evaluation.num_samples)
        step_seconds = CUDA_STEP_SECONDS + 2 * num_parameters / BYTES_PER_SECOND
        longest = experiment.evaluation.max_tokens / min(num_tokens, experiment.evaluation.max_tokens)
        decoded_seconds += step_seconds * longest / num_at_once
    return Speeds(
        ready_seconds=0.0,
        step_seconds=CUDA_UPDATE_SECONDS if on_cuda else 0.0,
        example_seconds=3 * token_seconds * 2 * num_tokens,
        decoded_token_seconds=decoded_seconds,
        read_token_seconds=token_seconds,
        prompt_tokens=num_tokens,
        response_tokens=num_tokens,
    )
