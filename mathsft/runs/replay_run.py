"""Trains and scores a recorded run again in a separate store and compares losses, weights, scores and responses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mathsft.records import Run, Score, StepMetrics
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import drive
from mathsft.runs.final_run import SingleRun
from mathsft.store.study_store import StudyStore

PROMISES = {
    "cpu": "With the same packages, processor and threads as recorded, everything must agree to the bit.",
    "cuda": "On a CUDA device equal bits are not promised: torch adds some gradients in no fixed order, and vLLM's rounding "
    "depends on the batch. The replay counts what agrees to the bit.",
}
"""What a replay on a kind of device can promise. Sources: torch.use_deterministic_algorithms (index_add); vLLM,
"Batch Invariance"."""


@dataclass(frozen=True)
class ScoreComparison:
    """A checkpoint's recorded score and its replayed score."""

    recorded: Score
    replayed: Score
    num_responses: int
    num_other_responses: int
    """Responses whose text differs."""

    @property
    def has_same_weights(self) -> bool:
        return self.recorded.fingerprint == self.replayed.fingerprint


@dataclass(frozen=True)
class Comparison:
    """A recorded run compared with its replay."""

    num_steps: int
    other_steps: tuple[int, ...]
    """The steps whose losses differ; empty if the loss curves are bitwise equal."""
    max_loss_difference: float
    state: str
    replayed_state: str
    scores: tuple[ScoreComparison, ...]

    @property
    def agrees(self) -> bool:
        """Return whether loss curve, weights and responses are bitwise equal."""
        return (
            not self.other_steps
            and self.state == self.replayed_state
            and all(score.has_same_weights and score.num_other_responses == 0 for score in self.scores)
        )

    @property
    def shares(self) -> str:
        """Return in words how many losses, weights and responses agree to the bit, and how far accuracies differ."""
        num_responses = sum(score.num_responses for score in self.scores)
        num_same_responses = num_responses - sum(score.num_other_responses for score in self.scores)
        num_same_weights = sum(score.has_same_weights for score in self.scores)
        points = max((100 * abs(score.recorded.accuracy - score.replayed.accuracy) for score in self.scores), default=0.0)
        return (
            f"{self.num_steps - len(self.other_steps):,} of {self.num_steps:,} losses, {num_same_weights} of "
            f"{len(self.scores)} weights and {num_same_responses:,} of {num_responses:,} responses agree to the bit; losses "
            f"differ by at most {self.max_loss_difference:.2g}, accuracies by at most {points:.1f} points"
        )


class _ReplayRun(SingleRun):
    """A source that proposes a recorded run again and stops it where it was pruned."""

    def __init__(self, run: Run, num_scores: int, store: StudyStore) -> None:
        super().__init__(replace(run, state="running", value=None, reason=""), store)
        self._last_index = num_scores - 1 if run.state == "pruned" else None

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        return 0 if index == self._last_index else None


async def replay(run: Run, recorded: StudyStore, study: StudyContext) -> Comparison:
    """Train and score a recorded run again, write only to the study's store, and compare both."""
    store = study.store
    scores = recorded.scores(run.name, run.plan.pool)
    replayed = _ReplayRun(run, len(scores), store)
    await drive(replayed, study)
    metrics = recorded.metrics(run.name)
    others, largest = compare_losses(metrics, store.metrics(run.name))
    compared = [
        _compare_scores(score, new, recorded, store)
        for score in scores
        if (new := store.score(run.name, score.step, score.pool)) is not None
    ]
    return Comparison(len(metrics), others, largest, run.state, replayed.run.state, tuple(compared))


def compare_losses(old: Sequence[StepMetrics], new: Sequence[StepMetrics]) -> tuple[tuple[int, ...], float]:
    """Return the old steps whose new losses differ or are missing, and the largest difference of losses."""
    replayed = {metrics.step: metrics.loss for metrics in new}
    others = tuple(metrics.step for metrics in old if replayed.get(metrics.step) != metrics.loss)
    differences = [abs(replayed[metrics.step] - metrics.loss) for metrics in old if metrics.step in replayed]
    return others, max(differences, default=0.0)


def _compare_scores(old: Score, new: Score, recorded: StudyStore, store: StudyStore) -> ScoreComparison:
    texts = {(response.problem_id, response.sample): response.text for response in recorded.responses(old)}
    replayed_texts = {(response.problem_id, response.sample): response.text for response in store.responses(new)}
    num_other = sum(replayed_texts.get(key) != text for key, text in texts.items())
    return ScoreComparison(old, new, len(texts), num_other)
