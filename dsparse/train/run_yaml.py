"""The run YAML as written: what its reader would take without a word, or never come to the end of, is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dsparse.errors import UserError

_MAX_VALUES = 10_000


def require_plain_yaml(path: Path) -> None:
    """Refuses text that is no UTF-8, a key given twice, and aliases that stand for more than anybody would write.

    What is no file or no YAML is left for its reader to say.

    Raises:
        UserError: naming the file and what is wrong.
    """
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"Expected YAML in {path}. Got bytes that are no UTF-8: {error}.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    if root is None:
        return
    known: dict[int, float] = {}
    if _num_values(root, known, path) > _MAX_VALUES:
        raise UserError(f"Expected at most {_MAX_VALUES} values in {path}. Got more, or an alias within itself.")


def _num_values(node: Any, known: dict[int, float], path: Path) -> float:
    """Values below a YAML node, each counted as often as aliases repeat it; infinity where one holds itself.

    Args:
        node: of `yaml.compose`.
        known: counts by identity of the node, filled here.
        path: for messages.
    """
    if isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = [one for one in node.value if isinstance(one, tuple)]
        _require_no_repeats([key for key, _ in pairs], path)
        children = [value for _, value in pairs] if pairs else node.value
        known[id(node)] = 1 + sum(_num_values(child, known, path) for child in children)
    return known[id(node)]


def _require_no_repeats(keys: list[Any], path: Path) -> None:
    seen = set()
    for key in keys:
        if isinstance(key.value, str) and key.value in seen:
            raise UserError(
                f"Expected each key once in {path}. Got {key.value!r} again at line {key.start_mark.line + 1}."
            )
        seen.add(key.value if isinstance(key.value, str) else id(key))
