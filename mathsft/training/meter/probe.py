"""Measures the speed of training and generation on this computer in a few seconds, for a forecast.

The probe runs as a worker in place of the trainer, with the device, cores, threads and precision of the study.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import psutil
import torch
from transformers import AutoTokenizer

from mathsft.costs import Speeds
from mathsft.data.examples import encode
from mathsft.prompts.renderer import make_renderer
from mathsft.records import Example, Problem
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.batching.order import optimizer_batch
from mathsft.training.model.attention import eager_attention
from mathsft.training.state import load_base
from mathsft.training.step import TrainingStep
from mathsft.worker_settings import WorkerSettings

LEAST_REPEATS = {"cpu": 3, "cuda": 5}
"""Minimum number of repeats, of which the median is taken; on CUDA the first two repeats compile kernels."""
ENOUGH_SECONDS = 1.0
"""After the minimum, no further repeat starts once this much time has passed."""
TOO_LONG_SECONDS = 5.0
"""On a CPU no repeat at all starts once this much time has passed: long actions take about the same time every time."""
_MANY_STEPS = 10_000
"""Number of steps of the measured run, more than can be taken in the time."""
_READ_TOKENS = 256
"""Tokens of a forward pass over prompts; with more tokens the time per token hardly changes."""


class Probe:
    """Loads the model of settings.experiment as a trainer does, for one measurement."""

    def __init__(self, settings: WorkerSettings) -> None:
        worker_device = settings.worker_device
        torch.set_num_threads(worker_device.num_threads)
        self._experiment, self._device = settings.experiment, torch.device(worker_device.device)
        self._training = worker_device.fitting(settings.experiment.training)
        self._offload = worker_device.offload
        self._is_on_cpu = self._device.type == "cpu"
        self._engine_dtype: torch.dtype = getattr(torch, worker_device.engine_dtype)
        folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._base = load_base(folder, worker_device.attention, numpy_products=worker_device.numpy_products)
        self._ready_seconds = time.time() - psutil.Process().create_time()

    def measure(self, problems: Sequence[Problem], batch_sizes: Sequence[int], num_responses: int) -> Speeds:
        """Return the speeds of training on the problems with these batch sizes, and of generating num_responses at once.

        The fixed cost of a step follows from steps with the smallest and the largest batch size; it is 0 if the largest
        would take too long. Raises OutOfMemoryError if a step does not fit into memory.
        """
        renderer = make_renderer(self._experiment.prompt, self._tokenizer)
        examples = encode(problems, renderer, self._training.max_length_tokens).examples
        step_seconds, example_seconds = self._train(examples, min(batch_sizes), max(batch_sizes))
        prompt_tokens = fmean(len(example.prompt_ids) for example in examples)
        self._base.model.to(self._device, self._engine_dtype)
        with eager_attention(self._base.model):
            decoded_seconds = self._forward_seconds(num_responses, 1)
            read_seconds = self._forward_seconds(max(1, _READ_TOKENS // round(prompt_tokens)), round(prompt_tokens))
        return Speeds(
            ready_seconds=self._ready_seconds,
            step_seconds=step_seconds,
            example_seconds=example_seconds,
            decoded_token_seconds=decoded_seconds,
            read_token_seconds=read_seconds,
            prompt_tokens=prompt_tokens - len(common_prefix(examples)),
            response_tokens=fmean(len(example.response_ids) for example in examples),
        )

    def _train(self, examples: Sequence[Example], smallest: int, largest: int) -> tuple[float, float]:
        """Return the seconds per step and per example, from a line through the step times of both batch sizes."""
        smallest_seconds = self._step_seconds(examples, smallest)
        if smallest == largest or (self._is_on_cpu and smallest_seconds * largest / smallest > TOO_LONG_SECONDS):
            return 0.0, smallest_seconds / smallest
        slope = (self._step_seconds(examples, largest) - smallest_seconds) / (largest - smallest)
        example_seconds = min(max(slope, 0.0), smallest_seconds / smallest)
        return smallest_seconds - smallest * example_seconds, example_seconds

    def _step_seconds(self, examples: Sequence[Example], batch_size: int) -> float:
        training = self._training.model_copy(update={"batch_size": batch_size})
        prefix_ids = common_prefix(examples)
        training_step = TrainingStep(self._base, training, _MANY_STEPS, self._device, prefix_ids, offload=self._offload)
        return self._typical_seconds(lambda step: training_step.take(optimizer_batch(examples, batch_size, 0, step), step))

    @torch.inference_mode()
    def _forward_seconds(self, num_texts: int, num_tokens: int) -> float:
        """Return the seconds per token of a forward pass, with logits for the last token of each text only."""
        ids_BT = torch.zeros(num_texts, num_tokens, dtype=torch.long, device=self._device)
        seconds = self._typical_seconds(lambda _: self._base.model(input_ids=ids_BT, use_cache=False, logits_to_keep=1))
        return seconds / ids_BT.numel()

    def _typical_seconds(self, action: Callable[[int], object]) -> float:
        """Return the median duration of the action in seconds. The action takes the number of its call: 1, 2, …"""
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
