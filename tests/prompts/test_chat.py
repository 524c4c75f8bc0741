"""Chats: prompts are those that generation sees, targets follow them, and what a template cannot do is told in one line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.config.schema import PromptSettings
from mathsft.errors import UserError
from mathsft.prompts import boxed, tags
from mathsft.prompts.boxed import parse_response
from mathsft.prompts.request import load_template, prompt_identity
from mathsft.records import Problem
from tests.build import renderer_of
from tests.prompts.chat_models import CHAT_MODELS, LLAMA3, MISTRAL, QWEN2_5, QWEN3, THINKING, make_tokenizer

PROBLEM = Problem("p", "What is $6 \\cdot 7$?\nGive a {number}.", "It is six times seven.\nSo 42.", "42")
TOKENIZERS = {name: make_tokenizer(model) for name, model in CHAT_MODELS.items()}
SYSTEM = "Be brief."
FORMATS = {"boxed": boxed.FORMAT, "tags": tags.FORMAT}

problem_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1).filter(str.strip)
repeatable = settings(derandomize=True, deadline=None)


def chat_of(name: str, **prompt: Any) -> Any:
    """Return the renderer of a chat with the model of this name, with the arguments that its template needs."""
    arguments = {**dict(CHAT_MODELS[name].arguments), **prompt.pop("chat_arguments", {})}
    return renderer_of(TOKENIZERS[name], "chat", chat_arguments=arguments, **prompt)


def messages(request: str, answer: str | None = None, system: str | None = None) -> list[dict[str, str]]:
    given = [("system", system), ("user", request), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in given if content is not None]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("answer", ["boxed", "tags"])
@pytest.mark.parametrize("name", CHAT_MODELS)
def test_a_chat_is_what_the_template_writes_and_the_target_follows_it(name: str, answer: str, system: str | None) -> None:
    model, tokenizer = CHAT_MODELS[name], TOKENIZERS[name]
    if system and not model.takes_system:
        with pytest.raises(UserError, match=r"refuses a system prompt \(.*(not supported|must alternate).*prompt\.message"):
            chat_of(name, answer=answer, system=system)
        return
    renderer = chat_of(name, answer=answer, system=system)
    (example,) = renderer.examples([PROBLEM])
    ((prompt, target),) = renderer.texts([PROBLEM])

    given = messages(f"{PROBLEM.problem}\n\n{FORMATS[answer].request}", system=system)
    arguments = dict(model.arguments)
    canonical = tokenizer.apply_chat_template(given, add_generation_prompt=True, **arguments)["input_ids"]
    assert list(example.prompt_ids[: len(canonical)]) == canonical
    assert tokenizer.decode(example.prompt_ids[len(canonical) :]) == ("" if answer == "boxed" else "<think>")
    assert example.prompt_ids.count(tokenizer.bos_token_id) == (1 if model.bos else 0)

    text = tokenizer.decode([*example.prompt_ids, *example.response_ids])
    assert text == prompt + target + model.end
    assert example.response_ids[-1] == renderer.end_id == tokenizer.convert_tokens_to_ids(model.end)
    assert renderer.parse(target, "stop").body == PROBLEM.answer
    assert renderer.stop == (() if answer == "boxed" else ("</answer>",))
    whole = tokenizer.apply_chat_template(
        messages(given[-1]["content"], target.strip(), system), tokenize=False, **arguments
    )
    if answer == "boxed" and model.keeps_answers:
        assert whole.startswith(text), "training sees the conversation that the template would write"
    if name == "qwen3" and answer == "tags":
        assert PROBLEM.solution not in whole, "the whole conversation would lose the reasoning"


@repeatable
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1).filter(str.strip),
    st.sampled_from(list(CHAT_MODELS)),
)
def test_scoring_is_given_the_ids_that_training_learned_to_continue(text: str, name: str) -> None:
    problem = Problem("p", text.strip(), "So.", "42")
    trained = chat_of(name, answer="boxed").examples([problem, PROBLEM])
    unsolved = Problem("p", problem.problem, "", "42")
    scored = chat_of(name, answer="boxed").examples([PROBLEM, unsolved])
    assert [example.prompt_ids for example in trained] == [example.prompt_ids for example in reversed(scored)]


def test_arguments_reach_the_template() -> None:
    without = chat_of("qwen3", answer="boxed", chat_arguments={"enable_thinking": False})
    assert without.prompt(PROBLEM).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert without.texts([PROBLEM])[0][1].startswith("It is six")
    assert "Today Date: 1 May 2025" in chat_of("llama3", chat_arguments={"date_string": "1 May 2025"}).prompt(PROBLEM)


def test_a_prompt_that_opens_the_think_block_is_not_opened_again() -> None:
    renderer = renderer_of(make_tokenizer(CHAT_MODELS["qwen3"], THINKING), "chat")
    assert renderer.prompt(PROBLEM).count("<think>") == 1
    assert renderer.prompt(PROBLEM).endswith("assistant\n<think>\n")
    assert renderer.parse(renderer.texts([PROBLEM])[0][1], "stop").body == "42"


def test_the_message_may_be_ones_own() -> None:
    prompt = chat_of("smollm2", message="Q: {problem} Answer with tags.").prompt(PROBLEM)
    assert f"<|im_start|>user\nQ: {PROBLEM.problem} Answer with tags.<|im_end|>\n" in prompt


@pytest.mark.parametrize(
    ("template", "prompt", "complaint"),
    [
        ("", {}, "has no chat template"),
        (QWEN3, {"answer": "tags", "chat_arguments": {"enable_thinking": False}}, "closes the think block.*boxed"),
        (THINKING, {"answer": "boxed"}, "opens a think block.*prompt.answer to tags"),
        (QWEN3, {"chat_arguments": {"enable_thinkin": False}}, "enable_thinkin: the chat template of .* does not use it"),
        (QWEN3, {"chat_arguments": {"tokenize": True}}, "chat_arguments.tokenize: cannot be given"),
        (LLAMA3, {}, "writes today's date.*date_string"),
        (QWEN2_5.replace("messages[0]['content']", "''"), {"system": SYSTEM}, "leaves the system prompt out"),
        (QWEN2_5.replace("message.content", "message.content | upper"), {}, "changes the user's message"),
        ("{{ 1 / 0 }}", {}, "refuses a conversation of one question .ZeroDivisionError"),
        ("{{ 1 / 0 }}", {"system": SYSTEM}, "refuses a conversation of one question .ZeroDivisionError"),
        (QWEN2_5 + "{{ 1 / (messages[0].role != 'system') }}", {"system": SYSTEM}, "refuses a system prompt .*message"),
        ("{{ messages[0].content }}{{ ''.__class__.__mro__ }}", {}, "refuses a conversation of one question .SecurityError"),
        ("{% for message in %}", {}, "refuses a conversation of one question .TemplateSyntaxError"),
    ],
)
def test_what_a_template_cannot_do_is_one_line(template: str, prompt: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        renderer_of(make_tokenizer(CHAT_MODELS["qwen3"], template), "chat", **prompt)
    assert "\n" not in str(caught.value)


def test_a_template_that_ends_no_turn_leaves_it_to_eos() -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
    tokenizer = make_tokenizer(CHAT_MODELS["qwen2.5"], template)
    renderer = renderer_of(tokenizer, "chat", answer="boxed")
    assert renderer.end_id == tokenizer.eos_token_id
    assert renderer.texts([PROBLEM])[0][1].startswith(" It is")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="nothing ends an answer"):
        renderer_of(tokenizer, "chat")


def test_a_first_word_that_a_tokenizer_writes_differently_alone_is_written_as_in_the_text() -> None:
    template = MISTRAL.replace(" [/INST]'", "[/INST]\\n'").replace("' ' + message", "message")
    tokenizer = make_tokenizer(CHAT_MODELS["mistral"], template)
    alone = tokenizer("It", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone) == ["▁", "I", "t"]
    (example,) = renderer_of(tokenizer, "chat", answer="boxed").examples([PROBLEM])
    assert tokenizer.convert_ids_to_tokens(list(example.response_ids[:2])) == ["I", "t"]
    text = tokenizer.decode(example.prompt_ids + example.response_ids)
    assert text.endswith("[/INST]\nIt is six times seven.\nSo 42.\n\\boxed{42}</s>")


def test_the_text_of_a_turns_end_in_a_problem_is_one_line() -> None:
    broken = Problem("p", "Say <|im_end|>", "So.", "42")
    with pytest.raises(UserError, match=r"the problem 'Say <\|im_end\|>' holds"):
        chat_of("qwen2.5").examples([PROBLEM, broken])


def test_an_answer_that_its_box_would_not_give_back_is_one_line() -> None:
    with pytest.raises(UserError, match=r"the target of the problem 'What.*read as None, not as its gold answer '1\{'"):
        chat_of("qwen2.5", answer="boxed").examples([Problem("p", "What?", "So.", "1{")])


@pytest.mark.parametrize(
    ("text", "finish_reason", "found"),
    [
        (r"so \boxed{1}, no: $\boxed{\frac{1}{2}}$.", "stop", (r"\frac{1}{2}", "")),
        (r"so $\boxed 7$", "stop", ("7", "")),
        (r"<think> \boxed{1} </think> it is \boxed{ 2 }", "stop", ("2", "")),
        (r"<think> \boxed{1} </think> it is 2", "stop", (None, "missing_box")),
        (r"so \boxed{1", "stop", (None, "open_box")),
        ("so 1", "stop", (None, "missing_box")),
        (r"so \boxed{1} and", "length", (None, "incomplete_generation")),
    ],
)
def test_the_last_box_of_a_whole_response_is_its_answer(
    text: str, finish_reason: str, found: tuple[str | None, str]
) -> None:
    parsed = parse_response(text, finish_reason)
    assert (parsed.body, parsed.reason) == found
    assert parsed.is_strict == (parsed.body is not None)


@repeatable
@given(st.text(), st.sampled_from(["stop", "length"]))
def test_no_text_breaks_the_reading_of_a_box(text: str, finish_reason: str) -> None:
    parsed = parse_response(text + r"\boxed{", finish_reason)
    assert (parsed.body is None) == bool(parsed.reason)


def test_the_provenance_tells_prompts_apart_and_not_the_names_of_files(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"template": "short"},
        {"template": "r1_zero"},
        {"template": "boxed", "answer": "boxed"},
        {"template": "chat"},
        {"template": "chat", "answer": "boxed"},
        {"template": "chat", "system": SYSTEM},
        {"template": "chat", "message": "{problem}"},
        {"template": "chat", "chat_arguments": {"enable_thinking": False}},
    ]
    identities = [prompt_identity(PromptSettings(**prompt)) for prompt in given]
    assert len(set(identities)) == len(given)
    own = tmp_path / "own.txt"
    own.write_text(load_template("short"))
    assert prompt_identity(PromptSettings(template=str(own))) == identities[0]
