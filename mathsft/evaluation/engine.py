"""Runs one vLLM engine in this process, and replaces its weights in place after checks.

Needs VLLM_ENABLE_V1_MULTIPROCESSING=0 in the environment before the process starts (`workers.placement` sets it), because a
swap accesses the model, which must be in this process.
"""

import gc
import json
import logging
import math
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import SafetensorError

from mathsft.config.schema import EvaluationSettings
from mathsft.data.weight_tensors import AdaptedWeights, WholeWeights, model_folder_of, weights_in
from mathsft.data.weights import fingerprint
from mathsft.errors import CheckpointError, UserError
from mathsft.evaluation.lora_requests import LoadedAdapter, request_arguments
from mathsft.seeds import derive_seed
from mathsft.worker_settings import WorkerDevice

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

logger = logging.getLogger(__name__)

_CPU_BLOCK_TOKENS = 32
"""Tokens per KV cache block on a CPU. With vLLM's default of 128, a short shared prompt is never cached."""


class HalfSwappedError(SystemExit):
    """A swap failed after it began: some of the engine's weights are old and some are new, so the process ends."""


@contextmanager
def ends_process() -> Iterator[None]:
    """Make every exception of the body end the process, except UserError, which is raised unchanged.

    A broken engine must not answer, and missing memory may be free later. The driver restarts the process, up to a limit.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise SystemExit(f"the engine broke: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Generation:
    """One generated response. finish_reason is "stop", or "length" if the response was cut."""

    text: str
    finish_reason: str
    num_tokens: int
    entropy: float
    """Mean over the tokens in nats, as in `mathsft.records.Response`; NaN if the weights overflow."""


def whole_text(text: str, stop_reason: int | str | None, decode: Callable[[], str]) -> str:
    """Return a response's text, including bytes of an incomplete character at its end, which vLLM withholds.

    vLLM waits for the rest of a character and drops the incomplete one when generation ends, so a response of invalid UTF-8
    would be empty. A response that ended with a stop string is already complete.
    """
    if isinstance(stop_reason, str):
        return text
    whole = decode()
    return whole if whole.startswith(text) else text


class Engine:
    """A vLLM engine for prompts and responses of up to `max_model_len` tokens together, with its first weights in `folder`.

    `folder` must be a checkpoint that the trainer published, because a swap requires the same tensors. The base model's own
    folder may have other tensors: names of another layout, buffers, tied weights twice. An adapter belongs to the weights in
    `base_folder`. It is merged into them, or served as a LoRA request (worker_device.max_request_rank) beside them.
    """

    def __init__(
        self,
        folder: Path,
        expected_fingerprint: str,
        worker_device: WorkerDevice,
        max_model_len: int,
        base_folder: Path | None = None,
        *,
        is_known: bool = False,
    ) -> None:
        """Start the engine. Raises CheckpointError if files cannot be read or do not have the fingerprint.

        With is_known the files are known to have it, and are not hashed.
        """
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise RuntimeError("the engine needs VLLM_ENABLE_V1_MULTIPROCESSING=0 in the environment of its process")
        from vllm import LLM

        from mathsft.evaluation.entropy import EntropyTap

        if not is_known:
            _check_fingerprint(folder, expected_fingerprint)
        self._worker_device, self._base_folder = worker_device, base_folder
        self._adapter: LoadedAdapter | None = None
        weights = weights_in(folder, base_folder)
        shapes = weights.shapes()  # an adapter that does not fit is refused here
        model_folder = folder if isinstance(weights, WholeWeights) else weights.base.folder
        on_cpu = worker_device.device == "cpu"
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        # A trainer that allocates memory of the same device meanwhile would disturb vLLM's measurement of what is free.
        cache = {"kv_cache_memory_bytes": worker_device.cache_bytes} if worker_device.cache_bytes else {}
        self._packs_weights = config.get("hidden_size", math.inf) >= worker_device.packs_from_width
        packing = nullcontext() if self._packs_weights else _without_packing()
        start = weights.base if self._is_request(weights) else weights
        dtype = getattr(torch, worker_device.engine_dtype)
        with ends_process(), packing, model_folder_of(start, dtype) as start_folder:
            self._llm = LLM(
                model=str(start_folder),
                dtype=worker_device.engine_dtype,
                max_model_len=max_model_len,
                gpu_memory_utilization=worker_device.engine_memory_share,
                enable_sleep_mode=worker_device.sleep_mode,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                block_size=_CPU_BLOCK_TOKENS if on_cpu else None,
                async_scheduling=False,
                logits_processors=[EntropyTap],
                # In bf16 a logit near 20 has an error of up to 0.06; log probabilities and entropies would have it, too.
                hf_overrides={"head_dtype": "float32"},
                use_tqdm_on_load=False,
                **cache,
                **request_arguments(worker_device.max_request_rank),
            )

        def find_tap(worker: Any) -> EntropyTap:  # vLLM takes the class and creates the object itself
            processors = worker.model_runner.input_batch.logitsprocs.all
            return next(processor for processor in processors if isinstance(processor, EntropyTap))

        self._tap: EntropyTap = self._llm.collective_rpc(find_tap)[0]
        self.max_model_len = max_model_len
        self.loaded_fingerprint: str | None = expected_fingerprint
        """Hash of the weights in use; None while the engine sleeps, because sleeping discards the weights."""
        self._has_overflowed = False
        """Finite weights gave a result that is not finite, so the KV cache may have such values."""
        # vLLM takes a tied head from the embedding and ignores it in a checkpoint, so a checkpoint may or may not have it.
        tied = getattr(self._llm.llm_engine.model_config.hf_config, "tie_word_embeddings", False)
        self._ignored_names = frozenset({"lm_head.weight"} if tied else ())
        self._shapes = self._known(shapes)
        self._served_base = fingerprint(model_folder)
        """Hash of the weights beside which adapters are served as requests."""
        if self._is_request(weights):
            self._adapter = LoadedAdapter.added(self._llm, folder, expected_fingerprint, None)

    def accepts(self, folder: Path) -> bool:
        """Return whether `swap` can load the checkpoint; an engine that serves requests cannot replace its weights."""
        if not self._worker_device.max_request_rank:
            return True
        weights = weights_in(folder, self._base_folder)
        return self._is_request(weights) and weights.adapter.base_fingerprint == self._served_base

    def swap(self, folder: Path, expected_fingerprint: str, *, is_known: bool = False, is_finite: bool = False) -> None:
        """Load the checkpoint's weights in place.

        With is_known the files are known to have the fingerprint, and are not hashed; with is_finite their values are known
        to be finite in the engine's dtype, and are not read for a check.

        Raises CheckpointError, and keeps the old weights, if files cannot be read or do not have the fingerprint, if names
        or shapes differ from those of the engine's model, or if a value is not finite in the engine's dtype. vLLM's reload
        is not atomic: if it fails after these checks, HalfSwappedError ends the process.
        """
        if not is_known:
            _check_fingerprint(folder, expected_fingerprint)
        weights = weights_in(folder, self._base_folder)
        self._check(weights, is_finite=is_finite)
        try:
            self._reload(weights, expected_fingerprint)
        except BaseException as error:
            logger.critical("the swap to %s failed after it began: this process ends", folder, exc_info=True)
            raise HalfSwappedError(f"{folder} could not be loaded: {type(error).__name__}: {error}") from error
        self.loaded_fingerprint = expected_fingerprint

    @ends_process()
    def generate(
        self,
        prompts_ids: Sequence[Sequence[int]],
        sampling: EvaluationSettings,
        stop: Sequence[str] = (),
        end_ids: Sequence[int] = (),
        on_finished: Callable[[int], None] = lambda num_finished: None,
    ) -> list[Generation]:
        """Return num_samples responses for each prompt (token ids), in the order of the prompts.

        A response ends after one of the strings in stop, with one of the tokens in end_ids, or with an EOS of the model.
        The seed of a sampled response follows from the index of its prompt and its index among the prompt's samples. Prompts
        must be shorter than max_model_len; a response is cut where prompt and response together reach max_model_len.
        on_finished is called after each response, with the number of finished responses.
        """
        from vllm import SamplingParams

        from mathsft.evaluation.entropy import ROW

        places = [(place, sample) for place in range(len(prompts_ids)) for sample in range(sampling.num_samples)]
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop=list(stop),
                stop_token_ids=list(end_ids),
                include_stop_str_in_output=True,
                seed=derive_seed(sampling.seed, place, sample) if sampling.temperature > 0 else None,
                extra_args={ROW: row},
            )
            for row, (place, sample) in enumerate(places)
        ]
        self._tap.start(len(places), min(sampling.max_tokens, self.max_model_len), sampling.temperature)
        outputs = self._run([prompts_ids[place] for place, _ in places], parameters, on_finished)
        responses = [output.outputs[0] for output in outputs]
        entropies = self._tap.means([len(response.token_ids) for response in responses])
        self._note_overflow(entropies)
        decode = partial(self._llm.get_tokenizer().decode, skip_special_tokens=True)
        return [
            Generation(
                text=whole_text(response.text, response.stop_reason, partial(decode, response.token_ids)),
                finish_reason=response.finish_reason or "",
                num_tokens=len(response.token_ids),
                entropy=entropy,
            )
            for response, entropy in zip(responses, entropies, strict=True)
        ]

    @ends_process()
    def token_logprobs(self, texts_ids: Sequence[Sequence[int]], num_given: Sequence[int]) -> list[list[float]]:
        """Return the log probability, in nats, of each token of a text after its first num_given tokens.

        A text (token ids) must be shorter than max_model_len, and num_given at least 1.
        """
        outputs = self._read(texts_ids, from_cache=True)
        # vLLM has no log probabilities for tokens from the prefix cache. If the cache covers more than the given tokens, the
        # text is read again without the cache.
        cached = [place for place, output in enumerate(outputs) if (output.num_cached_tokens or 0) >= num_given[place]]
        reread = self._read([texts_ids[place] for place in cached], from_cache=False)
        for place, output in zip(cached, reread, strict=True):
            outputs[place] = output
        # The first token of a text has no log probability.
        logprobs = [output.prompt_logprobs.logprobs[num - 1 :] for output, num in zip(outputs, num_given, strict=True)]
        self._note_overflow(chain.from_iterable(logprobs))
        return logprobs

    def sleep(self) -> None:
        """Free the device's memory, including the weights; needs sleep_mode. The next swap wakes the engine."""
        if self.loaded_fingerprint is not None:
            # Level 2 discards the weights. Those of an engine that serves requests cannot be loaded again.
            self._llm.sleep(level=1 if self._worker_device.max_request_rank else 2)
            self.loaded_fingerprint = None

    def peak_memory_bytes(self) -> int:
        """Return the peak memory of this process: device memory on CUDA, resident memory on a CPU."""
        if self._worker_device.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return torch.cuda.max_memory_reserved()

    def close(self) -> None:
        """Shut the engine down and free its memory; a process may hold only one engine at a time."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def _note_overflow(self, values: Iterable[float]) -> None:
        # A key or value that is not finite makes the outputs of all tokens that attend to it, its own included, not finite.
        if not all(map(math.isfinite, values)):
            self._has_overflowed = True

    def _read(self, texts_ids: Sequence[Sequence[int]], *, from_cache: bool) -> "list[RequestOutput]":
        """Return outputs with the log probabilities of the texts' tokens, undefined for tokens from the prefix cache."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0,
            max_tokens=1,  # vLLM's minimum; the generated token is not used
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=not from_cache,
        )
        return self._run(texts_ids, [sampling.clone() for _ in texts_ids])

    def _run(
        self,
        prompts_ids: Sequence[Sequence[int]],
        parameters: "Sequence[SamplingParams]",
        on_finished: Callable[[int], None] = lambda num_finished: None,
    ) -> "list[RequestOutput]":
        """Return the outputs of all requests, in order, like LLM.generate, and call on_finished after each."""
        if self.loaded_fingerprint is None:
            raise RuntimeError("the engine sleeps and has no weights; call swap before a request")
        requests = [{"prompt_token_ids": list(prompt_ids)} for prompt_ids in prompts_ids]
        adapter = self._adapter.request if self._adapter else None
        self._llm.enqueue(requests, parameters, lora_request=adapter, use_tqdm=False)
        outputs: list[RequestOutput] = []
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                outputs.append(output)  # vLLM returns complete responses only
                on_finished(len(outputs))
        return sorted(outputs, key=lambda output: int(output.request_id))

    def _is_request(self, weights: WholeWeights | AdaptedWeights) -> TypeGuard[AdaptedWeights]:
        """Return whether the weights are an adapter that this engine serves as a request."""
        max_rank = self._worker_device.max_request_rank
        return isinstance(weights, AdaptedWeights) and weights.adapter.rank <= max_rank and not weights.adapter.is_dora

    def _check(self, weights: WholeWeights | AdaptedWeights, *, is_finite: bool) -> None:
        """Raise CheckpointError unless the checkpoint can take the place of the engine's weights."""
        folder = weights.folder
        try:
            shapes = self._known(weights.shapes())
            if shapes != self._shapes:
                raise CheckpointError(
                    f"checkpoint {folder} does not fit the engine's model: {self._describe_misfit(shapes)}"
                )
            # Of an adapter that is not merged, only its own tensors are loaded.
            read = WholeWeights(folder).tensors() if self._is_request(weights) else self._known_tensors(weights)
            tensors = () if is_finite else read
            bad_name = next((name for name, tensor in tensors if not self._is_finite(tensor)), None)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
        if bad_name is not None:
            raise CheckpointError(f"checkpoint {folder} has values in {bad_name} that are not finite")

    def _describe_misfit(self, shapes: dict[str, tuple[int, ...]]) -> str:
        names = sorted(shapes.keys() ^ self._shapes.keys())
        if names:
            return f"{names[0]} is {'unknown' if names[0] in shapes else 'missing'} ({len(names)} names differ)"
        name = next(name for name in sorted(shapes) if shapes[name] != self._shapes[name])
        return f"{name} has shape {shapes[name]}, not {self._shapes[name]}"

    def _is_finite(self, tensor: torch.Tensor) -> bool:
        # Both extremes are NaN if any value is, and aminmax is six times faster than isfinite on each value.
        extremes = torch.stack(torch.aminmax(tensor))
        # The check comes after the cast, because a finite fp32 value may be infinite in bf16.
        return bool(extremes.to(getattr(torch, self._worker_device.engine_dtype)).isfinite().all())

    def _reload(self, weights: WholeWeights | AdaptedWeights, expected_fingerprint: str) -> None:
        was_asleep = self.loaded_fingerprint is None
        if was_asleep:
            self._llm.wake_up(tags=["weights"])
        if self._is_request(weights):
            self._adapter = LoadedAdapter.added(self._llm, weights.folder, expected_fingerprint, self._adapter)
        elif self._packs_weights:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._known_tensors(weights)})
            self._llm.apply_model(_repack_head)
        else:
            self._llm.apply_model(lambda model: _load(model, self._known_tensors(weights)))
        if was_asleep:
            self._llm.wake_up(tags=["kv_cache"])
        if was_asleep or self._has_overflowed:
            self._llm.collective_rpc(_zero_kv_cache)
            self._has_overflowed = False
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache still holds the old weights' keys and values")

    def _known(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that the engine reads."""
        return {name: shape for name, shape in shapes.items() if name not in self._ignored_names}

    def _known_tensors(self, weights: WholeWeights | AdaptedWeights) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and values of each tensor that the engine reads, one at a time."""
        return ((name, tensor) for name, tensor in weights.tensors() if name not in self._ignored_names)


def _check_fingerprint(folder: Path, expected: str) -> None:
    """Raise CheckpointError unless the folder's weights can be read and have this fingerprint."""
    try:
        actual = fingerprint(folder)
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    if actual != expected:
        raise CheckpointError(f"checkpoint {folder} has the fingerprint {actual}, but {expected} was published")


@contextmanager
def _without_packing() -> Iterator[None]:
    """Make vLLM keep weights unpacked by hiding oneDNN from it; vLLM 0.32 has no setting for this."""
    from vllm import _custom_ops

    supports_onednn, _custom_ops._supports_onednn = _custom_ops._supports_onednn, False
    try:
        yield
    finally:
        _custom_ops._supports_onednn = supports_onednn


def _load(model: Any, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Copy the tensors into the weights of the model, which must be unpacked."""
    model.load_weights(tensors)


def _repack_head(model: Any) -> None:
    """Pack the output head again: vLLM 0.32 on a CPU keeps the old packed head if it is tied to the embedding."""
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _zero_kv_cache(worker: Any) -> None:
    """Set the KV cache to zero: an old NaN spoils attention even if it is masked. This takes longer than a small swap."""
    for layer_cache in worker.model_runner.kv_caches:
        layer_cache.zero_()
