"""Counts the tokens of training examples, as a worker in place of the trainer: it loads the tokenizer, but no weights."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from mathsft.prompts.renderer import make_renderer
from mathsft.records import Problem
from mathsft.worker_settings import WorkerSettings


class Lengths:
    """Has the tokenizer and the prompt of settings.experiment."""

    def __init__(self, settings: WorkerSettings) -> None:
        experiment = settings.experiment
        tokenizer = AutoTokenizer.from_pretrained(Path(experiment.model.path), local_files_only=True)
        self._renderer = make_renderer(experiment.prompt, tokenizer)

    def measure(self, problems: Sequence[Problem]) -> list[int]:
        """Return the tokens of each problem's prompt and target; raises UserError as `Renderer.examples` does."""
        return [len(example.prompt_ids) + len(example.response_ids) for example in self._renderer.examples(problems)]
