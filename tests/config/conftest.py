"""A study and an experiment of the smallest kind, and the means to spoil them."""

from collections.abc import Callable
from pathlib import Path

import pytest

EXPERIMENT = """\
model: {path: quickstart}
data:
  source: quickstart
training:
  learning_rate: 1e-3
  batch_size: 32
"""
STUDY = """\
experiment: mine
search:
  training.learning_rate: {type: float, low: 1e-5, high: 1e-2, log: true}
  training.batch_size: {type: categorical, choices: [8, 16]}
trial: {num_examples: 64, eval_points: [0.5, 1]}
final:
  num_examples: 128
  eval_points: [0, 1]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a folder with a study and an experiment "mine" the current one; replacements (old, new) spoil them."""
    monkeypatch.chdir(tmp_path)

    def write(*replacements: tuple[str, str]) -> Path:
        for folder, text in (("studies", STUDY), ("experiments", EXPERIMENT)):
            for old, new in replacements:
                text = text.replace(old, new)
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "mine.yaml").write_text(text)
        return tmp_path

    return write
