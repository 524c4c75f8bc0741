"""Predicts the memory that a base model needs, for training and in an engine, and its sizes on disk; without torch.

The peak of a training step is either at the loss of its largest micro-batch (activations, the head's gradient, a chunk of
logits) or at the end of the backward pass of this micro-batch (the gradient of every parameter). The activations are the
tensors that autograd saves in a layer of the Llama or Qwen2 kind, counted from the code in transformers with the method of
Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1). Memory outside tensors is not counted: gaps in the heap, compiled
kernels.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from mathsft.config.schema import TrainingSettings
from mathsft.costs import Memory

DeviceType: TypeAlias = Literal["cpu", "cuda"]

_WEIGHT_BYTES, _MOMENTS_BYTES, _GRADIENT_BYTES = 4, 8, 4
"""Bytes per parameter of the fp32 master weight, AdamW's two moments and the gradient."""
_FP32_BYTES = 4
ITEM_BYTES = {"bf16": 2, "fp32": 4}
"""Bytes of a number, by training.precision."""

CHUNK_LOGITS = 2**26
"""Logits per chunk, in the model's precision: 128 MiB in bf16 for every batch size and vocabulary."""

BLOCK_LOGITS = {"cpu": 2**18, "cuda": 2**24}
"""Logits of a chunk that are in fp32 at the same time, by device. On a CPU they are few enough to stay in a core's cache.

On CUDA a pass over them (64 MiB, 110 tokens at a vocabulary of 151,936) takes longer than the start of its kernel.
"""

ALL_LINEAR = "all-linear"
"""The value of training.lora.targets that stands for all linear layers except the head."""

_LEAST_BUDGET_TOKENS = 256
"""A smaller token budget is not tried: its activations take less memory than the loss."""


@dataclass(frozen=True)
class LinearSizes:
    """Sums over some linear layers."""

    count: int = 0
    num_inputs: int = 0
    num_outputs: int = 0

    def plus(self, other: "LinearSizes") -> "LinearSizes":
        """Return the sums over the layers of both."""
        num_inputs, num_outputs = self.num_inputs + other.num_inputs, self.num_outputs + other.num_outputs
        return LinearSizes(self.count + other.count, num_inputs, num_outputs)


