"""``thyme sandbox-server``: the sandbox of this host for trainers elsewhere, over HTTP.

``docs/sandbox_remote.md`` has the endpoints and their messages.
"""
