"""The live dashboard of a run on a terminal. The only room that imports rich.

A frame is drawn from numbers that are ready: its cost depends on the rows it has, not on how many images there are.
Rows are made of rich's segments directly, since wrapping, markup and tables would cost many times as much and do
nothing here: every row is cut to its width by us, and every text in it passes `escape_controls`.

    terminal   when to draw, and where
    frame      which sections a frame of some size has
    totals attention transfers   the sections
    rows       what sections are made of
"""

from .frame import render
from .rows import Frame
from .terminal import Dashboard, Screen

__all__ = ["Dashboard", "Frame", "Screen", "render"]
