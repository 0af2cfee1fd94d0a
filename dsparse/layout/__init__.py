"""Layouts: how a weight holds a pattern."""
