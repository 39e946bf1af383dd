"""Progress a person can watch: a spinner for each step that runs, a line with its seconds when it is done."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


class Step:
    """One step under way: say what it is at, and end it once."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(title, total=None)
        self._began = time.monotonic()

    def detail(self, text: str) -> None:
        """Show what the step is at."""
        self._progress.update(self._task, description=f"{self._title}: {text}")

    def note(self, text: str) -> None:
        """Print a line that stays, while the step goes on."""
        self._progress.console.print(Text(f"                {self._title}: {text}"), soft_wrap=True)

    def done(self, *, succeeded: bool, seconds: float | None = None) -> None:
        """Replace the spinner by a line that stays.

        Args:
            succeeded: whether it did.
            seconds: how long it took, where somebody else measured that.
        """
        self._progress.remove_task(self._task)
        took = time.monotonic() - self._began if seconds is None else seconds
        mark = Text("ok    ", "green") if succeeded else Text("FAILED", "bold red")
        line = Text.assemble(mark, f" {took:6.1f} s  ", self._title)
        self._progress.console.print(line, soft_wrap=True)


class Steps:
    """Steps under way, several at once where need be. Spinners and colours on a terminal only."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, title: str) -> Step:
        """Show a step that somebody else ends."""
        return Step(self._progress, title)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step for as long as the block runs."""
        step = self.begin(title)
        try:
            yield step
        except BaseException:
            step.done(succeeded=False)
            raise
        step.done(succeeded=True)
