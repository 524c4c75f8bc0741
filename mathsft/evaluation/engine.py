"""One vLLM engine in this process, and checked swaps of its weights in place; it knows nothing of problems, pools or grades.

Needs VLLM_ENABLE_V1_MULTIPROCESSING=0 in the environment before the process starts (`workers.placement` sets it): a swap
reaches into the model, which must therefore live in this very process.
"""

import functools
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
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mathsft.config.schema import EvaluationSettings
from mathsft.data.models import fingerprint
from mathsft.errors import CheckpointError, UserError
from mathsft.seeds import derive_seed
from mathsft.worker_settings import WorkerDevice

if TYPE_CHECKING:
    import torch
    from vllm import RequestOutput, SamplingParams

    from mathsft.evaluation.entropy import EntropyTap

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CPU_BLOCK_TOKENS = 32
"""KV cache block on a CPU; with vLLM's default of 128 a short shared prompt is never cached."""


class HalfSwappedError(SystemExit):
    """A swap that failed in the middle: the engine's weights are neither old nor new, so its process ends."""


def ends_process(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have a function's errors end the process: a broken engine must not answer, and memory it lacked may be free later.

    The worker then starts another process, and gives up after some. UserError passes.
    """

    @functools.wraps(function)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            raise SystemExit(f"the engine broke: {type(error).__name__}: {error}") from error

    return guarded


@dataclass(frozen=True)
class Generation:
    """One generated response; finish_reason is "stop" or, where it was cut, "length"."""

    text: str
    finish_reason: str
    num_tokens: int
    entropy: float
    """Mean over its tokens, in nats, as `mathsft.records.Response` has it; NaN from weights that overflow."""


def whole_text(text: str, stop_reason: int | str | None, decode: Callable[[], str]) -> str:
    """Return a response's text with what vLLM holds back at its end: bytes that are no whole character.

    vLLM waits for the rest of a character, and drops what it has when generation ends: a response of invalid UTF-8 would be
    empty. A response that ended with a stop string has nothing behind it.
    """
    if isinstance(stop_reason, str):
        return text
    whole = decode()
    return whole if whole.startswith(text) else text


class Engine:
    """A vLLM engine with room for prompt and response of `max_model_len` tokens together; `folder` holds its first weights.

    `folder` is a checkpoint that the trainer published, since a swap takes only folders that hold the same tensors. The base
    model's own folder may hold others: names of another layout, buffers that are no weights, the same weights twice.
    """

    def __init__(self, folder: Path, expected_fingerprint: str, hardware: WorkerDevice, max_model_len: int) -> None:
        """Raise CheckpointError where files cannot be read or are not those of the fingerprint."""
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise RuntimeError("the engine needs VLLM_ENABLE_V1_MULTIPROCESSING=0 in the environment of its process")
        from vllm import LLM

        from mathsft.evaluation.entropy import EntropyTap

        _check_fingerprint(folder, expected_fingerprint)
        on_cpu = hardware.device == "cpu"
        self._packs = not _is_narrower(folder, hardware.packs_from_width)
        with nullcontext() if self._packs else _without_packing():
            self._llm = ends_process(LLM)(
                model=str(folder),
                dtype=hardware.engine_dtype,
                max_model_len=max_model_len,
                gpu_memory_utilization=hardware.engine_memory_share,
                enable_sleep_mode=hardware.sleep_mode,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                block_size=CPU_BLOCK_TOKENS if on_cpu else None,
                async_scheduling=False,
                logits_processors=[EntropyTap],
                # In bf16 a logit near 20 is off by up to 0.06; log probabilities and entropies would be, too.
                hf_overrides={"head_dtype": "float32"},
                use_tqdm_on_load=False,
            )
        self._tap: EntropyTap = self._llm.collective_rpc(_find_tap)[0]
        self.max_model_len = max_model_len
        self.loaded_fingerprint: str | None = expected_fingerprint
        """Hash of the weights that answer; None while the engine sleeps, since sleeping discards them."""
        self._hardware = hardware
        self._has_overflowed = False
        """The weights, although finite, computed something that is not: so may be what the KV cache holds."""
        # vLLM takes a tied head from the embedding and skips it in a checkpoint, where it may or may not be written.
        tied = getattr(self._llm.llm_engine.model_config.hf_config, "tie_word_embeddings", False)
        self._ignored_names = frozenset({"lm_head.weight"} if tied else ())
        self._shapes = self._read_shapes(folder)

    def swap(self, folder: Path, expected_fingerprint: str) -> None:
        """Load the checkpoint's weights in place.

        Raises CheckpointError, with the old weights still serving, when files cannot be read or are not those of the
        fingerprint, names or shapes are not those of the engine's model, or a value is not finite in the engine's precision.
        vLLM's reload itself is not atomic: should it fail in spite of these checks, HalfSwappedError ends the process.
        """
        _check_fingerprint(folder, expected_fingerprint)
        self._check(folder)
        try:
            self._reload(folder)
        except BaseException as error:
            logger.critical("half-swapped weights of %s: this process must not answer any more", folder, exc_info=True)
            raise HalfSwappedError(f"{folder} could not be loaded: {type(error).__name__}: {error}") from error
        self.loaded_fingerprint = expected_fingerprint

    @ends_process
    def generate(
        self,
        prompts_ids: Sequence[Sequence[int]],
        sampling: EvaluationSettings,
        on_finished: Callable[[int], None] = lambda num_finished: None,
    ) -> list[Generation]:
        """Return num_samples responses to each prompt (token ids), in order, those to one prompt next to each other.

        What a sampled one is depends on its prompt's place in the order and on its own among the prompt's samples. A prompt
        must be shorter than max_model_len; a response that reaches its end is cut there, whatever max_tokens says.
        on_finished is called with the number of responses that are finished each time that one is.
        """
        from vllm import SamplingParams

        from mathsft.evaluation.entropy import ROW

        places = [(place, sample) for place in range(len(prompts_ids)) for sample in range(sampling.num_samples)]
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop=list(sampling.stop),
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
        self._look_for_overflow(entropies)
        return [
            Generation(
                text=whole_text(response.text, response.stop_reason, partial(self._decode, response.token_ids)),
                finish_reason=response.finish_reason or "",
                num_tokens=len(response.token_ids),
                entropy=entropy,
            )
            for response, entropy in zip(responses, entropies, strict=True)
        ]

    @ends_process
    def token_logprobs(self, texts_ids: Sequence[Sequence[int]], num_given: Sequence[int]) -> list[list[float]]:
        """Return the log probability, in nats, of each text's tokens after its first num_given, given all before them.

        A text (token ids) must be shorter than max_model_len, and num_given at least 1.
        """
        outputs = self._read(texts_ids, from_cache=True)
        # vLLM has none for tokens that it took from the cache: those of what is given are not asked for, but where what
        # follows was read or generated before, it must be read again.
        cached = [place for place, output in enumerate(outputs) if (output.num_cached_tokens or 0) >= num_given[place]]
        again = self._read([texts_ids[place] for place in cached], from_cache=False)
        for place, output in zip(cached, again, strict=True):
            outputs[place] = output
        # The first token of a text has no log probability.
        logprobs = [output.prompt_logprobs.logprobs[num - 1 :] for output, num in zip(outputs, num_given, strict=True)]
        self._look_for_overflow(chain.from_iterable(logprobs))
        return logprobs

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._llm.get_tokenizer().decode(token_ids, skip_special_tokens=True)
        return text

    def sleep(self) -> None:
        """Give the device's memory back, weights included; only with hardware.sleep_mode. The next swap wakes the engine."""
        if self.loaded_fingerprint is not None:
            self._llm.sleep(level=2)
            self.loaded_fingerprint = None

    def peak_memory_bytes(self) -> int:
        """Return the most memory this process has held: of the device, or of the machine where the device is the CPU."""
        if self._hardware.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        import torch

        return torch.cuda.max_memory_reserved()

    def close(self) -> None:
        """Shut the engine down and free its memory; a process may hold only one engine at a time."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def _look_for_overflow(self, values: Iterable[float]) -> None:
        # A key or value that is not finite makes all that attends to it so, its own token first.
        if not all(map(math.isfinite, values)):
            self._has_overflowed = True

    def _read(self, texts_ids: Sequence[Sequence[int]], *, from_cache: bool) -> "list[RequestOutput]":
        """Return outputs with the log probabilities of the texts' tokens, those taken from the prefix cache undefined."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0,
            max_tokens=1,  # which is not looked at: none cannot be asked for
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
        """Return the outputs of all requests, in order; as LLM.generate does, but telling of each that is finished."""
        if self.loaded_fingerprint is None:
            raise RuntimeError("the engine sleeps: swap weights in before asking it")
        requests = [{"prompt_token_ids": list(prompt_ids)} for prompt_ids in prompts_ids]
        self._llm.enqueue(requests, parameters, use_tqdm=False)
        outputs: list[RequestOutput] = []
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                outputs.append(output)  # vLLM passes on whole responses only
                on_finished(len(outputs))
        return sorted(outputs, key=lambda output: int(output.request_id))

    def _check(self, folder: Path) -> None:
        """Raise CheckpointError unless the checkpoint can take the place of the engine's weights."""
        from safetensors import SafetensorError

        try:
            shapes = self._read_shapes(folder)
            if shapes != self._shapes:
                raise CheckpointError(
                    f"checkpoint {folder} does not fit the engine's model: {self._describe_misfit(shapes)}"
                )
            bad_name = next((name for name, tensor in self._read_tensors(folder) if not self._is_finite(tensor)), None)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
        if bad_name is not None:
            raise CheckpointError(f"checkpoint {folder} holds values in {bad_name} that are not finite")

    def _describe_misfit(self, shapes: dict[str, tuple[int, ...]]) -> str:
        names = sorted(shapes.keys() ^ self._shapes.keys())
        if names:
            return f"{names[0]} is {'unknown' if names[0] in shapes else 'missing'} ({len(names)} such)"
        name = next(name for name in sorted(shapes) if shapes[name] != self._shapes[name])
        return f"{name} has shape {shapes[name]}, not {self._shapes[name]}"

    def _is_finite(self, tensor: "torch.Tensor") -> bool:
        import torch

        # Both are NaN if any value is, and are found six times faster than isfinite looks at each.
        extremes = torch.stack(torch.aminmax(tensor))
        # After the cast: an fp32 value may be infinite in bf16.
        return bool(extremes.to(getattr(torch, self._hardware.engine_dtype)).isfinite().all())

    def _reload(self, folder: Path) -> None:
        was_asleep = self.loaded_fingerprint is None
        if was_asleep:
            self._llm.wake_up(tags=["weights"])
        if self._packs:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._read_tensors(folder)})
            self._llm.apply_model(_repack_head)
        else:
            self._llm.apply_model(lambda model: _load(model, self._read_tensors(folder)))
        if was_asleep:
            self._llm.wake_up(tags=["kv_cache"])
        if was_asleep or self._has_overflowed:
            self._llm.collective_rpc(_zero_kv_cache)
            self._has_overflowed = False
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache still holds the old weights' keys and values")

    def _read_shapes(self, folder: Path) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name, from the files' headers alone."""
        from safetensors import safe_open

        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        return {name: shape for name, shape in shapes.items() if name not in self._ignored_names}

    def _read_tensors(self, folder: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Yield name and values of each tensor, one at a time to hold no second copy of the weights."""
        from safetensors import safe_open

        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - the file is no mapping
                    if name not in self._ignored_names:
                        yield name, file.get_tensor(name)


def _check_fingerprint(folder: Path, expected: str) -> None:
    """Raise CheckpointError unless the folder's weights can be read and are those of the fingerprint."""
    try:
        found = fingerprint(folder)
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    if found != expected:
        raise CheckpointError(f"checkpoint {folder} has the fingerprint {found}, but {expected} was published")


def _find_tap(worker: Any) -> "EntropyTap":
    """Return the tap that vLLM made: it takes classes and keeps the objects to itself."""
    from mathsft.evaluation.entropy import EntropyTap

    taps = [processor for processor in worker.model_runner.input_batch.logitsprocs.all if isinstance(processor, EntropyTap)]
    return taps[0]


def _is_narrower(folder: Path, width: int) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("hidden_size", width)) < width


@contextmanager
def _without_packing() -> Iterator[None]:
    """Have vLLM leave the weights as they are: it has no setting for that (0.32)."""
    from vllm import _custom_ops

    packs, _custom_ops._supports_onednn = _custom_ops._supports_onednn, False
    try:
        yield
    finally:
        _custom_ops._supports_onednn = packs


def _load(model: Any, tensors: Iterator[tuple[str, "torch.Tensor"]]) -> None:
    """Copy tensors into the model's own; packed weights would have to be made anew."""
    model.load_weights(tensors)


def _repack_head(model: Any) -> None:
    """Pack the output head anew: vLLM 0.32 on a CPU leaves the old one in place when it is tied to the embedding."""
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _zero_kv_cache(worker: Any) -> None:
    """Forget all keys and values: a stale NaN spoils attention even where it is masked. It takes longer than a tiny swap."""
    for layer_cache in worker.model_runner.kv_caches:
        layer_cache.zero_()
