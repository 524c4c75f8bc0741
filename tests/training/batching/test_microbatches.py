import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.records import Example
from mathsft.training.batching.microbatches import (
    NO_TARGET,
    MicroBatch,
    Packing,
    common_prefix,
    packed_micro_batches,
    padded_micro_batches,
)

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(1, 3), max_size=20).map(tuple)
RESPONSE = st.lists(st.integers(1, 3), min_size=1, max_size=12).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Example]]:
    """Make a preamble and examples that begin with it; some questions have several solutions, some tokens are alike."""
    prefix = draw(TOKENS)
    questions = draw(st.lists(st.tuples(TOKENS, st.lists(RESPONSE, min_size=1, max_size=4)), min_size=1, max_size=6))
    # A prompt is never empty: something has to predict the first response token.
    batch = [Example("", prefix + question or (9,), response) for question, responses in questions for response in responses]
    return (prefix if all(example.prompt_ids[: len(prefix)] == prefix for example in batch) else ()), batch


def paths(row: MicroBatch) -> list[list[int]]:
    """Return for every token the tokens that it attends to, itself last, as the docstring of the groups has it."""
    [positions] = row.positions_BT.tolist()
    seen: list[list[int]] = []
    above: list[list[int]] = []
    for group in row.groups:
        assert group.start == len(seen)
        assert group.parent < len(above)
        for _ in range(group.count):
            path = list(above[group.parent]) if group.parent >= 0 else []
            for _ in range(group.length):
                path.append(len(seen))
                seen.append(list(path))
                assert positions[path[-1]] == len(path) - 1
        above.append(path)
    return seen


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(made=batches(), budget=st.integers(1, 300), group_padding=st.integers(0, 30), multiple=st.sampled_from([1, 8]))
def test_every_response_token_is_predicted_from_exactly_what_comes_before_it(
    made: tuple[tuple[int, ...], list[Example]], budget: int, group_padding: int, multiple: int
) -> None:
    prefix, batch = made
    rows = packed_micro_batches(batch, Packing(prefix, budget, group_padding, multiple), CPU)
    actual = []
    for row in rows:
        [ids] = row.ids_BT.tolist()
        assert len(ids) % multiple == 0
        assert len(ids) <= budget or sum(group.count for group in row.groups) == 1
        seen = paths(row)
        assert row.num_attended_tokens == sum(map(len, seen)) + len(ids) - len(seen)  # one that only pads sees itself
        for predictor, target in zip(row.predictors_N.tolist(), row.targets_N.tolist(), strict=True):
            if target != NO_TARGET:
                actual.append((*(ids[place] for place in seen[predictor]), target))
    expected = [
        example.prompt_ids + example.response_ids[: end + 1] for example in batch for end in range(len(example.response_ids))
    ]
    assert sorted(actual) == sorted(expected)


def test_a_tree_computes_what_is_shared_once_and_rows_are_evenly_filled() -> None:
    prefix, question = tuple(range(100, 130)), tuple(range(200, 220))
    batch = [Example("", (*prefix, n), (1,) * (5 + n)) for n in range(20)]
    batch += [Example("", prefix + question, (2,) * (3 + n)) for n in range(3)]
    [row] = packed_micro_batches(batch, Packing(prefix, 10_000, 0, 1), CPU)
    assert row.ids_BT.numel() == 30 + 20 + sum(5 + n for n in range(20)) + sum(2 + n for n in range(3))
    assert [group.parent for group in row.groups] == [-1] + 20 * [0] + [0] + 3 * [21]

    rows = packed_micro_batches(batch, Packing(prefix, 150, 0, 1), CPU)
    lengths = [row.ids_BT.numel() for row in rows]
    assert max(lengths) <= 150
    assert max(lengths) - min(lengths) <= 30
    assert sum(lengths) == row.ids_BT.numel() + 30 * (len(rows) - 1)


def test_segments_of_like_length_share_a_group_as_far_as_the_padding_allows() -> None:
    batch = [Example("", (n + 1,), (1,) * length) for n, length in enumerate([10, 9, 8, 7, 3])]
    [row] = packed_micro_batches(batch, Packing((), 1000, 3, 1), CPU)
    assert [(group.count, group.length) for group in row.groups] == [(3, 10), (1, 7), (1, 3)]


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=12), budget=st.integers(1, 200)
)
def test_padded_rows_hold_every_response_token_once_within_the_budget(lengths: list[tuple[int, int]], budget: int) -> None:
    token = iter(range(1, 10_000))
    batch = [
        Example(str(n), tuple(next(token) for _ in range(prompt)), tuple(next(token) for _ in range(response)))
        for n, (prompt, response) in enumerate(lengths)
    ]
    seen = {}
    for row in padded_micro_batches(batch, budget, CPU):
        assert row.ids_BT.numel() <= budget or len(row.ids_BT) == 1
        assert row.num_attended_tokens == row.ids_BT.new_ones(row.ids_BT.shape).cumsum(1).sum()
        inputs = row.ids_BT.flatten()[row.predictors_N].tolist()
        seen.update(zip(row.targets_N.tolist(), inputs, strict=True))
    # All tokens differ, so each one names the token it must be predicted from.
    tokens = [example.prompt_ids + example.response_ids for example in batch]
    assert seen == {
        line[place]: line[place - 1]
        for line, example in zip(tokens, batch, strict=True)
        for place in range(len(example.prompt_ids), len(line))
    }


def test_the_common_prefix_is_what_all_prompts_begin_with() -> None:
    prompts = [(1, 2, 3, 4), (1, 2, 4), (1, 2, 3)]
    assert common_prefix([Example("", prompt, (5,)) for prompt in prompts]) == (1, 2)
    assert common_prefix([Example("", (1, 2), (5,))]) == (1, 2)
    assert common_prefix([]) == ()


def test_questions_that_add_nothing_to_the_preamble_and_long_ones_end_in_rows_of_their_own() -> None:
    """Neither may keep the search for a number of rows going for ever, or spread the others over needless rows."""
    prefix = tuple(range(1, 41))
    bare = [Example("", (*prefix, token), (5,)) for token in (50, 51, 52)]
    assert len(packed_micro_batches(bare, Packing(prefix, 30, 0, 1), CPU)) == 3
    batch = [Example("", (1, 2), (3,) * 200), *(Example("", (1, token), (3, 4)) for token in range(2, 18))]
    rows = packed_micro_batches(batch, Packing((), 100, 0, 1), CPU)
    assert [row.ids_BT.numel() for row in rows] == [201, 48]
