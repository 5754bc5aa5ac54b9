"""Studies: sweeps whose cells are runs in folders that stay, and what they answer."""

from skiplab.callables import make_callable

make_callable(__name__)
