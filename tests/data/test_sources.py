"""Every input format is cut into shards and read back row by row."""

import json
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.errors import DataError
from swift_thyme.data.reasons import Reason
from swift_thyme.data.sources import Source, find_sources, open_reader, plan_shards

COLUMNS = ("image", "question", "response")


def read_all(sources: list[Source], size: int) -> dict[str, list[tuple[int, Any]]]:
    shards = plan_shards(sources, size)
    rows: dict[str, list[tuple[int, Any]]] = {source.path: [] for source in sources}
    for shard in shards:
        source = sources[shard.source]
        # A new reader for each shard: any worker may get it.
        for row in open_reader(source, COLUMNS).rows(shard):
            rows[source.path].append((row.number, row.values))
    return rows


def make_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": [f"a{i}", "b"] if i % 3 else [],
            "question": f"q {i}\n",
            "response": "é" * (i % 7),
        }
        for i in range(count)
    ]


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


@pytest.mark.parametrize("size", [1, 7, 16, 50, 1000])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "one row group", "dataset"])
def test_every_row_is_read_once_and_in_order(tmp_path: Path, kind: str, size: int) -> None:
    rows = make_rows(103)
    path = tmp_path / "train.jsonl"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)[:-1])
    elif kind == "dataset":
        datasets = pytest.importorskip("datasets")
        path = tmp_path / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        path = tmp_path / "train.parquet"
        write_parquet(path, rows, 20 if kind == "parquet" else 1000)
    found = read_all(find_sources([str(path)]), size)
    assert list(found.values()) == [[(i, row) for i, row in enumerate(rows, 1)]]


def test_one_reader_goes_on_from_shard_to_shard(tmp_path: Path) -> None:
    rows = make_rows(100)
    write_parquet(tmp_path / "a.parquet", rows, 1000)
    sources = find_sources([str(tmp_path)])
    shards = plan_shards(sources, 16)
    reader = open_reader(sources[0], COLUMNS)
    for shard in [shards[0], shards[3], shards[2], shards[6]]:
        assert [row.values for row in reader.rows(shard)] == rows[shard.start : shard.stop]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": 1}\n\n \n{"question": 2}\n')
    (found,) = read_all(find_sources([str(tmp_path)]), 2).values()
    assert found == [(1, {"question": 1}), (4, {"question": 2})]


def test_a_line_that_is_no_object_is_a_row_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[1]\n{"a": \n{"a": 1}\n')
    sources = find_sources([str(tmp_path)])
    (shard,) = plan_shards(sources, 10)
    rows = list(open_reader(sources[0], COLUMNS).rows(shard))
    assert [row.problem and row.problem.reason for row in rows] == [Reason.BAD_JSON] * 2 + [None]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_quoted_line_breaks_and_large_fields_of_a_tsv_are_read(tmp_path: Path, size: int) -> None:
    large = "A" * 300_000
    (tmp_path / "a.tsv").write_text(
        f'index\timage\tquestion\n0\t{large}\t"two\nlines"\n1\t0\tsay ""hi""\n2\t\tx "y" z\n'
    )
    (found,) = read_all(find_sources([str(tmp_path)]), size).values()
    assert [number for number, _ in found] == [1, 2, 3]
    assert [row["question"] for _, row in found] == ["two\nlines", 'say ""hi""', 'x "y" z']
    assert [row["image"] for _, row in found] == [large, large, None]


def test_splits_are_named_by_file_or_folder(tmp_path: Path) -> None:
    for name in ("2round-00000-of-00002.parquet", "computation/0000.parquet", "rl.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {s.split for s in find_sources([str(tmp_path)])} == {"2round", "computation", "rl"}


def test_the_splits_of_a_saved_dataset_are_found(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(make_rows(5))
    datasets.DatasetDict({"2round": data, "computation": data}).save_to_disk(tmp_path / "d")
    assert [s.split for s in find_sources([str(tmp_path / "d")])] == ["2round", "computation"]


def test_bad_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        find_sources([str(tmp_path / "gone.jsonl")])
    with pytest.raises(DataError, match=r"holds no \.parquet"):
        find_sources([str(tmp_path)])
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match=r"a\.csv: not one of"):
        find_sources([str(tmp_path / "a.csv")])
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        plan_shards(find_sources([str(tmp_path / "a.parquet")]), 10)
    write_parquet(tmp_path / "b.parquet", [{"x": 1}], 10)
    with pytest.raises(DataError, match=r"b\.parquet: has columns \['x'\]"):
        open_reader(Source(str(tmp_path / "b.parquet"), "parquet", "b"), COLUMNS)
