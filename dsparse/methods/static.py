"""Static sparsity: the initial random pattern stays (the baseline of arXiv 2108.06277, table 1)."""

from __future__ import annotations

from dsparse.methods.base import Method

STATIC = Method(name="static", grow_score=None)
