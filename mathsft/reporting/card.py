"""Writes the model card of a final run's checkpoint: its scores, its use, its settings and its provenance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mathsft.config.schema import PromptSettings
from mathsft.data.models import HUB_ID
from mathsft.data.weights import Adapter, is_adapter, read_adapter
from mathsft.layout import StudyLayout
from mathsft.prompts.request import CHAT, answer_format, fill, request_template
from mathsft.records import Checkpoint, Provenance, Run
from mathsft.reporting import markdown
from mathsft.reporting.table import Table, accuracy, correct, percent
from mathsft.runs.pool_names import TEST_POOL
from mathsft.store.study_store import StudyStore

SHOWN = ("task", "model.path", "data.source", "data.test_source", "prompt.template")
SHOWN_GROUPS = ("prompt.", "training.", "evaluation.")
EXAMPLE = "What is 17 + 25?"

LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""
LOADING_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, folder = {base!r}, "."  # the base model, and this folder
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
"""
SNIPPET = """\
{prompt}
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False{options})
output = model.generate(**inputs, do_sample=False, max_new_tokens={max_tokens}{stop})
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def write_card(store: StudyStore, run: Run, checkpoint: Checkpoint, layout: StudyLayout, folder: Path | None = None) -> Path:
    """Write README.md into the checkpoint's folder, or the folder to which it was exported, and return the folder."""
    provenance = store.provenance(run.name)
    settings = {**(provenance.settings if provenance else store.settings() or {}), **run.overrides}
    base = _named(settings.get("model.path", "unknown"))
    folder = folder or layout / checkpoint.path
    adapter = read_adapter(folder) if is_adapter(folder) else None
    parts = [
        _front_matter(settings, adapter),
        f"# {markdown.cell(base)}, fine-tuned on math",
        f"This is step {checkpoint.step} of the run {run.name} of the study {markdown.cell(store.study)}. It was trained "
        "with "
        f"{markdown.settings(run.overrides)}. The base model is {markdown.cell(base)}.",
        "## Accuracy",
        _scores(store, run, checkpoint),
        _pools(store, run, settings),
        "## Usage",
        _usage(settings, adapter),
        f"```python\n{_snippet(settings, adapter)}```",
        "## Prompt",
        _prompt(_prompt_settings(settings)),
        "## Settings",
        Table.of(("setting", "value"), _settings(settings)).markdown(),
        _provenance(provenance, checkpoint),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return folder


def _front_matter(settings: Mapping[str, Any], adapter: Adapter | None = None) -> str:
    library = "peft" if adapter else "transformers"
    tags: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation", "tags": ["math", "mathsft"]}
    path = str(settings.get("model.path", ""))
    if HUB_ID.fullmatch(path) and not Path(path).is_dir():
        tags["base_model"] = path
    return f"---\n{yaml.safe_dump(tags, sort_keys=False)}---"


def _scores(store: StudyStore, run: Run, checkpoint: Checkpoint) -> str:
    rows = []
    for pool in (TEST_POOL, run.plan.pool):
        by_step = {score.step: score for score in store.scores(run.name, pool)}
        for name, score in (("base model", by_step.get(0)), ("this model", by_step.get(checkpoint.step))):
            if score is not None:
                rows.append((name, pool, correct(score), accuracy(score), percent(score.format_accuracy)))
    return Table.of(("model", "pool", "correct", "accuracy (95 % interval)", "format accuracy"), rows).markdown()


def _pools(store: StudyStore, run: Run, settings: Mapping[str, Any]) -> str:
    """Return the source of the problems, the number of problems in each pool, and the purpose of the pools."""
    source, test_source = (_named(settings.get(name)) for name in ("data.source", "data.test_source"))
    num_tested, num_validated = (
        max((score.num_problems for score in store.scores(run.name, pool)), default=0) for pool in (TEST_POOL, run.plan.pool)
    )
    sources = f"All problems are from {source}; no problem is in two pools."
    if test_source:
        sources = f"The {TEST_POOL} problems are from {test_source}, all others from {source}."
    return (
        f"{markdown.cell(sources)} The checkpoint was selected on the pool {run.plan.pool} ({num_validated:,} problems). "
        f"Nothing was selected on the pool {TEST_POOL} ({num_tested:,} problems). A response is correct if its format is "
        "right and its answer equals the problem's gold answer."
    )


def _usage(settings: Mapping[str, Any], adapter: Adapter | None) -> str:
    """Return how to load the folder, with transformers or peft and with vLLM."""
    if adapter is None:
        return "This folder holds the whole model: transformers loads it, and `vllm serve .` serves it."
    base = markdown.cell(_named(settings.get("model.path", "unknown")))
    kind = "DoRA" if adapter.is_dora else "LoRA"
    vllm = f"`vllm serve {base} --enable-lora --max-lora-rank {adapter.rank} --lora-modules math=.` serves it."
    if adapter.is_dora:
        vllm = "vLLM serves no DoRA adapters: `mathsft export --merge` writes the whole model."
    return f"This folder holds a {kind} adapter of rank {adapter.rank} for {base}: peft loads it. {vllm}"


def _snippet(settings: Mapping[str, Any], adapter: Adapter | None = None) -> str:
    """Return Python code that prompts the model in this folder in the same way as training and scoring."""
    prompt = _prompt_settings(settings)
    chosen, is_chat = answer_format(prompt), prompt.template == CHAT
    text = fill(request_template(prompt), EXAMPLE)
    loading = LOADING_ADAPTER.format(base=_named(settings.get("model.path", "unknown"))) if adapter else LOADING
    return loading + SNIPPET.format(
        prompt=_chat_lines(prompt, text, chosen.opening) if is_chat else f"prompt = {text!r}",
        options=", add_special_tokens=False" if is_chat else "",
        max_tokens=settings.get("evaluation.max_tokens", 1024),
        stop=f", stop_strings={list(chosen.stop)!r}, tokenizer=tokenizer" if chosen.stop else "",
    )


def _chat_lines(prompt: PromptSettings, text: str, opening: str) -> str:
    """Return the lines of code that write the user's message in the chat template."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    messages.append({"role": "user", "content": text})
    arguments = "".join(f", {name}={value!r}" for name, value in prompt.chat_arguments.items())
    lines = [
        f"messages = {messages!r}",
        f"prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True{arguments})",
    ]
    if opening:
        lines.append(f'prompt += "" if prompt.rstrip().endswith({opening!r}) else {opening!r}')
    return "\n".join(lines)


def _prompt_settings(settings: Mapping[str, Any]) -> PromptSettings:
    """Return the recorded settings of the prompt, of which those of a chat template have names of their own."""
    own = {name.removeprefix("prompt."): value for name, value in settings.items() if name.startswith("prompt.")}
    prefix = "chat_arguments."
    arguments = {name.removeprefix(prefix): own.pop(name) for name in list(own) if name.startswith(prefix)}
    return PromptSettings(**own, chat_arguments=arguments)


def _prompt(prompt: PromptSettings) -> str:
    """Return the text around a problem as an indented block, in which Markdown has no markup."""
    block = "\n".join(f"    {line}" for line in request_template(prompt).splitlines())
    return f"The user's message in the tokenizer's chat template:\n\n{block}" if prompt.template == CHAT else block


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [name for name in sorted(settings) if name in SHOWN or name.startswith(SHOWN_GROUPS)]
    return [(name, _named(settings[name]) if name in SHOWN else str(settings[name])) for name in shown]


def _named(value: Any) -> str:
    """Return a setting as text; an absolute path loses its folders, which the card must not show."""
    text = "" if value is None else str(value)
    return Path(text).name if Path(text).is_absolute() or text.startswith("~") else text


def _provenance(provenance: Provenance | None, checkpoint: Checkpoint) -> str:
    facts = {"weights (BLAKE3)": checkpoint.fingerprint}
    if provenance is not None:
        facts |= {
            "base model's weights (BLAKE3)": provenance.base_fingerprint,
            "data": provenance.data_hash,
            "seed": str(provenance.seed),
            "device": provenance.device,
            "mathsft's commit": provenance.commit + (" and uncommitted changes" if provenance.diff else ""),
            **provenance.versions,
        }
    return "## Provenance\n\n" + Table.of(("", ""), facts.items()).markdown()
