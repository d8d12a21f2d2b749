"""``thyme view``: one self-contained HTML page from trajectories on disk.

``sources`` finds and reads them, ``completions`` reads what ms-swift logs as text, ``images`` makes
pictures fit for embedding, ``highlight`` colours code, and ``page`` puts it all into ``page.html``
with ``page.css`` and ``page.js``. ``docs/viewer.md`` describes the page.

Threat model. Text, programs, printed output and pictures come from a model. In the page they are
data: text is set as text and never parsed, pictures are data URIs of PNG, JPEG, WebP or GIF, and a
content security policy allows nothing but the page's own script and style, by their hashes. The
page loads nothing and sends nothing. Not covered: bugs of the browser's picture decoders.
"""
