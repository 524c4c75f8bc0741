"""Turns a checkpoint and a pool into a Score: prompts, responses, verdicts and the file of responses; it chooses nothing."""

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
from itertools import compress
from pathlib import Path

from mathsft.answers.grade import Completion, Grader
from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment
from mathsft.data.examples import encode, load_template
from mathsft.data.pools import load_pools, select
from mathsft.errors import UserError, told_if_disk_full
from mathsft.evaluation.canary import disagreement
from mathsft.evaluation.engine import CheckpointError, Engine, Generation
from mathsft.objective import Objective
from mathsft.records import (
    Canary,
    Checkpoint,
    Example,
    Overrides,
    Problem,
    Response,
    Score,
    Scoring,
    WorkerSettings,
)


class Evaluator:
    """Scores checkpoints of one study with an engine that is made at the first score and lives as long as the process."""

    def __init__(self, settings: WorkerSettings) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self._settings = settings
        self._model_folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._model_folder, local_files_only=True)
        config = AutoConfig.from_pretrained(self._model_folder, local_files_only=True)
        self._num_positions: int = config.max_position_embeddings
        self._engine: Engine | None = None
        self._grader = Grader()
        self._is_proven = False
        """The engine agreed with a checkpoint's canary before."""
        self._load_pools = functools.cache(load_pools)

    def score(self, checkpoint: Checkpoint, overrides: Overrides, pool: str, with_gold_nll: bool) -> Score:
        """Return the checkpoint's score on a pool or slice ("confirm:0-125"); its responses file is complete by then.

        The likelihood of the training targets takes a sixth to a third of the time; it is left out unless it is asked for.

        Raises CheckpointError when the weights cannot be served, are not those that the checkpoint names, or make a new
        engine disagree with its canary; SystemExit when they make one disagree that agreed before, so that a new one is
        tried; UserError when prompts or responses are too long for the engine.
        """
        if checkpoint.canary is None:
            raise CheckpointError(f"checkpoint {checkpoint.path or checkpoint.run} has no canary to check the engine by")
        experiment = apply_overrides(self._settings.experiment, overrides)
        problems = select(self._load_pools(experiment.data), pool)
        examples = self._encode(experiment, problems)
        room_tokens = self._room_tokens(experiment, examples)
        timings: dict[str, float] = {}
        engine = self._engine
        if engine is None:
            with _timed(timings, "start_seconds"):
                engine = self._engine = self._start_engine(experiment, checkpoint.canary)
        if room_tokens > engine.max_model_len:
            raise UserError(
                f"pool {pool} needs {room_tokens} tokens for its longest prompt and evaluation.max_tokens = "
                f"{experiment.evaluation.max_tokens}, but the engine was started for {engine.max_model_len}: set what makes "
                "prompts or responses longer in the experiment, where it holds for every run"
            )
        with _timed(timings, "swap_seconds"):
            self._load_weights(engine, checkpoint)
            self._check_canary(engine, checkpoint, checkpoint.canary)
        gold_nlls: Sequence[float | None] = [None] * len(examples)
        if with_gold_nll:
            with _timed(timings, "gold_seconds"):
                gold_nlls = _gold_nlls(engine, problems, examples)
        with (
            _timed(timings, "generate_seconds"),
            self._progress_file(checkpoint, pool, len(problems) * experiment.evaluation.num_samples) as on_finished,
        ):
            prompts_ids = [example.prompt_ids for example in examples]
            generations = engine.generate(prompts_ids, experiment.evaluation, on_finished)
        with _timed(timings, "grade_seconds"):
            responses = self._grade(problems, generations, gold_nlls, experiment.evaluation.num_samples)
        timings["num_response_tokens"] = sum(response.num_tokens for response in responses)
        timings["peak_memory_bytes"] = engine.peak_memory_bytes()

        responses_path = f"runs/{checkpoint.run}/responses/step-{checkpoint.step:06d}-{pool.replace(':', '-')}.jsonl"
        _publish(self._settings.study_dir / responses_path, responses)
        objective = Objective(experiment.evaluation.format_rule, experiment.evaluation.num_samples)
        return Score(
            run=checkpoint.run,
            step=checkpoint.step,
            pool=pool,
            num_problems=len(problems),
            counts=objective.counts(responses),
            fingerprint=checkpoint.fingerprint,
            responses_path=responses_path,
            timings=timings,
            entropy=_mean(response.entropy for response in responses),
            gold_nll=_mean(gold_nlls),
            solved=objective.solved(responses),
        )

    def park(self) -> None:
        """Give the device's memory back while another worker has the device, where placement asks for that."""
        if self._engine is not None and self._settings.hardware.sleep_mode:
            self._engine.sleep()

    def _encode(self, experiment: Experiment, problems: Sequence[Problem]) -> tuple[Example, ...]:
        """Return each problem's prompt and training target, tokenised as for training, however long."""
        return encode(problems, self._tokenizer, load_template(experiment.prompt.template), sys.maxsize).examples

    def _start_engine(self, experiment: Experiment, canary: Canary) -> Engine:
        """Return an engine with room for the canary and for whatever pool comes next; nobody is scored on train."""
        pools = self._load_pools(experiment.data)
        problems = [problem for name, pool in pools.items() if name != "train" for problem in pool]
        room_tokens = self._room_tokens(experiment, self._encode(experiment, problems))
        max_model_len = max(room_tokens, min(len(canary.token_ids) + 1, self._num_positions))
        return Engine(self._model_folder, self._settings.hardware, max_model_len)

    def _room_tokens(self, experiment: Experiment, examples: Sequence[Example]) -> int:
        """Return the tokens that the longest prompt and its response may take together, at most the model's positions."""
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
        num_samples: int,
    ) -> list[Response]:
        """Return a response for each generation, num_samples to a problem; the gold NLL goes with a problem's first."""
        places = [(place, sample) for place in range(len(problems)) for sample in range(num_samples)]
        completions = [
            Completion(generation.text, generation.finish_reason, problems[place].answer)
            for (place, _), generation in zip(places, generations, strict=True)
        ]
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
                entropy=_finite(generation.entropy),
                gold_nll=gold_nlls[place] if sample == 0 else None,
            )
            for (place, sample), generation, graded in zip(places, generations, self._grader.grade(completions), strict=True)
        ]

    def _load_weights(self, engine: Engine, checkpoint: Checkpoint) -> None:
        if engine.loaded_fingerprint == checkpoint.fingerprint:
            return
        fingerprint = engine.swap(self._settings.study_dir / checkpoint.path)
        if fingerprint != checkpoint.fingerprint:
            raise CheckpointError(
                f"checkpoint {checkpoint.path} has the fingerprint {fingerprint}, but {checkpoint.fingerprint} was published"
            )

    def _check_canary(self, engine: Engine, checkpoint: Checkpoint, canary: Canary) -> None:
        """Compare the weights that the engine serves with those that the trainer published, at every score."""
        (logprobs,) = engine.token_logprobs([canary.token_ids], num_given=[1])
        found = disagreement(canary, logprobs, self._settings.hardware.engine_dtype)
        if not found:
            self._is_proven = True
            return
        message = f"with {checkpoint.path} loaded, log probabilities differ from the trainer's {found}"
        if self._is_proven:
            raise SystemExit(f"{message}: this process ends, and a new engine tries again")
        raise CheckpointError(f"{message}, in a new engine: what it generates would not be the checkpoint's")

    @contextmanager
    def _progress_file(self, checkpoint: Checkpoint, pool: str, num_responses: int) -> Iterator[Callable[[int], None]]:
        """Yield what to call with the number of finished responses; it appends to runs/<run>/scoring.jsonl, begun anew."""
        path = self._settings.study_dir / "runs" / checkpoint.run / "scoring.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:

            def append(num_finished: int) -> None:
                scoring = Scoring(checkpoint.run, checkpoint.step, pool, num_finished, num_responses)
                file.write(json.dumps(asdict(scoring)) + "\n")
                file.flush()

            yield append


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


