"""Prompts are rendered to the letter, and tokens of prompt and response are what an evaluator and a trainer expect."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from mathsft import prompts
from mathsft.data.examples import encode
from mathsft.errors import UserError
from mathsft.prompts.request import fill, load_template
from mathsft.records import Problem
from mathsft.tasks.quickstart.generator import base_model_folder, generate
from tests.build import plain_renderer, renderer_of


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
    assert fill(load_template(str(path)), r"$\frac{1}{2}$ {0}") == "Solve $\\frac{1}{2}$ {0} {now}\n"


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
    encoded = encode(problems, renderer_of(tokenizer), max_length_tokens=512)
    assert encoded.num_dropped == 0
    for source, example in zip(problems, encoded.examples, strict=True):
        assert example.problem_id == source.id
        assert list(example.prompt_ids) == tokenizer(fill(template, source.problem))["input_ids"]
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
    (plain,) = encode([problem()], renderer_of(tokenizer), 512).examples
    (example,) = encode([problem()], renderer_of(with_bos), 512).examples
    assert example.prompt_ids == (bos_id, *plain.prompt_ids)
    assert example.response_ids == plain.response_ids


def occurrences(example, token_id):
    return (example.prompt_ids.count(token_id), example.response_ids.count(token_id))


@pytest.mark.parametrize("place", ["problem", "solution", "answer"])
def test_the_text_of_a_special_token_is_text(tokenizer, place):
    eos, end = tokenizer.eos_token, "<|im_end|>"
    others = AutoTokenizer.from_pretrained(base_model_folder())
    others.add_tokens([AddedToken(end, special=True)])
    assert others.all_special_tokens == [eos], "a special token that plays no part counts, too"
    for made, token in ((tokenizer, eos), (others, eos), (others, end)):
        token_id = made.convert_tokens_to_ids(token)
        assert token_id in made(f"a {token} b")["input_ids"]
        given = replace(problem(), **{place: f"a {token} b"})
        (example,) = encode([given], renderer_of(made), 512).examples
        assert occurrences(example, token_id) == (0, 1 if token == eos else 0)
        assert example.response_ids[-1] == made.eos_token_id
        assert made.decode(example.prompt_ids) == f"User: {given.problem}\nAssistant: <think>"
        assert made.decode(example.response_ids[:-1]) == f" {given.solution} </think> <answer> {given.answer} </answer>"
        # One such row changes no other.
        plain = encode([problem()], renderer_of(made), 512).examples
        assert encode([given, problem()], renderer_of(made), 512).examples == (example, *plain)


def test_special_tokens_of_the_template_are_meant(tokenizer):
    template = f"{tokenizer.eos_token}Q: {{problem}}{tokenizer.eos_token}"
    (example,) = encode([problem(solution=tokenizer.eos_token)], plain_renderer(tokenizer, template), 512).examples
    assert occurrences(example, tokenizer.eos_token_id) == (2, 1)
    # Here a text and the template hold the same, and a tokenizer reads either both or none as a token.
    with pytest.raises(UserError, match=r"the problem '3 <\|endoftext\|> 4' holds <\|endoftext\|>.*only as special tokens"):
        encode([problem(), problem(text=f"3 {tokenizer.eos_token} 4")], plain_renderer(tokenizer, template), 512)


def test_a_vocabulary_that_makes_eos_of_plain_text_refuses_the_row():
    letters = [(chr(code), -5.0) for code in range(10, 127)]
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *letters], unk_id=0))
    made = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")
    encode([problem(solution="a é b")], renderer_of(made), 512)  # an unknown character is no special token
    with pytest.raises(UserError, match=r"the problem 'What is \$1\+1\$\?' holds </s>"):
        encode([problem(solution="a </s> b")], renderer_of(made), 512)


class Characters(PreTrainedTokenizer):
    """A tokenizer in Python, as those without a tokenizer.json are."""

    def __init__(self, **options):
        self._known = {"<unk>": 0, **{chr(code): code for code in range(1, 127)}}
        super().__init__(**options)

    @property
    def vocab_size(self):
        return len(self._known)

    def get_vocab(self):
        return {**self._known, **self.added_tokens_encoder}

    def _tokenize(self, text, **options):
        return list(text)

    def _convert_token_to_id(self, token):
        return self._known.get(token, 0)

    def _convert_id_to_token(self, index):
        return chr(index)


def test_a_tokenizer_in_python_keeps_to_it_too():
    made = Characters(eos_token="</s>", unk_token="<unk>")
    assert made.eos_token_id in made("a </s> b")["input_ids"]
    (example,) = encode([problem(text="a </s>", solution="b </s> c")], renderer_of(made), 512).examples
    assert occurrences(example, made.eos_token_id) == (0, 1)
    assert example.prompt_ids[6:12] == tuple(map(ord, "a </s>"))


def test_too_long_is_dropped_and_counted_never_cut(tokenizer):
    template = load_template("short")
    short, long = problem(), problem(solution="$1+1=2$. " * 20)
    (whole,) = encode([short], plain_renderer(tokenizer, template), 512).examples
    length = len(whole.prompt_ids) + len(whole.response_ids)
    encoded = encode([long, short, long], plain_renderer(tokenizer, template), length)
    assert (encoded.examples, encoded.num_dropped) == ((whole,), 2)
    with pytest.raises(UserError, match=f"max_length_tokens = {length - 1}.*shortest has {length} tokens"):
        encode([long, short], plain_renderer(tokenizer, template), length - 1)


def test_a_tokenizer_without_eos_is_an_error(tokenizer):
    without_eos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no EOS"):
        encode([problem()], renderer_of(without_eos), 512)


def test_templates_ship_without_a_final_newline():
    files = (Path(prompts.__file__).parent / "templates").glob("*.txt")
    ends = {path.stem: path.read_text(encoding="utf-8")[-10:] for path in files}
    assert ends == {"r1_zero": "t: <think>", "short": "t: <think>", "boxed": "Assistant:"}
