"""Imported once, by the process that a study's cells are forked from: what each of them would import. Runs no operation."""

import gc

gc.disable()

from skiplab import launch, outcome, plots, run  # noqa: E402, F401

gc.freeze()  # what is shared stays shared: the collector would write into it
