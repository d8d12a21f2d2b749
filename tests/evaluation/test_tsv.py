"""Reading TSV files: every layout, and errors that name the row."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.errors import DataError
from swift_thyme.evaluation.tsv import read_tsv
from swift_thyme.testbed.tsv import make_tsvs
from tests.inference.builders import image_bytes

from .builders import IMAGE, row, write_tsv


def without(cells: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in cells.items() if key != name}


def test_rows_come_back_with_options_categories_and_images(tmp_path: Path) -> None:
    rows = [row(i, question=f'A "quoted"\nquestion\t{i}') for i in range(3)]
    dataset = read_tsv(write_tsv(tmp_path / "some.tsv", rows))
    assert dataset.name == "some"
    assert [item.index for item in dataset.items] == ["0", "1", "2"]
    item = dataset.items[1]
    assert item.question == 'A "quoted"\nquestion\t1'
    assert dict(item.options) == {
        "A": "red",
        "B": "green",
        "C": "blue",
        "D": "none of the above",
    }
    assert item.answer == "A"
    assert dict(item.categories) == {"category": "odd"}
    assert "image" not in item.fields
    assert [dataset.images(i) for i in dataset.items] == [[image_bytes()]] * 3


def test_an_image_cell_may_name_another_row_or_list_several(tmp_path: Path) -> None:
    rows = [row(7), row(8, image="7"), row(9, image=str([IMAGE, IMAGE]))]
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", rows))
    counts = [len(dataset.images(item)) for item in dataset.items]
    assert counts == [1, 1, 2]
    assert dataset.images(dataset.items[1]) == [image_bytes()]


def test_images_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(image_bytes())
    rows = [without(row(0), "image") | {"image_path": "x.png"}]
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", rows))
    assert dataset.images(dataset.items[0]) == [image_bytes()]
    rows[0]["image_path"] = "['x.png', 'x.png']"
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", rows))
    assert dataset.images(dataset.items[0]) == [image_bytes()] * 2
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", [row(0, image="x.png")]))
    assert dataset.images(dataset.items[0]) == [image_bytes()]
    rows[0]["image_path"] = "gone.png"
    with pytest.raises(DataError, match=r"row 1: .*gone\.png': no such file"):
        read_tsv(write_tsv(tmp_path / "a.tsv", rows), strict=True)


@pytest.mark.parametrize(
    "listed",
    [
        "['(A) a cat', '(B) two dogs', '(C) The image does not feature it.']",
        "The choices are:\n(A) a cat\n(B) two dogs\n(C) The image does not feature it.",
    ],
)
def test_options_may_stand_in_one_column(tmp_path: Path, listed: str) -> None:
    cells = row(0, answer="B")
    for letter in "ABCD":
        del cells[letter]
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", [cells | {"multi-choice options": listed}]))
    assert dict(dataset.items[0].options) == {
        "A": "a cat",
        "B": "two dogs",
        "C": "The image does not feature it.",
    }


def test_a_question_without_options_is_open(tmp_path: Path) -> None:
    rows = [
        {"index": 0, "image": IMAGE, "question": "How many?", "answer": "3"},
        {"index": 1, "image": IMAGE, "question": "Who?", "answer": "['Ann', 'Anne']"},
    ]
    items = read_tsv(write_tsv(tmp_path / "a.tsv", rows)).items
    assert items[0].options == {}
    assert [item.references for item in items] == [("3",), ("Ann", "Anne")]


def test_the_generated_files_have_their_layouts(tmp_path: Path) -> None:
    paths = make_tsvs(tmp_path, 8, seed=1)
    vstar, hrbench = read_tsv(paths.vstar), read_tsv(paths.hrbench)
    assert {item.answer for item in vstar.items} == {"A"}
    assert not vstar.cyclic and hrbench.cyclic
    first = hrbench.items[:4]
    assert [item.answer for item in first] == ["A", "B", "C", "D"]
    assert len({item.options[item.answer] for item in first}) == 1
    assert len({hrbench.images(item)[0] for item in first}) == 1
    assert [item.categories["cycle_category"] for item in first] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("column", ["index", "question", "answer", "image"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write_tsv(tmp_path / "bad.tsv", [without(row(0), column)])
    with pytest.raises(DataError, match=rf"bad\.tsv: the column '{column}'.* is missing"):
        read_tsv(path)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"image": IMAGE[:90] + "!" + IMAGE[91:]}, "broken base64"),
        ({"image": base64.b64encode(b"hello" * 40).decode()}, "the image is not an image"),
        ({"image": "12"}, "neither base64, nor a file, nor the index"),
        ({"image": ""}, "'image' is empty"),
        ({"index": 0}, "index '0' is already that of row 1"),
        ({"answer": "E"}, "answer 'E' is not one of the options A, B, C, D"),
        ({"answer": "purple"}, "answer 'purple' is not one of the options"),
        ({"B": ""}, "options A, C, D: expected A, B"),
        ({"question": " "}, "'question' is empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, cells: dict[str, Any], words: str) -> None:
    path = write_tsv(tmp_path / "bad.tsv", [row(0), row(1), row(2) | cells])
    with pytest.raises(DataError, match=rf"bad\.tsv, row 3: .*{words}"):
        read_tsv(path, strict=True)
    dataset = read_tsv(path)
    assert [item.row for item in dataset.items] == [1, 2]
    assert list(dataset.problems) == [3]
    assert re.search(words, dataset.problems[3])


def test_a_row_with_too_few_cells_is_named(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "bad.tsv", [row(0), row(1)])
    path.write_text(path.read_text().rpartition("\t")[0] + "\n")
    with pytest.raises(DataError, match=r"row 2: 8 cells where the header has 9"):
        read_tsv(path, strict=True)
    assert list(read_tsv(path).problems) == [2]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tsv cannot be read"):
        read_tsv(tmp_path / "gone.tsv")
    (tmp_path / "empty.tsv").touch()
    with pytest.raises(DataError, match=r"empty\.tsv: the file is empty"):
        read_tsv(tmp_path / "empty.tsv")


def test_a_row_that_is_left_out_takes_those_along_that_show_its_image(tmp_path: Path) -> None:
    rows = [row(0), row(1, answer="E"), row(2, image="1"), row(3, image="broken!" * 20)]
    rows += [row(4, image="3"), row(5, image="2")]
    dataset = read_tsv(write_tsv(tmp_path / "a.tsv", rows))
    assert [item.index for item in dataset.items] == ["0", "2"]
    assert dataset.images(dataset.items[1]) == [image_bytes()]
    assert list(dataset.problems) == [2, 4, 5, 6]


def test_a_row_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [row(0), row(1, question="caf\u00e9?"), row(2)])
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9"))
    dataset = read_tsv(path)
    assert dict(dataset.problems) == {2: "the row is not UTF-8"}
    assert [dataset.images(item) for item in dataset.items] == [[image_bytes()]] * 2


def test_a_file_without_a_good_row_is_an_error(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [row(0, answer="E")])
    with pytest.raises(DataError, match=r"a\.tsv: there is no row that can be used: row 1: "):
        read_tsv(path)
