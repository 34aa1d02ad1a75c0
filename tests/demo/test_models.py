"""The models' contents and their listings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.demo.models import Entry, ModelVersion, Pattern, chunks, part, storm_model


def walk(version: ModelVersion) -> tuple[list[str], list[str]]:
    directories = [""]
    files: list[str] = []
    for directory in directories:
        for entry in version.entries(directory) or []:
            (files if entry.size is not None else directories).append(entry.path)
    return directories, files


def test_the_storm_is_22_listings_and_204_signings() -> None:
    version = storm_model().versions["1"]
    directories, files = walk(version)
    assert len(directories) == len(set(directories)) == 22
    assert len(files) == len(set(files)) == len(version.files) == 204
    assert max(path.count("/") for path in directories) >= 2  # depth 3: a/b/c


def test_the_storm_is_the_same_every_time_and_its_files_differ() -> None:
    files = storm_model(file_size=32).versions["1"].files
    assert files == storm_model(file_size=32).versions["1"].files
    assert len(set(files.values())) == len(files)
    assert {len(content) for content in files.values()} == {32}


@given(st.integers(1, 30).flatmap(lambda d: st.tuples(st.just(d), st.integers(d, 60))))
def test_a_storm_of_any_size_has_its_counts(size: tuple[int, int]) -> None:
    directories, files = walk(storm_model(directories=size[0], files=size[1], file_size=1).versions["1"])
    assert (len(directories), len(files)) == size


def test_a_storm_needs_a_file_in_every_directory() -> None:
    with pytest.raises(ValueError, match="a file in each"):
        storm_model(files=3, directories=4)


def test_listings() -> None:
    version = ModelVersion({"a/b.txt": b"12", "c d/ü#%.bin": b""}, frozenset({"void/inner"}))
    assert version.entries() == [Entry("a", None), Entry("c d", None), Entry("void", None)]
    assert version.entries("a") == [Entry("a/b.txt", 2)]
    assert version.entries("c d/ü#%.bin") == [Entry("c d/ü#%.bin", 0)]
    assert version.entries("void/inner") == []
    assert version.entries("b.txt") is None


def test_a_model_may_be_empty() -> None:
    assert ModelVersion().entries() == []


@given(st.data())
def test_a_part_of_a_pattern_is_the_slice_of_its_bytes(data: st.DataObject) -> None:
    pattern = Pattern(200_000, seed=3)
    whole = b"".join(chunks(pattern, 70_001))
    start = data.draw(st.integers(0, len(pattern)))
    stop = data.draw(st.integers(start, len(pattern)))
    assert len(whole) == len(pattern)
    assert b"".join(chunks(part(pattern, start, stop), 50_000)) == whole[start:stop]


def test_a_pattern_does_not_depend_on_its_size() -> None:
    assert Pattern(1 << 40).read(1 << 39, (1 << 39) + 5) == Pattern(1 << 41).read(1 << 39, (1 << 39) + 5)
