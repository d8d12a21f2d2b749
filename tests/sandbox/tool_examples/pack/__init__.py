from pack.inner import double

__all__ = ["double"]
