"""Renders the report's Markdown as one self-contained HTML page, with the figures inside."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from markdown_it import MarkdownIt

from mathsft.reporting.page import Section
from mathsft.reporting.style import STYLE
from mathsft.reporting.svg import NARROW_WIDTH, Chart

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser runs no script and fetches nothing, whatever text of a model is in the page."""

FIGURE = re.compile(r'<p><img src="([\w.-]+)\.svg" alt="[^"]*"\s*/></p>\s*<p><em>(.*?)</em></p>', re.DOTALL)


def render_html(title: str, answer: str, sections: Sequence[Section], charts: Mapping[str, Chart]) -> str:
    """Return the report as a page: the answer, then the sections, with the charts in the place of their images.

    Each chart is drawn twice, for wide and for narrow screens, and the style shows one of them. HTML in the Markdown is
    shown as text.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def rendered(text: str) -> str:
        body = reader.render(text).replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
        return FIGURE.sub(lambda match: _figure(charts[match[1]], match[2]) if match[1] in charts else match[0], body)

    def placed(section: Section) -> str:
        heading = f"<h2>{reader.renderInline(section.title)}</h2>"
        body = rendered(section.text)
        if section.is_folded:
            return f"<details>\n<summary>{heading}</summary>\n{body}</details>"
        return f"<section>\n{heading}\n{body}</section>"

    parts = [
        f'<header>\n<h1>{reader.renderInline(title)}</h1>\n<div class="answer">\n{rendered(answer)}</div>\n</header>',
        *(placed(section) for section in sections if section.text),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}: report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _figure(chart: Chart, caption: str) -> str:
    """Return a chart under its title, drawn for both widths, with its caption."""
    return (
        f"<figure>\n<h4>{escape(chart.title)}</h4>\n<p>{escape(chart.subtitle)}</p>\n"
        f'<div class="wide">{chart.render(has_title=False)}</div>\n'
        f'<div class="narrow">{chart.render(NARROW_WIDTH, has_title=False)}</div>\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
