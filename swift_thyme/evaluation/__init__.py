"""Evaluation of a model that uses tools, on VLMEvalKit's TSV files.

``tsv`` reads the files, ``items`` makes questions of rows, ``arms`` says how they are asked,
``matching`` compares answers by rules and ``judging`` by a judge, and ``run`` runs the trajectories
so that a killed run goes on where it stopped. ``outcome`` is what one of them is worth, and
``base`` reads those of another model. ``results`` (with ``effects`` and ``statistics``) says what
came out; ``report_table`` and ``results_page`` show it. ``vlmeval_files`` writes VLMEvalKit's own
layout, and ``vlmeval`` is the model class that VLMEvalKit itself can call.
"""
