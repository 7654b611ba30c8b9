"""The order in which people count, and what is found below a folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braincl.data.folders import find_files, natural_order


@given(
    st.lists(st.integers(0, 10**12), min_size=2, unique=True), st.sampled_from(["run-{}", "ses{}_a", "{}", "a1/{}b"])
)
def test_numbers_count_as_numbers(numbers, pattern):
    names = [pattern.format(number) for number in numbers]
    assert sorted(names, key=natural_order) == [pattern.format(number) for number in sorted(numbers)]


@given(st.lists(st.text()))
def test_any_names_can_be_ordered(names):
    assert sorted(sorted(names, key=natural_order)) == sorted(names)


@pytest.mark.parametrize("pattern", ["**/*.txt", "a/**/*.txt", "a/*/*.txt"])
def test_files_are_found_through_links_once_and_not_where_they_are_hidden(tmp_path, pattern):
    (tmp_path / "root/a/2").mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    for name in ("root/a/2/x.txt", "root/a/2/.hidden.txt", "elsewhere/y.txt", "elsewhere/y02.txt", "elsewhere/y2.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "root/a/.git").mkdir()
    (tmp_path / "root/a/.git/z.txt").write_text("")
    (tmp_path / "root/a/10").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/2/up").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere/deep/self").symlink_to(tmp_path / "elsewhere")
    found = [str(path.relative_to(tmp_path / "root")) for path in find_files(tmp_path / "root", pattern, pattern)]
    assert found == ["a/2/x.txt", "a/10/y02.txt", "a/10/y2.txt", "a/10/y.txt"]
