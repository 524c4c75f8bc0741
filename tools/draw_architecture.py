"""Draw docs/architecture.svg: the rooms of mathsft in the layers of pyproject.toml, an arrow for each import between rooms.

The arrows come from the import graph of the source code (grimp, which import-linter uses). An arrow is left out where a
longer path of arrows connects the same two rooms, and where it points to a single file of the two lowest layers, which
nearly all rooms import. A dotted arrow means that a room starts another one by name, in a process of its own.

    python tools/draw_architecture.py          # rewrites the picture
    python tools/draw_architecture.py --check  # exit code 1 if the picture is not that of the source code
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

WIDTH, ROW_HEIGHT, BOX_HEIGHT, MARGIN = 960, 84, 34, 12
STARTED_BY_NAME = re.compile(r'"mathsft\.(\w+)[\w.]*:\w+"')
"""A worker's target, "mathsft.room.module:Class", as workers/ and accounting/ write it."""

NUM_BASE_LAYERS = 2
"""Layers of files that nearly all rooms import."""

STYLE = """
text { font: 14px sans-serif; text-anchor: middle; fill: #1f2328 }
rect { fill: #eef4fb; stroke: #5b84b1; rx: 6 }
rect.base { fill: #f3f3f1; stroke: #b9b9b4 }
path { fill: none; stroke: #8a97a6; stroke-width: 1.2; marker-end: url(#head) }
path.started { stroke-dasharray: 3 4; stroke: #b1572a }
"""


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the highest layer first, as import-linter's contract has them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    [contract] = [contract for contract in contracts if contract["type"] == "layers"]
    return [re.split(r"\s*\|\s*", layer) for layer in contract["layers"] if layer != "__main__"]


def imports() -> "nx.DiGraph[str]":
    """Return the graph of imports between rooms, without the arrows that follow from others."""
    source = grimp.build_graph("mathsft", exclude_type_checking_imports=True, cache_dir=None)
    graph: nx.DiGraph[str] = nx.DiGraph()
    rooms = set(chain.from_iterable(layers()))
    for module in source.modules - {"mathsft"}:
        for imported in source.find_modules_directly_imported_by(module) - {"mathsft"}:
            if _room(module) != _room(imported) and _room(module) in rooms:
                graph.add_edge(_room(module), _room(imported))
    return nx.transitive_reduction(graph)


def started_by_name() -> list[tuple[str, str]]:
    """Return the pairs of a room and a room that it starts by name."""
    pairs = set()
    for path in sorted((ROOT / "mathsft").rglob("*.py")):
        room = path.relative_to(ROOT / "mathsft").parts[0].removesuffix(".py")
        pairs |= {(room, target) for target in STARTED_BY_NAME.findall(path.read_text(encoding="utf-8")) if target != room}
    return sorted(pairs)


def draw() -> str:
    """Return the picture as an SVG file's text."""
    rows = layers()
    places = {
        room: (WIDTH * (column + 0.5) / len(row), MARGIN + index * ROW_HEIGHT)
        for index, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    base = set(chain.from_iterable(rows[-NUM_BASE_LAYERS:]))
    lines = [_arrow(places, *edge, "imports") for edge in sorted(imports().edges) if edge[1] not in base]
    beside = {room: (x + 14, y) for room, (x, y) in places.items()}  # not on top of an arrow between the same rooms
    lines += [_arrow(beside, *pair, "started") for pair in started_by_name()]
    for room, (x, y) in places.items():
        half = 4.4 * len(room) + 14
        kind = "base" if room in base else "room"
        lines.append(f'<rect class="{kind}" x="{x - half:.0f}" y="{y}" width="{2 * half:.0f}" height="{BOX_HEIGHT}"/>')
        lines.append(f'<text x="{x:.0f}" y="{y + 22}">{room}</text>')
    height = 2 * MARGIN + (len(rows) - 1) * ROW_HEIGHT + BOX_HEIGHT
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<polygon points="0 0, 8 4, 0 8" fill="#8a97a6"/></marker>'
    )
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
    return "\n".join([opening, f"<style>{STYLE}</style>", f"<defs>{head}</defs>", *lines, "</svg>", ""])


def _room(module: str) -> str:
    return module.split(".")[1]


def _arrow(places: Mapping[str, tuple[float, float]], start: str, end: str, kind: str) -> str:
    (x1, y1), (x2, y2) = places[start], places[end]
    if y1 == y2:  # side by side in one layer
        return f'<path class="{kind}" d="M {x1:.0f} {y1} C {x1:.0f} {y1 - 30} {x2:.0f} {y1 - 30} {x2:.0f} {y2}"/>'
    y1 += BOX_HEIGHT
    bend = (y2 - y1) / 2
    return f'<path class="{kind}" d="M {x1:.0f} {y1} C {x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}"/>'


if __name__ == "__main__":
    picture = draw()
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
        sys.exit("docs/architecture.svg is not that of the source code; run: python tools/draw_architecture.py")
