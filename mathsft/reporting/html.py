"""Renders the report's Markdown as one self-contained HTML page, with the figures inside."""

import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin-top: 2.2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e4e7eb; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid #8491a0; text-align: left; }
tbody tr:hover { background: #f5f7fa; }
svg { max-width: 100%; height: auto; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser runs no script and fetches nothing, whatever text of a model is in the page."""

FIGURE = re.compile(r'<p><img src="([\w.-]+\.svg)" alt="[^"]*"\s*/></p>')


def render_html(title: str, markdown: str, folder: Path) -> str:
    """Return the Markdown as a page, in which each image of a figure is replaced by the SVG file in the folder.

    HTML in the Markdown is shown as text.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = FIGURE.sub(lambda match: _figure(folder / match[1], match[0]), body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _figure(path: Path, otherwise: str) -> str:
    return f"<figure>\n{path.read_text(encoding='utf-8')}</figure>" if path.is_file() else otherwise
