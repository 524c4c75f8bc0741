import numpy as np
import pytest
from torch import nn
from torch.optim import SGD
from transformers import get_cosine_schedule_with_warmup

from mathsft.config.schema import TrainingSettings
from mathsft.training.schedule import learning_rate_at


def rates(num_steps: int, warmup_fraction: float, **schedule: object) -> list[float]:
    given = {"learning_rate": 2.0, "batch_size": 1, "warmup_fraction": warmup_fraction, **schedule}
    training = TrainingSettings.model_validate(given)
    return [learning_rate_at(step, num_steps, training) for step in range(1, num_steps + 1)]


@pytest.mark.parametrize(
    ("num_steps", "warmup_fraction", "expected"),
    [
        (1, 0.0, [2.0]),
        (1, 0.5, [4 / 3]),
        (4, 0.0, [2.0, 1.5, 1.0, 0.5]),
        (4, 0.5, [2 / 3, 4 / 3, 2.0, 1.0]),
        (4, 0.1, [2 / 1.4, 3 / 1.8, 2 / 1.8, 1 / 1.8]),
    ],
)
def test_the_rate_rises_and_falls_along_the_documented_lines(
    num_steps: int, warmup_fraction: float, expected: list[float]
) -> None:
    expected = [2.0 * min(1, rate / 2.0) for rate in expected]
    assert rates(num_steps, warmup_fraction) == pytest.approx(expected)


def test_cosine_is_the_schedule_of_transformers() -> None:
    num_steps, num_warmup = 20, 4
    # There step 0 has the rate 0, which trains nothing: its step s is step s here, and its end is one step after ours.
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    peer = get_cosine_schedule_with_warmup(optimizer, num_warmup + 1, num_steps + 1)
    expected = []
    for _ in range(num_steps):
        optimizer.step()
        peer.step()
        expected.append(peer.get_last_lr()[0])
    assert rates(num_steps, num_warmup / num_steps, schedule="cosine") == pytest.approx(expected)


def test_wsd_rises_stays_and_falls_in_a_line() -> None:
    corners = np.interp(range(1, 21), [0, 5, 16, 21], [0.0, 2.0, 2.0, 0.0])  # warmup to step 4 + 1, decay of 5 steps
    assert rates(20, 0.2, schedule="wsd", decay_fraction=0.25) == pytest.approx(corners)


def test_wsd_that_decays_from_the_warmup_on_is_linear() -> None:
    assert rates(16, 0.25, schedule="wsd", decay_fraction=0.75) == pytest.approx(rates(16, 0.25))


def test_a_decay_that_begins_in_the_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_fraction = 0.5 and decay_fraction = 0.6 make more than the whole run"):
        rates(10, 0.5, schedule="wsd", decay_fraction=0.6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("num_steps", [1, 2, 12, 1000])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.8])
def test_every_step_has_a_rate_above_zero_and_none_above_the_peak(
    num_steps: int, warmup_fraction: float, schedule: str
) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(num_steps, warmup_fraction, schedule=schedule))
