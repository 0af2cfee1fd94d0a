"""Dynamic sparse pre-training on DeepSpeed, after arXiv 2108.06277.

    import dsparse
    engine, optimizer, loader, scheduler = dsparse.initialize(model=model, config="ds_config.json")

takes the place of `deepspeed.initialize`. With a "dynamic_sparsity" block in the JSON, the model's linear layers are
sparse from the first step to the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsparse.engine.engine import SparseEngine
    from dsparse.engine.export import to_dense_state_dict
    from dsparse.engine.initialize import initialize
    from dsparse.pattern.block_pattern import BlockPattern

__all__ = ["BlockPattern", "SparseEngine", "initialize", "to_dense_state_dict"]


def __getattr__(name: str) -> Any:
    # DeepSpeed and torch take seconds to import, and hundreds of megabytes; data preparation does without them.
    if name == "BlockPattern":
        from dsparse.pattern.block_pattern import BlockPattern

        return BlockPattern
    if name in __all__:
        import dsparse.engine

        return getattr(dsparse.engine, name)
    raise AttributeError(f"module 'dsparse' has no attribute {name!r}")
