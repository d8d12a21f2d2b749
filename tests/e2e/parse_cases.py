"""Parses command lines with ms-swift's own argument classes and prints what came out, as JSON.

usage: python parse_cases.py CASES.json; a case is {"class", "argv"}.

The arguments of Megatron are ms-swift's own too; what they import of Megatron itself is a stand-in,
because it runs on GPUs alone.
"""

import importlib.abc
import importlib.machinery
import json
import os
import pickle
import sys
import traceback
from unittest.mock import MagicMock

import swift.arguments
import swift.rlhf_trainers
from swift.arguments import RLHFArguments, RolloutArguments, SftArguments
from swift.utils import parse_args

from swift_thyme.host import flag as o3

CLASSES = {
    "rlhf": RLHFArguments,
    "sft": SftArguments,
    "rollout": RolloutArguments,
    "pt": swift.arguments.PretrainArguments,
    "infer": swift.arguments.InferArguments,
    "deploy": swift.arguments.DeployArguments,
    "app": swift.arguments.AppArguments,
    "eval": swift.arguments.EvalArguments,
    "export": swift.arguments.ExportArguments,
    "sample": swift.arguments.SamplingArguments,
}
MEGATRON = {
    "megatron sft": "MegatronSftArguments",
    "megatron rlhf": "MegatronRLHFArguments",
    "megatron pt": "MegatronPretrainArguments",
    "megatron export": "MegatronExportArguments",
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


class NoServer:
    """Stands for the client of a rollout server, which is asked while the flags are parsed."""

    def __init__(self, **settings):
        pass

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


swift.rlhf_trainers.VLLMClient = NoServer


class NoMegatron(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes modules of Megatron in which every name is something."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"megatron", "mcore_bridge", "transformer_engine", "apex"}:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return MagicMock(__path__=[], __spec__=spec, __version__="0.15.0")

    def exec_module(self, module):
        pass


def class_of(name):
    if name not in MEGATRON:
        return CLASSES[name]
    if not any(isinstance(finder, NoMegatron) for finder in sys.meta_path):
        sys.meta_path.insert(0, NoMegatron())
    import swift.megatron.arguments

    return getattr(swift.megatron.arguments, MEGATRON[name])


def fields_of(arguments):
    return {name: getattr(arguments, name) for name in FIELDS if hasattr(arguments, name)}


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
        arguments, remaining = parse_args(class_of(case["class"]), case["argv"])
        found = fields_of(arguments)
        if case["class"] == "rollout":
            # What the server's engine processes are started with, after the pickling on the way.
            found["engine"] = pickle.loads(pickle.dumps(arguments)).get_vllm_engine_kwargs()
        results.append({"fields": found, "remaining": remaining})
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        results.append({"error": message, "fields": fields_of(o3.host_arguments())})
    for name in case.get("env", {}):
        del os.environ[name]
print("RESULTS" + json.dumps(results))
