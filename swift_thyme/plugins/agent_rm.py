"""The plugin of the main job: ``--external_plugins agent_rm.py --O3 true``.

Registration only; what is registered lives in the package, so that the processes that ms-swift
spawns can import it.
"""

from swift_thyme.host.register import register_all

register_all()
