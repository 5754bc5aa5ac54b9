"""What a run does after a step, on a signal or at its time limit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Go on, save and go on, or save and stop. False is only a decision to go on."""

    saves: bool = False
    # The exit code to stop with: 7 by max_time, 128 + N by signal N. 0: no stop.
    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.saves

    @property
    def is_stop(self) -> bool:
        """Whether the run ends."""
        return self.exit_code > 0

    def to_number(self) -> int:
        """Return the decision as ranks send it: 0 go on, -1 save, else the exit code."""
        return self.exit_code if self.is_stop else -int(self.saves)

    @staticmethod
    def from_number(number: int) -> "Decision":
        """Return the decision whose `to_number` is this."""
        return stop_with(number) if number > 0 else Decision(saves=number < 0)


GO_ON = Decision()
SAVE = Decision(saves=True)


def stop_with(exit_code: int) -> Decision:
    """Decide to save, then to stop with this exit code."""
    return Decision(saves=True, exit_code=exit_code)
