"""Lists of pictures in files."""

import pytest

from braincl.data.splits import read_image_ids
from braincl.errors import ResponseError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b\na\n\n a \n", ["b", "a"]),
        ("\ufeffrank,image_id,image_file\n1,b,x.png\n2,a,y.png\n", ["b", "a"]),
        ("image_id\r\nb\r\n", ["b"]),
    ],
)
def test_a_list_is_lines_or_a_column(text, found, tmp_path):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8", newline="")
    assert read_image_ids(tmp_path / "list.csv") == found


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "lists no picture"), (b"a,b\n", "without a column image_id"), (b"\xff", "cannot be read")],
)
def test_what_is_no_list_is_said(content, message, tmp_path):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ResponseError, match=message):
        read_image_ids(tmp_path / "list.csv")
    with pytest.raises(ResponseError, match="missing"):
        read_image_ids(tmp_path / "missing")
