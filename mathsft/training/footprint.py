"""What a run takes in memory and on disk, for those who plan or clean up without torch; reads no file."""

KEEP_STATES = 1
"""Full states that a trainer leaves on disk: the newest; while it writes another there is one more."""
WEIGHT_BYTES, MOMENTS_BYTES, GRADIENT_BYTES = 4, 8, 4
"""Of a parameter: the optimizer's weight, AdamW's two moments and the gradient."""
BF16_BYTES = 2


def full_state_bytes(num_parameters: int) -> int:
    """Return the bytes of one full state, without its header of about 100 bytes a tensor."""
    return num_parameters * (WEIGHT_BYTES + MOMENTS_BYTES)


def held_bytes(num_parameters: int, precision: str) -> int:
    """Return the bytes of memory that a run of this training.precision holds between its steps."""
    computed_with = BF16_BYTES if precision == "bf16" else 0  # fp32 computes with the optimizer's own weights
    return num_parameters * (WEIGHT_BYTES + MOMENTS_BYTES + GRADIENT_BYTES + computed_with)
