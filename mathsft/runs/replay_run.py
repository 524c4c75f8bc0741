"""Trains and scores a recorded run again in a separate store and compares losses, weights, scores and responses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mathsft.records import Run, Score, StepMetrics
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import drive
from mathsft.runs.final_run import SingleRun
from mathsft.store.study_store import StudyStore


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
    first_other_step: int | None
    """The first step whose loss differs; None if the loss curves are bitwise equal."""
    max_loss_difference: float
    state: str
    replayed_state: str
    scores: tuple[ScoreComparison, ...]

    @property
    def agrees(self) -> bool:
        """Return whether loss curve, weights and responses are bitwise equal."""
        return (
            self.first_other_step is None
            and self.state == self.replayed_state
            and all(score.has_same_weights and score.num_other_responses == 0 for score in self.scores)
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
    first, largest = compare_losses(metrics, store.metrics(run.name))
    compared = [
        _compare_scores(score, new, recorded, store)
        for score in scores
        if (new := store.score(run.name, score.step, score.pool)) is not None
    ]
    return Comparison(len(metrics), first, largest, run.state, replayed.run.state, tuple(compared))


def compare_losses(old: Sequence[StepMetrics], new: Sequence[StepMetrics]) -> tuple[int | None, float]:
    """Return the first old step whose new loss differs or is missing, and the largest difference of losses."""
    replayed = {metrics.step: metrics.loss for metrics in new}
    differing = [metrics.step for metrics in old if replayed.get(metrics.step) != metrics.loss]
    differences = [abs(replayed[metrics.step] - metrics.loss) for metrics in old if metrics.step in replayed]
    return min(differing, default=None), max(differences, default=0.0)


def _compare_scores(old: Score, new: Score, recorded: StudyStore, store: StudyStore) -> ScoreComparison:
    texts = {(response.problem_id, response.sample): response.text for response in recorded.responses(old)}
    replayed_texts = {(response.problem_id, response.sample): response.text for response in store.responses(new)}
    num_other = sum(replayed_texts.get(key) != text for key, text in texts.items())
    return ScoreComparison(old, new, len(texts), num_other)
