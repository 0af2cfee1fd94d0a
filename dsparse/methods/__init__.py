"""Sparse training methods by the name they have in the configuration."""

from __future__ import annotations

from dsparse.methods.base import Method, UpdateContext
from dsparse.methods.set import SET
from dsparse.methods.static import STATIC

__all__ = ["METHODS", "Method", "UpdateContext"]

METHODS: dict[str, Method] = {method.name: method for method in (STATIC, SET)}
