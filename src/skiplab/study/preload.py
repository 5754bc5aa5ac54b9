"""Imported once, by the process that a study's cells are forked from: what each of them would import. Runs no operation."""

import gc
import os
from contextlib import suppress

from skiplab.machine.signals import keep_back

# a signal to the whole group, a terminal's Ctrl-C above all, is for the sweep
keep_back()
with suppress(OSError, AttributeError):
    os.setsid()
gc.disable()

from skiplab import finish, launch, run  # noqa: E402, F401
from skiplab.runs import plots  # noqa: E402, F401

# what is shared stays shared: the collector would write into it
gc.freeze()
