"""Can a template of ms-swift carry images that code returns? Refused with the reason where not."""

from __future__ import annotations

from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.host.image_tokens import image_tokens

__all__ = ["check_template"]


def check_template(template: Any) -> None:
    """Stop where code could return no image to a model.

    Raises:
        SettingsError: One line with the reason.
    """
    if template is None:
        raise SettingsError("the o3 scheduler needs a template: see --template and --model_type")
    image_tokens(template)
