"""Only the rewards, for a job with a scheduler of its own, or none.

Use it as ``--external_plugins rewards_only.py``.

Registers ``fmt_orm``, ``vqa_orm``, ``cst_orm`` and the process rewards; needs no ``--O3``.
"""

from swift_thyme.host.register import register_rewards

register_rewards()
