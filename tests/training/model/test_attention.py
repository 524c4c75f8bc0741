import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import BloomConfig, BloomForCausalLM

from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch, Packing, packed_micro_batches
from mathsft.training.model import attention as attention_module
from mathsft.training.model.attention import block_mask, hidden_states
from mathsft.training.state import load_base

MakeModel = Callable[..., Path]


@pytest.mark.parametrize(("attention", "plain"), [("tree", "eager"), ("flex", "sdpa")])
def test_a_sliding_window_gets_padded_rows_and_the_log_says_so_once(
    make_model: MakeModel, caplog: pytest.LogCaptureFixture, attention: str, plain: str
) -> None:
    assert load_base(make_model("mistral", sliding_window=20), attention).attention == plain
    [message] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "MistralForCausalLM cannot be packed: it uses sliding_window; training uses padded rows" in message


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_a_plain_causal_softmax_is_packed(make_model: MakeModel, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    settings = {"sliding_window": None} if kind == "mistral" else {}
    for attention in ("tree", "flex"):
        assert load_base(make_model(kind, **settings), attention).attention == attention
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_alibi_gets_padded_rows(make_model: MakeModel, tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    assert load_base(tmp_path / "bloom", "tree").attention == "eager"


def make_row() -> MicroBatch:
    prefix, question = tuple(range(20)), tuple(range(30, 50))
    batch = [Example("", (*prefix, n), (1,) * (5 + n)) for n in range(3)]
    batch += [Example("", prefix + question, (2,) * (3 + n)) for n in range(3)]
    [row] = packed_micro_batches(batch, Packing(prefix, 1000, 2, 8), torch.device("cpu"))
    return row


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_both_kinds_of_packed_attention_compute_the_same(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes a minute on a CPU; the function is the same.
    monkeypatch.setattr(attention_module, "_compiled_flex", lambda: flex_attention)
    row = make_row()
    states = []
    for attention in ("tree", "flex"):
        model = load_base(make_model("qwen2", num_attention_heads=6, num_key_value_heads=3), attention).model
        states.append(hidden_states(model, row))
    padding = row.groups[-1].start + row.groups[-1].count * row.groups[-1].length
    torch.testing.assert_close(states[0][:, :padding], states[1][:, :padding], rtol=1e-4, atol=1e-5)


def test_flex_attention_sees_exactly_the_path_to_the_root() -> None:
    row = make_row()
    mask = block_mask(row)
    length = row.ids_BT.shape[1]
    seen = create_mask(mask.mask_mod, 1, 1, length, length, device="cpu")[0, 0]
    expected = torch.eye(length, dtype=torch.bool)
    above: list[list[int]] = []
    for group in row.groups:
        path = above[group.parent] if group.parent >= 0 else []
        for start in range(group.start, group.start + group.count * group.length, group.length):
            own = list(range(start, start + group.length))
            for query in own:
                expected[query, path + own[: query - start + 1]] = True
        above.append(path + own)
    assert torch.equal(seen, expected)
