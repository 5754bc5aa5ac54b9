"""What a run leaves on disk: folder and lock, checkpoints, result, log, report and pictures."""

from skiplab.callables import make_callable

make_callable(__name__)
