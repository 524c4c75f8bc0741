"""The trainer as tests ask it: runs get its settings' experiment, and each call waits until the weights are on disk."""

from dataclasses import replace

from mathsft.config.load import apply_overrides
from mathsft.publication import heard
from mathsft.records import Checkpoint, Diverged, Run
from mathsft.training import trainer


class Trainer(trainer.Trainer):
    def advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        experiment = apply_overrides(self._settings.experiment, run.overrides)
        outcome = super().advance(replace(run, experiment=experiment), to_step)
        if not isinstance(outcome, Checkpoint):
            return outcome
        self._publisher.wait()
        self._publisher.check(run.name)
        publication = heard(self._layout.publication(run.name, to_step))
        assert publication is not None
        return replace(outcome, fingerprint=publication.fingerprint)
