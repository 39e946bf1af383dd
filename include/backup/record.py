"""What every stored document has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A document in the store: never changed in memory, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
