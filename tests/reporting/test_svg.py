import xml.etree.ElementTree as ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.reporting.svg import NARROW_WIDTH, WIDTH, Axis, Chart

SVG = "{http://www.w3.org/2000/svg}"


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(low=st.floats(1e-8, 1e4), ratio=st.floats(1.01, 1e6), log=st.booleans())
def test_ticks_lie_on_the_axis_and_are_neither_too_few_nor_too_many(low: float, ratio: float, log: bool) -> None:
    axis = Axis("x", low, low * ratio, log=log)
    ticks = axis.ticks()
    assert ticks == sorted(set(ticks))
    assert all(-1e-6 <= axis.share(tick) <= 1 + 1e-6 for tick in ticks)
    assert len(ticks) <= 16
    assert len(ticks) >= 1 or (log and ratio < 2.5)


def test_a_point_is_drawn_where_the_axes_say_and_foreign_text_stays_text() -> None:
    chart = Chart("<a & b>", Axis("x", 1, 100, log=True), Axis("y", 0, 1), "s")
    chart.mark(10, 0.5, "#000000", "<script>")
    root = ElementTree.fromstring(chart.render())
    (dot,) = root.iter(f"{SVG}circle")
    ends = list(root.iter(f"{SVG}line"))[-1]
    middle = (float(ends.attrib["x1"]) + float(ends.attrib["x2"])) / 2
    assert float(dot.attrib["cx"]) == middle, "10 is half way between 1 and 100"
    assert 0 < middle < WIDTH
    assert 0 < float(dot.attrib["cy"]) < float(root.attrib["height"])
    assert [title.text for title in root.iter(f"{SVG}title")] == ["<script>"]


def test_texts_do_not_cover_each_other() -> None:
    chart = Chart("t", Axis("x", 0, 1), Axis("y", 0, 1), "s")
    for x in (0.5, 0.51, 0.9):
        chart.text(x, 0.5, "99.9%")
    written = [text for text in ElementTree.fromstring(chart.render()).iter(f"{SVG}text") if text.text == "99.9%"]
    assert len(written) == 2


def test_a_chart_fits_into_both_widths_with_its_legend() -> None:
    chart = Chart("t", Axis("x", 0, 1), Axis.of_names("subject", ["Algebra", "Counting & Probability"]), "s")
    for place, label in enumerate(("base model", "the best checkpoint", "the last checkpoint", "the promoted trial")):
        chart.interval(place % 2, 0.2, 0.8, "#000000", label, is_across=True)
    for width in (WIDTH, NARROW_WIDTH):
        root = ElementTree.fromstring(chart.render(width, has_title=False))
        assert root.attrib["width"] == str(width)
        for group in root.findall(f"{SVG}g"):
            across, _ = map(float, group.attrib["transform"].split("(")[1].split(")")[0].replace(",", " ").split())
            words = group.find(f"{SVG}text")
            assert words is not None
            assert across + 6 * len(words.text or "") * ("rotate" not in group.attrib["transform"]) < width
        texts = [text.text for text in root.iter(f"{SVG}text")]
        assert {"Algebra", "Counting & Probability", "the promoted trial"} <= set(texts) and "t" not in texts


def test_an_interval_ends_where_the_axis_says() -> None:
    chart = Chart("t", Axis("x", 0, 1), Axis("y", 0, 1), "s")
    chart.interval(0.5, 0.25, 0.75, "#000000")
    chart.mark(0.5, 0.75, "#000000", "end")
    root = ElementTree.fromstring(chart.render())
    (drawn,), (dot,) = root.iter(f"{SVG}path"), root.iter(f"{SVG}circle")
    assert f"L{dot.attrib['cx']},{dot.attrib['cy']}" in drawn.attrib["d"]
