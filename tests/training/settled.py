"""The trainer as tests ask it: their runs are made without an experiment, and get that of the trainer's settings."""

from dataclasses import replace

from mathsft.config.load import apply_overrides
from mathsft.records import Checkpoint, Diverged, Run
from mathsft.training import trainer


class Trainer(trainer.Trainer):
    def advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        experiment = apply_overrides(self._settings.experiment, run.overrides)
        return super().advance(replace(run, experiment=experiment), to_step)
