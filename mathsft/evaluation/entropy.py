"""Measures the entropy of the distributions from which a vLLM engine samples tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

ROW = "entropy_row"
"""Key in SamplingParams.extra_args for a request's row in the tap; requests without it are not measured."""

_CHUNK_LOGITS = {"cpu": 2**18, "cuda": 2**24}
"""Logits per chunk: on a CPU they fit into a core's cache; on CUDA they limit memory for which vLLM has not planned."""


class EntropyTap(LogitsProcessor):  # type: ignore[misc]  # vLLM is untyped here
    """Stores, on the engine's device, the entropy of each distribution that a marked request samples from."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device, self._is_pin_memory = device, is_pin_memory
        self._requests: dict[int, tuple[int, list[int]]] = {}
        """Slot in the batch -> the request's row, and the list of its output ids, to which vLLM appends."""
        self._temperature = 1.0
        self._entropy_RT = torch.empty(0, 0)

    def start(self, num_requests: int, max_tokens: int, temperature: float) -> None:
        """Delete the stored entropies and allocate for new requests with one temperature, 0 for greedy decoding."""
        self._temperature = temperature or 1.0
        self._entropy_RT = torch.zeros(num_requests, max_tokens, device=self._device)

    def means(self, num_tokens: Sequence[int]) -> list[float]:
        """Return the mean entropy in nats of each request's first num_tokens tokens."""
        num_tokens_R = torch.tensor(num_tokens)
        entropy_RT = self._entropy_RT.cpu()
        is_returned_RT = torch.arange(entropy_RT.shape[1]) < num_tokens_R[:, None]
        means: list[float] = (entropy_RT.where(is_returned_RT, 0).sum(1) / num_tokens_R).tolist()
        return means

    def is_argmax_invariant(self) -> bool:
        """Return False, although the argmax never changes: otherwise vLLM would skip the tap for greedy requests."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Update the requests' slots in the batch."""
        process_dict_updates(self._requests, batch_update, _request)

    def apply(self, logits: Tensor) -> Tensor:
        """Store the entropies of this step. The logits, B x V in fp32, are those before temperature and top_p."""
        if self._requests:
            # The position is the number of tokens sampled before, not the number of steps: a prompt that is read in chunks
            # has logits after each chunk, and those after the last chunk overwrite the others.
            places = [(slot, row, len(output_ids)) for slot, (row, output_ids) in self._requests.items()]
            places_R3 = torch.tensor(places, pin_memory=self._is_pin_memory).to(self._device, non_blocking=True)
            slots_R, rows_R, positions_R = places_R3.unbind(1)
            self._entropy_RT[rows_R, positions_R] = entropy(logits, self._temperature)[slots_R]
        return logits


def entropy(logits_BV: Tensor, temperature: float) -> Tensor:
    """Return the entropy in nats of softmax(logits / temperature) of each row."""
    num_rows = max(1, _CHUNK_LOGITS[logits_BV.device.type] // logits_BV.shape[1])
    return torch.cat([_entropy(chunk_CV, temperature) for chunk_CV in torch.split(logits_BV, num_rows)])


def _entropy(logits_CV: Tensor, temperature: float) -> Tensor:
    # With s = (x - max x) / T: H = log sum exp s - sum (s exp s) / sum exp s. One exponential, and no large number.
    shifted_CV = (logits_CV - logits_CV.amax(1, keepdim=True)).div_(temperature)
    weights_CV = shifted_CV.exp()
    total_C = weights_CV.sum(1)
    entropy_C: Tensor = total_C.log() - torch.linalg.vecdot(weights_CV, shifted_CV) / total_C
    return entropy_C


def _request(sampling: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> tuple[int, list[int]] | None:
    row = (sampling.extra_args or {}).get(ROW)
    return None if row is None else (row, output_ids)
