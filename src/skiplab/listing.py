"""`skiplab list` and `skiplab info`."""

import shlex
from pathlib import Path

from skiplab import config, folders
from skiplab.errors import UsageError
from skiplab.files import default_root


def table(root: Path) -> str:
    """A line per run under `root`: state, data, model, best validation accuracy, seconds, folder; and how to go on."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; runs go to outputs/ under the folder that train is started in")
    rows = [("state", "data", "model", "val acc", "test acc", "seconds", "run")]
    for folder in folders.runs_under(root):
        state = folders.state_of(folder)
        try:
            stored = config.load(folder / folders.CONFIG)
        except UsageError:
            rows.append(("broken", "", "", "", "", "", f"{folder} (its {folders.CONFIG} does not pass the check)"))
            continue
        model = f"{stored.model.name}/{stored.block.name} d{stored.depth} w{stored.width} s{stored.seed}"
        best, test = state.result.get("best_val_accuracy"), state.result.get("test", {}).get("accuracy")
        seconds = state.result.get("train_seconds")
        rows.append(
            (
                state.state,
                stored.dataset.name,
                model + (f" ({stored.name})" if stored.name else ""),
                f"{100 * best:.2f} %" if best is not None else "-",
                f"{100 * test:.2f} %" if test is not None else "-",
                f"{seconds:.0f}" if seconds is not None else "-",
                f"{folder}" if state.state != "stopped" else f"{folder}   go on: train resume={shlex.quote(str(folder))}",
            )
        )
    if len(rows) == 1:
        return f"no runs under {root}"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def info() -> str:
    """Versions, devices, threads, data root."""
    import torch

    from skiplab import hardware
    from skiplab.paths import conf_folder

    lines = [f"{name:<10} {version}" for name, version in hardware.versions().items()]
    lines.append(f"{'cpu':<10} {hardware.cpu_name()}, {hardware.num_cores()} cores for this process")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"{f'cuda:{i}':<10} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append(f"{'cuda':<10} none")
    lines.append(f"{'mps':<10} {'yes' if torch.backends.mps.is_available() else 'none'}")
    lines.append(f"{'data root':<10} {default_root()}")
    lines.append(f"{'conf':<10} {conf_folder()}")
    return "\n".join(lines)
