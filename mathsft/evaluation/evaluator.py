"""The evaluator worker: scores a checkpoint on a pool of problems and writes the graded responses to a file."""

import functools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import compress, product
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from mathsft.config.schema import Experiment
from mathsft.costs import ScoringCosts, Stopwatch
from mathsft.data.examples import encode
from mathsft.data.pools import load_pools, select_pool
from mathsft.errors import CheckpointError, UserError, disk_full_as_user_error
from mathsft.evaluation.engine import Engine, Generation, HalfSwappedError
from mathsft.evaluation.known_files import KnownFiles
from mathsft.evaluation.logprob_difference import Difference, difference
from mathsft.objective import Objective
from mathsft.prompts.renderer import Renderer, make_renderer
from mathsft.prompts.verdicts import Completion, grade
from mathsft.records import Checkpoint, EngineCheck, Example, LogprobCheck, Problem, Response, Score, Scoring
from mathsft.tasks.by_name import task_named
from mathsft.worker_settings import WorkerSettings


class Evaluator:
    """Scores the checkpoints of one study, in one engine with swapped weights or in new engines (evaluation.load)."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings, self._layout = settings, settings.layout
        self._model_folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._model_folder, local_files_only=True)
        config = AutoConfig.from_pretrained(self._model_folder, local_files_only=True)
        self._num_positions: int = config.max_position_embeddings
        self._model_kind: str = next(iter(config.architectures or ()), config.model_type)
        self._engine: Engine | None = None
        self._grader, self._known_files = task_named(settings.experiment.task).grader(), KnownFiles()
        self._has_agreed = False
        """Whether the engine has agreed with the logprob check of at least one checkpoint."""
        self._load_pools = functools.cache(load_pools)

    def score(self, checkpoint: Checkpoint, experiment: Experiment, pool: str, with_gold_nll: bool) -> Score:
        """Return the checkpoint's score on a pool or slice ("confirm:0-125"), after writing its responses file.

        with_gold_nll adds the likelihood of the training targets, which takes a sixth to a third of the time.

        Raises CheckpointError if the weights cannot be loaded, do not have the checkpoint's fingerprint, or fail the logprob
        check in an engine that has never passed it. Raises SystemExit if an engine has passed the check and fails it later,
        so that the driver starts a new engine. Raises UserError if prompts or responses are too long for the engine.
        """
        problems = select_pool(self._load_pools(experiment.data, experiment.task), pool)
        renderer = make_renderer(experiment.prompt, self._tokenizer)
        examples = encode(problems, renderer, sys.maxsize).examples
        room_tokens = self._room_tokens(experiment, examples)
        stopwatch = Stopwatch()
        with stopwatch.during("start_seconds" if self._engine is None else "swap_seconds"):
            engine = self._engine_with(checkpoint, experiment)
            self._check_logprobs(engine, checkpoint)
        if room_tokens > engine.max_model_len:
            raise UserError(
                f"pool {pool} needs {room_tokens} tokens for its longest prompt and evaluation.max_tokens = "
                f"{experiment.evaluation.max_tokens}, but the engine was started for {engine.max_model_len} tokens: set the "
                "longer prompt or response length in the experiment, so that it applies to every run"
            )
        gold_nlls: Sequence[float | None] = [None] * len(examples)
        if with_gold_nll:
            with stopwatch.during("gold_seconds"):
                gold_nlls = _gold_nlls(engine, problems, examples)
        prompts_ids = [example.prompt_ids for example in examples]
        num_responses = len(problems) * experiment.evaluation.num_samples
        progress_file = self._progress_file(checkpoint, pool, num_responses)
        with stopwatch.during("generate_seconds"), progress_file as on_finished:
            generations = engine.generate(prompts_ids, experiment.evaluation, renderer.stop, (renderer.end_id,), on_finished)
        with stopwatch.during("grade_seconds"):
            responses = self._grade(problems, generations, gold_nlls, renderer)

        path = self._layout.responses(checkpoint.run, checkpoint.step, pool)
        _publish(path, responses)
        objective = Objective(experiment.evaluation.format_rule, experiment.evaluation.num_samples)
        return Score(
            run=checkpoint.run,
            step=checkpoint.step,
            pool=pool,
            num_problems=len(problems),
            counts=objective.counts(responses),
            fingerprint=checkpoint.fingerprint,
            responses_path=self._layout.recorded(path),
            costs=ScoringCosts(
                **stopwatch.seconds,
                num_response_tokens=sum(response.num_tokens for response in responses),
                peak_memory_bytes=engine.peak_memory_bytes(),
            ),
            entropy=_mean(response.entropy for response in responses),
            gold_nll=_mean(gold_nlls),
            solved=objective.solved(responses),
        )

    def check_engine(self, base: Checkpoint, *others: Checkpoint) -> EngineCheck:
        """Load the base weights, then the others, then the base weights again, and compare each with the trainer.

        Raises UserError if vLLM does not support this kind of model: it computes another function, or it keeps old weights
        after a swap.
        """
        started, experiment = time.perf_counter(), self._settings.experiment
        nats: list[float] = []
        for checkpoint in (base, *others, base):
            try:
                engine = self._engine_with(checkpoint, experiment)
            except HalfSwappedError as error:
                raise UserError(self._stale_weights_message(str(error))) from error
            gap = self._difference(engine, checkpoint.logprob_check)
            if not gap.is_explained:
                symptom = f"log probabilities differ from the trainer's {gap}"
                if nats and experiment.evaluation.load == "swap":
                    raise UserError(self._stale_weights_message(symptom))
                advice = (
                    "" if self._settings.worker_device.engine_dtype == "float32" else ", or set evaluation.precision to fp32"
                )
                raise UserError(
                    f"model.path: vLLM computes another function for a {self._model_kind} than the trainer: with weights "
                    f"that were just loaded, {symptom}. The scores would be wrong: choose a model of another kind{advice}"
                )
            nats.append(gap.nats)
        self._has_agreed = True
        return EngineCheck(max(nats), self._model_kind, experiment.evaluation.load, time.perf_counter() - started)

    def _stale_weights_message(self, symptom: str) -> str:
        return (
            f"model.path: vLLM does not replace all weights of a {self._model_kind} in a running engine: after a swap, "
            f"{symptom}. Set evaluation.load to new_engine, which creates a new engine for every checkpoint, or choose a "
            "model of another kind"
        )

    def park(self) -> None:
        """Free the device's memory for another worker, if placement has set sleep_mode."""
        if self._engine is not None and self._settings.worker_device.sleep_mode:
            self._engine.sleep()

    def _engine_with(self, checkpoint: Checkpoint, experiment: Experiment) -> Engine:
        """Return an engine with the checkpoint's weights: a new engine, or the present one after a swap.

        evaluation.load comes from this worker's settings, because the run may be older than the user's last change of it.
        """
        folder, engine = self._layout / checkpoint.path, self._engine
        if engine is not None:
            if engine.loaded_fingerprint == checkpoint.fingerprint:
                return engine
            if self._settings.experiment.evaluation.load == "swap" and engine.accepts(folder):
                is_finite = checkpoint.finite_dtype == self._settings.worker_device.engine_dtype
                with self._known_files.loading(checkpoint, folder) as is_known:
                    engine.swap(folder, checkpoint.fingerprint, is_known=is_known, is_finite=is_known and is_finite)
                return engine
            self._engine = None
            engine.close()
        # The engine's length is enough for the logprob check and for all pools except train.
        pools = self._load_pools(experiment.data, experiment.task)
        problems = [problem for name, pool in pools.items() if name != "train" for problem in pool]
        examples = encode(problems, make_renderer(experiment.prompt, self._tokenizer), sys.maxsize).examples
        room_tokens = self._room_tokens(experiment, examples)
        check_tokens = min(len(checkpoint.logprob_check.token_ids) + 1, self._num_positions)
        max_model_len = max(room_tokens, check_tokens)
        worker_device, base_folder = self._settings.worker_device, self._layout.base_weights
        with self._known_files.loading(checkpoint, folder) as is_known:
            self._engine = Engine(
                folder, checkpoint.fingerprint, worker_device, max_model_len, base_folder, is_known=is_known
            )
        return self._engine

    def _room_tokens(self, experiment: Experiment, examples: Sequence[Example]) -> int:
        """Return the tokens of the longest prompt and its response together, at most the number of the model's positions."""
        longest = max(examples, key=lambda example: len(example.prompt_ids))
        num_prompt_tokens = len(longest.prompt_ids)
        if num_prompt_tokens >= self._num_positions:
            raise UserError(
                f"the longest prompt, that of problem {longest.problem_id}, has {num_prompt_tokens} tokens, but the model "
                f"has only {self._num_positions} positions for prompt and response: use a shorter prompt.template"
            )
        return min(num_prompt_tokens + experiment.evaluation.max_tokens, self._num_positions)

    def _grade(
        self,
        problems: Sequence[Problem],
        generations: Sequence[Generation],
        gold_nlls: Sequence[float | None],
        renderer: Renderer,
    ) -> list[Response]:
        """Return a graded response for each generation, equally many per problem; the first has the gold NLL."""
        places = list(product(range(len(problems)), range(len(generations) // len(problems))))
        completions = [
            Completion(generation.text, generation.finish_reason, problems[place].answer)
            for (place, _), generation in zip(places, generations, strict=True)
        ]
        all_graded = grade(completions, renderer.parse, self._grader)
        return [
            Response(
                problem_id=problems[place].id,
                sample=sample,
                text=generation.text,
                finish_reason=generation.finish_reason,
                num_tokens=generation.num_tokens,
                verdict=graded.verdict,
                tag_flags=graded.tag_flags,
                is_strict=graded.is_strict,
                entropy=_finite_or_none(generation.entropy),
                gold_nll=gold_nlls[place] if sample == 0 else None,
            )
            for (place, sample), generation, graded in zip(places, generations, all_graded, strict=True)
        ]

    def _check_logprobs(self, engine: Engine, checkpoint: Checkpoint) -> None:
        """Compare the engine's log probabilities with the checkpoint's logprob check; raise if they disagree."""
        difference = self._difference(engine, checkpoint.logprob_check)
        if difference.is_explained:
            self._has_agreed = True
            return
        message = f"with {checkpoint.path} loaded, log probabilities differ from the trainer's {difference}"
        if self._has_agreed:
            raise SystemExit(f"{message}: this process ends, and a new engine repeats the score")
        raise CheckpointError(f"{message}, in a new engine: its responses would not be those of the checkpoint")

    def _difference(self, engine: Engine, logprob_check: LogprobCheck) -> Difference:
        (logprobs,) = engine.token_logprobs([logprob_check.token_ids], num_given=[1])
        return difference(logprob_check, logprobs, self._settings.worker_device.engine_dtype)

    @contextmanager
    def _progress_file(self, checkpoint: Checkpoint, pool: str, num_responses: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes the number of finished responses and appends it to the progress file."""
        path = self._layout.scoring(checkpoint.run, checkpoint.step, pool)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:

            def append(num_finished: int) -> None:
                scoring = Scoring(checkpoint.run, checkpoint.step, pool, num_finished, num_responses)
                file.write(json.dumps(asdict(scoring)) + "\n")
                file.flush()

            yield append


def _gold_nlls(engine: Engine, problems: Sequence[Problem], examples: Sequence[Example]) -> list[float | None]:
    """Return each target's mean negative log likelihood per token; None without a solution or if the engine is too short."""
    # vLLM always generates one token, which needs room, too.
    fits = [
        bool(problem.solution) and len(example.prompt_ids) + len(example.response_ids) < engine.max_model_len
        for problem, example in zip(problems, examples, strict=True)
    ]
    fitting = list(compress(examples, fits))
    texts_ids = [example.prompt_ids + example.response_ids for example in fitting]
    logprobs = iter(engine.token_logprobs(texts_ids, [len(example.prompt_ids) for example in fitting]))
    return [_finite_or_none(-statistics.fmean(next(logprobs))) if is_fitting else None for is_fitting in fits]


def _finite_or_none(value: float) -> float | None:
    """Return the value, or None if it is not finite, because JSON and databases cannot store that."""
    return value if math.isfinite(value) else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    finite = [value for value in values if value is not None]
    return statistics.fmean(finite) if finite else None


def _publish(path: Path, responses: Sequence[Response]) -> None:
    """Write one response per line, by atomic rename."""
    lines = "".join(json.dumps(asdict(response)) + "\n" for response in responses)
    partial_path = path.with_name(path.name + ".partial")
    with disk_full_as_user_error(path, f"{len(lines):,} bytes for these responses"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial_path.open("w", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)
