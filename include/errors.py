"""The one exception an operator reads at three in the morning."""

from __future__ import annotations


class MaintenanceError(Exception):
    """A failure told as what happened, what was left untouched and what to do.

    Args:
        what: one sentence: what failed, with the object's name and the cause as the server or tool gave it.
        untouched: what this failure did *not* change ("the 7 earlier backups", "nothing was written").
        remedy: what a person should do now.
        database: the configured name of the database concerned, where there is one.
        transient: True where trying again unchanged may help (a network that went away); a wrong password,
            a missing permission or a corrupt object is False and fails at once.
    """

    def __init__(
        self, what: str, *, untouched: str, remedy: str, database: str | None = None, transient: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.untouched = untouched
        self.remedy = remedy
        self.database = database
        self.transient = transient

    def __str__(self) -> str:
        where = f"{self.database}: " if self.database else ""
        return f"{where}{self.what}\n  left untouched: {self.untouched}\n  what to do: {self.remedy}"
