"""Looks at a machine and says what is ready on it and what to do about the rest."""
