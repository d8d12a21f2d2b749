"""Plugin of the testbed: the tiny model's template, and vLLM's CPU build made trainable.

Load it after ``plugin/agent_rm.py``; a job with a real model on GPUs does not need it.
"""

import thyme_checkout  # noqa: F401 - makes the next import work from a checkout

from swift_thyme.host.register import register_testbed

register_testbed()
