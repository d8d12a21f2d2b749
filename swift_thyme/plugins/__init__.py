"""The files for ``--external_plugins``, as an installed package has them.

``thyme plugins`` prints this folder. ``plugin/`` of a checkout holds the same files.
"""
