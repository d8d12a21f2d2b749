"""``thyme serve``: the whole loop behind an OpenAI-compatible endpoint.

Threat model. Requests come from strangers. Covered: who may ask (a bearer token, compared in
constant time), how much a request may send (counted while it is read), what its images may be
(data URIs only, so no address is fetched and no file is read; limits are checked before decoding),
how many run and wait at once, and that a client who leaves takes its trajectory along. What the
model's code may do is the sandbox's business. Not covered: transport encryption (put a proxy in
front), and what a stranger with a token may cost within the limits.
"""
