"""What is repaired, under which names, and that the rest is left alone."""
# ruff: noqa: E501 - one program a line

import pytest

from swift_thyme.sandbox import SandboxSession

OUT = "/mnt/data/temp_processed_images"
SHOW = "print(Image.open(image_path).size)"
NEW = "Image.new('RGB', (50, 40))"

# fmt: off
# name: (program, names of the repairs, what it prints)
REPAIRS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "code_tags": ("<code>\nprint(1)\n</code>", ("strip_code_tags",), "1"),
    "code_tag_unclosed": ("<code>\nprint(1)", ("strip_code_tags",), "1"),
    "code_tag_only_closed": ("print(1)\n</code>", ("strip_code_tags",), "1"),
    "fence": ("```python\nprint(1)\n```", ("strip_fence",), "1"),
    "fence_without_language": ("```\nprint(1)\n```", ("strip_fence",), "1"),
    "fence_unclosed": ("```python\nprint(1)", ("strip_fence",), "1"),
    "fence_only_closed": ("print(1)\n```", ("strip_fence",), "1"),
    "tags_and_fence": ("<code>\n```python\nprint(1)\n```\n</code>", ("strip_code_tags", "strip_fence"), "1"),
    "curly_double_quotes": ("print(\u201ca\u201d)", ("normalise_characters",), "a"),
    "curly_single_quotes": ("print(\u2018a\u2019)", ("normalise_characters",), "a"),
    "no_break_space": ("x =\u00a01\nprint(x)", ("normalise_characters",), "1"),
    "full_width_brackets": ("print\uff081\uff09", ("normalise_characters",), "1"),
    "full_width_colon": ("if 1\uff1a print(1)", ("normalise_characters",), "1"),
    "minus_sign": ("print(\u22121)", ("normalise_characters",), "-1"),
    "zero_width_space": ("print(1\u200b)", ("normalise_characters",), "1"),
    "all_indented": ("    x = 1\n    print(x)", ("dedent",), "1"),
    "all_indented_with_block": ("  for i in range(2):\n      print(i)", ("dedent",), "0\n1"),
    "first_line_indented": ("    x = 1\nprint(x)", ("indent_first_line",), "1"),
    "all_but_first_indented": ("x = 1\n    print(x)", ("indent_first_line",), "1"),
    "wrong_image_path": ("image_path = '/nowhere/a.jpg'\n" + SHOW, ("image_path",), "(200, 100)"),
    "relative_image_path": ("image_path = 'image.png'\n" + SHOW, ("image_path",), "(200, 100)"),
    "image_path_in_function": ("def f():\n    image_path = 'x.jpg'\n    return Image.open(image_path).size\nprint(f())", ("image_path",), "(200, 100)"),
    "cv": ("print(cv.imread(image_path).shape)", ("cv2_alias",), "(100, 200, 3)"),
    "cv3": ("print(cv3.imread(image_path).shape)", ("cv2_alias",), "(100, 200, 3)"),
    "cv4": ("print(cv4.imread(image_path).shape)", ("cv2_alias",), "(100, 200, 3)"),
    "capital_cv": ("print(CV.imread(image_path).shape)", ("cv2_alias",), "(100, 200, 3)"),
    "missing_pyplot": ("print(plt.__name__)", ("missing_import",), "matplotlib.pyplot"),
    "missing_sys": ("print(sys.maxsize > 0)", ("missing_import",), "True"),
    "missing_time": ("print(time.time() > 0)", ("missing_import",), "True"),
    "missing_uuid4": ("print(len(str(uuid4())))", ("missing_import",), "36"),
    "missing_counter": ("print(Counter('aab')['a'])", ("missing_import",), "2"),
    "missing_defaultdict": ("print(defaultdict(int)[1])", ("missing_import",), "0"),
    "missing_path": ("print(Path('/a/b').name)", ("missing_import",), "b"),
    "missing_draw": ("print(ImageDraw.__name__)", ("missing_import",), "PIL.ImageDraw"),
    "missing_itertools": ("print(next(itertools.count(3)))", ("missing_import",), "3"),
    "opened_wrong_path": ("print(Image.open('/nowhere/a.jpg').size)", ("input_path",), "(200, 100)"),
    "cv2_read_wrong_path": ("print(cv2.imread('a.jpg').shape)", ("input_path",), "(100, 200, 3)"),
    "opened_base_name": ("print(Image.open('street.jpg').size)", ("input_path",), "(200, 100)"),
    "saved_where_nothing_can_be": (NEW + ".save('/usr/a.png')", ("output_path",), ""),
    "cv2_saved_where_nothing_can_be": ("print(cv2.imwrite('/results/a.png', np.zeros((40, 50, 3), np.uint8)))", ("output_path",), "True"),
    "saved_in_missing_folder": (NEW + f".save('{OUT}/sub/a.png')", ("output_folder",), ""),
    "saved_over_the_input": (NEW + ".save(image_path)", ("keep_input",), ""),
    "alpha_as_jpeg": ("Image.new('RGBA', (50, 40)).save('a.jpg')", ("flatten_alpha",), ""),
    "palette_as_jpeg": ("Image.new('P', (50, 40)).save('a.jpg')", ("flatten_alpha",), ""),
    "processed_path_not_printed": (f"processed_path = '{OUT}/a.png'\n" + NEW + ".save(processed_path)", ("print_processed_path",), f"{OUT}/a.png"),
    "base_name_printed": (NEW + f".save('{OUT}/a.png')\nprint('a.png')", ("printed_base_name",), "a.png"),
    "swapped_slice": ("print(cv2.imread(image_path)[80:20, 150:50].shape)", ("swap_crop",), "(60, 100, 3)"),
    "swapped_crop": ("print(Image.open(image_path).crop((150, 80, 50, 20)).size)", ("swap_crop",), "(100, 60)"),
    "crop_on_the_0_1000_scale": ("img = cv2.imread(image_path)\nx1, y1, x2, y2 = 400, 500, 800, 900\nprint(img[y1:y2, x1:x2].shape)", ("scale_crop",), "(40, 80, 3)"),
    "crop_with_floats": ("print(cv2.imread(image_path)[10.0:50.0, 20.0:90.0].shape)", ("integer_crop",), "(40, 70, 3)"),
    "small_image": ("Image.new('RGB', (10, 20)).save('a.png')", ("enlarge_small_image",), ""),
}
# fmt: on


@pytest.fixture(scope="module")
def changes(with_and_without_accelerations: dict[str, object]) -> dict[str, object]:
    """The table runs twice."""
    return with_and_without_accelerations


@pytest.mark.parametrize("name", REPAIRS)
def test_the_repair_is_made_and_named(session: SandboxSession, name: str) -> None:
    code, repairs, printed = REPAIRS[name]
    result = session.run_sync(code)
    assert (result.status.value, result.error) == ("ok", None)
    assert result.repairs == repairs
    assert result.stdout.strip() == printed


@pytest.mark.parametrize("code", ["if 1:\nprint(1)", "for i in range(2)\n    print(i)", "print('a"])
def test_indentation_and_missing_signs_are_never_guessed(
    session: SandboxSession, code: str
) -> None:
    result = session.run_sync(code)
    assert result.status.value == "error"
    assert result.repairs == ()


def test_the_table_is_long_enough() -> None:
    assert len(REPAIRS) >= 40
