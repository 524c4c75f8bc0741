r"""Brings an answer's text to one spelling: boxes, delimiters, Unicode, spaces, \text and \frac.

In normalised text, set braces are ⦃ ⦄ and angle brackets are ⟨ ⟩ (so that { } only group), ° stands for ^\circ, white space
is a single space, and \text{...} is the only text command.
"""

import re
import unicodedata

from mathsft.boxes import BOX, closing_brace

_MAX_ANSWER_CHARS = 2000
"""A longer text is no answer. The limit keeps integers below Python's limit of 4,300 digits."""

DOLLAR = "¤"
"""Stands for a dollar sign that is no delimiter, in normalised text."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff⦃⦄¤]")
"""Control, invisible and bidirectional characters: with them, the displayed text differs from the stored text."""

_LETTERS_AND_SIGNS = """
αalpha βbeta γgamma δdelta εepsilon θtheta λlambda μmu ρrho σsigma φphi ωomega ΔDelta πpi ×times ⋅cdot ·cdot √sqrt ∞infty
∪cup ∈in ∅emptyset ≤le ≥ge ≠ne ±pm ≈approx ⌊lfloor ⌋rfloor ⌈lceil ⌉rceil ⟨langle ⟩rangle
"""
"""Characters, each followed by the name of the LaTeX command for it."""
_UNICODE = str.maketrans(
    {
        **{word[0]: rf"\{word[1:]} " for word in _LETTERS_AND_SIGNS.split()},
        **dict.fromkeys("−–—", "-"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("º˚∘", "°"),
        "…": "...",
        "、": ", ",
        "∣": "|",
        "ℝ": r"\mathbb{R}",
        "’": "'",
    }
)
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_SPACES = ("\\ ", "\\\n", r"\,", r"\;", r"\:", r"\quad", r"\qquad", r"\enspace", r"\thinspace")
_OTHER_COMMANDS = {
    "": r"""
        \! \( \) \[ \] \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle \limits \mathbf
        \mathit \boldsymbol \bm \small \normalsize \large \Large \LARGE \huge \Huge""",
    r"\text": r"""
        \textbf \textit \textrm \textsf \texttt \textnormal \mathrm \mathsf \mbox \hbox \emph \operatorname""",
    r"\frac": r"\dfrac \tfrac \cfrac",
    r"\binom": r"\dbinom \tbinom",
    "⦃": r"\{ \lbrace",
    "⦄": r"\} \rbrace",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    "|": r"\lvert \rvert \vert \mid",
    "<": r"\lt",
    ">": r"\gt",
    DOLLAR: r"\$",
    "...": r"\dots \ldots \cdots",
    "%": r"\%",
    "°": r"\degree",
    r"\le": r"\leq \leqslant",
    r"\ge": r"\geq \geqslant",
    r"\ne": r"\neq",
    r"\emptyset": r"\varnothing",
}
"""Replacements of commands, each with the commands."""
_COMMANDS = {
    **dict.fromkeys(_SPACES, " "),
    **{command: replacement for replacement, commands in _OTHER_COMMANDS.items() for command in commands.split()},
}

_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_FUNCTION_WORDS = ("sin", "cos", "tan", "cot", "csc", "cis", "arcsin", "arccos", "arctan", "log", "ln")
_CLOSE_COMMA = re.compile(r"(?<=[0-9])\s?(?:\\!\s?)?(?:\{,\}|,\s?\\!)(?:\s|\\!){0,8}(?=[0-9]{3}(?![0-9]))")
"""A thousands separator in TeX: a comma without a space after it in print; the spacing commands around it do not show."""
_BOLD = re.compile(r"(?<![\w)}\]])\*\*([^*]+)\*\*(?![\w(])")
_LEADING_TILDE = re.compile(r"^[\s$]*~")
_VECTOR = re.compile(r"\\(?:mathbf|mathit|boldsymbol|bm|vec|hat) ?(?:\{ ?([A-Za-z]) ?\}|(?<=[a-z] )([A-Za-z]))")
_NOTATION = (
    (re.compile(r" !=(?!=)|\\not ?=|=/="), r"\\ne "),  # != needs a space before it, because n!=6 may be a factorial
    (re.compile(r" ?\^ ?(?:\\circ(?![A-Za-z])|\{ ?(?:\\circ|°) ?\})"), "°"),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    # TeX takes one digit as the subscript, so \log_28 is to base 2; if an argument follows, all digits are the base.
    (re.compile(r"(?<=\\log_)([0-9])([0-9]+)(?= ?(?:$|[-+=,)}\]]))"), r"{\1}\2"),
    (re.compile(r"([\^_]) ?([A-Za-z]|[0-9]+|-[0-9]+)"), r"\1{\2}"),
    (re.compile(r"(?<=[0-9]) ?[xX] ?(?=10 ?\^)"), r"\\times "),  # 2 x 10^5
    (re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b"), ""),  # 21st
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\(frac|binom) ?([A-Za-z0-9]) ?([A-Za-z0-9])"), r"\\\1{\2}{\3}"),  # \frac12
    (re.compile(r"\\(frac|binom) ?([A-Za-z0-9]) ?(?=\{)"), r"\\\1{\2}"),  # \frac1{2}
    # 0.\dot{1} and 0.\dot12\dot3
    (re.compile(r"(?<=[0-9.])\\dot ?\{?([0-9])\}?(?:([0-9]*)\\dot ?\{?([0-9])\}?)?"), r"\\overline{\1\2\3}"),
    (re.compile(r"\\sqrt ?([A-Za-z]|[0-9]+)"), r"\\sqrt{\1}"),
)
"""Notations that have the same meaning, and their normal spellings, in the order in which they are replaced."""


def normalise(answer: str) -> str:
    """Return the answer in its normal spelling, or "" if it is blank, too long or contains forbidden characters."""
    if _FORBIDDEN.search(answer):
        return ""
    answer = " ".join(answer.split())
    if len(answer) > _MAX_ANSWER_CHARS:
        return ""
    answer = _LEADING_TILDE.sub(r"\\approx ", _BOLD.sub(r"\1", answer))
    text = answer if answer.isascii() else _without_unicode(answer)
    # One compatibility character may expand into many characters.
    if len(text) > 2 * _MAX_ANSWER_CHARS:
        return ""
    text = _VECTOR.sub(r" \1\2", _CLOSE_COMMA.sub(",", text))
    text = _COMMAND.sub(lambda command: _COMMANDS.get(command[0], command[0]), text)
    # A single dollar sign is no delimiter.
    text = text.replace("$", DOLLAR if text.count("$") == 1 else "")
    text = text.replace("{,}", ",").replace("~", " ").replace("**", "^")
    text = " ".join(text.split())
    text = _TEXT.sub(_tidy_text, text)
    for notation, spelling in _NOTATION:
        text = notation.sub(spelling, text)
    return " ".join(_unwrapped(" ".join(text.split())).split())


def without_text_commands(text: str) -> str:
    r"""Return normalised text with each \text{words} replaced by its words, between spaces."""
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def whole_text(text: str) -> str | None:
    r"""Return the words of normalised text that consists of one \text{words}, else None."""
    found = _TEXT.fullmatch(text)
    return found[1] if found else None


def _without_unicode(text: str) -> str:
    """Replace Unicode's mathematical characters by LaTeX; NFKC alone would turn 2½ into 21/2 and x² into x2."""
    text = _VULGAR_FRACTION.sub(_spell_fraction, text)
    text = _RAISED.sub(lambda digits: f"^{{{_plain_digits(digits[0])}}}", text)
    text = _LOWERED.sub(lambda digits: f"_{{{_plain_digits(digits[0])}}}", text)
    return unicodedata.normalize("NFKC", text.translate(_UNICODE)).translate(_UNICODE)


