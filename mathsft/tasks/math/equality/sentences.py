r"""Extracts the answer from a sentence: "So the area is \frac{3}{8}" becomes \frac{3}{8}.

The answer is not checked here: "it is 6 or 7" becomes "6 or 7".
"""

import re

from mathsft.tasks.math.equality.spelling import whole_text

_VERB = re.compile(
    r"(?<![A-Za-z\\])(?:(?:is|are|was|were|be|equals|gets?|gives?|yields?|obtain|have|has)(?: equal to| given by)?"
    r"|(?P<conclusion>so|thus|hence|therefore|then))(?:[:,} ]|$)[:,} ]*",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore|answer)\b", re.IGNORECASE)
_STATEMENT = re.compile(r"[=<>]|\b(?:is|are|was|were|equals|gets?|gives?|yields?|obtain|have|has)\b.*[0-9]", re.IGNORECASE)
_DOUBT = re.compile(
    r"n't\b|\b(?:no|not|never|neither|nor|or|either|maybe|perhaps|possibly|a possible|probab(?:ly|le)|likely|unlikely|might"
    r"|may|could|guess|think|believe|suppose|assum\w*|seems?|appears?|about|approx\w*|around|estimat\w*|nearly|almost|roughly"
    r"|if|unless|when|where|such that|while|wrong\w*|incorrect\w*|false|one|twice|half|double)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?!\(?[A-H][.:)]).*[A-Za-z][a-z]")
"""Text with a word in it; AB is a name, not a word, and (B) or B. at the beginning is a choice."""
_TRAIL = re.compile(
    r"(?P<answer>.+?)(?: | ?\\text\{ ?)is (?:the|our) (?:final |correct )?(?:answer|result|solution|value)\}?", re.IGNORECASE
)


def without_sentence(text: str) -> str:
    """Return the answer in a sentence of normalised text; the whole text if it is no sentence or expresses doubt.

    The words before the answer may contain formulas, but a statement only before the first "so" or "answer".
    """
    words = whole_text(text) or text
    if trail := _TRAIL.fullmatch(words):
        return trail["answer"]
    verbs = list(_VERB.finditer(words))
    if not verbs:
        return text
    verb = verbs[-1]
    lead, answer = words[: verb.end()], words[verb.end() :]
    is_sentence = verb["conclusion"] or _WORD.match(words[: verb.start()])
    reasoning, *conclusions = _CONCLUSION.split(lead)
    is_in_doubt = _DOUBT.search(lead) or any(map(_STATEMENT.search, conclusions or [reasoning]))
    is_whole = answer and answer.count("{") == answer.count("}")
    return answer if is_whole and is_sentence and not is_in_doubt else text
