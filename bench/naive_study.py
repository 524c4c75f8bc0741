"""Runs the naive pipeline that bench.study compares with: an Optuna objective that does everything, trial after trial.

Each trial trains with transformers' Trainer and its defaults on padded batches, calls save_pretrained, starts a new vLLM
engine with vLLM's defaults, and generates and grades 200 responses. Trials share only this process, which does its imports
before the clock starts.
"""

import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # the default is a share of all memory
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import optuna
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from vllm import LLM, SamplingParams

from mathsft.config.load import load_settings
from mathsft.data.examples import encode
from mathsft.data.models import resolve_model
from mathsft.data.pools import load_pools
from mathsft.prompts.renderer import make_renderer
from mathsft.prompts.verdicts import Completion, grade
from mathsft.tasks.math.grader import MathGrader

MICRO_BATCH = 8
"""The Trainer's default micro-batch; larger batches use gradient accumulation."""


class Pipeline:
    """The data that all trials share, and the trials' results."""

    def __init__(self, num_examples: int, settings: list[tuple[float, int]]) -> None:
        self._experiment = load_settings("quickstart", None, []).experiment
        self._settings = settings
        self._folder = resolve_model(self._experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        self._renderer = make_renderer(self._experiment.prompt, self._tokenizer)
        pools = load_pools(self._experiment.data)
        encoded = encode(pools["train"], self._renderer, self._experiment.training.max_length_tokens)
        self._rows = [
            {
                "input_ids": [*example.prompt_ids, *example.response_ids],
                "labels": [-100] * len(example.prompt_ids) + list(example.response_ids),
            }
            for example in encoded.examples[:num_examples]
        ]
        self._problems = pools["search"]
        self._grader = MathGrader()
        self.trials: list[dict[str, Any]] = []

    def objective(self, trial: optuna.Trial) -> float:
        """Run one trial and return its accuracy."""
        learning_rate, batch_size = self._settings[trial.number]
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            with _timed(seconds, "train"):
                model = self._train(learning_rate, batch_size, folder)
            with _timed(seconds, "save"):
                model.save_pretrained(folder)
                self._tokenizer.save_pretrained(folder)
            with _timed(seconds, "start engine"):
                engine = LLM(
                    folder,
                    dtype="float32",
                    max_model_len=self._experiment.training.max_length_tokens,
                    disable_log_stats=True,
                )
            with _timed(seconds, "generate"):
                texts = list(map(self._renderer.prompt, self._problems))
                sampling = SamplingParams(
                    temperature=0,
                    max_tokens=self._experiment.evaluation.max_tokens,
                    stop=list(self._renderer.stop),
                    include_stop_str_in_output=True,
                )
                outputs = [output.outputs[0] for output in engine.generate(texts, sampling, use_tqdm=False)]
        with _timed(seconds, "grade"):
            completions = [
                Completion(output.text, str(output.finish_reason), problem.answer)
                for output, problem in zip(outputs, self._problems, strict=True)
            ]
            graded = grade(completions, self._renderer.parse, self._grader)
        with _timed(seconds, "end engine"):
            del engine
            gc.collect()
        accuracy = sum(each.verdict.category == "correct" for each in graded) / len(graded)
        wall_seconds = time.perf_counter() - started
        self.trials.append({"accuracy": accuracy, "wall_seconds": wall_seconds, "seconds": seconds})
        return accuracy

    def _train(self, learning_rate: float, batch_size: int, folder: str) -> Any:
        model = AutoModelForCausalLM.from_pretrained(self._folder, local_files_only=True)
        micro_batch = min(MICRO_BATCH, batch_size)
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=learning_rate,
            num_train_epochs=1,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=batch_size // micro_batch,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collator = DataCollatorForSeq2Seq(self._tokenizer, padding=True)
        trainer = Trainer(model, args=arguments, train_dataset=Dataset.from_list(self._rows), data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return model


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def main(out: Path, num_examples: int, settings: list[tuple[float, int]]) -> None:
    """Run all trials and write their times to the file `out`."""
    transformers.utils.logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pipeline = Pipeline(num_examples, settings)
    before = _cpu_seconds()
    optuna.create_study(direction="maximize").optimize(pipeline.objective, n_trials=len(settings))
    report = {"trials": pipeline.trials, "cpu_seconds": _cpu_seconds() - before}
    out.write_text(json.dumps(report), encoding="utf-8")


def _cpu_seconds() -> float:
    """Return the CPU-seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [tuple(pair) for pair in json.loads(sys.argv[3])])
