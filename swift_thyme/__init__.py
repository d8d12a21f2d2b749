"""Thyme for ms-swift: models that write and run Python while they reason.

Importing the package has no side effect; the modules that register something with ms-swift are
the files in ``swift_thyme/plugins/``.
"""

__version__ = "0.1.0"
