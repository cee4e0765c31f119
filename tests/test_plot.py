"""The figures hold what they are given, and the player is one piece of HTML that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import kdutils as kd
from kdutils import plot
from kdutils.metrics import Interval


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with plt.rc_context():
        plot.use_style()
        yield
        plt.close("all")


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()  # lays out and renders: would raise for a bad label
    return figure


def test_the_palette_is_that_of_okabe_and_ito() -> None:
    okabe_ito = {"#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999"}
    assert set(plot.COLORS.values()) <= okabe_ito
    assert len(set(plot.COLORS.values())) == len(plot.COLORS)


def test_bars_show_the_values_in_class_order_from_top_to_bottom() -> None:
    figure = drawn(plot.bars({"T = 1": [0.7, 0.2, 0.1], "T = 4": torch.tensor([0.5, 0.3, 0.2])}, ["a", "b", "c"]))
    assert [axis.get_title() for axis in figure.axes] == ["T = 1", "T = 4"]
    assert [patch.get_width() for patch in figure.axes[0].patches] == [0.7, 0.2, 0.1]
    assert [patch.get_width() for patch in figure.axes[1].patches] == pytest.approx([0.5, 0.3, 0.2])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    low, high = figure.axes[0].get_ylim()
    assert low > high


@pytest.mark.parametrize(("n", "channels"), [(3, 1), (8, 1), (11, 3)])
def test_images_are_all_there(n: int, channels: int) -> None:
    pictures = torch.rand(n, channels, 6, 6)
    figure = drawn(plot.images(pictures, titles=[f"number {i}" for i in range(n)]))
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == n
    for array, picture in zip(shown, pictures, strict=True):
        np.testing.assert_allclose(array, picture[0] if channels == 1 else picture.permute(1, 2, 0))
    assert figure.axes[n - 1].get_title() == f"number {n - 1}"


def test_maps_share_one_colour_scale_with_zero_in_the_middle() -> None:
    maps = torch.randn(2, 6, 6)
    figure = drawn(plot.maps(torch.rand(2, 1, 6, 6), {"teacher": maps, "student": 100 * maps, "nothing": maps * 0}))
    assert len(figure.axes) == 4 * 2
    rows = [axis for axis in figure.axes if axis.images and axis.images[0].get_cmap().name == plot.MAP_COLORS]
    assert len(rows) == 6
    assert all(axis.images[0].get_clim() == (-1, 1) for axis in rows)
    np.testing.assert_allclose(rows[0].images[0].get_array(), rows[2].images[0].get_array(), rtol=1e-5)
    assert not np.asarray(rows[4].images[0].get_array()).any()


def test_overlays_lay_each_map_over_its_whole_picture_and_cut_off_what_is_negative() -> None:
    heat = torch.randn(2, 7, 7)
    rows = {"heat": heat, "larger": 100 * heat, "nothing": -heat.abs()}
    figure = drawn(plot.overlays(torch.rand(2, 3, 28, 28), rows, ["a", "b"]))
    assert len(figure.axes) == 4 * 2
    laid = [axis.images[1] for axis in figure.axes[2:]]
    assert all(tuple(image.get_extent()) == (-0.5, 27.5, 27.5, -0.5) and image.get_clim() == (0, 1) for image in laid)
    np.testing.assert_allclose(laid[0].get_array(), heat[0].clamp(min=0) / heat[0].max(), rtol=1e-5)
    np.testing.assert_allclose(laid[0].get_array(), laid[2].get_array(), rtol=1e-5)
    assert not np.asarray(laid[4].get_array()).any()


def test_curves_take_the_colours_of_their_names() -> None:
    figure = drawn(plot.curves({"teacher": [1.0, 2.0], "other thing": [2.0, 1.0, 0.5]}, "loss"))
    first, second = figure.axes[0].lines
    assert matplotlib.colors.same_color(first.get_color(), plot.COLORS["teacher"])
    assert list(second.get_xdata()) == [1, 2, 3]
    assert list(second.get_ydata()) == [2.0, 1.0, 0.5]


def test_intervals_stand_where_they_belong() -> None:
    figure = drawn(
        plot.intervals({"student": Interval(0.5, 0.4, 0.6, 8), "distilled": Interval(0.7, 0.6, 0.8, 8)}, "x", 0.0)
    )
    lines = figure.axes[0].lines
    assert list(lines[0].get_xdata()) == [0.4, 0.6]
    assert list(lines[2].get_xdata()) == [0.6, 0.8]
    assert matplotlib.colors.same_color(lines[2].get_color(), plot.COLORS["distilled"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["student", "distilled"]


def test_reliability_diagram_has_a_bar_per_bin() -> None:
    table = kd.metrics.reliability(torch.softmax(torch.randn(200, 3), 1), torch.randint(3, (200,)), bins=10)
    figure = drawn(plot.reliability({"before": table, "after": table}))
    heights = [patch.get_height() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(heights, np.nan_to_num(table["accuracy"]))


def test_confusion_leaves_the_diagonal_blank_and_names_the_classes() -> None:
    counts = np.array([[90, 4, 6], [1, 95, 4], [0, 2, 98]])
    figure = drawn(plot.confusion(counts, ["cat", "dog", "cow"], title="errors"))
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "1", "2", "4", "4", "6"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["cat", "dog", "cow"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cat", "dog", "cow"]
    assert counts[0, 0] == 90  # the caller's array is as before


def test_grid_writes_its_numbers() -> None:
    figure = drawn(plot.grid(np.array([[1.0, 2.0], [3.0, 4.5]]), [0.1, 0.9], [1, 4], "temperature", "weight"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.0", "2.0", "3.0", "4.5"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "4"]


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag != "input":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_player_is_one_well_formed_piece_that_needs_no_network() -> None:
    names = ['<b>"Coat" & Co</b>', "Bag"]
    shown = plot.player({"T = 1": [0.75, 0.25], "T < 2 </script>": torch.tensor([0.6, 0.4])}, names, 'What "T" does')
    html = shown._repr_html_()
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert ("div", {"class": "kd-player", "role": "group", "aria-label": 'What "T" does'}) in outline.attributes
    assert not [attrs for _, attrs in outline.attributes if "src" in attrs or "href" in attrs]
    assert "http" not in html
    assert "<b>" not in html
    found = re.search(r"const frames = (.*);", html)
    assert found is not None
    assert json.loads(found[1]) == [["T = 1", [0.75, 0.25]], ["T < 2 </script>", [0.6, 0.4]]]
    assert html.count("</script>") == 1
    assert repr(shown) == "A player with 2 frames, from T = 1 to T < 2 </script>."


def test_plotting_leaves_the_random_state_alone() -> None:
    from tests.common import random_state

    state = random_state()
    drawn(plot.curves({"a": [1.0, 2.0]}, "y"))
    assert random_state() == state
