"""Stand-ins for models that are not on this machine: their configuration and tensors' shapes, but no numbers.

The weights are files with holes, which take no disk; the tokenizer is a small one in the model's style.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tests.prompts.chat_models import CHAT_MODELS, make_tokenizer


@dataclass(frozen=True)
class Shape:
    """The sizes in a model's published config.json."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    chat_model: str
    """The style of its tokenizer (tests/prompts/chat_models.py)."""

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors; the head is the embedding."""
        width, inner, vectors = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_attention_heads * vectors, self.num_key_value_heads * vectors
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (queries, width),
            "self_attn.k_proj.weight": (keys, width),
            "self_attn.v_proj.weight": (keys, width),
            "self_attn.o_proj.weight": (width, queries),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        if self.model_type == "qwen2":
            biases = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
            layer |= {f"self_attn.{name}.bias": (size,) for name, size in biases.items()}
        if self.model_type == "qwen3":
            layer |= {"self_attn.q_norm.weight": (vectors,), "self_attn.k_norm.weight": (vectors,)}
        tensors: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, width),
            "model.norm.weight": (width,),
        }
        for number in range(self.num_hidden_layers):
            tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        return tensors


SHAPES = {
    "Qwen/Qwen2.5-Math-1.5B": Shape("qwen2", 1536, 8960, 28, 12, 2, 128, 151_936, 4096, "qwen2.5"),
    "Qwen/Qwen3-0.6B": Shape("qwen3", 1024, 3072, 28, 16, 8, 128, 151_936, 40_960, "qwen3"),
    "meta-llama/Llama-3.2-1B-Instruct": Shape("llama", 2048, 8192, 16, 32, 8, 64, 128_256, 131_072, "llama3"),
}
NUM_PARAMETERS = {
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
}
"""As their pages on the hub say."""


def write_stand_in(model: str, folder: Path) -> Path:
    """Write the stand-in of a model of SHAPES."""
    shape = SHAPES[model]
    config = {name: value for name, value in vars(shape).items() if name != "chat_model"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    header: dict[str, object] = {}
    end = 0
    for name, sizes in shape.tensors().items():
        start, end = end, end + 2 * prod(sizes)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [start, end]}
    written = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)
    make_tokenizer(CHAT_MODELS[shape.chat_model]).save_pretrained(folder)
    return folder
