"""Predicts the most memory that a run's tensors take at once, from shapes alone; measures nothing.

A step holds most either when the loss of its largest row is computed (its activations, the head's gradient, a chunk of
logits) or when that row's backward pass ends (the gradient of every parameter). Counted are the tensors that autograd keeps
in a layer of the Llama or Qwen2 kind, as its code in transformers reads, in the manner of Korthikanti et al. 2022
(arXiv:2205.05198, section 4.1). What a process holds beside its tensors is not counted: gaps in the heap, compiled kernels.
"""

import torch

from mathsft.config.schema import TrainingSettings
from mathsft.costs import Memory
from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.footprint import GRADIENT_BYTES, MOMENTS_BYTES, held_bytes
from mathsft.training.meter.dimensions import Dimensions, dimensions_of
from mathsft.training.model.attention import EAGER, TREE, SegmentTree
from mathsft.training.model.loss import BLOCK_LOGITS, CHUNK_LOGITS
from mathsft.training.state import BaseModel
from mathsft.training.step import DTYPES

_FP32_BYTES = 4


def predicted_peak(base: BaseModel, training: TrainingSettings, row: MicroBatch, device: torch.device) -> Memory | None:
    """Return the memory at the peak of a step whose largest row this is; None for a model of another kind."""
    sizes, dtype = dimensions_of(base.model), DTYPES[training.precision]
    if sizes is None:
        return None
    num_parameters: int = sum(weight.numel() for weight in base.model.parameters())
    gradients, optimizer = num_parameters * GRADIENT_BYTES, num_parameters * MOMENTS_BYTES
    weights = held_bytes(num_parameters, training.precision) - gradients - optimizer
    if device.type == "cpu":
        weights += sum(weight.nbytes for weight in base.weights.values())
    activations = activation_bytes(sizes, row, base.attention, training)
    logits = _loss_bytes(sizes, row, dtype)
    computed_gradients = num_parameters * dtype.itemsize
    if computed_gradients > activations + logits:  # then the peak is where the backward pass ends, which needs neither
        return Memory(weights, gradients + computed_gradients, optimizer, activations=0, logits=0)
    return Memory(weights, gradients, optimizer, activations, logits)


def activation_bytes(sizes: Dimensions, row: MicroBatch, attention: str, training: TrainingSettings) -> int:
    """Return what layers and last norm keep for the backward pass; with checkpointing all inputs, and all of one layer."""
    dtype = DTYPES[training.precision]
    layer = _layer_bytes(sizes, row, attention, dtype)
    last_norm = row.ids_BT.numel() * _norm_bytes(sizes, row, dtype)
    if training.gradient_checkpointing:
        inputs = sizes.num_layers * row.ids_BT.numel() * sizes.hidden_size * dtype.itemsize
        return inputs + layer + last_norm
    return sizes.num_layers * layer + last_norm


def _layer_bytes(sizes: Dimensions, row: MicroBatch, attention: str, dtype: torch.dtype) -> int:
    """Return what a layer keeps for its backward pass.

    Of the two norms what they keep and their outputs; of the MLP the gate, its activation, up and their product; of
    attention its output and what is its own.
    """
    norms = 2 * (_norm_bytes(sizes, row, dtype) + sizes.hidden_size * dtype.itemsize)
    mlp = 4 * sizes.intermediate_size * dtype.itemsize
    attended = sizes.num_heads * sizes.head_dim * dtype.itemsize
    return row.ids_BT.numel() * (norms + mlp + attended) + _attention_bytes(sizes, row, attention, dtype)


def _norm_bytes(sizes: Dimensions, row: MicroBatch, dtype: torch.dtype) -> int:
    """Return what a norm keeps of a token: on a CPU its input and a scale (norms.py), else two copies, the input in fp32."""
    if row.ids_BT.device.type == "cpu":
        return sizes.hidden_size * dtype.itemsize + _FP32_BYTES
    return sizes.hidden_size * (_FP32_BYTES + dtype.itemsize)


def _attention_bytes(sizes: Dimensions, row: MicroBatch, attention: str, dtype: torch.dtype) -> int:
    """Return the bytes of queries, keys and values and, unless a fused kernel spares them, of the softmax weights."""
    num_rows, num_columns = row.ids_BT.shape
    num_queries = num_keys = row.ids_BT.numel()
    num_weights = weight_bytes = 0
    if attention == TREE:
        # A segment keeps the keys and values of its whole path.
        tree = SegmentTree(row.groups)
        dtype = tree.dtype(dtype)
        paths = list(zip(row.groups, tree.path_lengths, strict=True))
        num_keys = sum(group.count * path_length for group, path_length in paths)
        num_weights = sum(group.count * group.length * path_length for group, path_length in paths)
        weight_bytes = dtype.itemsize
    elif attention == EAGER:
        num_weights = num_rows * num_columns**2
        weight_bytes = _FP32_BYTES + (dtype.itemsize if dtype.itemsize < _FP32_BYTES else 0)
    vectors = num_queries * sizes.num_heads + 2 * num_keys * sizes.num_key_heads
    return vectors * sizes.head_dim * dtype.itemsize + num_weights * sizes.num_heads * weight_bytes


def _loss_bytes(sizes: Dimensions, row: MicroBatch, dtype: torch.dtype) -> int:
    """Return the bytes of the loss's hidden states and their gradient, of the head's gradient, and of a chunk of logits.

    Where there are several chunks, the head's gradient is summed in fp32 beside the part of one of them.
    """
    num_targets = len(row.targets_N)
    num_logits = num_targets * sizes.vocabulary_size
    hidden = 2 * num_targets * sizes.hidden_size * dtype.itemsize
    head_itemsize = dtype.itemsize + (_FP32_BYTES if num_logits > CHUNK_LOGITS else 0)
    head = sizes.vocabulary_size * sizes.hidden_size * head_itemsize
    in_fp32 = min(BLOCK_LOGITS[row.ids_BT.device.type], num_logits) * _FP32_BYTES
    return hidden + head + min(CHUNK_LOGITS, num_logits) * dtype.itemsize + in_fp32
