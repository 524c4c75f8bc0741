import torch
from hypothesis import given
from hypothesis import strategies as st

from mathsft.records import Example
from mathsft.training.batches import micro_batches, optimizer_batch

CPU = torch.device("cpu")
SMALL = st.integers(min_value=1, max_value=20)


def make_examples(lengths: list[tuple[int, int]]) -> list[Example]:
    """Make examples of (prompt, response) lengths in which every token of all is another one."""
    token = iter(range(1, 10_000))
    return [
        Example(str(n), tuple(next(token) for _ in range(prompt)), tuple(next(token) for _ in range(response)))
        for n, (prompt, response) in enumerate(lengths)
    ]


@given(num_examples=SMALL, batch_size=SMALL, num_epochs=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_epoch_takes_every_example_once_whatever_the_batch_size(
    num_examples: int, batch_size: int, num_epochs: int, seed: int
) -> None:
    examples = make_examples([(1, 1)] * num_examples)
    num_steps = -(-num_epochs * num_examples // batch_size)
    stream = [example for step in range(1, num_steps + 1) for example in optimizer_batch(examples, batch_size, seed, step)]
    one_by_one = [optimizer_batch(examples, 1, seed, step)[0] for step in range(1, len(stream) + 1)]
    assert stream == one_by_one
    for epoch in range(num_epochs):
        ids = [example.problem_id for example in stream[epoch * num_examples : (epoch + 1) * num_examples]]
        assert sorted(ids, key=int) == [str(n) for n in range(num_examples)]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    examples = make_examples([(1, 1)] * 50)
    orders = [tuple(optimizer_batch(examples, 50, seed, step)) for seed in range(3) for step in range(1, 4)]
    assert len(set(orders)) == 9


@given(lengths=st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=12), budget=st.integers(1, 200))
def test_micro_batches_hold_every_response_token_once_within_the_budget(lengths: list[tuple[int, int]], budget: int) -> None:
    examples = make_examples(lengths)
    seen = {}
    for micro_batch in micro_batches(examples, budget, CPU):
        assert micro_batch.ids_BT.numel() <= budget or len(micro_batch.ids_BT) == 1
        inputs = micro_batch.ids_BT.flatten()[micro_batch.predictors_N].tolist()
        seen.update(zip(micro_batch.targets_N.tolist(), inputs, strict=True))
    # All tokens differ, so each one names the token it must be predicted from.
    tokens = [example.prompt_ids + example.response_ids for example in examples]
    expected = {
        row[place]: row[place - 1]
        for row, example in zip(tokens, examples, strict=True)
        for place in range(len(example.prompt_ids), len(row))
    }
    assert seen == expected
