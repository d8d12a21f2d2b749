"""How much memory a model takes per GPU, and the flags of a job that fits."""
