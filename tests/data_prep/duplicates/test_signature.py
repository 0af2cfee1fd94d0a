"""Signatures: what is equal, what is near, files, and the same values in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.duplicates.signature import MinHashOptions, Signatures, signatures
from dsparse.errors import UserError
from dsparse.train.config import CHECKOUT
from tests.data_prep.duplicates.corpus import CHANGES, NEAR, documents

SENTENCE = "It was the best of times, it was the worst of times, it was the age of wisdom."


def minhash(texts: list[str], options: MinHashOptions = NEAR) -> np.ndarray:
    values = signatures(texts, options).minhash_NP
    assert values is not None
    return values


def ngrams(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return set(zip(*(words[place:] for place in range(ngram)), strict=False))


@pytest.mark.parametrize(
    ("change", "is_same"),
    [("unchanged", True), ("white space", True), ("case", False), ("punctuation", False), ("one word in 100", False)],
)
def test_exact_hashes_do_not_see_white_space_and_see_all_else(change: str, is_same: bool) -> None:
    changed = [CHANGES[change](text) for text in documents()]
    before, after = (signatures(texts, None).exact_N2 for texts in (documents(), changed))
    assert np.array_equal((before == after).any(axis=1), np.full(len(before), is_same))
    assert len({*map(bytes, before)}) == len(documents())


@pytest.mark.parametrize("change", ["white space", "case", "punctuation"])
def test_minhash_does_not_see_white_space_case_or_punctuation(change: str) -> None:
    assert np.array_equal(minhash(documents()), minhash([CHANGES[change](text) for text in documents()]))


@pytest.mark.parametrize("ngram", [1, 3, 5])
@pytest.mark.parametrize("change", ["one word in 100", "one word in 5", "beginning"])
def test_equal_values_estimate_the_jaccard_similarity(change: str, ngram: int) -> None:
    options = MinHashOptions(ngram=ngram)
    pairs = [(text, CHANGES[change](text)) for text in documents()]
    before, after = (minhash([*texts], options) for texts in zip(*pairs, strict=True))
    sets = [(ngrams(one, ngram), ngrams(other, ngram)) for one, other in pairs]
    true = np.array([len(one & other) / len(one | other) for one, other in sets])
    errors = (before == after).mean(axis=1) - true
    deviation = np.sqrt(true * (1 - true) / options.num_permutations)
    assert np.all(np.abs(errors) <= 4.5 * deviation + 1e-9)
    # The mean shows a bias that a single estimate hides.
    assert abs(errors.mean()) <= 3.5 * np.sqrt(np.square(deviation).sum()) / len(errors) + 1e-9


def test_a_text_has_its_signature_whatever_stands_beside_it() -> None:
    texts = [documents()[0], "Too short.", "", *documents()[1:4], SENTENCE]
    together = signatures(texts, NEAR)
    for number, text in enumerate(texts):
        alone = signatures([text], NEAR)
        assert np.array_equal(alone.exact_N2[0], together.exact_N2[number])
        assert np.array_equal(alone.minhash_NP[0], together.minhash_NP[number])  # type: ignore[index]


@given(st.lists(st.text("ab .", max_size=30), max_size=8), st.integers(1, 4))
def test_short_texts_have_no_near_signature(texts: list[str], ngram: int) -> None:
    options = MinHashOptions(ngram=ngram, num_permutations=8)
    long_enough = [len(ngrams(text, ngram)) > 0 for text in texts]
    assert signatures(texts, options).has_near().tolist() == long_enough
    assert not signatures(texts, None).has_near().any()


def test_seeds_give_other_values() -> None:
    one, other = (minhash(documents(), MinHashOptions(seed=seed)) for seed in (1, 2))
    assert (one == other).mean() < 0.01


def test_characters_of_all_kinds() -> None:
    assert np.array_equal(minhash(["ÄRGER über fünf große Öfen"]), minhash(["ärger Über fünf große öfen"]))
    assert len(signatures(["half a pair \ud800 of surrogates", "\x00", ""], NEAR)) == 3


def test_values_do_not_change_from_release_to_release() -> None:
    """Parts of one corpus may be signed by two releases if a run goes on after an update."""
    whole = signatures([SENTENCE], NEAR)
    assert whole.exact_N2.tolist() == [[1773156949323742717, 12357368395638886575]]
    assert minhash([SENTENCE])[0, :4].tolist() == [1259090299, 3251576705, 3281475598, 3229890571]


def test_another_process_gets_the_same() -> None:
    code = (
        "import sys; from tests.data_prep.duplicates.corpus import *; import hashlib;"
        "print(hashlib.sha256(signatures(documents(), NEAR).minhash_NP.tobytes()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_a_forked_process_goes_on_and_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of threads that the first call had started would keep a forked process waiting forever."""
    code = (
        "import os, signal\n"
        "from data_prep.duplicates.signature import *\n"
        "texts = [f'{n} ' * 5 for n in range(3000)] + [' '.join(map(str, range(300_000)))]\n"
        "signatures(texts, MinHashOptions())\n"
        "assert os.environ.get('RAYON_NUM_THREADS') == '7'\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(60)\n"
        "    signatures(texts, MinHashOptions())\n"
        "    os._exit(0)\n"
        "os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path]), "RAYON_NUM_THREADS": "7"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=200).returncode == 0


@pytest.mark.parametrize("options", [None, MinHashOptions(num_permutations=9)])
@pytest.mark.parametrize("num_texts", [0, 1, 60])
def test_files(tmp_path: Path, options: MinHashOptions | None, num_texts: int) -> None:
    saved = signatures(documents()[:num_texts], options)
    saved.save(tmp_path / "a")
    loaded = Signatures.load(tmp_path / "a")
    assert len(loaded) == num_texts
    assert np.array_equal(loaded.exact_N2, saved.exact_N2) and loaded.exact_N2.dtype == np.uint64
    if options is None:
        assert loaded.minhash_NP is None
    else:
        assert loaded.minhash_NP is not None and loaded.minhash_NP.dtype == np.uint32
        assert np.array_equal(loaded.minhash_NP, saved.minhash_NP)  # type: ignore[arg-type]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(UserError, match="Got no file"):
        Signatures.load(path)
    signatures(documents()[:3], NEAR).save(path)
    whole = path.read_bytes()
    for wrong, message in ((whole[:-1], "truncated"), (whole + b"x", "altered"), (whole[:9], "begin"), (b"x", "begin")):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=message):
            Signatures.load(path)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"num_permutations": 0}, {"ngram": 0}, {"seed": -1}]
)
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        MinHashOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("num_permutations", [1, 16, 128, 256])
def test_bands_have_as_many_rows_as_detection_allows(threshold: float, num_permutations: int) -> None:
    num_bands, rows = MinHashOptions(threshold=threshold, num_permutations=num_permutations).bands

    def detection(rows: int) -> float:
        return 1 - (1 - threshold**rows) ** (num_permutations // rows)

    assert num_bands == num_permutations // rows
    assert rows == 1 or detection(rows) >= 0.99
    assert all(detection(more) < 0.99 for more in range(rows + 1, num_permutations + 1))


def test_the_default_bands_are_those_of_the_documentation() -> None:
    assert MinHashOptions().bands == (21, 6)
    detection = {j: f"{1 - (1 - j**6) ** 21:.3f}" for j in (0.7, 0.8, 0.9)}
    assert detection == {0.7: "0.928", 0.8: "0.998", 0.9: "1.000"}
