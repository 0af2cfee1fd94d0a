"""The only room with ranks, process groups and DeepSpeed in it."""

from __future__ import annotations

from dsparse.engine.engine import SparseEngine
from dsparse.engine.export import to_dense_state_dict
from dsparse.engine.initialize import initialize
from dsparse.engine.report import UpdateReport, WeightUpdate

__all__ = ["SparseEngine", "UpdateReport", "WeightUpdate", "initialize", "to_dense_state_dict"]
