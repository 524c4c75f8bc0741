"""Costs of a worker's call in seconds, bytes and tokens, with the definition of busy time; measured speeds of a computer."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at the memory peak of a training step, by purpose."""

    weights: int
    """The optimizer's weights, the copy used for computing, and the base model's weights if they are in the same memory."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    logits: int
    """Logits of one chunk, and the loss's hidden states, their gradient and the head's gradient."""

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class _Costs:
    """Costs of a call. The fields that end in _seconds are the seconds by activity."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of each activity that took time."""
        suffix = "_seconds"
        return {name.removesuffix(suffix): value for name, value in vars(self).items() if name.endswith(suffix) and value}

    @property
    def busy_seconds(self) -> float:
        """Return the wall-clock seconds of work: all except an engine's start, which also serves later calls."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "start")


@dataclass(frozen=True)
class TrainingCosts(_Costs):
    """Costs of training from the previous checkpoint to this one."""

    encode_seconds: float = 0.0
    train_seconds: float = 0.0
    check_seconds: float = 0.0
    """Time to compute the log probabilities with which an engine is compared."""
    save_seconds: float = 0.0
    """Time in which training waited for the copy of the weights and for the checkpoint before this one to be on disk. The
    weights are written and hashed while training goes on."""
    num_tokens: int = 0
    """Prompt and response tokens of the examples."""
    num_too_long: int = 0
    """Rows of the train pool that are longer than training.max_length_tokens, so that the run does not train on them."""
    num_ranks: int = 1
    """Processes that trained together."""
    peak_memory_bytes: int = 0
    """CUDA: peak of allocated memory since the run began. CPU: peak of the process, minus its memory without the model."""
    predicted_memory: Memory | None = None
    """Predicted memory at the peak; None for several ranks and for models whose memory cannot be predicted."""


@dataclass(frozen=True)
class ScoringCosts(_Costs):
    """Costs of one score."""

    start_seconds: float = 0.0
    """Time to start the engine; 0 for scores by an engine that was already running."""
    swap_seconds: float = 0.0
    gold_seconds: float = 0.0
    """Time to compute the likelihood of the training targets."""
    generate_seconds: float = 0.0
    grade_seconds: float = 0.0
    num_response_tokens: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Speeds:
    """Speeds of a study's workers on this computer, from a short measurement, and the mean lengths of its texts."""

    ready_seconds: float
    """Time from the start of a process until its libraries are imported and the model is loaded."""
    step_seconds: float
    """Fixed time of an optimizer step, independent of its batch size."""
    example_seconds: float
    """Additional time of an optimizer step for each example."""
    decoded_token_seconds: float
    """Time for each token in a forward pass over one token of each of many texts, as in decoding."""
    read_token_seconds: float
    """Time for each token in a forward pass over whole prompts."""
    prompt_tokens: float
    """Mean length of a prompt without the prefix that all prompts share."""
    response_tokens: float
    """Mean length of a training target."""


class Stopwatch:
    """Measures the seconds of activities, by the name of the cost field that will contain them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def during(self, field: str) -> Iterator[None]:
        """Add the time of the body to the field's seconds."""
        started = time.perf_counter()
        yield
        self.seconds[field] = self.seconds.get(field, 0.0) + time.perf_counter() - started