class Dimensions:
    """The sizes of a decoder: embedding, equal layers of full attention and a gated MLP, and a head."""

    def __init__(self, config: Any) -> None:
        """Read the sizes from the attributes of a configuration. Raises AttributeError if it has other names."""
        self.hidden_size: int = config.hidden_size
        self.intermediate_size: int = config.intermediate_size
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_key_heads: int = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.vocabulary_size: int = config.vocab_size

    @property
    def num_layer_weights(self) -> int:
        """Return the number of matrix entries of a layer: query, output, key and value; gate, up and down."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_key_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def linears(self) -> dict[str, LinearSizes]:
        """Return the linear layers except the head, by their usual names."""
        width, inner, num_layers = self.hidden_size, self.intermediate_size, self.num_layers
        queries, keys = self.num_heads * self.head_dim, self.num_key_heads * self.head_dim
        sizes = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width)}
        sizes |= {"gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}
        return {
            name: LinearSizes(num_layers, num_layers * num_inputs, num_layers * num_outputs)
            for name, (num_inputs, num_outputs) in sizes.items()
        }

    @property
    def num_matrix_weights(self) -> int:
        """Return the number of entries of all matrices except the head, which may be the embedding."""
        return self.num_layers * self.num_layer_weights + self.vocabulary_size * self.hidden_size


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a base model."""

    num_parameters: int
    weight_bytes: int
    """Bytes of its files."""
    dimensions: Dimensions | None
    """None for a model that is not of the Llama or Qwen2 kind, whose activations cannot be predicted."""
    linears: Mapping[str, LinearSizes] = field(default_factory=dict)
    """The linear layers except the head, by the last part of their names, such as q_proj."""

    @classmethod
    def of(cls, config: Any, shapes: Mapping[str, Sequence[int]], weight_bytes: int) -> Self:
        """Return the sizes of a model with this configuration and with tensors of these shapes, by name."""
        matrices = {name: shape for name, shape in shapes.items() if len(shape) >= 2 and not name.startswith("lm_head.")}
        sizes: Dimensions | None
        try:
            sizes = Dimensions(config)
        except (AttributeError, TypeError):
            sizes = None
        if sizes and sum(map(math.prod, matrices.values())) != sizes.num_matrix_weights:
            sizes = None  # the model has other matrices than these sizes give
        linears: dict[str, LinearSizes] = {}
        for name, shape in matrices.items():
            layer, _, kind = name.rpartition(".")
            if len(shape) == 2 and kind == "weight" and shape[0] != getattr(config, "vocab_size", None):
                key = layer.rpartition(".")[2]
                linears[key] = linears.get(key, LinearSizes()).plus(LinearSizes(1, shape[1], shape[0]))
        return cls(sum(map(math.prod, shapes.values())), weight_bytes, sizes, linears)

    def adapted(self, training: TrainingSettings) -> LinearSizes:
        """Return the sums over all layers that get an adapter; none do in full fine-tuning."""
        if training.method == "full":
            return LinearSizes()
        targets = training.lora.targets
        names = self.linears if targets == ALL_LINEAR else map(str.strip, targets.split(","))
        found = (self.linears[name] for name in names if name in self.linears)
        return functools.reduce(LinearSizes.plus, found, LinearSizes())

    def num_trained(self, training: TrainingSettings) -> int:
        """Return the number of parameters that train: all, or an adapter's two matrices a layer and DoRA's lengths."""
        if training.method == "full":
            return self.num_parameters
        adapted = self.adapted(training)
        lengths = adapted.num_outputs if training.lora.dora else 0
        return training.lora.rank * (adapted.num_inputs + adapted.num_outputs) + lengths


@dataclass(frozen=True)
class MicroBatchSize:
    """The sizes of a micro-batch that determine its memory."""

    num_tokens: int
    """With padding."""
    num_targets: int
    attention_bytes: int
    """What a layer's attention saves: queries, keys, values, and the softmax weights unless a fused kernel computes them."""


@dataclass(frozen=True)
class Fit:
    """A way to train: token budget, checkpointing and offload, with the predicted memory at the peak on the device."""

    budget_tokens: int
    gradient_checkpointing: bool
    peak_bytes: int
    offload: bool = False
    """Master weights and moments are in host memory."""


# ---- a training step


