"""Programs that are right, each near a repair: a sandbox that changes what they print is wrong.

Blocks of a program are separated by `NEXT`. Each is run by plain Python as well; they use paths
relative to the folder they run in, and folders that are on no machine.
"""
# ruff: noqa: E501 - one program a line

NEXT = "# next block\n"
READ = "img = cv2.imread(image_path)\n"
OPEN = "im = Image.open(image_path)\n"

# fmt: off
PROGRAMS: dict[str, str] = {
    # -- crops by slices
    "inside": READ + "print(img[10:90, 20:180].shape, img[10:90, 20:180].sum())",
    "wider_than_high": READ + "c = img[0:100, 50:200]\nprint(c.shape, int(c[0, 0, 0]))",
    "one_pixel": READ + "print(img[50:51, 60:61].shape)",
    "narrow_strip": READ + "print(img[0:3, 0:200].shape, img[0:100, 5:9].shape)",
    "cut_at_the_end": READ + "print(img[80:400, 150:900].shape)",
    "from_the_end": READ + "print(img[-20:, -30:].shape, img[:-5, :-5].shape)",
    "steps": READ + "print(img[::2, ::4].shape, img[90:10:-1, 0:5].shape)",
    "all_of_it": READ + "print(img[:, :].shape, img[:, :, 0].shape, img[..., ::-1].shape)",
    "channel_of_a_crop": READ + "print(img[10:20, 10:20, 2].shape, img[10:20, 10:20, ::-1].shape)",
    "empty_and_asked_for": READ + "c = img[80:20, 150:50]\nprint('empty' if c.size == 0 else c.shape)",
    "empty_and_asked_for_by_truth": READ + "c = img[500:600, 500:600]\nif not c.size:\n    print('outside')\nelse:\n    print(c.shape)",
    "empty_shape_asked_for": READ + "c = img[90:10, 0:50]\nprint(0 in c.shape, c.shape)",
    "nothing_left_below": READ + "h = img.shape[0]\nprint(img[h:, :].shape, img[:0, :].shape)",
    "no_strip_above": READ + "y = 0\nprint(img[y - 5:y, 10:60].shape)",
    "zero_width": READ + "print(img[10:10, 20:20].shape)",
    "box_of_zeros": READ + "x1, y1, x2, y2 = 0, 0, 0, 0\nprint(img[y1:y2, x1:x2].shape)",
    "tiles": READ + "print([img[y:y + 30, x:x + 70].shape[:2] for y in range(0, 100, 30) for x in range(0, 200, 70)])",
    "tiles_with_empty_ones": READ + "print([img[y:y + 40, 0:60].shape[0] for y in (0, 40, 80, 120)])",
    "floats_refused": READ + "try:\n    print(img[10.0:20.0, 5.0:9.0].shape)\nexcept TypeError as e:\n    print('no:', e)",
    "floats_made_whole": READ + "x = 12.7\nprint(img[int(x):int(x) + 20, round(x):50].shape)",
    "numpy_bounds": READ + "b = np.array([10, 20, 50, 90])\nprint(img[b[0]:b[2], b[1]:b[3]].shape)",
    "table_without_rest": "data = np.arange(20).reshape(5, 4)\nrest = data[5:, :]\nprint(rest.shape, rest.sum())",
    "table_of_an_earlier_block": "data = np.arange(20).reshape(5, 4)\n" + NEXT + "rest = data[5:, 0:4]\nprint(rest.shape, rest.sum())",
    "table_of_floats": "m = np.eye(300)\nprint(m[200:100, 5:9].shape, m[400:500, 0:3].size)",
    "small_table_of_bytes": "t = np.zeros((6, 5), np.uint8)\nprint(t[4:2, 0:3].shape, t[8:9, 0:2].shape)",
    "mask_of_truth": READ + "m = img[:, :, 0] > 100\nprint(m[90:10, 0:5].shape)",
    "video_of_pictures": READ + "v = np.stack([img] * 3)\nprint(v[0:2, 10:40].shape, v[2:1, 0:9].shape)",
    "own_array_type": "class A:\n    def __getitem__(self, key): return key\nprint(A()[1:2, 3.5:4, ...])",
    "order_of_evaluation": "log = []\ndef say(x):\n    log.append(x)\n    return x\nimg = np.zeros((50, 50, 3), np.uint8)\ndef get():\n    log.append('img')\n    return img\nget()[say(1):say(2), say(3):say(4)]\nprint(log)",
    "crop_in_an_index": READ + "print(img[img[0:1, 0:1].size:9, 0:img[2:4, 5:9].shape[1]].shape)",
    "crop_in_a_class": "class P:\n    __a = np.zeros((60, 60, 3), np.uint8)\n    part = __a[5:9, 6:9]\n    def get(self): return self.__a[1:3, 2:9].shape\nprint(P.part.shape, P().get())",
    "crop_in_a_generator": READ + "def parts():\n    for i in range(3):\n        yield img[i:i + 2, (yield i):9]\ng = parts()\nprint(next(g), g.send(4).shape, next(g))",
    "assigned_crop": READ + "img[10:20, 10:20] = 7\nimg[0:2, 0:2] += 1\nprint(int(img[15, 15, 0]))\ndel img",
    "deferred_annotations": "from __future__ import annotations\ndef f(a: np.ndarray[0:2, 1:3]): return a\nprint(f.__annotations__)",
    "names_stay": "a = np.zeros((40, 40, 3), np.uint8)\nb = a[1:5, 2:6]\ndel a, b\nprint(sorted(n for n in globals() if not n.startswith('__')) == sorted(['os', 'math', 'json', 're', 'random', 'string', 'np', 'numpy', 'cv2', 'Image', 'image_path']))",
    "error_of_an_index": READ + "try:\n    img[nothing:3, 0:2]\nexcept NameError as e:\n    print(e)\ntry:\n    {}[1:2, 3:4]\nexcept TypeError as e:\n    print(e)",
    "source_of_a_crop": "import inspect\ndef f(a): return a[1:2, 3:4]\nprint(inspect.getsource(f))",
    # -- crops by Pillow
    "pil_inside": OPEN + "print(im.crop((20, 10, 180, 90)).size)",
    "pil_border": OPEN + "w, h = im.size\nprint(im.crop((-20, -20, w + 20, h + 20)).size)",
    "pil_border_at_two_sides": OPEN + "print(im.crop((0, -50, 200, 150)).size, im.crop((-1, 0, 200, 100)).size)",
    "pil_last_tiles": OPEN + "print([im.crop((x, y, x + 64, y + 64)).size for y in (0, 64) for x in (0, 64, 128, 192)])",
    "pil_floats": OPEN + "print(im.crop((10.4, 20.6, 50.5, 60.2)).size)",
    "pil_one_pixel": OPEN + "print(im.crop((0, 0, 1, 1)).getpixel((0, 0)) == im.getpixel((0, 0)))",
    "pil_refused": OPEN + "try:\n    im.crop((150, 80, 50, 20))\nexcept ValueError as e:\n    print(e)",
    "pil_empty_and_asked_for": OPEN + "c = im.crop((50, 50, 50, 80))\nprint('nothing' if c.width == 0 else c.size)",
    "pil_zero_width": OPEN + "print(im.crop((50, 50, 50, 80)).size)",
    "pil_of_its_own_file": OPEN + "im.resize((800, 400)).save('big.png')\nbig = Image.open('big.png')\nprint(big.crop((500, 300, 700, 390)).size, big.crop((500, 300, 700, 390)).getpixel((9, 9)) == big.getpixel((509, 309)))",
    "pil_of_an_earlier_file": OPEN + "im.resize((800, 400)).save('big.png')\n" + NEXT + "print(Image.open('big.png').crop((600, 200, 790, 390)).size)",
    "cv2_of_its_own_file": READ + "cv2.imwrite('tall.png', cv2.rotate(img, cv2.ROTATE_90_CLOCKWISE))\nt = cv2.imread('tall.png')\nprint(t[120:190, 10:90].shape)",
    "pil_no_box": OPEN + "print(im.crop().size, im.crop(None).size)",
    # -- paths
    "missing_file_asked_for": "try:\n    Image.open('nothing.png')\nexcept FileNotFoundError:\n    print('not there')",
    "missing_file_of_the_input_name": "image_path = '/no/such/folder/a.jpg'\nprint(os.path.exists(image_path))\ntry:\n    print(Image.open(image_path).size)\nexcept OSError as e:\n    print(type(e).__name__)",
    "missing_read_is_none": "print(cv2.imread('nothing.png') is None)",
    "first_of_several_paths": OPEN + "im.crop((0, 0, 50, 40)).save('b.png')\nfor name in ('a.png', 'b.png'):\n    img = cv2.imread(name)\n    if img is not None:\n        print(name, img.shape)",
    "name_of_a_result": READ + "image_file = 'zoom.png'\ncv2.imwrite(image_file, img[30:80, 40:90])\nprint('saved', image_file, cv2.imread(image_file).shape)",
    "path_of_a_result_in_a_function": OPEN + "def save(image_path):\n    im.crop((0, 0, 60, 50)).save(image_path)\n    return Image.open(image_path).size\nprint(save('part.png'))",
    "input_path_of_a_result": OPEN + "input_path = 'first.png'\nim.resize((64, 64)).save(input_path)\nprint(Image.open(input_path).size, input_path)",
    "saved_where_no_folder_is": OPEN + "try:\n    im.save('/no/such/folder/a.png')\nexcept FileNotFoundError:\n    print('no folder')",
    "missing_folder_made_then": OPEN + "try:\n    im.save('out/a.png')\nexcept FileNotFoundError:\n    os.makedirs('out')\n    im.save('out/a.png')\n    print('made', os.listdir('out'))",
    "folder_that_is_missing": "print(os.path.isdir('out2'))\ntry:\n    print(os.listdir('out2'))\nexcept FileNotFoundError as e:\n    print(e)",
    "imwrite_asked_for": READ + "print(cv2.imwrite('missing/a.png', img), os.path.exists('missing'))",
    "mkdir_without_parents": "try:\n    os.mkdir('/no/such/folder/x')\nexcept FileNotFoundError:\n    print('no parent')",
    "mkdir_twice": "os.makedirs('twice')\ntry:\n    os.makedirs('twice')\nexcept FileExistsError:\n    print('there')\nos.makedirs('twice', exist_ok=True)",
    "path_mkdir": "from pathlib import Path\np = Path('a/b')\np.mkdir(parents=True, exist_ok=True)\n(p / 'c.txt').write_text('d')\nprint(sorted(map(str, Path('a').rglob('*'))))",
    "alpha_refused": "im = Image.new('RGBA', (50, 40), (255, 0, 0, 0))\ntry:\n    im.save('a.jpg')\nexcept OSError:\n    im.convert('RGB').save('a.jpg')\nprint(Image.open('a.jpg').getpixel((0, 0))[0] > 200)",
    "alpha_kept": "im = Image.new('RGBA', (50, 40), (255, 0, 0, 9))\nim.save('a.png')\nprint(Image.open('a.png').getpixel((0, 0)))",
    "input_saved_over": OPEN + "im.rotate(90, expand=True).save(image_path)\nprint(Image.open(image_path).size, cv2.imread(image_path).shape)",
    # -- names
    "missing_name_asked_for": "try:\n    plt\nexcept NameError as e:\n    print(e)",
    "missing_alias_asked_for": "try:\n    cv.imread('a')\nexcept NameError:\n    print('no cv')",
    "missing_module_asked_for": "try:\n    import cv4\nexcept ImportError as e:\n    print(e)",
    "name_in_a_branch_not_taken": "if False:\n    plt.figure()\nprint('plt' in globals())",
    "name_in_a_function_not_called": "def f(): return time.time()\nprint('time' in globals())",
    "name_that_is_set_later": "def f(): return Path\nPath = 'a/b'\nprint(f())",
    "own_alias": "import cv2 as cv\nprint(cv.__name__)",
    "future_after_docstring": '"""Says."""\nfrom __future__ import annotations\nimport sys\nprint(__doc__, annotations.compiler_flag > 0, sys.maxsize > 0)',
    "names_by_exec": "exec('time = 3')\nprint(time)",
    # -- text
    "curly_quotes_in_a_string": "t = 'Price: \u201c12\u201d \u2013 15'\nprint(len(t), t.split('\u2013'))",
    "no_break_space_in_a_string": "print(len('a\u00a0b'), 'a\u00a0b'.split('\u00a0'))",
    "full_width_in_a_string": "print('\uff08\u4e2d\uff09\uff0c'.count('\uff08'))",
    "tags_in_a_string": "print('<code>x</code>')",
    "fence_in_a_string": 't = """\n```python\nx\n```\n"""\nprint(t)',
    "indented_text": 't = """\n    a\n      b\n"""\nprint(repr(t))',
    "zero_width_in_a_comment": "# \u200b\u201c\nprint(1)",
}
# fmt: on
