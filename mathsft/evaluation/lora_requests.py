"""Serves adapters as LoRA requests of vLLM, which keeps the base model's weights beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM 0.32 allocates memory (vllm/config/lora.py, MaxLoRARanks); an adapter of a smaller rank fits."""


def request_arguments(max_rank: int) -> dict[str, Any]:
    """Return the arguments with which an engine serves adapters up to this rank; none for 0."""
    if not max_rank:
        return {}
    allocated = next(rank for rank in _RANKS if rank >= max_rank)
    return {"enable_lora": True, "max_lora_rank": allocated, "max_loras": 1, "max_cpu_loras": 1}


@dataclass(frozen=True)
class LoadedAdapter:
    """The adapter that an engine serves with each request."""

    request: "LoRARequest"

    @classmethod
    def added(cls, llm: Any, folder: Path, fingerprint: str, before: "LoadedAdapter | None") -> Self:
        """Load an adapter in place of the one before.

        Name and number of each adapter are new: vLLM would serve an adapter that it knows under the same number, whatever
        its files hold now. The prefix cache distinguishes adapters by name.
        """
        from vllm.lora.request import LoRARequest

        number = before.request.lora_int_id + 1 if before else 1
        request = LoRARequest(lora_name=fingerprint, lora_int_id=number, lora_path=str(folder))
        if before:
            llm.llm_engine.remove_lora(before.request.lora_int_id)
        if not llm.llm_engine.add_lora(request):
            raise RuntimeError(f"vLLM did not load the adapter in {folder}")
        return cls(request)
