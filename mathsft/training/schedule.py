"""The learning rate of every step of a run."""

import math

from mathsft.config.schema import TrainingSettings


def learning_rate_at(step: int, num_steps: int, training: TrainingSettings) -> float:
    """Return the learning rate of step 1, 2, …, num_steps: linear warmup, then the decay of the schedule.

    With W = warmup_fraction * num_steps (not rounded) it rises from 0 at step 0 to learning_rate at step W + 1, and it
    reaches 0 at step num_steps + 1. Both zeros are outside the run, so every step changes the weights. Sources: cosine,
    Loshchilov and Hutter, arXiv:1608.03983; wsd, Hu et al., arXiv:2404.06395, section 4.
    """
    num_warmup_steps = training.warmup_fraction * num_steps
    warmup = step / (num_warmup_steps + 1)
    num_left, num_decay_steps = num_steps + 1 - step, num_steps - num_warmup_steps
    if training.schedule == "cosine":
        # From step W + 1 on, the share of the decay that is left goes from 1 to 0.
        decay = (1 - math.cos(math.pi * min(1.0, num_left / num_decay_steps))) / 2
    elif training.schedule == "wsd":
        decay = num_left / (training.decay_fraction * num_steps)
    else:
        decay = num_left / num_decay_steps
    return training.learning_rate * min(warmup, decay, 1.0)
