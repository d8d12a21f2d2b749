"""The published recipe: training scripts, a configuration to start from, and ``thyme init``."""
