import pytest
from torch import nn

from mathsft.config.schema import TrainingSettings
from mathsft.training.optimizer import learning_rate_at, make_optimizer


def rates(num_steps: int, warmup_fraction: float) -> list[float]:
    training = TrainingSettings(learning_rate=2.0, batch_size=1, warmup_fraction=warmup_fraction)
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


@pytest.mark.parametrize("num_steps", [1, 2, 12, 1000])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.999])
def test_every_step_has_a_rate_above_zero_and_none_above_the_peak(num_steps: int, warmup_fraction: float) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(num_steps, warmup_fraction))


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    training = TrainingSettings(learning_rate=1.0, batch_size=1, weight_decay=0.5)
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(model, training).param_groups
        for parameter in group["params"]
    }
    by_name = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name == {"0.weight": 0.5, "1.weight": 0.5, "1.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}
