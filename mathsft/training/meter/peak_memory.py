"""Predicts the peak memory of a run's tensors from their shapes.

The peak of a step is either at the loss of its largest micro-batch (activations, the head's gradient, a chunk of logits) or
at the end of the backward pass of this micro-batch (the gradient of every parameter). The activations are the tensors that
autograd saves in a layer of the Llama or Qwen2 kind, counted from the code in transformers with the method of Korthikanti et
al. 2022 (arXiv:2205.05198, section 4.1). Memory outside tensors is not counted: gaps in the heap, compiled kernels.
"""

import torch

from mathsft.config.schema import TrainingSettings
from mathsft.costs import Memory
from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.footprint import GRADIENT_BYTES, MOMENTS_BYTES, held_bytes
from mathsft.training.meter.dimensions import Dimensions, dimensions_of
from mathsft.training.model.attention import EAGER, TREE, SegmentTree
from mathsft.training.model.loss import block_tokens, chunk_tokens
from mathsft.training.state import BaseModel
from mathsft.training.step import DTYPES

_FP32_BYTES = 4


def predicted_peak(
    base: BaseModel, training: TrainingSettings, micro_batch: MicroBatch, device: torch.device
) -> Memory | None:
    """Return the memory at the peak of a step with this largest micro-batch, or None for a model of another kind."""
    sizes, dtype = dimensions_of(base.model), DTYPES[training.precision]
    if sizes is None:
        return None
    num_parameters: int = sum(weight.numel() for weight in base.model.parameters())
    gradients, optimizer = num_parameters * GRADIENT_BYTES, num_parameters * MOMENTS_BYTES
    weights = held_bytes(num_parameters, training.precision) - gradients - optimizer
    if device.type == "cpu":
        weights += sum(weight.nbytes for weight in base.weights.values())
    activations = activation_bytes(sizes, micro_batch, base.attention, training)
    logits = loss_bytes(sizes, micro_batch, dtype)
    computed_gradients = num_parameters * dtype.itemsize
    if computed_gradients > activations + logits:  # the peak is at the end of the backward pass, after both are freed
        return Memory(weights, gradients + computed_gradients, optimizer, activations=0, logits=0)
    return Memory(weights, gradients, optimizer, activations, logits)


def activation_bytes(sizes: Dimensions, micro_batch: MicroBatch, attention: str, training: TrainingSettings) -> int:
    """Return the bytes that layers and last norm save; with checkpointing all layers' inputs and one layer's activations.

    A layer saves, for its two norms, their saved tensors and outputs; for the MLP, the gate, its activation, up and their
    product; for attention, its output and the tensors of `_attention_bytes`.
    """
    num_tokens, dtype = micro_batch.ids_BT.numel(), DTYPES[training.precision]
    hidden = num_tokens * sizes.hidden_size * dtype.itemsize
    # A norm saves its input, and on a CPU (cpu/norms.py) a scale per token, else the input in fp32.
    is_on_cpu = micro_batch.ids_BT.device.type == "cpu"
    norm = hidden + num_tokens * _FP32_BYTES * (1 if is_on_cpu else sizes.hidden_size)
    mlp = 4 * num_tokens * sizes.intermediate_size * dtype.itemsize
    attended = num_tokens * sizes.num_heads * sizes.head_dim * dtype.itemsize
    layer = 2 * (norm + hidden) + mlp + attended + _attention_bytes(sizes, micro_batch, attention, dtype)
    saved = sizes.num_layers * hidden + layer if training.gradient_checkpointing else sizes.num_layers * layer
    return saved + norm


def loss_bytes(sizes: Dimensions, micro_batch: MicroBatch, dtype: torch.dtype) -> int:
    """Return the bytes of the predicting hidden states, their gradient, the head's gradient and a chunk of logits.

    A chunk needs memory for a block of its logits in fp32, and after that for its gradient of the head. With several chunks
    there is also the sum of these gradients, in fp32.
    """
    num_targets, vocabulary_size = len(micro_batch.targets_N), sizes.vocabulary_size
    num_chunk_tokens = min(num_targets, chunk_tokens(vocabulary_size))
    num_block_tokens = min(num_targets, block_tokens(vocabulary_size, micro_batch.ids_BT.device))
    hidden = 2 * num_targets * sizes.hidden_size * dtype.itemsize
    head = vocabulary_size * sizes.hidden_size
    total = head * _FP32_BYTES if num_chunk_tokens < num_targets else 0
    largest = max(num_block_tokens * vocabulary_size * _FP32_BYTES, head * dtype.itemsize)
    return hidden + total + num_chunk_tokens * vocabulary_size * dtype.itemsize + largest


def _attention_bytes(sizes: Dimensions, micro_batch: MicroBatch, attention: str, dtype: torch.dtype) -> int:
    """Return the bytes of queries, keys, values and the softmax weights, which a fused kernel does not save."""
    num_rows, num_columns = micro_batch.ids_BT.shape
    num_queries = num_keys = micro_batch.ids_BT.numel()
    num_weights = weight_bytes = 0
    if attention == TREE:
        # Each segment saves the keys and values of its whole path from the root.
        tree = SegmentTree(micro_batch.groups)
        dtype = tree.dtype(dtype)
        paths = list(zip(micro_batch.groups, tree.path_lengths, strict=True))
        num_keys = sum(group.count * path_length for group, path_length in paths)
        num_weights = sum(group.count * group.length * path_length for group, path_length in paths)
        weight_bytes = dtype.itemsize
    elif attention == EAGER:
        num_weights = num_rows * num_columns**2
        weight_bytes = _FP32_BYTES + (dtype.itemsize if dtype.itemsize < _FP32_BYTES else 0)
    vectors = num_queries * sizes.num_heads + 2 * num_keys * sizes.num_key_heads
    return vectors * sizes.head_dim * dtype.itemsize + num_weights * sizes.num_heads * weight_bytes
