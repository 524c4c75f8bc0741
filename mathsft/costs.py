"""What a worker's call took, and the one definition of what of it counts as busy; how fast a computer works."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

SECONDS = "_seconds"


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at the peak of a training step, by what they are for."""

    weights: int
    """The optimizer's, those computed with, and the base model's where they share its memory."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    logits: int
    """Of a chunk, and what the loss holds beside: hidden states, their gradient, the head's gradient."""

    @property
    def total(self) -> int:
        """Return their sum."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class _Costs:
    """Seconds by activity are the fields that end in _seconds."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Return the seconds by activity, without those that took none."""
        spent = {name.removesuffix(SECONDS): value for name, value in asdict(self).items() if name.endswith(SECONDS)}
        return {name: seconds for name, seconds in spent.items() if seconds}

    @property
    def busy_seconds(self) -> float:
        """Return the seconds of work by the clock: all but the start of an engine, which is not done for this call alone."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "start")


@dataclass(frozen=True)
class TrainingCosts(_Costs):
    """From the last checkpoint to this one."""

    encode_seconds: float = 0.0
    train_seconds: float = 0.0
    check_seconds: float = 0.0
    """Of computing what an engine is compared with."""
    save_seconds: float = 0.0
    num_tokens: int = 0
    """Of the examples, prompt and response."""
    num_ranks: int = 1
    """Processes that trained side by side."""
    peak_memory_bytes: int = 0
    """On CUDA what was allocated since the run began; on a CPU of the process, beyond what it held without the model."""
    predicted_memory: Memory | None = None
    """At the peak; None for a model whose memory is not known, and for ranks."""


@dataclass(frozen=True)
class ScoringCosts(_Costs):
    """Of one score."""

    start_seconds: float = 0.0
    """Of making the engine, in the score for which it was made."""
    swap_seconds: float = 0.0
    gold_seconds: float = 0.0
    """Of the training targets' likelihood."""
    generate_seconds: float = 0.0
    grade_seconds: float = 0.0
    num_response_tokens: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Speeds:
    """How fast a study's workers do their work on this computer, as a short measurement says, and how long its texts are."""

    ready_seconds: float
    """From the start of a process until it has imported what trains and loaded the model."""
    step_seconds: float
    """Of an optimizer step, however small its batch is."""
    example_seconds: float
    """Of a step in addition, for each of its examples."""
    decoded_token_seconds: float
    """Of a forward pass over one token of each of many texts, for each of these."""
    read_token_seconds: float
    """The same of one over whole prompts."""
    prompt_tokens: float
    """Mean length of a prompt without what all prompts begin with."""
    response_tokens: float
    """Mean length of a training target."""


class Clock:
    """Measures activities by the name of the field that will hold their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def during(self, field: str) -> Iterator[None]:
        """Measure the body."""
        started = time.perf_counter()
        yield
        self.seconds[field] = self.seconds.get(field, 0.0) + time.perf_counter() - started
