"""Trains with the peers of bench.training: a loop of one example per step, HF Trainer and TRL's SFTTrainer."""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from bench.meter import Counter, Measurement, Meter
from bench.workload import BATCH_SIZE, LEARNING_RATE, MAX_LENGTH_TOKENS, Workload
from mathsft.records import Example

NUM_LOOP_EXAMPLES = 8
"""Number of examples of the loop with one example per step: its steps are equal, and slow."""

COMMON: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": LEARNING_RATE,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


def run_one_example_per_step(workload: Workload, dtype: str) -> Measurement:
    """Train like the published recipe, one example per step with gradient checkpointing, but without its padding."""
    meter = Meter()
    model = _load(workload, getattr(torch, dtype), "sdpa")
    model.gradient_checkpointing_enable()
    model.train()
    counter = Counter(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    examples = workload.examples[:NUM_LOOP_EXAMPLES]
    summed_loss = 0.0
    meter.start()
    for example in examples:
        ids_BT = torch.tensor([example.prompt_ids + example.response_ids])
        labels_BT = ids_BT.clone()
        labels_BT[:, : len(example.prompt_ids)] = -100
        loss = model(input_ids=ids_BT, labels=labels_BT, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        summed_loss += loss.item() * len(example.response_ids)
    meter.stop()
    loss = summed_loss / sum(len(example.response_ids) for example in examples)
    return _measurement(meter, counter, examples, len(examples), loss)


def run_hf(workload: Workload, dtype: str, attention: str, per_device: int) -> Measurement:
    """Train with transformers' Trainer, weights in the dtype, batches of examples with similar lengths."""
    meter = Meter()
    model = _load(workload, getattr(torch, dtype), attention)
    examples = workload.examples
    tokenizer = AutoTokenizer.from_pretrained(workload.model_folder, local_files_only=True)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            **COMMON,
            output_dir=scratch,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=BATCH_SIZE // per_device,
            train_sampling_strategy="group_by_length",
        )
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
        trainer = Trainer(model, args=arguments, train_dataset=_dataset(examples), data_collator=collator)
        return _train(trainer, meter, examples)


def run_trl(workload: Workload, dtype: str, attention: str, per_device: int, **settings: Any) -> Measurement:
    """Train with TRL's SFTTrainer and its defaults, except for the settings."""
    meter = Meter()
    model = _load(workload, getattr(torch, dtype), attention)
    examples = workload.examples
    tokenizer = AutoTokenizer.from_pretrained(workload.model_folder, local_files_only=True)
    accumulated = {"gradient_accumulation_steps": BATCH_SIZE // per_device, "max_length": MAX_LENGTH_TOKENS}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            **{**COMMON, **accumulated, **settings}, output_dir=scratch, per_device_train_batch_size=per_device
        )
        trainer = SFTTrainer(model, args=arguments, train_dataset=_dataset(examples), processing_class=tokenizer)
        return _train(trainer, meter, examples)


class _MeterCallback(TrainerCallback):
    """Measures from the first step to the last, without the time for data loaders and reports."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._is_running = False
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if not self._is_running:
            self._is_running = True
            self._meter.start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._meter.stop()

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def _train(trainer: Trainer, meter: Meter, examples: Sequence[Example]) -> Measurement:
    callback = _MeterCallback(meter)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    counter = Counter(trainer.model)
    trainer.train()
    loss = sum(callback.losses) / len(callback.losses)
    return _measurement(meter, counter, examples, trainer.state.global_step, loss)


def _measurement(meter: Meter, counter: Counter, examples: Sequence[Example], num_steps: int, loss: float) -> Measurement:
    return Measurement(
        cpu_seconds=meter.cpu_seconds,
        num_examples=len(examples),
        num_useful_tokens=sum(len(example.prompt_ids) + len(example.response_ids) for example in examples),
        num_steps=num_steps,
        loss=loss,
        peak_memory_bytes=meter.peak_memory_bytes,
        num_computed_tokens=counter.num_computed_tokens,
        num_attended_tokens=counter.num_attended_tokens,
        # On a CPU each peer computes the logits of all tokens.
        num_predicted_tokens=counter.num_computed_tokens,
    )


def _load(workload: Workload, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    _be_quiet()
    return AutoModelForCausalLM.from_pretrained(
        workload.model_folder, dtype=dtype, attn_implementation=attention, local_files_only=True
    )


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [[*example.prompt_ids, *example.response_ids] for example in examples],
            "labels": [[-100] * len(example.prompt_ids) + list(example.response_ids) for example in examples],
        }
    )


def _be_quiet() -> None:
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
