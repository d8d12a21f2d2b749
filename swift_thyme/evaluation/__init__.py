"""Evaluation of a model that uses tools, on VLMEvalKit's TSV files.

``tsv`` reads the files, ``items`` makes questions of rows, ``matching`` compares answers by rules,
``run`` runs the trajectories so that a killed run goes on where it stopped, ``statistics`` and
``report`` say what came out, ``vlmeval_files`` writes VLMEvalKit's own layout, and ``vlmeval`` is
the model class that VLMEvalKit itself can call.
"""
