"""The plugin of the main job: ``--external_plugins plugin/agent_rm.py --O3 true``.

Registration only; what is registered lives in the package, so that the processes that ms-swift
spawns can import it.
"""

import thyme_checkout  # noqa: F401 - makes the next imports work from a checkout
from swift.callbacks import callbacks_map
from swift.rollout import multi_turns

from swift_thyme import rewards
from swift_thyme.host_template import install_image_accounting
from swift_thyme.metrics import ThymeCallback
from swift_thyme.o3 import accept_o3_flag, sampling_settings
from swift_thyme.sampling.hf_hook import install_sampling_hook
from swift_thyme.scheduler import O3Scheduler
from swift_thyme.sft import loss_scale

multi_turns["o3"] = O3Scheduler
callbacks_map["thyme"] = ThymeCallback
rewards.register()
loss_scale.register()
install_image_accounting()
if accept_o3_flag():
    install_sampling_hook(sampling_settings())
