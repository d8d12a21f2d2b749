"""The proof of docs/results.md: its items, models, trainings and tables.

Run as ``PYTHONPATH=scripts python -m prove.NAME``; nothing of the package imports it.
"""
