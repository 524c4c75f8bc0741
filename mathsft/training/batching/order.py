"""Chooses the examples of every optimizer step.

A run reads an endless stream of examples, one seeded permutation of all examples per epoch. Step s takes the s-th batch_size
examples of the stream. So the batch of a step follows from (seed, step) alone: resuming needs no state, and neither the
token budget nor the number of devices changes the batch.
"""

from collections.abc import Sequence

import numpy as np

from mathsft.records import Example


def optimizer_batch(examples: Sequence[Example], batch_size: int, seed: int, step: int) -> list[Example]:
    """Return the batch_size examples of optimizer step 1, 2, …; each example occurs once per epoch."""
    num_examples = len(examples)
    stream = range((step - 1) * batch_size, step * batch_size)
    epochs = range(stream[0] // num_examples, stream[-1] // num_examples + 1)
    permutations = {epoch: np.random.default_rng((seed, epoch)).permutation(num_examples) for epoch in epochs}
    return [examples[permutations[place // num_examples][place % num_examples]] for place in stream]
