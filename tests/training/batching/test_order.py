from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.records import Example
from mathsft.training.batching.order import optimizer_batch

SMALL = st.integers(min_value=1, max_value=20)


def make_examples(count: int) -> list[Example]:
    return [Example(str(n), (1,), (2,)) for n in range(count)]


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(num_examples=SMALL, batch_size=SMALL, num_epochs=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_epoch_takes_every_example_once_whatever_the_batch_size(
    num_examples: int, batch_size: int, num_epochs: int, seed: int
) -> None:
    examples = make_examples(num_examples)
    num_steps = -(-num_epochs * num_examples // batch_size)
    stream = [example for step in range(1, num_steps + 1) for example in optimizer_batch(examples, batch_size, seed, step)]
    one_by_one = [optimizer_batch(examples, 1, seed, step)[0] for step in range(1, len(stream) + 1)]
    assert stream == one_by_one
    for epoch in range(num_epochs):
        ids = [example.problem_id for example in stream[epoch * num_examples : (epoch + 1) * num_examples]]
        assert sorted(ids, key=int) == [str(n) for n in range(num_examples)]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    examples = make_examples(50)
    orders = [tuple(optimizer_batch(examples, 50, seed, step)) for seed in range(3) for step in range(1, 4)]
    assert len(set(orders)) == 9
