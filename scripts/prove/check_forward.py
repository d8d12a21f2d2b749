"""Compares the batched forward pass of pre-training with transformers' on one exercise."""

import torch  # noqa: TID253 - training code
from tiny_model.pretrain import Network

from prove import base_model
from prove.exercises import Exercises
from prove.pretrain import _see, scenes_of
from prove.views import draw_views

processor = base_model.make_processor()
model = base_model.make_model(processor, "2m", 0)
device = torch.device("cpu")
network = Network(model, device)
exercises = Exercises(network, processor.tokenizer, device)
scenes = scenes_of([torch.from_numpy(array) for array in draw_views((0, 2000), 4)])
with torch.no_grad():
    seen = _see(network, scenes)
    [task] = exercises.tasks(scenes, seen, only=("whole",))
    exercise = exercises._kinds["whole"]
    ids = exercise.ids[None].clone()
    for field, where in exercise.slots.items():
        ids[:, where] = task.ids[field][:1, None]
    tokens = torch.cat([task.images[0][:1], task.images[1][:1]], dim=1).flatten(0, 1)
    ours = network.read(ids, exercise.positions[:, None, :], tokens)
    theirs = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=torch.cat([scenes.overview[0], scenes.upright[0]]),
        image_grid_thw=torch.tensor([[1, 8, 8]] * 2),
    ).logits
print(f"largest difference {float((ours - theirs).abs().max()):.1e}")
print(processor.tokenizer.decode(ids[0]).replace("<|image_pad|>", "")[:600])
for name in exercises._kinds:
    print(name, sorted(exercises._kinds[name].slots))
