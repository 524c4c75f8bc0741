"""Turns a checkpoint and a pool into a Score: prompts, responses, verdicts and the file of responses; it chooses nothing."""

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from mathsft.answers.grade import grade, tag_flags
from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment
from mathsft.data.examples import load_template, render_prompt
from mathsft.data.pools import load_pools, select
from mathsft.errors import UserError, told_if_disk_full
from mathsft.evaluation.engine import CheckpointError, Engine, Generation
from mathsft.records import Category, Checkpoint, Overrides, Problem, Response, Score, WorkerSettings


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
        self._load_pools = functools.cache(load_pools)

    def score(self, checkpoint: Checkpoint, overrides: Overrides, pool: str) -> Score:
        """Return the checkpoint's score on a pool or slice ("confirm:0-125"); its responses file is complete by then.

        Raises CheckpointError when the weights cannot be served or are not those that the checkpoint names, UserError when
        prompts or responses are too long for the engine.
        """
        experiment = apply_overrides(self._settings.experiment, overrides)
        problems = select(self._load_pools(experiment.data), pool)
        prompts_ids = self._encode_prompts(experiment, problems)
        room_tokens = self._room_tokens(experiment, problems, prompts_ids)
        timings: dict[str, float] = {}
        engine = self._engine
        if engine is None:
            with _timed(timings, "start_seconds"):
                engine = self._engine = self._start_engine(experiment)
        if room_tokens > engine.max_model_len:
            raise UserError(
                f"pool {pool} needs {room_tokens} tokens for its longest prompt and evaluation.max_tokens = "
                f"{experiment.evaluation.max_tokens}, but the engine was started for {engine.max_model_len}: set what makes "
                "prompts or responses longer in the experiment, where it holds for every run"
            )
        with _timed(timings, "swap_seconds"):
            self._load_weights(engine, checkpoint)
        with _timed(timings, "generate_seconds"):
            generations = engine.generate(prompts_ids, experiment.evaluation)
        with _timed(timings, "grade_seconds"):
            responses = [_judge(problem, one) for problem, one in zip(problems, generations, strict=True)]
        timings["num_response_tokens"] = sum(response.num_tokens for response in responses)
        timings["peak_memory_bytes"] = engine.peak_memory_bytes()

        responses_path = f"runs/{checkpoint.run}/responses/step-{checkpoint.step:06d}-{pool.replace(':', '-')}.jsonl"
        _publish(self._settings.study_dir / responses_path, responses)
        num_by_category = Counter(response.verdict.category for response in responses)
        return Score(
            run=checkpoint.run,
            step=checkpoint.step,
            pool=pool,
            num_problems=len(problems),
            counts={category: num_by_category[category] for category in get_args(Category)},
            fingerprint=checkpoint.fingerprint,
            responses_path=responses_path,
            timings=timings,
        )

    def park(self) -> None:
        """Give the device's memory back while another worker has the device, where placement asks for that."""
        if self._engine is not None and self._settings.hardware.sleep_mode:
            self._engine.sleep()

    def _encode_prompts(self, experiment: Experiment, problems: Sequence[Problem]) -> list[list[int]]:
        template = load_template(experiment.prompt.template)
        texts = [render_prompt(template, problem.problem) for problem in problems]
        # As `data.examples.encode` does for training, special tokens included.
        prompts_ids: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        return prompts_ids

    def _start_engine(self, experiment: Experiment) -> Engine:
        """Return an engine with room for whatever pool comes next; nobody is scored on train."""
        pools = self._load_pools(experiment.data)
        problems = [problem for name, pool in pools.items() if name != "train" for problem in pool]
        room_tokens = self._room_tokens(experiment, problems, self._encode_prompts(experiment, problems))
        return Engine(self._model_folder, self._settings.hardware, max_model_len=room_tokens)

    def _room_tokens(self, experiment: Experiment, problems: Sequence[Problem], prompts_ids: Sequence[Sequence[int]]) -> int:
        """Return the tokens that the longest prompt and its response may take together, at most the model's positions."""
        num_prompt_tokens, problem_id = max(
            (len(ids), problem.id) for ids, problem in zip(prompts_ids, problems, strict=True)
        )
        if num_prompt_tokens >= self._num_positions:
            raise UserError(
                f"the longest prompt, that of problem {problem_id}, has {num_prompt_tokens} tokens, but the model has only "
                f"{self._num_positions} positions for prompt and response: use a shorter prompt.template"
            )
        return min(num_prompt_tokens + experiment.evaluation.max_tokens, self._num_positions)

    def _load_weights(self, engine: Engine, checkpoint: Checkpoint) -> None:
        if engine.loaded_fingerprint == checkpoint.fingerprint:
            return
        fingerprint = engine.swap(self._settings.study_dir / checkpoint.path)
        if fingerprint != checkpoint.fingerprint:
            raise CheckpointError(
                f"checkpoint {checkpoint.path} has the fingerprint {fingerprint}, but {checkpoint.fingerprint} was published"
            )


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


def _judge(problem: Problem, generation: Generation) -> Response:
    return Response(
        problem_id=problem.id,
        sample=0,
        text=generation.text,
        finish_reason=generation.finish_reason,
        num_tokens=generation.num_tokens,
        verdict=grade(generation.text, generation.finish_reason, problem.answer),
        tag_flags=tag_flags(generation.text),
    )


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
