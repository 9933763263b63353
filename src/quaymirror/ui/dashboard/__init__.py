"""The live dashboard of a run on a terminal. The only importer of rich.

The cost of a frame depends on its rows, not on the number of images. Rows are made of rich's segments directly:
wrapping, markup and tables would cost many times as much. Each row is cut to its width, and each text is escaped.

    terminal   frames: when to draw, where, and which sections a frame of some size has
    totals attention transfers   the sections
    rows       what sections are made of
"""

from .rows import Frame
from .terminal import Dashboard, Screen, render

__all__ = ["Dashboard", "Frame", "Screen", "render"]
