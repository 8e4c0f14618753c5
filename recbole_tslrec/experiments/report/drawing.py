"""Panels, legends and colours of the report's pictures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#BBBBBB"
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK, YELLOW)
_MARKERS = "os^vDXP"  # one fewer than colours: 56 pairs before one comes again
_PNG_COLOURS = 64  # enough for smooth edges; the file is a third of the size


def styles() -> Iterator[tuple[str, str]]:
    """Colours and markers, one pair after the other, without end."""
    return zip(cycle(_COLOURS), cycle(_MARKERS), strict=True)


def panels(
    places: Sequence[tuple[str, ...]],
    draw: Callable[..., None],
    heading: str,
    width: float,
    height: float,
) -> bytes:
    """A panel a place, ``draw(axes, *place)``, sizes in inches; one legend for all.

    Two side by side at most: a page shows more of them too small to read.
    """
    n_columns = min(2, len(places))
    n_rows = -(-len(places) // n_columns)
    figure = new_figure(width * n_columns, height * n_rows + 1.2)
    all_axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    handles = {}
    for axes, place in zip(all_axes, places, strict=False):
        draw(axes, *place)
        axes.set_title(", ".join(place))
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for axes in all_axes[len(places) :]:
        axes.set_axis_off()
    figure.suptitle(textwrap.fill(heading, 9 * int(figure.get_figwidth())))
    columns = min(len(handles), max(2, int(figure.get_figwidth() / 1.8)))
    shared = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles.values(), handles.keys(), **shared)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """Without pyplot there is no window and no state; saving takes the Agg backend by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The same results give the same file."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    Image.open(drawn).convert("RGB").quantize(_PNG_COLOURS).save(file, "png", optimize=True)
    return file.getvalue()
