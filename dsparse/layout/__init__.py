"""Layouts: how a weight holds a pattern."""

from __future__ import annotations

from dsparse.layout.packed import PackedLinear

__all__ = ["PackedLinear"]
