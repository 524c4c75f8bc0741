"""AdamW and its learning rate over a run; applies no step itself."""

from torch import nn
from torch.optim import AdamW

from mathsft.config.schema import TrainingSettings


def make_optimizer(model: nn.Module, training: TrainingSettings) -> AdamW:
    """Return a fresh AdamW over all parameters that decays matrices (embeddings included) but no biases and no norms."""
    parameters = list(model.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=training.learning_rate, betas=(training.beta1, training.beta2), fused=True)


def learning_rate_at(step: int, num_steps: int, training: TrainingSettings) -> float:
    """Return the learning rate of step 1, 2, …, num_steps: linear warmup, then linear decay.

    With W = warmup_fraction * num_steps (not rounded) it is
    learning_rate * min(step / (W + 1), (num_steps + 1 - step) / (num_steps - W)): a line from 0 at step 0 to learning_rate
    at step W + 1, then down to 0 at step num_steps + 1. The two zeros lie just outside the run, so every step moves the
    weights.
    """
    num_warmup_steps = training.warmup_fraction * num_steps
    warmup = step / (num_warmup_steps + 1)
    decay = (num_steps + 1 - step) / (num_steps - num_warmup_steps)
    return training.learning_rate * min(warmup, decay)


def set_learning_rate(optimizer: AdamW, learning_rate: float) -> None:
    """Make the optimizer's next step use this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
