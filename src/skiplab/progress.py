"""What a run counts while it trains, and the plain values that its loop goes by."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Progress:
    """The numbers a run carries from step to step; with weights, average, optimizer and scaler this is its whole state."""

    step: int = 0  # optimizer steps done
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # of the batches' mean losses since the last evaluation, times their images
    num_correct: int = 0
    num_seen: int = 0
    metrics_size: int = 0  # bytes of metrics.jsonl that belong to these steps
    rollbacks: int = 0  # times that the run went back and lowered its learning rate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plain values the loop needs; `*_every` in optimizer steps, `max_time` in minutes (inf: no limit)."""

    seed: int
    num_steps: int
    stop_at: int
    num_classes: int
    accumulate: int
    compiled: bool
    amp: str
    clip: float
    label_smoothing: float
    early_stop: float
    eval_every: int
    eval_train: bool
    save_every: int
    log_every: int
    max_time: float
    on_nonfinite: str
