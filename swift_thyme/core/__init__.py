"""The part that knows the protocol and nothing of ms-swift, torch, vLLM or processes.

Every other package may import it; it imports no other package of this project.
"""
