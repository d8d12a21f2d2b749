"""The wing for ms-swift: everything that imports or patches it.

No other package imports ms-swift. ``docs/architecture.md`` says which module does what.
"""
