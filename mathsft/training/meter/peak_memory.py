"""Predicts the peak memory of a run's tensors from a micro-batch and the loaded model."""

from dataclasses import replace
from typing import Literal

import torch

from mathsft.config.schema import TrainingSettings
from mathsft.costs import Memory
from mathsft.footprint import Dimensions, MicroBatchSize, step_memory
from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.model.attention import EAGER, TREE, SegmentTree
from mathsft.training.state import BaseModel
from mathsft.training.step import DTYPES

_FP32_BYTES = 4


def predicted_peak(
    base: BaseModel, training: TrainingSettings, micro_batch: MicroBatch, device: torch.device, *, offload: bool = False
) -> Memory | None:
    """Return the memory at the peak of a step with this largest micro-batch, or None for a model of another kind."""
    model = base.size
    if (sizes := model.dimensions) is None:
        return None
    device_type: Literal["cpu", "cuda"] = "cpu" if device.type == "cpu" else "cuda"
    size = micro_batch_size(sizes, micro_batch, base.attention, DTYPES[training.precision])
    memory = step_memory(model, size, training, device_type, offload=offload)
    if memory is None or device_type == "cuda":
        return memory
    # The base weights are in the same memory; frozen weights of the same number format are the base weights themselves.
    is_same = training.method != "full" and all(one.dtype == DTYPES[training.precision] for one in base.weights.values())
    return memory if is_same else replace(memory, weights=memory.weights + model.weight_bytes)


def micro_batch_size(sizes: Dimensions, micro_batch: MicroBatch, attention: str, dtype: torch.dtype) -> MicroBatchSize:
    """Return the sizes of a micro-batch that determine its memory, with this attention and model in this dtype."""
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
    attention_bytes = vectors * sizes.head_dim * dtype.itemsize + num_weights * sizes.num_heads * weight_bytes
    return MicroBatchSize(num_queries, len(micro_batch.targets_N), attention_bytes)
