"""The objects that all runs of a study share: store, workers, folder layout and experiment."""

from dataclasses import dataclass

from mathsft.config.schema import Experiment
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class StudyContext:
    """One driver's study; `experiment` is that of its settings, and each run holds its own with its overrides applied."""

    store: StudyStore
    workers: StudyWorkers
    layout: StudyLayout
    experiment: Experiment

    def has_weights(self, checkpoint: Checkpoint) -> bool:
        """Return whether the checkpoint's weights are still on disk."""
        return (self.layout / checkpoint.path).exists()
