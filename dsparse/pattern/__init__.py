"""Patterns as values: which blocks of a weight are active, how they are drawn, edited, counted and compared.

Pure functions of tensors on any device; no process groups, no files, no modules.
"""
