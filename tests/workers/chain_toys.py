"""A trainer and an evaluator without a model: weights are the end of a chain of hashes, one link for each step."""

import hashlib
import json
import math
import signal
from dataclasses import asdict
from pathlib import Path

from mathsft.config.schema import Experiment
from mathsft.publication import Publication, tell
from mathsft.records import Checkpoint, EngineCheck, Run, Score
from mathsft.worker_settings import WorkerSettings
from tests.build import make_categories, make_checkpoint, make_metrics, make_responses, score_of

NUM_PROBLEMS = 50
HOLD, HELD, HELD_STEP = "hold", "held", 6
"""If the study's folder has a file HOLD, the first trainer at this step of a trial makes a file HELD and never goes on."""
SAVE_EVERY = 2


class ChainTrainer:
    """Continues from memory, else from the full state on disk, else from the beginning, like the real one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._layout = settings.layout
        self._run, self._step, self._link = "", 0, ""

    def publish_for_check(self) -> tuple[str, str]:
        return "base", "changed"

    def advance(self, run: Run, to_step: int) -> Checkpoint:
        state = self._layout.full_state(run.name)
        state.parent.mkdir(parents=True, exist_ok=True)
        if self._run != run.name or self._step > to_step:
            self._run, (self._step, self._link) = run.name, (0, "base")
            if state.exists():
                self._step, self._link = json.loads(state.read_text())
        assert self._step <= to_step
        metrics = self._layout.metrics(run.name)
        lines = metrics.read_text().splitlines(keepends=True)[: self._step] if metrics.exists() else []
        metrics.write_text("".join(lines))
        with metrics.open("a") as file:
            while self._step < to_step:
                self._step += 1
                self._link = hashlib.sha256(f"{self._link} {self._step} {run.overrides}".encode()).hexdigest()
                file.write(json.dumps(asdict(make_metrics(run.name, self._step, loss=1 / self._step))) + "\n")
                file.flush()
                if run.kind == "trial" and self._step == HELD_STEP:
                    self._hold()
                if self._step % SAVE_EVERY == 0:
                    _write(state, json.dumps([self._step, self._link]))
        folder = self._layout.checkpoint(run.name, to_step)
        folder.mkdir(exist_ok=True)
        _write(folder / "weights", self._link)
        tell(Publication(self._link), self._layout.publication(run.name, to_step))
        return make_checkpoint(run.name, to_step, self._layout.recorded(folder), fingerprint="")

    def park(self) -> None:
        pass

    def _hold(self) -> None:
        held = self._layout.root / HELD
        if (self._layout.root / HOLD).exists() and not held.exists():
            held.touch()
            while True:
                signal.pause()


class ChainEvaluator:
    def __init__(self, settings: WorkerSettings) -> None:
        self._layout = settings.layout

    def check_engine(self, base: str, changed: str) -> EngineCheck:
        assert (base, changed) == ("base", "changed")
        return EngineCheck(1e-6, "Toy", "swap", 0.1)

    def score(self, checkpoint: Checkpoint, experiment: Experiment, pool: str, with_gold_nll: bool) -> Score:
        assert (self._layout / checkpoint.path / "weights").read_text() == checkpoint.fingerprint
        distance = abs(math.log10(experiment.training.learning_rate / 1e-3))
        num_correct = round(NUM_PROBLEMS * math.exp(-distance) * (1 - math.exp(-(checkpoint.step + 1) / 4)))
        path = self._layout.responses(checkpoint.run, checkpoint.step, pool)
        path.parent.mkdir(exist_ok=True)
        responses = make_responses(make_categories(num_correct, NUM_PROBLEMS))
        path.write_text("".join(json.dumps(asdict(response)) + "\n" for response in responses))
        where = {"fingerprint": checkpoint.fingerprint, "responses_path": self._layout.recorded(path)}
        gold_nll = 1.0 if with_gold_nll else None
        return score_of(responses, checkpoint.run, checkpoint.step, pool, gold_nll=gold_nll, **where)

    def park(self) -> None:
        pass


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
