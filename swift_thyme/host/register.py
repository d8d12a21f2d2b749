"""Makes the components known to ms-swift; the files for ``--external_plugins`` call this.

Registration goes through ms-swift's public tables (``multi_turns``, ``callbacks_map``, ``orms``,
``loss_scale_map``, ``register_template``). Calling a function again changes nothing.

Each function first makes sure that the installed ms-swift has what its components use beyond those
tables, and raises a :class:`~swift_thyme.core.errors.HostError` where it has not; see
:mod:`swift_thyme.host.contract`.
"""

from __future__ import annotations

from swift_thyme.core.environment import warn_about_unknown
from swift_thyme.host.contract import require
from swift_thyme.host.contract_table import JOB_GROUPS, Group

__all__ = ["register_all", "register_loss_scale", "register_rewards", "register_testbed"]


def register_all() -> None:
    """Register every component and take ``--O3`` from the command line."""
    require(*JOB_GROUPS)
    warn_about_unknown()
    from swift.callbacks import callbacks_map
    from swift.rollout import multi_turns

    from swift_thyme.host.callback import ThymeCallback
    from swift_thyme.host.flag import (
        CALLBACK_NAME,
        SCHEDULER_NAME,
        accept_o3_flag,
        host_arguments,
        sampling_settings,
    )
    from swift_thyme.host.flag_row import Job, job_of
    from swift_thyme.host.length_rewards import add_length_rewards
    from swift_thyme.host.loss_scale import add_loss_scale
    from swift_thyme.host.picture_cache import install_picture_cache
    from swift_thyme.host.response_prefix import install_prefix_accounting
    from swift_thyme.host.reward_functions import add_reward_functions
    from swift_thyme.host.scheduler import O3Scheduler
    from swift_thyme.host.template_images import (
        install_image_accounting,
        install_upright_images,
    )
    from swift_thyme.host.template_repairs import install_template_repairs
    from swift_thyme.host.transformers_hook import install_sampling_hook

    multi_turns[SCHEDULER_NAME] = O3Scheduler
    callbacks_map[CALLBACK_NAME] = ThymeCallback
    add_reward_functions()
    add_length_rewards()
    add_loss_scale()
    install_image_accounting()
    install_upright_images()
    install_template_repairs()
    install_prefix_accounting()
    if accept_o3_flag():
        install_sampling_hook(sampling_settings())
        # Supervised training sees each picture once in an epoch.
        if job_of(host_arguments()) in (Job.GRPO, Job.ROLLOUT):
            install_picture_cache()


def register_rewards() -> None:
    """Register the seven rewards alone.

    Names: ``fmt_orm``, ``vqa_orm``, ``cst_orm``, ``code_orm``, ``code_orm_llm``, ``vqa_prm`` and
    ``code_prm``. The environment is read later, when the trainer makes the rewards.
    """
    require(Group.REWARDS)
    warn_about_unknown()
    from swift_thyme.host.reward_functions import add_reward_functions

    add_reward_functions()


def register_loss_scale() -> None:
    """Register the loss scale ``thyme`` alone and take ``--O3`` from the command line.

    Pictures are turned as in a rollout, so that both kinds of training see the same ones.
    """
    require(Group.FLAG, Group.LOSS_SCALE, Group.PICTURES, Group.PREFIX)
    warn_about_unknown()
    from swift_thyme.host.flag import accept_o3_flag
    from swift_thyme.host.loss_scale import add_loss_scale
    from swift_thyme.host.response_prefix import install_prefix_accounting
    from swift_thyme.host.template_images import install_upright_images

    add_loss_scale()
    install_upright_images()
    install_prefix_accounting()
    accept_o3_flag()


def register_testbed() -> None:
    """Register the tiny model's template, and make vLLM's CPU build trainable."""
    require(Group.TESTBED)
    from swift_thyme.host import cpu_vllm
    from swift_thyme.host.tiny_template import add_template

    add_template()
    cpu_vllm.keep_plain_weights()
    cpu_vllm.serve_without_gpus()
