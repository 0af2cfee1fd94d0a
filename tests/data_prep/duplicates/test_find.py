"""Duplicates in real English, against oracles, whatever the memory and the parts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.duplicates.find import DuplicateFinder, Kind
from data_prep.duplicates.near import band_keys
from data_prep.duplicates.signature import MinHashOptions, Signatures, signatures
from dsparse.errors import UserError
from tests.data_prep.duplicates.corpus import CHANGES, NEAR, documents, every, found_in, found_in_texts, split_at

SMALL = MinHashOptions(num_permutations=32, threshold=24 / 32)


def near_oracle(whole: Signatures, options: MinHashOptions) -> list[int]:
    """Of all pairs that share a band: the earliest near one that stays, or -1; every unit's text is its own."""
    assert whole.minhash_NP is not None
    keys, is_long = band_keys(whole.minhash_NP, options), whole.has_near()
    originals: list[int] = []
    for later in range(len(whole)):
        near = (
            earlier
            for earlier in range(later)
            if originals[earlier] < 0
            and is_long[[earlier, later]].all()
            and (keys[earlier] == keys[later]).any()
            and (whole.minhash_NP[earlier] == whole.minhash_NP[later]).mean() >= options.threshold
        )
        originals.append(next(near, -1))
    return originals


def synthetic(seed: int, *, num_units: int, num_like: int, options: MinHashOptions) -> Signatures:
    """Units with texts of their own in families of about `num_like`, whose MinHash values agree more or less."""
    random = np.random.default_rng(seed)
    families = random.integers(0, 2**32 - 1, (max(num_units // num_like, 1), options.num_permutations), np.uint32)
    values = families[random.integers(0, len(families), num_units)]
    is_own = random.random(values.shape) < random.choice([0.05, 0.2, 0.4, 0.6], (num_units, 1))
    values[is_own] = random.integers(0, 2**32 - 1, is_own.sum(), np.uint32)
    values[random.random(num_units) < 0.05] = 2**32 - 1
    return Signatures(random.integers(0, 2**64, (num_units, 2), np.uint64), values)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("unchanged", Kind.EXACT),
        ("white space", Kind.EXACT),
        ("case", Kind.NEAR),
        ("punctuation", Kind.NEAR),
        ("one word in 100", Kind.NEAR),
        ("one word in 5", Kind.KEPT),
        ("beginning", Kind.KEPT),
    ],
)
@pytest.mark.parametrize("looks_for_near", [True, False])
def test_planted_duplicates(change: str, kind: Kind, looks_for_near: bool) -> None:
    if kind == Kind.NEAR and not looks_for_near:
        kind = Kind.KEPT
    changed = [CHANGES[change](text) for text in documents()]
    kinds, originals = found_in_texts([*documents(), *changed], NEAR if looks_for_near else None)
    half = len(documents())
    assert not kinds[:half].any() and np.all(originals[:half] == -1)
    assert kinds[half:].tolist() == [kind] * half
    assert originals[half:].tolist() == ([-1] * half if kind == Kind.KEPT else list(range(half)))


def test_one_word_in_50_is_within_a_lower_threshold() -> None:
    """It leaves a similarity of 0.82, less where the text is short: too close to 0.8 to be found each time."""
    texts = [*documents(), *(every(50, text) for text in documents())]
    kinds, _ = found_in_texts(texts, MinHashOptions(threshold=0.65))
    assert kinds.tolist() == [Kind.KEPT] * len(documents()) + [Kind.NEAR] * len(documents())


def test_the_first_stays_and_short_texts_are_compared_whole() -> None:
    texts = ["Too short.", documents()[0], "too short.", every(100, documents()[0]), "Too  short.", documents()[0], ""]
    kinds, originals = found_in_texts(texts)
    assert kinds.tolist() == [Kind.KEPT, Kind.KEPT, Kind.KEPT, Kind.NEAR, Kind.EXACT, Kind.EXACT, Kind.KEPT]
    assert originals.tolist() == [-1, -1, -1, 1, 0, 1, -1]


def test_what_goes_is_near_a_text_that_stays() -> None:
    """Each text is near the one before it, but the last is not near the first."""
    texts, words = [], documents()[0].split()[:200]
    for step in range(8):
        texts.append(" ".join([f"new{place}" for place in range(step * 10)] + words[step * 10 :]))
    kinds, originals = found_in_texts(texts)
    values = signatures(texts, NEAR).minhash_NP
    assert values is not None
    goes = np.flatnonzero(kinds == Kind.NEAR)
    assert 0 < len(goes) < len(texts) - 1
    assert not kinds[originals[goes]].any()
    assert np.all((values[goes] == values[originals[goes]]).mean(axis=1) >= NEAR.threshold)


@given(st.lists(st.lists(st.sampled_from(["a", "b", " ", "\n", "A"]), max_size=4), max_size=40), st.data())
def test_equal_texts_are_those_a_set_knows(letters: list[list[str]], data: st.DataObject) -> None:
    texts = ["".join(one) for one in letters]
    bounds = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    memory_bytes = data.draw(st.sampled_from([1, 2000, 1 << 20]))
    kinds, originals = found_in(split_at(signatures(texts, None), bounds), None, memory_bytes=memory_bytes)
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        first.setdefault(" ".join(text.split()), number)
    expected = [first[" ".join(text.split())] for text in texts]
    assert kinds.tolist() == [Kind.EXACT if one != number else Kind.KEPT for number, one in enumerate(expected)]
    assert originals.tolist() == [one if one != number else -1 for number, one in enumerate(expected)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("memory_bytes", [3000, 100_000, 1 << 24])
def test_near_texts_are_those_of_all_pairs(seed: int, memory_bytes: int) -> None:
    whole = synthetic(seed, num_units=300, num_like=4, options=SMALL)
    kinds, originals = found_in(split_at(whole, [0, 7, 200, 200]), SMALL, memory_bytes=memory_bytes)
    expected = near_oracle(whole, SMALL)
    assert 20 < sum(one >= 0 for one in expected) < 200
    assert originals.tolist() == expected
    assert kinds.tolist() == [Kind.NEAR if one >= 0 else Kind.KEPT for one in expected]


@pytest.mark.parametrize("options", [NEAR, MinHashOptions(ngram=2, threshold=0.3)])
def test_near_texts_are_those_of_all_pairs_in_english(options: MinHashOptions) -> None:
    texts = list(itertools.chain.from_iterable([text, every(60, text), every(25, text)] for text in documents()[:30]))
    whole = signatures(texts, options)
    expected = near_oracle(whole, options)
    assert sum(one >= 0 for one in expected) >= 10
    assert found_in([whole], options)[1].tolist() == expected


@pytest.mark.parametrize("num_like", [3, 40, 1000])
def test_neither_memory_nor_parts_decide(num_like: int) -> None:
    """Also where more units share a band than are compared each with each, and texts are equal."""
    whole = synthetic(num_like, num_units=1000, num_like=num_like, options=SMALL)
    copies = np.random.default_rng(1).integers(0, 1000, 1000)
    whole = Signatures(whole.exact_N2[copies], whole.minhash_NP[copies])  # type: ignore[index]
    results = [
        found_in(split_at(whole, bounds), SMALL, memory_bytes=memory_bytes)
        for bounds, memory_bytes in [([], 1 << 28), ([], 50_000), ([500], 20_000), (range(0, 1000, 40), 200_000)]
    ]
    kinds, originals = results[0]
    assert min(np.bincount(kinds, minlength=3)) > 10
    for other in results[1:]:
        assert np.array_equal(other[0], kinds) and np.array_equal(other[1], originals)


def test_each_part_has_its_own_result_and_old_files_do_no_harm(tmp_path: Path) -> None:
    parts = [["a b", "c"], [], ["c", "a  b", "d"]]
    paths = [tmp_path / f"{number}" for number in range(3)]
    for path, texts in zip(paths, parts, strict=True):
        signatures(texts, None).save(path)
    work = tmp_path / "work"
    (work / "hashes").mkdir(parents=True)
    (work / "hashes" / "0.rows").write_bytes(b"left by a run that was killed")
    for _ in range(2):
        found = list(DuplicateFinder(work).find(paths, None))
        assert [one.originals_N.tolist() for one in found] == [[-1, -1], [], [1, 0, -1]]
        assert [one.kinds_N.dtype for one in found] == [np.dtype(np.uint8)] * 3
        assert not work.exists()


def test_an_abandoned_search_leaves_nothing(tmp_path: Path) -> None:
    signatures(["a"], None).save(tmp_path / "0")
    results = DuplicateFinder(tmp_path / "work").find([tmp_path / "0"] * 2, None)
    next(results)
    assert (tmp_path / "work").exists()
    results.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "work").exists()


def test_no_parts_and_empty_parts(tmp_path: Path) -> None:
    assert found_in([], NEAR)[0].tolist() == []
    assert found_in([signatures([], NEAR)] * 3, NEAR)[0].tolist() == []
    assert found_in([signatures([], None)] * 3, None)[0].tolist() == []


def test_signatures_of_other_options(tmp_path: Path) -> None:
    for number, options in enumerate([NEAR, SMALL, None]):
        signatures(["a"], options).save(tmp_path / f"{number}")
    for number in (1, 2):
        with pytest.raises(UserError, match=f"/{number}.*made with other options"):
            list(DuplicateFinder(tmp_path / "work").find([tmp_path / "0", tmp_path / f"{number}"], NEAR))
        assert not (tmp_path / "work").exists()
    found = list(DuplicateFinder(tmp_path / "work").find([tmp_path / "0", tmp_path / "1", tmp_path / "2"], None))
    assert [one.kinds_N.tolist() for one in found] == [[Kind.KEPT], [Kind.EXACT], [Kind.EXACT]]
