"""Where text comes from: documents out of files, dumps, data sets and the documentation on the machine.

`parse_source` is the way in; base.py says what a source gives.
"""

from data_prep.sources.parse import KINDS, parse_source

__all__ = ["KINDS", "parse_source"]
