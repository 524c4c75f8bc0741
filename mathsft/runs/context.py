"""What all that runs in a study shares: its database, its workers, its folder and its experiment."""

from dataclasses import dataclass

from mathsft.config.schema import Experiment
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class StudyContext:
    """One driver's study. The experiment is that of the settings: every run has its own, with its overrides."""

    store: StudyStore
    workers: StudyWorkers
    layout: StudyLayout
    experiment: Experiment

    def has_weights(self, checkpoint: Checkpoint) -> bool:
        """Tell whether the checkpoint's weights are still on disk."""
        return (self.layout / checkpoint.path).exists()