def chunk_tokens(vocabulary_size: int, num_targets: int) -> int:
    """Return the number of tokens whose logits exist at the same time: that of the fewest, evenly filled chunks.

    A chunk of few tokens would be slow, because each one passes over the head's gradient.
    """
    num_chunks = -(-num_targets // max(1, CHUNK_LOGITS // vocabulary_size))
    return max(1, -(-num_targets // max(1, num_chunks)))


def block_tokens(vocabulary_size: int, device: str) -> int:
    """Return the number of tokens whose logits are in fp32 at the same time."""
    return max(1, BLOCK_LOGITS[device] // vocabulary_size)


def step_memory(
    model: ModelSize,
    size: MicroBatchSize,
    training: TrainingSettings,
    device: DeviceType,
    num_ranks: int = 1,
    *,
    offload: bool = False,
) -> Memory | None:
    """Return one rank's memory at the peak of a step with this largest micro-batch, or None for a model of another kind.

    The base model's own weights, which stay on the host, are not included. Several ranks shard weights, gradients and
    moments, and gather what is outside of layers (embedding, head) and two layers: the one that computes and the next.
    Source: torch.distributed.fsdp.fully_shard. With offload, master weights and moments are in host memory, and each
    parameter's gradient is collected at once; its second possible peak is the logprob check, which copies the weights.
    """
    sizes, item_bytes = model.dimensions, ITEM_BYTES[training.precision]
    if sizes is None:
        return None
    num_trained, trains_all = model.num_trained(training), training.method == "full"
    gradients, optimizer = (num_trained * count // num_ranks for count in (_GRADIENT_BYTES, _MOMENTS_BYTES))
    if offload:
        frozen = 0 if trains_all else model.num_parameters
        weights, optimizer, computed_gradients = (num_trained + frozen) * item_bytes, 0, 0
    elif num_ranks == 1:
        weights = held_bytes(model, training) - gradients - optimizer
        computed_gradients = num_trained * item_bytes
    else:
        outside = model.num_parameters - sizes.num_layers * sizes.num_layer_weights
        num_sharded = num_trained + (0 if trains_all else model.num_parameters)
        weights = num_sharded * _WEIGHT_BYTES // num_ranks + (outside + 2 * sizes.num_layer_weights) * item_bytes
        # And their sum over ranks, in fp32.
        computed_gradients = (outside if trains_all else num_trained) * (item_bytes + _FP32_BYTES)
    activations = activation_bytes(sizes, size, training, device, model.adapted(training))
    logits = loss_bytes(sizes, size.num_targets, item_bytes, device, trains_head=trains_all)
    if offload and weights > activations + logits:
        return Memory(2 * weights, gradients, optimizer, activations=0, logits=0)
    if computed_gradients > activations + logits:  # the peak is at the end of the backward pass, after both are freed
        return Memory(weights, gradients + computed_gradients, optimizer, activations=0, logits=0)
    return Memory(weights, gradients, optimizer, activations, logits)


def activation_bytes(
    sizes: Dimensions,
    size: MicroBatchSize,
    training: TrainingSettings,
    device: DeviceType,
    adapted: LinearSizes = LinearSizes(),
) -> int:
    """Return the bytes that layers and last norm save; with checkpointing all layers' inputs and one layer's activations.

    A layer saves, for its two norms, their saved tensors and outputs; for the MLP, the gate, its activation, up and their
    product; for attention, its output and the tensors of `MicroBatchSize.attention_bytes`. An adapted linear layer also
    saves the output of A; with dropout the inputs that A sees and their mask; with DoRA both of its summands.
    """
    num_tokens, item_bytes = size.num_tokens, ITEM_BYTES[training.precision]
    hidden = num_tokens * sizes.hidden_size * item_bytes
    # A norm saves its input, and on a CPU (cpu/norms.py) a scale per token, else the input in fp32.
    norm = hidden + num_tokens * _FP32_BYTES * (1 if device == "cpu" else sizes.hidden_size)
    mlp = 4 * num_tokens * sizes.intermediate_size * item_bytes
    attended = num_tokens * sizes.num_heads * sizes.head_dim * item_bytes
    num_values = training.lora.rank * adapted.count + (2 * adapted.num_outputs if training.lora.dora else 0)
    dropped = adapted.num_inputs * (item_bytes + 1) if training.lora.dropout else 0
    adapter = num_tokens * (num_values * item_bytes + dropped) // sizes.num_layers
    layer = 2 * (norm + hidden) + mlp + attended + size.attention_bytes + adapter
    saved = sizes.num_layers * hidden + layer if training.gradient_checkpointing else sizes.num_layers * layer
    return saved + norm


def loss_bytes(sizes: Dimensions, num_targets: int, item_bytes: int, device: str, *, trains_head: bool = True) -> int:
    """Return the bytes of the predicting hidden states, their gradient, the head's gradient and a chunk of logits.

    A chunk needs memory for a block of its logits in fp32, and after that for its gradient of the head. With several chunks
    there is also the sum of these gradients, in fp32.
    """
    vocabulary_size = sizes.vocabulary_size
    num_chunk_tokens = chunk_tokens(vocabulary_size, num_targets)
    num_block_tokens = min(num_targets, block_tokens(vocabulary_size, device))
    hidden = 2 * num_targets * sizes.hidden_size * item_bytes
    head = vocabulary_size * sizes.hidden_size if trains_head else 0
    total = head * _FP32_BYTES if num_chunk_tokens < num_targets else 0
    largest = max(num_block_tokens * vocabulary_size * _FP32_BYTES, head * item_bytes)
    return hidden + total + num_chunk_tokens * vocabulary_size * item_bytes + largest


def fits(model: ModelSize, training: TrainingSettings, num_ranks: int = 1) -> Iterator[Fit]:
    """Yield ways to take a step on a CUDA device, the fastest first: smaller budgets, then checkpointing with each budget.

    The last ways, for a single rank, are offload and checkpointing with each budget. A budget below the longest example
    saves nothing, so none is tried. All tokens of a micro-batch may be targets. Yields nothing for a model whose memory
    cannot be predicted.
    """
    longest = training.max_length_tokens
    budgets = [training.token_budget_tokens]
    while budgets[-1] // 2 >= max(longest, _LEAST_BUDGET_TOKENS):
        budgets.append(budgets[-1] // 2)
    ways = [(True, False)] if training.gradient_checkpointing else [(False, False), (True, False)]
    if num_ranks == 1:
        ways.append((True, True))
    for checkpointing, offload in ways:
        chosen = training.model_copy(update={"gradient_checkpointing": checkpointing})
        for budget in budgets:
            peak = _cuda_peak(model, chosen, max(budget, longest), num_ranks, offload=offload)
            if peak is not None:
                yield Fit(budget, checkpointing, peak, offload)


def fitting_length(model: ModelSize, training: TrainingSettings, free_bytes: int, num_ranks: int = 1) -> int | None:
    """Return the longest max_length_tokens, of 1/2, 1/4, … of the setting, with which a step fits; None if none does."""
    length = training.max_length_tokens // 2
    while length >= _LEAST_BUDGET_TOKENS:
        shorter = training.model_copy(update={"max_length_tokens": length})
        if any(fit.peak_bytes <= free_bytes for fit in fits(model, shorter, num_ranks)):
            return length
        length //= 2
    return None


def _cuda_peak(
    model: ModelSize, training: TrainingSettings, num_tokens: int, num_ranks: int, *, offload: bool
) -> int | None:
    sizes = model.dimensions
    if sizes is None:
        return None
    vectors = num_tokens * (sizes.num_heads + 2 * sizes.num_key_heads)
    attention_bytes = vectors * sizes.head_dim * ITEM_BYTES[training.precision]
    size = MicroBatchSize(num_tokens, num_tokens, attention_bytes)
    memory = step_memory(model, size, training, "cuda", num_ranks, offload=offload)
    return memory.total if memory else None


# ---- between steps, on disk, and in an engine


def full_state_bytes(num_trained: int) -> int:
    """Return the bytes of one full state, without its header of about 100 bytes per tensor."""
    return num_trained * (_WEIGHT_BYTES + _MOMENTS_BYTES)


def offloaded_bytes(num_trained: int) -> int:
    """Return the bytes of host memory that a run with offload holds: master weights, moments and the gradient."""
    return num_trained * (_WEIGHT_BYTES + _MOMENTS_BYTES + _GRADIENT_BYTES)


def checkpoint_bytes(model: ModelSize, training: TrainingSettings) -> int:
    """Return the bytes of one checkpoint: the model's files, or an adapter in fp32."""
    return model.weight_bytes if training.method == "full" else model.num_trained(training) * _FP32_BYTES


def held_bytes(model: ModelSize, training: TrainingSettings) -> int:
    """Return the bytes of memory that a run holds between its steps: frozen weights, and what belongs to trained ones."""
    copy_bytes = 2 if training.precision == "bf16" else 0  # in fp32 the model computes with the master weights
    frozen_bytes = 0 if training.method == "full" else model.num_parameters * ITEM_BYTES[training.precision]
    trained_bytes = _WEIGHT_BYTES + _MOMENTS_BYTES + _GRADIENT_BYTES + copy_bytes
    return frozen_bytes + model.num_trained(training) * trained_bytes


def cache_bytes(sizes: Dimensions, num_tokens: int, item_bytes: int) -> int:
    """Return the bytes of the keys and values of these tokens in an engine's KV cache."""
    return 2 * sizes.num_layers * sizes.num_key_heads * sizes.head_dim * num_tokens * item_bytes