def _gold_nlls(engine: Engine, problems: Sequence[Problem], examples: Sequence[Example]) -> list[float | None]:
    """Return each training target's mean negative log likelihood a token, None where it does not fit into the engine.

    A problem without a solution has no target.
    """
    # One token of room for the one that vLLM insists on generating.
    fits = [
        bool(problem.solution) and len(example.prompt_ids) + len(example.response_ids) < engine.max_model_len
        for problem, example in zip(problems, examples, strict=True)
    ]
    fitting = list(compress(examples, fits))
    texts_ids = [example.prompt_ids + example.response_ids for example in fitting]
    logprobs = iter(engine.token_logprobs(texts_ids, [len(example.prompt_ids) for example in fitting]))
    return [_finite(-statistics.fmean(next(logprobs))) if is_fitting else None for is_fitting in fits]


def _finite(value: float) -> float | None:
    """Return the value unless weights that overflow made it, which JSON and databases have no number for."""
    return value if math.isfinite(value) else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that there are, None of none."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _publish(path: Path, responses: Sequence[Response]) -> None:
    """Write one response a line; a reader sees the whole file or none."""
    lines = "".join(json.dumps(asdict(response)) + "\n" for response in responses)
    partial_path = path.with_name(path.name + ".partial")
    with told_if_disk_full(path, f"{len(lines):,} bytes for these responses"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial_path.open("w", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)