def _spell_fraction(vulgar: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", vulgar[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _plain_digits(digits: str) -> str:
    return unicodedata.normalize("NFKC", digits).replace("−", "-")


def _tidy_text(command: re.Match[str]) -> str:
    words = command[1].strip()
    if words in _FUNCTION_WORDS:
        return rf"\{words} "
    # A conjunction separates the items of a list, even inside \text.
    return f" {words} " if words in ("", "and", "or", DOLLAR) else rf"\text{{{words}}}"


def _unwrapped(text: str) -> str:
    """Strip final punctuation, a box, and braces around the whole text; four rounds suffice for real answers."""
    for _ in range(4):
        before = text
        if text.endswith((".", ",", ";", "。")) and not text.endswith(".."):
            text = text[:-1].rstrip()
        text = _without_single_box(text)
        if text.startswith("{") and closing_brace(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            break
    return text


def _without_single_box(text: str) -> str:
    r"""Remove the box in "x = \boxed{4}"; several boxes side by side stay, because they are several answers."""
    boxes = list(BOX.finditer(text))
    if not boxes:
        return text
    start, opening = boxes[0].span()
    closing = closing_brace(text, opening) if text.startswith("{", opening) else len(text)
    if closing is None or (len(boxes) > 1 and boxes[-1].end() > closing):
        return text
    content = text[opening:closing].removeprefix("{")
    return f"{text[:start]} {content} {text[closing + 1 :]}".strip()
