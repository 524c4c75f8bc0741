"""flex_attention with a backward pass on a CPU, and the trainer that the test of two ranks starts with it."""

import torch.nn.attention.flex_attention as flex_module

from mathsft.training.model import attention
from mathsft.worker_settings import WorkerSettings
from tests.training.settled import Trainer


def allow_backward() -> None:
    """Remove the check that refuses gradients on a CPU; without torch.compile its arithmetic is there for every device."""
    flex_module._validate_device = lambda *tensors: None


class FlexTrainer(Trainer):
    def __init__(self, settings: WorkerSettings) -> None:
        allow_backward()
        attention._compiled_flex = lambda: flex_module.flex_attention
        super().__init__(settings)
