"""Only the loss scale, for ``swift sft`` without the rest of the package.

Use it as ``--external_plugins plugin/sft_only.py --loss_scale thyme``; ``--O3 true`` in place of
``--loss_scale thyme`` says the same.
"""

import thyme_checkout  # noqa: F401 - makes the next imports work from a checkout

from swift_thyme.o3 import accept_o3_flag
from swift_thyme.sft import loss_scale

loss_scale.register()
accept_o3_flag()
