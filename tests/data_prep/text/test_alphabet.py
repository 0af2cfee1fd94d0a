"""Characters are counted as the standard library counts them, but quickly."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text import alphabet
from data_prep.text.alphabet import count_characters


@given(text=st.text(st.characters(exclude_categories=[])), repeats=st.sampled_from([1, 1000]))
def test_counts(text: str, repeats: int) -> None:
    text *= repeats
    counts = count_characters(text)
    assert counts == Counter(text)
    assert all(type(count) is int for count in counts.values())


@pytest.mark.parametrize("chunk", [1, 2, 7, 300])
def test_counts_over_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alphabet, "_CHUNK", chunk)
    text = "Plain. Ünd nicht so; \udc80 \U0010ffff 👍!" * 20
    assert count_characters(text) == Counter(text)
