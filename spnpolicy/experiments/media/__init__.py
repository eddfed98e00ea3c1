"""Animations, films and figures."""

from spnpolicy.experiments.media.lines import draw_intervals

__all__ = ["draw_intervals"]
