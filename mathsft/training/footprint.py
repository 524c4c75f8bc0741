"""Sizes of a run in memory and on disk, importable without torch."""

_WEIGHT_BYTES, MOMENTS_BYTES, GRADIENT_BYTES = 4, 8, 4
"""Bytes per parameter of the fp32 master weight, AdamW's two moments and the gradient."""


def full_state_bytes(num_parameters: int) -> int:
    """Return the bytes of one full state, without its header of about 100 bytes per tensor."""
    return num_parameters * (_WEIGHT_BYTES + MOMENTS_BYTES)


def held_bytes(num_parameters: int, precision: str) -> int:
    """Return the bytes of memory that a run with this training.precision holds between its steps."""
    copy_bytes = 2 if precision == "bf16" else 0  # in fp32 the model computes with the master weights
    return num_parameters * (_WEIGHT_BYTES + MOMENTS_BYTES + GRADIENT_BYTES + copy_bytes)
