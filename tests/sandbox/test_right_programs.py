"""Right programs near each repair print in the sandbox what plain Python prints, byte for byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swift_thyme.sandbox import InputImage, SandboxPool
from tests.sandbox.conftest import jpeg
from tests.sandbox.right_programs import NEXT, PROGRAMS

SHOWN_ONLY = {"enlarge_small_image", "shrink_large_image", "printed_base_name"}
"""Repairs of what is shown; the program does not see them."""

PLAIN = """
import contextlib, io, json, linecache, os, sys, tempfile
programs, image_path, picture = json.load(sys.stdin)
said = {}
for name, blocks in programs.items():
    open(image_path, "wb").write(bytes(picture))
    os.chdir(tempfile.mkdtemp(dir=os.path.dirname(image_path)))
    import math, random, re, string
    import cv2, numpy
    from PIL import Image
    names = dict(os=os, math=math, json=json, re=re, random=random, string=string)
    names |= dict(np=numpy, numpy=numpy, cv2=cv2, Image=Image, image_path=image_path)
    names["__name__"] = "__main__"
    said[name] = []
    for number, code in enumerate(blocks):
        output, file = io.StringIO(), f"<block {name} {number}>"
        linecache.cache[file] = (len(code), None, code.splitlines(True), file)
        with contextlib.redirect_stdout(output):
            exec(compile(code, file, "exec", dont_inherit=True), names)
        said[name].append(output.getvalue())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def input_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("right") / "street.jpg"


@pytest.fixture(scope="module")
def plain(input_file: Path) -> dict[str, list[str]]:
    """What plain Python prints, in one process for all programs."""
    blocks = {name: code.split(NEXT) for name, code in PROGRAMS.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN],
        input=json.dumps([blocks, str(input_file), list(jpeg())]),
        env={**os.environ, "OPENCV_LOG_LEVEL": "SILENT"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_prints_what_plain_python_prints(
    pool: SandboxPool, plain: dict[str, list[str]], input_file: Path, name: str
) -> None:
    with pool.open_sync([InputImage(str(input_file), jpeg())]) as session:
        results = [session.run_sync(code) for code in PROGRAMS[name].split(NEXT)]
    assert [(r.status.value, r.error) for r in results] == [("ok", None)] * len(results)
    assert [result.stdout for result in results] == plain[name]
    found = {repair for result in results for repair in result.repairs} - SHOWN_ONLY
    assert found <= ({"keep_input"} if name == "input_saved_over" else set())
    assert all(result.program is None for result in results)


def test_the_table_is_long_enough() -> None:
    assert len(PROGRAMS) >= 60
