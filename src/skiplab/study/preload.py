"""Import what each cell of a study would import, once, in the server that they are forked from.

Runs no operation.
"""

import gc
import os
from contextlib import suppress

from skiplab.machine.signals import keep_back

# A signal to the whole group is for the sweep, such as a terminal's Ctrl-C.
keep_back()
with suppress(OSError, AttributeError):
    os.setsid()
gc.disable()

from skiplab import finish, launch, run  # noqa: E402, F401
from skiplab.runs import plots  # noqa: E402, F401

# The garbage collector would write into memory that the forks share.
gc.freeze()
