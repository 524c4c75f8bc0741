"""Prompts are rendered to the letter, and tokens of prompt and response are what an evaluator and a trainer expect."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mathsft.data.examples import encode, load_template, render_prompt
from mathsft.data.quickstart import base_model_folder, generate
from mathsft.errors import UserError
from mathsft.records import Problem


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(base_model_folder())


def problem(text="What is $1+1$?", solution="$1+1=2$.", answer="2"):
    return Problem(id=text[:3], problem=text, solution=solution, answer=answer)


def test_templates_to_the_letter():
    assert load_template("short") == "User: {problem}\nAssistant: <think>"
    lines = load_template("r1_zero").split("\n")
    assert lines[0].startswith("A conversation between User and Assistant. The User asks a question, and the Assistant")
    assert lines[0].endswith("i.e., <think> reasoning process here </think> <answer> answer here </answer>.")
    assert lines[1:] == ["User: {problem}", "Assistant: <think>"]


def test_a_template_of_ones_own_is_taken_verbatim(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("Solve {problem} {now}\n", encoding="utf-8")
    assert render_prompt(load_template(str(path)), r"$\frac{1}{2}$ {0}") == "Solve $\\frac{1}{2}$ {0} {now}\n"


def test_template_errors(tmp_path):
    with pytest.raises(UserError, match=r"'r2_zero'.*r1_zero, short"):
        load_template("r2_zero")
    path = tmp_path / "own.txt"
    for text in ("Solve.", "{problem} {problem}"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"\{problem\}"):
            load_template(str(path))


def test_text_comes_back_and_the_prompt_is_what_an_evaluator_tokenises(tokenizer):
    template = load_template("short")
    problems = generate(50, 0)
    encoded = encode(problems, tokenizer, template, max_length_tokens=512)
    assert encoded.num_dropped == 0
    for source, example in zip(problems, encoded.examples, strict=True):
        assert example.problem_id == source.id
        assert list(example.prompt_ids) == tokenizer(render_prompt(template, source.problem))["input_ids"]
        assert tokenizer.decode(example.prompt_ids) == f"User: {source.problem}\nAssistant: <think>"
        assert example.response_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in example.response_ids[:-1]
        response = tokenizer.decode(example.response_ids[:-1])
        assert response == f" {source.solution} </think> <answer> {source.answer} </answer>"


def test_a_tokenizer_that_adds_bos_adds_it_to_the_prompt_alone(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bos_id = backend.token_to_id(tokenizer.eos_token)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.eos_token} $A", special_tokens=[(tokenizer.eos_token, bos_id)]
    )
    with_bos = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tokenizer.eos_token)
    (plain,) = encode([problem()], tokenizer, load_template("short"), 512).examples
    (example,) = encode([problem()], with_bos, load_template("short"), 512).examples
    assert example.prompt_ids == (bos_id, *plain.prompt_ids)
    assert example.response_ids == plain.response_ids


def test_too_long_is_dropped_and_counted_never_cut(tokenizer):
    template = load_template("short")
    short, long = problem(), problem(solution="$1+1=2$. " * 20)
    (whole,) = encode([short], tokenizer, template, 512).examples
    length = len(whole.prompt_ids) + len(whole.response_ids)
    encoded = encode([long, short, long], tokenizer, template, length)
    assert (encoded.examples, encoded.num_dropped) == ((whole,), 2)
    with pytest.raises(UserError, match=f"max_length_tokens = {length - 1}.*shortest has {length} tokens"):
        encode([long, short], tokenizer, template, length - 1)


def test_a_tokenizer_without_eos_is_an_error(tokenizer):
    without_eos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no EOS"):
        encode([problem()], without_eos, load_template("short"), 512)


def test_templates_ship_without_a_final_newline():
    for path in (Path(base_model_folder()).parent / "prompts").glob("*.txt"):
        assert path.read_text(encoding="utf-8").endswith("<think>")
