"""Only the loss scale, for ``swift sft`` without the rest of the package.

Use it as ``--external_plugins plugin/sft_only.py --loss_scale thyme``; ``--O3 true`` in place of
``--loss_scale thyme`` says the same.
"""

import thyme_checkout  # noqa: F401 - makes the next import work from a checkout

from swift_thyme.host.register import register_loss_scale

register_loss_scale()
