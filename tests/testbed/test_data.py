"""The rows: valid, reproducible, and what they show really happens when the code is run."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import (
    IMAGE_TAG,
    OUTPUT_DIR,
    parse_user_prompt,
)
from swift_thyme.core.reading import read
from swift_thyme.testbed.data import (
    demonstration,
    demonstration_code,
    main,
    make_dataset,
    picture_rng,
)
from swift_thyme.testbed.task import VIEW_SIZE, Box, make_picture


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), n_sft=4, n_rl=3, n_eval=2, seed=7)


def test_each_split_has_the_rows_that_were_asked_for(paths):
    assert [len(read_rows(path)) for path in paths] == [4, 3, 2]


def test_rl_rows_name_their_picture_in_the_prompt_and_know_the_answer(paths):
    for path, split in ((paths.rl, "rl"), (paths.eval, "eval")):
        for index, row in enumerate(read_rows(path)):
            system, user = row["messages"]
            assert (system["role"], user["role"]) == ("system", "user")
            assert user["content"].count(IMAGE_TAG) == 1
            assert row["question"] in user["content"]
            prompt = parse_user_prompt(user["content"])
            assert prompt is not None
            assert [prompt.path] == row["images"]
            assert Path(prompt.path).is_absolute()
            with Image.open(prompt.path) as image:
                assert image.size == (448, 448)
            picture = make_picture(picture_rng(7, split, index))
            assert row["solution"] == picture.number
            assert row["plate"] == list(picture.plate)


def test_an_sft_row_has_one_image_for_each_tag_and_the_right_answer(paths):
    for index, row in enumerate(read_rows(paths.sft)):
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assistant = row["messages"][2]["content"]
        assert sum(m["content"].count(IMAGE_TAG) for m in row["messages"]) == len(row["images"])
        assert "</code><sandbox_output><image></sandbox_output>" in assistant
        number = make_picture(picture_rng(7, "sft", index)).number
        assert read(assistant).answer == number


def test_the_returned_crop_is_what_the_demonstrated_code_saves(paths, tmp_path, capsys):
    for row in read_rows(paths.sft):
        (program,) = read(row["messages"][2]["content"]).programs
        program = program.replace(OUTPUT_DIR, f"{tmp_path}/")
        exec(program, {"Image": Image, "image_path": row["images"][0]})
        made = Image.open(capsys.readouterr().out.strip())
        returned = Image.open(row["images"][1])
        assert made.size == returned.size == (VIEW_SIZE, VIEW_SIZE)
        assert np.array_equal(np.asarray(made), np.asarray(returned))


def test_the_sentence_before_the_code_names_the_window_that_the_code_crops():
    text = demonstration(Box(208, 112, 304, 208), "47")
    assert re.findall(r"\(?\((\d+, \d+, \d+, \d+)\)", text) == ["208, 112, 304, 208"] * 2
    assert demonstration_code(Box(208, 112, 304, 208)) in text


def test_equal_seeds_give_equal_files_and_other_seeds_other_rows(tmp_path):
    def digests(folder):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.glob("pictures/*")
        }

    rows = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made = make_dataset(tmp_path / name, 2, 2, 2, seed=seed)
        rows[name] = [path.read_text().replace(str(tmp_path / name), "") for path in made]
    assert rows["a"] == rows["b"] != rows["c"]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(set(digests(tmp_path / "a").values())) == 8, "the splits share no picture"


def test_the_name_of_a_picture_says_nothing_but_its_content(tmp_path):
    """Code in the sandbox can import the package: no number in a name may lead to the answer."""
    made = make_dataset(tmp_path / "a", 3, 6, 3, seed=7)
    more = make_dataset(tmp_path / "b", 0, 3, 9, seed=7)
    named = {}
    for path in (*made, *more):
        for row in read_rows(path):
            for image in map(Path, row["images"]):
                assert re.fullmatch(r"\d{8,}\.(jpg|png)", image.name)
                digest = hashlib.sha256(image.read_bytes()).hexdigest()
                assert str(int(digest, 16)).endswith(image.stem)
                assert named.setdefault(digest, image.name) == image.name
    # Neither the number of a row nor the order of the names follows the other.
    names = [Path(row["images"][0]).stem for row in read_rows(made.rl)]
    assert names != sorted(names)
    for index, name in enumerate(names):
        for split in ("sft", "rl", "eval"):
            row = read_rows(made.rl)[index]
            for drawn in ((7, split, int(name)), (int(name), split, index), (int(name), split, 0)):
                assert list(make_picture(picture_rng(*drawn)).plate) != row["plate"]


def test_pictures_whose_names_would_be_equal_have_different_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("swift_thyme.testbed.data._NAME_DIGITS", 1)
    rows = read_rows(make_dataset(tmp_path, 0, 20, 0).rl)
    assert len({row["images"][0] for row in rows}) == 20
    for index, row in enumerate(rows):
        assert row["solution"] == make_picture(picture_rng(0, "rl", index)).number
        with Image.open(row["images"][0]) as image:
            close = np.asarray(image).astype(int) - make_picture(picture_rng(0, "rl", index)).pixels
        assert np.abs(close).mean() < 8


def test_the_command_line_writes_the_same_as_the_function(tmp_path):
    main([str(tmp_path / "a"), "--n-sft", "1", "--n-rl", "1", "--n-eval", "0", "--seed", "3"])
    make_dataset(tmp_path / "b", 1, 1, 0, seed=3)
    for name in ("sft.jsonl", "rl.jsonl", "eval.jsonl"):
        texts = [(tmp_path / f / name).read_text().replace(f"/{f}/", "/") for f in "ab"]
        assert texts[0] == texts[1]


def test_an_unknown_split_or_a_negative_count_is_refused(tmp_path):
    with pytest.raises(DataError, match="test"):
        picture_rng(0, "test", 0)
    with pytest.raises(DataError, match="-1"):
        make_dataset(tmp_path, -1, 1, 1)
