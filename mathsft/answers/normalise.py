r"""Brings an answer's text to one spelling: boxes, delimiters, Unicode, spaces, \text and \frac.

In normalised text, set braces are ⦃ ⦄ and angle brackets are ⟨ ⟩ (so that { } only group), ° stands for ^\circ, white space
is a single space, and \text{...} is the only text command.
"""

import re
import unicodedata

MAX_ANSWER_CHARS = 2000
"""A longer text is no answer. The limit keeps integers below Python's limit of 4,300 digits."""

DOLLAR = "¤"
"""Stands for a dollar sign that is no delimiter, in normalised text."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff⦃⦄¤]")
"""Control, invisible and bidirectional characters: with them, the displayed text differs from the stored text."""

_GREEK = ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho", "sigma", "phi", "omega", "Delta"]
_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "×": r"\times ",
        "⋅": r"\cdot ",
        "·": r"\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": r"\pi ",
        "√": r"\sqrt ",
        "∞": r"\infty ",
        "∪": r"\cup ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "≈": r"\approx ",
        "…": "...",
        "、": ", ",
        "∣": "|",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "ℝ": r"\mathbb{R}",
        "º": "°",
        "˚": "°",
        "∘": "°",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "’": "'",
        **{letter: rf"\{name} " for letter, name in zip("αβγδεθλμρσφωΔ", _GREEK, strict=True)},
    }
)
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_NO_OUTPUT = r"""
\! \( \) \[ \] \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle \limits \mathbf \mathit
\boldsymbol \bm \small \normalsize \large \Large \LARGE \huge \Huge
"""
_SPACES = ("\\ ", "\\\n", r"\,", r"\;", r"\:", r"\quad", r"\qquad", r"\enspace", r"\thinspace")
_TEXT_COMMANDS = r"\textbf \textit \textrm \textsf \texttt \textnormal \mathrm \mathsf \mbox \hbox \emph \operatorname"
_COMMANDS = {
    **dict.fromkeys(_NO_OUTPUT.split(), ""),
    **dict.fromkeys(_SPACES, " "),
    **dict.fromkeys(_TEXT_COMMANDS.split(), r"\text"),
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys((r"\dbinom", r"\tbinom"), r"\binom"),
    **dict.fromkeys((r"\{", r"\lbrace"), "⦃"),
    **dict.fromkeys((r"\}", r"\rbrace"), "⦄"),
    r"\langle": "⟨",
    r"\rangle": "⟩",
    **dict.fromkeys((r"\lvert", r"\rvert", r"\vert", r"\mid"), "|"),
    r"\lt": "<",
    r"\gt": ">",
    r"\$": DOLLAR,
    **dict.fromkeys((r"\dots", r"\ldots", r"\cdots"), "..."),
    r"\%": "%",
    r"\degree": "°",
    **dict.fromkeys((r"\leq", r"\leqslant"), r"\le"),
    **dict.fromkeys((r"\geq", r"\geqslant"), r"\ge"),
    r"\neq": r"\ne",
    r"\varnothing": r"\emptyset",
}

_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_FUNCTION_WORDS = ("sin", "cos", "tan", "cot", "csc", "cis", "arcsin", "arccos", "arctan", "log", "ln")
_CLOSE_COMMA = re.compile(r"(?<=[0-9])\s?(?:\\!\s?)?(?:\{,\}|,\s?\\!)(?:\s|\\!){0,8}(?=[0-9]{3}(?![0-9]))")
"""A thousands separator in TeX: a comma without a space after it in print; the spacing commands around it do not show."""
_UNEQUAL = re.compile(r" !=(?!=)|\\not ?=|=/=")
"""Inequality signs; != needs a space before it, because n!=6 may be a factorial."""
_DEGREE = re.compile(r" ?\^ ?(?:\\circ(?![A-Za-z])|\{ ?(?:\\circ|°) ?\})")
_BOLD = re.compile(r"(?<![\w)}\]])\*\*([^*]+)\*\*(?![\w(])")
_LEADING_TILDE = re.compile(r"^[\s$]*~")
_VECTOR = re.compile(r"\\(?:mathbf|mathit|boldsymbol|bm|vec|hat) ?(?:\{ ?([A-Za-z]) ?\}|(?<=[a-z] )([A-Za-z]))")
_LOG_OF_DIGITS = re.compile(r"(?<=\\log_)([0-9])([0-9]+)(?= ?(?:$|[-+=,)}\]]))")
"""TeX takes one digit as the subscript, so \\log_28 is to base 2; if an argument follows, all digits are the base."""
_BARE_SCRIPT = re.compile(r"([\^_]) ?([A-Za-z]|[0-9]+|-[0-9]+)")
_TIMES_TEN = re.compile(r"(?<=[0-9]) ?[xX] ?(?=10 ?\^)")
_ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b")
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}")
_BARE_PAIR = re.compile(r"\\(frac|binom) ?([A-Za-z0-9]) ?([A-Za-z0-9])")
_BARE_FIRST = re.compile(r"\\(frac|binom) ?([A-Za-z0-9]) ?(?=\{)")
_DOTTED_PERIOD = re.compile(r"(?<=[0-9.])\\dot ?\{?([0-9])\}?(?:([0-9]*)\\dot ?\{?([0-9])\}?)?")
_BARE_ROOT = re.compile(r"\\sqrt ?([A-Za-z]|[0-9]+)")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z]) ?")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def normalise(answer: str) -> str:
    """Return the answer in its normal spelling, or "" if it is blank, too long or contains forbidden characters."""
    if _FORBIDDEN.search(answer):
        return ""
    answer = " ".join(answer.split())
    if len(answer) > MAX_ANSWER_CHARS:
        return ""
    answer = _LEADING_TILDE.sub(r"\\approx ", _BOLD.sub(r"\1", answer))
    text = answer if answer.isascii() else _without_unicode(answer)
    # One compatibility character may expand into many characters.
    if len(text) > 2 * MAX_ANSWER_CHARS:
        return ""
    text = _VECTOR.sub(r" \1\2", _CLOSE_COMMA.sub(",", text))
    text = _COMMAND.sub(lambda command: _COMMANDS.get(command[0], command[0]), text)
    # A single dollar sign is no delimiter.
    text = text.replace("$", DOLLAR if text.count("$") == 1 else "")
    text = text.replace("{,}", ",").replace("~", " ").replace("**", "^")
    text = " ".join(text.split())
    text = _TEXT.sub(_tidy_text, text)
    text = _DEGREE.sub("°", _UNEQUAL.sub(r"\\ne ", text))
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    text = _LOG_OF_DIGITS.sub(r"{\1}\2", text)
    text = _BARE_SCRIPT.sub(r"\1{\2}", text)
    text = _TIMES_TEN.sub(r"\\times ", text)
    text = _ORDINAL.sub("", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _BARE_PAIR.sub(r"\\\1{\2}{\3}", text)
    text = _BARE_FIRST.sub(r"\\\1{\2}", text)
    text = _DOTTED_PERIOD.sub(r"\\overline{\1\2\3}", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    return " ".join(_unwrapped(" ".join(text.split())).split())


def without_text_commands(text: str) -> str:
    r"""Return normalised text with each \text{words} replaced by its words, between spaces."""
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def whole_text(text: str) -> str | None:
    r"""Return the words of normalised text that consists of one \text{words}, else None."""
    found = _TEXT.fullmatch(text)
    return found[1] if found else None


def closing_brace(text: str, opening: int) -> int | None:
    """Return the position of the brace that closes the one at `opening`, or None; escaped braces do not count."""
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


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
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return text
    start, opening = boxes[0].span()
    closing = closing_brace(text, opening) if text.startswith("{", opening) else len(text)
    if closing is None or (len(boxes) > 1 and boxes[-1].end() > closing):
        return text
    content = text[opening:closing].removeprefix("{")
    return f"{text[:start]} {content} {text[closing + 1 :]}".strip()
