"""Data preparation: the published layouts in, rows and pictures that ms-swift reads out.

``sources`` reads, ``pictures`` decodes and stores, ``response`` and ``prompts`` check and rewrite
text, ``sft`` and ``rl`` build rows from them, ``worker`` does it for one shard and ``job`` for all.
Nothing here knows ms-swift or torch.
"""

from swift_thyme.data.job import run_job
from swift_thyme.data.job_options import JobOptions
from swift_thyme.data.reasons import Reason

__all__ = ["JobOptions", "Reason", "run_job"]
