"""Stage 0: its own forward pass is the model's, and its pictures come from the seed alone."""

import time

import numpy as np
import pytest
from tiny_model.picture_views import CHUNK, ViewWorkers, draw_views

from swift_thyme.testbed import MODEL_DIR
from swift_thyme.testbed.task import GRID, PICTURE_SIZE, VIEW_SIZE, WINDOW_SIZE

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_the_batched_forward_pass_computes_what_transformers_computes():
    from tiny_model.pretrain import check_forward

    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        MODEL_DIR, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    assert check_forward(model, tokenizer) < 1e-3


def test_the_patches_are_those_of_the_image_processor():
    from tiny_model.pretrain import to_patches

    views = draw_views((0, 1), 2, 0.0)
    processor = transformers.AutoProcessor.from_pretrained(MODEL_DIR).image_processor
    expected = processor(images=list(views.overview), return_tensors="pt")["pixel_values"]
    ours = to_patches(torch.from_numpy(views.overview)).reshape(expected.shape)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_views_are_a_function_of_the_seed_and_of_the_shapes_that_the_model_sees():
    first, again, other = (draw_views(seed, 3, 8.0) for seed in ((0, 1), (0, 1), (0, 2)))
    assert first.overview.shape == first.crop.shape == (3, VIEW_SIZE, VIEW_SIZE, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.overview, other.overview)
    assert first.corner.min() >= 0
    assert first.corner.max() <= (PICTURE_SIZE - WINDOW_SIZE) // GRID
    assert set(first.digits.ravel()) <= set(range(10))


def test_workers_draw_their_seed_and_are_gone_after_closing():
    with ViewWorkers(1, seed=5, spread_px=0.0) as workers:
        views = workers.wait(timeout_s=120)
        processes = list(workers._processes)
    assert np.array_equal(views.digits, draw_views((5, 1000, 0, 0), CHUNK, 0.0).digits)
    deadline = time.monotonic() + 10
    while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(p.is_alive() for p in processes)
