"""Makes the model and the batches of bench.device: random weights in a known shape, and a tokenizer of single bytes."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from mathsft.records import Example

ROW_MULTIPLE_TOKENS = 128
_PREFIX_TOKENS, _QUESTION_TOKENS, _RESPONSE_TOKENS = 64, 64, 440
"""Of an example that fills rows: about those of MATH with a short prompt."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2 model with a tied head."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    vocabulary_size: int


QWEN2_5_1_5B = Shape(1536, 8960, 28, 12, 2, 151_936)
"""Source: config.json of Qwen/Qwen2.5-1.5B."""
TINY = Shape(128, 256, 2, 4, 2, 512)
"""For a smoke run: heads of 32 dimensions, for which vLLM has a kernel on a CPU."""


def make_model(folder: Path, shape: Shape, num_layers: int, device: torch.device, dtype: torch.dtype) -> int:
    """Write a model folder with random weights, drawn on the device, and return its number of parameters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(["<eos>", *alphabet])}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<eos>").save_pretrained(folder)
    config = Qwen2Config(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_heads,
        vocab_size=shape.vocabulary_size,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with device:
        model = Qwen2ForCausalLM(config).to(dtype)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def filling_batch(vocabulary_size: int, row_tokens: int) -> list[Example]:
    """Return examples with a common prefix that fill one packed row of at least 256 tokens."""
    return _batch(vocabulary_size, _responses(row_tokens))


def several_rows_batch(vocabulary_size: int, row_tokens: int, num_rows: int) -> list[Example]:
    """Return examples that fill this many packed rows."""
    return _batch(vocabulary_size, _responses(row_tokens) * num_rows)


def _responses(row_tokens: int) -> list[int]:
    """Return the lengths of responses that fill a row: as many usual ones as fit, the last one shorter."""
    room_tokens, lengths = row_tokens - _PREFIX_TOKENS, []
    while room_tokens > _QUESTION_TOKENS + 1:
        # The last response token is a target only.
        lengths.append(min(_RESPONSE_TOKENS, room_tokens - _QUESTION_TOKENS + 1))
        room_tokens -= _QUESTION_TOKENS + lengths[-1] - 1
    return lengths


def _batch(vocabulary_size: int, responses: list[int]) -> list[Example]:
    generator = torch.Generator().manual_seed(0)

    def draw(num_tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary_size, (num_tokens,), generator=generator).tolist())

    prefix, indices = draw(_PREFIX_TOKENS), itertools.count()
    # The first token of a question is its number, so that no two are equal.
    return [Example("", (*prefix, next(indices), *draw(_QUESTION_TOKENS - 1)), draw(length)) for length in responses]
