"""What a run's full state takes on disk and where it lies, for those who plan or clean up without torch; reads no file."""

from pathlib import Path

KEEP_STATES = 1
"""Full states that a trainer leaves on disk: the newest; while it writes another there is one more."""
FULL_STATE_BYTES_PER_PARAMETER = 12
"""The weights and AdamW's two moments, 4 bytes each."""


def full_state_path(run_dir: Path) -> Path:
    """Return the file that holds the run's full state, where it has one."""
    return run_dir / "full-state.safetensors"


def full_state_bytes(num_parameters: int) -> int:
    """Return the bytes of one full state, without its header of about 100 bytes a tensor."""
    return num_parameters * FULL_STATE_BYTES_PER_PARAMETER
