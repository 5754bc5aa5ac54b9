from skiplab.api import (
    Comparison as Comparison,
    Predictions as Predictions,
    Rows as Rows,
    Run as Run,
    compare as compare,
    load as load,
    runs as runs,
    study as study,
    train as train,
)

__version__: str
