"""What the probe makes of the steps that it times, with real steps of a tiny model and a clock that charges for them."""

from types import SimpleNamespace

import pytest
import torch

from mathsft.data.examples import encode
from mathsft.data.pools import load_pools
from mathsft.training.meter import probe
from mathsft.training.meter.probe import ENOUGH_SECONDS, LEAST_REPEATS, TOO_LONG_SECONDS, Probe
from mathsft.training.step import StepOutcome, TrainingStep
from mathsft.worker_settings import WorkerSettings
from tests.build import renderer_of

MOMENT = 0.05


class Charging:
    """A clock that a step of so many examples moves on by step_seconds and by example_seconds for each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_seconds: float, example_seconds: float) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        take = TrainingStep.take

        def charged(training_step: TrainingStep, batch: list[object], step: int) -> StepOutcome:
            assert len(set(map(id, batch))) == len(batch)  # examples that are the same would share their computation
            self.sizes.append(len(batch))
            self.now += step_seconds + example_seconds * len(batch)
            return take(training_step, batch, step)  # type: ignore[arg-type]

        monkeypatch.setattr(TrainingStep, "take", charged)
        # Whatever is timed takes a moment, too: forward passes nothing else.
        monkeypatch.setattr(probe, "time", SimpleNamespace(time=lambda: 2e9, perf_counter=self.read))

    def read(self) -> float:
        self.now += MOMENT
        return self.now


@pytest.mark.parametrize(
    ("step_seconds", "example_seconds"),
    [(0.3, 0.05), (0.5, 0.0), (0.0, 0.1)],
)
def test_two_batch_sizes_tell_steps_from_examples(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, step_seconds: float, example_seconds: float
) -> None:
    charging = Charging(monkeypatch, step_seconds, example_seconds)
    problems = load_pools(settings.experiment.data)["train"]
    speeds = Probe(settings).measure(problems, [8, 2, 4], 20)
    assert speeds.step_seconds == pytest.approx(step_seconds + MOMENT)
    assert speeds.example_seconds == pytest.approx(example_seconds, abs=1e-9)
    assert set(charging.sizes) == {2, 8}
    for size in (2, 8):
        num_steps, seconds = charging.sizes.count(size), MOMENT + step_seconds + size * example_seconds
        assert num_steps >= LEAST_REPEATS["cpu"]
        assert (num_steps - 1) * seconds < max(ENOUGH_SECONDS, LEAST_REPEATS["cpu"] * seconds)


def test_what_takes_long_is_not_repeated_nor_made_larger(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    charging = Charging(monkeypatch, 0.0, TOO_LONG_SECONDS)
    speeds = Probe(settings).measure(load_pools(settings.experiment.data)["train"], [2, 8], 20)
    assert charging.sizes == [2]
    assert (speeds.step_seconds, speeds.example_seconds) == (0.0, pytest.approx(TOO_LONG_SECONDS + MOMENT / 2))


@pytest.mark.slow
def test_lengths_are_those_of_the_examples_without_what_all_share(settings: WorkerSettings) -> None:
    problems = load_pools(settings.experiment.data)["train"]
    measuring = Probe(settings)
    speeds = measuring.measure(problems, [4], 20)
    encoded = encode(problems, renderer_of(measuring._tokenizer), 10_000).examples
    shortest = min(len(one.prompt_ids) for one in encoded)
    assert 0 < speeds.prompt_tokens < shortest
    assert speeds.response_tokens == pytest.approx(sum(len(one.response_ids) for one in encoded) / len(encoded))
    assert torch.get_num_threads() == settings.worker_device.num_threads
    assert not settings.layout.root.exists()
