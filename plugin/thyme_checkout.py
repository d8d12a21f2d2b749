"""Lets the plugin files run from a checkout in which ``swift_thyme`` is not installed.

ms-swift puts the folder of a plugin file on ``sys.path``, so ``import thyme_checkout`` works there.
"""

import importlib.util
import os
import sys
from pathlib import Path

if importlib.util.find_spec("swift_thyme") is None:
    root = str(Path(__file__).resolve().parents[1])
    sys.path.append(root)
    # Worker processes of the engine and of the sandbox start from the environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
