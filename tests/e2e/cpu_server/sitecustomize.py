"""Lets a trainer without a GPU send its weights to `swift rollout`.

ms-swift connects to the server before it loads plugins, so that this cannot be one: Python loads it
at its start, from a folder in PYTHONPATH.
"""

import importlib.abc
import importlib.util
import sys

MODULE = "swift.rlhf_trainers.vllm_client"


class Finder(importlib.abc.MetaPathFinder):
    """Changes the module once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            from swift_thyme.host import cpu_vllm

            cpu_vllm.send_without_gpus(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
