"""The style of the report's page: for wide and narrow screens, in light and dark, and for print."""

from mathsft.reporting.figures import BLUE
from mathsft.reporting.svg import FAINT_INK, GRID, INK, PAPER

_DARK = {INK: "#e4e7eb", FAINT_INK: "#9aa5b1", GRID: "#323f4b", PAPER: "#171c22", BLUE: "#6ea8e6"}
"""The colours that replace a figure's own on a dark screen."""


def _dark_figures() -> str:
    """Return rules that replace the colours of the figures, whose files have them as attributes."""
    return "\n".join(
        f'  svg [fill="{light}"] {{ fill: {dark}; }} svg [stroke="{light}"] {{ stroke: {dark}; }}'
        for light, dark in _DARK.items()
    )


STYLE = f"""
:root {{ color-scheme: light dark; --ink: {INK}; --faint: {FAINT_INK}; --line: {GRID}; --paper: {PAPER}; --soft: #f5f7fa;
  --accent: {BLUE}; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: {_DARK[INK]}; --faint: {_DARK[FAINT_INK]}; --line: {_DARK[GRID]}; --paper: {_DARK[PAPER]};
    --soft: #202830; --accent: {_DARK[BLUE]}; }}
{_dark_figures()}
}}
* {{ box-sizing: border-box; }}
body {{ max-width: 62rem; margin: 0 auto; padding: 1rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; overflow-wrap: break-word; }}
h1, h2, h3, h4 {{ line-height: 1.25; }}
h1 {{ margin: 1rem 0; font-size: 1.7rem; }}
h2 {{ margin: 0; font-size: 1.3rem; }}
h3 {{ margin: 2rem 0 .6rem; font-size: 1.05rem; }}
section, details {{ margin-top: 2.4rem; padding-top: 1rem; border-top: 1px solid var(--line); }}
details {{ margin-top: 0; padding: .7rem 0; }}
section + details {{ margin-top: 2.4rem; }}
summary {{ cursor: pointer; }}
.answer h2 {{ margin: 1.6rem 0 .3rem; font-size: 1.1rem; }}
summary h2 {{ display: inline; font-size: 1.05rem; }}
.answer > p:first-child {{ font-size: 1.15rem; }}
.answer > ul:first-of-type {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .7rem;
  margin: 0; padding: 0; list-style: none; }}
.answer > ul:first-of-type > li {{ padding: .7rem .9rem; border-left: 4px solid var(--accent); background: var(--soft); }}
.answer > ul:first-of-type > li > strong:first-child {{ display: block; color: var(--faint); font-size: .8rem;
  font-weight: 600; letter-spacing: .04em; text-transform: uppercase; }}
code {{ padding: .1em .3em; border-radius: 3px; background: var(--soft); font-size: .88em; overflow-wrap: anywhere; }}
.table {{ max-width: 100%; margin: 1rem 0; overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .88rem; line-height: 1.4; }}
th, td {{ padding: .35rem .7rem; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums;
  vertical-align: top; }}
th, td {{ overflow-wrap: normal; }}
td[style] {{ white-space: nowrap; }}
td:first-child {{ min-width: 7rem; }}
td[style]:first-child {{ min-width: 0; }}
thead th {{ border-bottom: 2px solid var(--faint); text-align: left; vertical-align: bottom; }}
tbody tr:hover {{ background: var(--soft); }}
figure {{ margin: 2rem 0; break-inside: avoid; }}
figure h4 {{ margin: 0; font-size: 1rem; }}
figure p {{ margin: 0 0 .4rem; color: var(--faint); font-size: .88rem; }}
figcaption {{ max-width: 46rem; margin-top: .4rem; font-size: .9rem; }}
svg {{ display: block; max-width: 100%; height: auto; }}
.narrow {{ display: none; }}
@media (max-width: 640px) {{
  body {{ font-size: 15px; }}
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
  th, td {{ padding: .3rem .5rem; }}
}}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 11px; }}
  .wide {{ display: block; }}
  .narrow {{ display: none; }}
  .table {{ overflow: visible; }}
  h2, h3, h4 {{ break-after: avoid; }}
  tr {{ break-inside: avoid; }}
  svg {{ max-width: 14cm; print-color-adjust: exact; }}
}}
"""
