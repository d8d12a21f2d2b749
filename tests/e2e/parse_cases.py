"""Parses command lines with ms-swift's own argument classes and prints what came out, as JSON.

usage: python parse_cases.py CASES.json; a case is {"class", "argv"}.
"""

import json
import os
import pickle
import sys
import traceback

from swift.arguments import InferArguments, RLHFArguments, RolloutArguments, SftArguments
from swift.utils import parse_args

from swift_thyme.host import flag as o3

CLASSES = {
    "rlhf": RLHFArguments,
    "sft": SftArguments,
    "rollout": RolloutArguments,
    "infer": InferArguments,
}
FIELDS = (
    "O3",
    "multi_turn_scheduler",
    "max_turns",
    "stop_words",
    "vllm_limit_mm_per_prompt",
    "callbacks",
    "vllm_engine_kwargs",
    "vllm_use_async_engine",
    "thyme_sampling",
    "loss_scale",
)

# A server's arguments count the machine's GPUs, of which there may be none here.
RolloutArguments._check_device_count = lambda self: None

results = []
with open(sys.argv[1], encoding="utf-8") as file:
    cases = json.load(file)
for case in cases:
    # A process of ms-swift parses once; here each case needs a plugin that was not imported yet.
    for name in [name for name in sys.modules if name.startswith("_swift_external_")]:
        del sys.modules[name]
    o3._host_arguments = None
    os.environ.update(case.get("env", {}))
    try:
        arguments, remaining = parse_args(CLASSES[case["class"]], case["argv"])
        found = {name: getattr(arguments, name) for name in FIELDS if hasattr(arguments, name)}
        if case["class"] == "rollout":
            # What the server's engine processes are started with, after the pickling on the way.
            found["engine"] = pickle.loads(pickle.dumps(arguments)).get_vllm_engine_kwargs()
        results.append({"fields": found, "remaining": remaining})
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        results.append({"error": f"{type(error).__name__}: {error}"})
    for name in case.get("env", {}):
        del os.environ[name]
print("RESULTS" + json.dumps(results))
