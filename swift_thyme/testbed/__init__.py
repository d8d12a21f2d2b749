"""The embedded testbed: a task that needs the tool, its data, and a tiny model that has learned it.

``task`` draws the pictures, ``data`` writes rows in the Thyme formats, ``template`` is the ms-swift
template of the tiny model, and the folder ``model/`` holds its trained checkpoint.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_DIR"]

MODEL_DIR = Path(__file__).resolve().parent / "model"
"""Folder of the shipped checkpoint (weights, configuration, tokenizer, processor)."""
