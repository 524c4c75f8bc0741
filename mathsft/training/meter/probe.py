"""Measures for a forecast, in a few seconds, how fast this computer trains and generates; it keeps and writes nothing.

It runs as a worker in the trainer's place: device, cores, threads and precision are those of the study that is forecast.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import psutil
import torch
from transformers import AutoTokenizer

from mathsft.costs import Speeds
from mathsft.data.examples import encode, load_template
from mathsft.records import Example, Problem
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.batching.order import optimizer_batch
from mathsft.training.state import load_base
from mathsft.training.step import TrainingStep
from mathsft.worker_settings import WorkerSettings

LEAST_REPEATS = {"cpu": 3, "cuda": 5}
"""Measurements of which the median is taken: on CUDA the first two compile kernels."""
ENOUGH_SECONDS = 1.0
"""No further measurement of a kind begins after that."""
TOO_LONG_SECONDS = 5.0
"""On a CPU not even one of LEAST_REPEATS begins after that: what takes so long is the same every time."""
MANY_STEPS = 10_000
"""Of the run whose first steps are measured: more than fit into the time."""
READ_TOKENS = 256
"""In a forward pass over prompts; from there on a token's time hardly depends on their number."""


class Probe:
    """Holds the model of settings.experiment as a trainer does, for one measurement."""

    def __init__(self, settings: WorkerSettings) -> None:
        hardware = settings.hardware
        torch.set_num_threads(hardware.num_threads)
        self._experiment, self._device = settings.experiment, torch.device(hardware.device)
        self._engine_dtype: torch.dtype = getattr(torch, hardware.engine_dtype)
        folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._base = load_base(folder, hardware.attention)
        self._ready_seconds = time.time() - psutil.Process().create_time()

    def measure(self, problems: Sequence[Problem], batch_sizes: Sequence[int], num_responses: int) -> Speeds:
        """Return the speeds of training on the problems in batches of these sizes, and of num_responses generated at once.

        Steps of the smallest and of the largest batch tell what a step costs beside its examples; where the largest would
        take too long, nothing. Raises what a step raises where memory does not suffice.
        """
        template, training = load_template(self._experiment.prompt.template), self._experiment.training
        examples = encode(problems, self._tokenizer, template, training.max_length_tokens).examples
        step_seconds, example_seconds = self._train(examples, min(batch_sizes), max(batch_sizes))
        prompt_tokens = fmean(len(example.prompt_ids) for example in examples)
        self._base.model.to(self._device, self._engine_dtype)
        self._base.model.set_attn_implementation("eager")  # that of packed rows wants to be told of their segments
        return Speeds(
            ready_seconds=self._ready_seconds,
            step_seconds=step_seconds,
            example_seconds=example_seconds,
            decoded_token_seconds=self._forward_seconds(num_responses, 1),
            read_token_seconds=self._forward_seconds(max(1, READ_TOKENS // round(prompt_tokens)), round(prompt_tokens)),
            prompt_tokens=prompt_tokens - len(common_prefix(examples)),
            response_tokens=fmean(len(example.response_ids) for example in examples),
        )

    def _train(self, examples: Sequence[Example], smallest: int, largest: int) -> tuple[float, float]:
        """Return the seconds of a step and of each of its examples, as a line through both batch sizes has them."""
        of_smallest = self._step_seconds(examples, smallest)
        if smallest == largest or (self._is_on_cpu and of_smallest * largest / smallest > TOO_LONG_SECONDS):
            return 0.0, of_smallest / smallest
        slope = (self._step_seconds(examples, largest) - of_smallest) / (largest - smallest)
        example_seconds = min(max(slope, 0.0), of_smallest / smallest)
        return of_smallest - smallest * example_seconds, example_seconds

    def _step_seconds(self, examples: Sequence[Example], batch_size: int) -> float:
        training = self._experiment.training.model_copy(update={"batch_size": batch_size})
        training_step = TrainingStep(self._base, training, MANY_STEPS, self._device, common_prefix(examples))
        return self._typical_seconds(lambda step: training_step.take(optimizer_batch(examples, batch_size, 0, step), step))

    @torch.inference_mode()
    def _forward_seconds(self, num_texts: int, num_tokens: int) -> float:
        """Return the seconds of a forward pass for each of its tokens; the head is computed for a text's last one."""
        ids_BT = torch.zeros(num_texts, num_tokens, dtype=torch.long, device=self._device)
        seconds = self._typical_seconds(lambda _: self._base.model(input_ids=ids_BT, use_cache=False, logits_to_keep=1))
        return seconds / ids_BT.numel()

    def _typical_seconds(self, action: Callable[[int], object]) -> float:
        """Return the median duration of the action, which is given the number of its call, from 1 on."""
        seconds: list[float] = []
        while len(seconds) < LEAST_REPEATS[self._device.type] or sum(seconds) < ENOUGH_SECONDS:
            started = time.perf_counter()
            action(len(seconds) + 1)
            if not self._is_on_cpu:
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - started)
            if self._is_on_cpu and sum(seconds) > TOO_LONG_SECONDS:
                break
        return median(seconds)

    @property
    def _is_on_cpu(self) -> bool:
        return self._device.type == "cpu"
