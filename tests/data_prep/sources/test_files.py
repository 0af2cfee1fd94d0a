"""Which files of a folder are read, and what is said of those that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_prep.sources.base import UNREADABLE, Problem
from data_prep.sources.files import find_inputs, inner_suffix
from dsparse.errors import UserError
from tests.data_prep.sources.inputs import write


def names_below(folder: Path) -> list[str]:
    inputs = find_inputs("text:x", folder, (".txt",))
    assert inputs.problems == ()
    return [str(path.relative_to(folder)) for path in inputs.paths()]


def test_files_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/z.txt", "a.TXT", "c.txt.gz", "b/a.txt.BZ2", "d.txt.zst", "e.txt.xz", "f.md", "txt"):
        write(tmp_path / name, "some text")
    assert names_below(tmp_path) == ["a.TXT", "b/a.txt.BZ2", "b/z.txt", "c.txt.gz", "d.txt.zst"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    """A store is made in one, beside its place, which may be among the text."""
    for name in ("a.txt", ".store.partial/corpus.txt", "b/.git/c.txt", ".d.txt"):
        write(tmp_path / name, "A line.\n")
    assert names_below(tmp_path) == ["a.txt"]
    # The folder that was named may be hidden itself.
    assert names_below(tmp_path / ".store.partial") == ["corpus.txt"]


@pytest.mark.parametrize("target", [".", "..", "b"])
def test_links_in_a_ring_are_followed_once(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "x"
    write(folder / "b/a.txt", "A line.\n")
    (folder / "b/ring").symlink_to(folder / target, target_is_directory=True)
    assert [Path(name).name for name in names_below(folder)] == ["a.txt"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.txt", "A line.\n")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names_below(tmp_path / "x") == ["link/a.txt"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "A line.\n")
    os.mkfifo(tmp_path / "b.txt")
    assert names_below(tmp_path) == ["a.txt"]


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    inputs = find_inputs("text:x", tmp_path, (".txt",))
    assert inputs.files == ()
    assert [(problem.reason, problem.place) for problem in inputs.problems] == [(UNREADABLE, str(tmp_path / "a.txt"))]


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "README", "A line.\n")
    assert find_inputs("text:x", path, (".txt",)).paths() == [path]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Expected a file or folder in --source text:x\. Got nothing at .*nowhere; "):
        find_inputs("text:x", tmp_path / "nowhere", (".txt",))
    with pytest.raises(UserError, match=r"^Expected files named \*\.txt, .* in --source text:x\. Got none in "):
        find_inputs("text:x", tmp_path, (".txt",))


@pytest.mark.parametrize("root_is_closed", [False, True])
def test_a_folder_that_may_not_be_looked_into_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root_is_closed: bool
) -> None:
    write(tmp_path / "text/a.txt", "A line.\n")
    write(tmp_path / "text/closed/b.txt", "A line.\n")
    closed = tmp_path / "text" if root_is_closed else tmp_path / "text/closed"
    # The folders above may be closed to others, so from here.
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    closed.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # permissions do not hold for root
        inputs = find_inputs("text:text", Path("text"), (".txt",))
    finally:
        os.seteuid(user)
        closed.chmod(0o755)
    assert inputs.paths() == ([] if root_is_closed else [Path("text/a.txt")])
    assert [problem[:2] for problem in inputs.problems] == [(UNREADABLE, "text" if root_is_closed else "text/closed")]


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.txt")
    try:
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    (problem,) = find_inputs("text:x", tmp_path, (".txt",)).problems
    assert isinstance(problem, Problem)
    assert problem.place.encode().endswith(b"\\udcff.txt")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.TXT", ".txt"),
        ("a.txt.gz", ".txt"),
        ("a.gz", ""),
        ("a.b.MD.zst", ".md"),
        ("gz", ""),
        ("a.xml-p1p41.bz2", ".xml"),
    ],
)
def test_inner_suffix(name: str, suffix: str) -> None:
    assert inner_suffix(Path(name)) == suffix
