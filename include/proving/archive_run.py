"""Running pg_restore: its progress, its warnings, and whose fault it is when it fails."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal

from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from include.postgres.dsn import Dsn

    Progress = Callable[[str, int, int], None]

log = logging.getLogger(__name__)

Fault = Literal["archive", "server", "interrupted"]

# "215; 1262 16402 TABLE DATA public bookings hotel": dump id, two oids, kind, schema, name, owner.
_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<entry>.*)$")
_INDEX = r"(?:INDEX|CONSTRAINT|FK CONSTRAINT)"
# With several workers pg_restore says when an entry is finished, alone only when it begins one.
_TABLE_DONE = {True: re.compile(r"finished item \d+ TABLE DATA "), False: re.compile(r"processing data for table ")}
_INDEX_DONE = {True: re.compile(rf"finished item \d+ {_INDEX} "), False: re.compile(rf"creating {_INDEX} ")}
# Several workers write to one pipe, so what pg_restore puts before a message may stand before another one's.
_BEFORE = re.compile(r"(?:pg_restore: |error: |warning: |detail: |hint: )*")
# What --verbose adds.
_NARRATIVE = re.compile(
    r"(?:connecting|connected|creating|processing|launching|finished|entering|skipping|executing|restoring|restored"
    r"|read|disabling|enabling|setting|transferring|reducing|implied|dropping|starting|started|while) "
    r"|no item ready|NOTICE: "
)
_WARNING = re.compile(r"warning: |WARNING: ")
_KEPT_LINES = 40
_SHOWN_LINES = 8
# pg_restore 17 and later try this on older servers too, which do not know it.
_NOT_KNOWN = 'unrecognized configuration parameter "transaction_timeout"'
_NOT_KNOWN_COMMAND = "Command was: SET transaction_timeout = 0;"
_IGNORED = "errors ignored on restore: "
_SEVERITY = re.compile(r"(?:ERROR|FATAL|PANIC): ")

# The server's or this machine's doing, told by the server's and libpq's texts: pg_restore shows no SQLSTATE.
_INTERRUPTED = re.compile(
    r"server closed the connection|connection to server|no connection to the server|terminating connection"
    r"|could not (?:send data to|receive data from) server|SSL (?:SYSCALL|error)|the database system is"
    r"|canceling statement|deadlock detected|lock timeout|killed by signal"
)
# Said after every failure of a worker; by itself it means that the worker was killed.
_WORKER_GONE = "a worker process died unexpectedly"
_SERVER = re.compile(
    # SQLSTATE classes 53 (disk, memory, connections) and 58 (the operating system)
    r"No space left on device|Disk quota exceeded|Input/output error|Read-only file system|[Cc]annot allocate memory"
    r"|(?:ERROR|FATAL|PANIC): +could not (?:extend|write|open|create|read|access|fsync|load|truncate|stat|determine)"
    r"|out of (?:shared )?memory|memory alloc|too many (?:clients|connections)|connection slots|configuration limit"
    # 42501, and what a role or a build lacks
    r"|permission denied|[Mm]ust be (?:superuser|owner|a member|member|able to SET ROLE)|role \".*\" does not exist"
    r"|extension \".*\" (?:is not available|has no|must be)|shared_preload_libraries|not supported (?:by|in) this build"
    r"|collation \".*\" .*does not exist|unrecognized configuration parameter"
)
_VALUES = (
    (re.compile(r"^(CONTEXT: +COPY .*?, line \d+(?:, column [^:]*)?):.*"), r"\1"),
    (re.compile(r"^(DETAIL: +Key \([^)]*\)=).*"), r"\1(…)"),
    (re.compile(r"^(DETAIL: +Failing row contains).*"), r"\1 (…)"),
    (re.compile(r"(invalid input (?:syntax|value) for [^:]*): .*"), r"\1"),
)
_EXTENSION = re.compile(r"from TOC entry \d+; \d+ \d+ EXTENSION ")
# An error of the server, in words that can be judged; or pg_restore's own about what it read.
_ARCHIVE = re.compile(
    r"(?:ERROR|FATAL): |could not (?:read|find|open input|seek|uncompress|decompress|determine|parse|identify)"
    r"|input file|end of file|unsupported version|unrecognized|corrupt|invalid|unexpected|did not find|bad |mismatch"
)


@dataclass(frozen=True)
class Refusal:
    """How pg_restore failed.

    Args:
        fault: the archive's; the server's (or its role's, or this machine's); or an interruption, after which trying
            again may help.
        words: what it said.
    """

    fault: Fault
    words: str


@dataclass
class Contents:
    """An archive's table of contents.

    Args:
        lines: as `pg_restore --list` gives them, without its comments.
    """

    lines: tuple[str, ...]
    entries: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = tuple(match["entry"] for line in self.lines if (match := _ENTRY.match(line)))

    def count(self, kinds: str) -> int:
        """How many entries are of these kinds (a regular expression)."""
        return sum(bool(re.match(rf"{kinds} ", entry)) for entry in self.entries)


def contents(tools: client.ClientTools, archive: Path) -> Contents | Refusal:
    """The table of contents, or why pg_restore cannot read it."""
    with tempfile.TemporaryFile() as stderr, tempfile.TemporaryFile() as listing:
        command = [tools.path("pg_restore"), "--list", str(archive)]
        with client.running(command, None, stderr=stderr, stdout=listing) as process:
            failure = client.outcome(process, stderr)
        if failure is not None:
            return Refusal(judge([failure]), failure)
        listing.seek(0)
        lines = listing.read().decode(errors="surrogateescape").splitlines()
    return Contents(tuple(line for line in lines if _ENTRY.match(line)))


def run(
    tools: client.ClientTools,
    archive: Path,
    dsn: Dsn,
    *,
    arguments: Sequence[str],
    jobs: int,
    only: Sequence[str] | None,
    forgiving: bool,
    total: Contents,
    progress: Progress,
) -> Refusal | None:
    """Run pg_restore to its end, or to its first error.

    Args:
        tools: whose pg_restore.
        archive: the file or folder.
        dsn: the database to restore into.
        arguments: further ones.
        jobs: parallel workers.
        only: the lines of the table of contents to restore; None for all.
        forgiving: the server is older than 17 and pg_restore is not: it may fail to set transaction_timeout there.
        total: the whole table of contents, for the progress.
        progress: told `tables` and then `indexes`, how many are done, and of how many.

    Returns:
        How it failed; None where it succeeded. Its warnings are logged then.
    """
    with _list_file(only) as chosen:
        command = [
            tools.path("pg_restore"),
            "--verbose",
            f"--jobs={jobs}",
            *([] if forgiving else ["--exit-on-error"]),
            *chosen,
            *arguments,
            str(archive),
        ]
        reader, writer = (os.fdopen(end, mode, buffering=0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        with reader:
            with client.running(command, dsn, stderr=writer, stdin=subprocess.DEVNULL) as process:
                writer.close()
                listener = _Listener(reader, process, jobs=jobs, forgiving=forgiving, total=total, progress=progress)
                listener.start()
                code = process.wait()
            # Only now: workers outlive a pg_restore that was killed, hold the pipe, and end with the block above.
            listener.join()
    if listener.error is not None:
        raise listener.error
    if code == 0 or listener.only_forgiven:
        for line in listener.warnings:
            log.warning("%s: %s", dsn.dbname, line)
        return None
    how = f"pg_restore was killed by signal {-code}" if code < 0 else f"pg_restore ended with status {code}"
    # One that was ended by us, at its first error, was not killed.
    told = listener.said if forgiving and listener.said else [how, *listener.said]
    return Refusal(judge(told), ": ".join([how, " / ".join(listener.said[:_SHOWN_LINES])]).removesuffix(": "))


def judge(said: Sequence[str]) -> Fault:
    """Whose fault a failure is, by what was said. The archive's only where nothing says otherwise."""
    text = "\n".join(said)
    alone = {line for line in said if not line.startswith("pg_restore ended with status")} == {_WORKER_GONE}
    if alone or _INTERRUPTED.search(text):
        return "interrupted"
    if _SERVER.search(text) or _EXTENSION.search(text) or not _ARCHIVE.search(text):
        return "server"
    return "archive"


def without_values(message: str) -> str:
    """A server's message without what stands in a row: it goes to logs, certificates and Slack."""
    for pattern, shown in _VALUES:
        message = pattern.sub(shown, message)
    return message


class _Listener(threading.Thread):
    """Reads what pg_restore says while it works: progress is told, the story dropped, the rest kept."""

    def __init__(
        self,
        pipe: IO[bytes],
        process: subprocess.Popen[bytes],
        *,
        jobs: int,
        forgiving: bool,
        total: Contents,
        progress: Progress,
    ) -> None:
        super().__init__(name="pg_restore-messages", daemon=True)
        self._pipe = pipe
        self._process = process
        self._forgiving = forgiving
        self._other_errors = False
        self._entry: list[str] = []
        self._parallel = jobs > 1
        self._tables = (0, total.count("TABLE DATA"))
        self._indexes = (0, total.count(_INDEX))
        self._progress = progress
        self.only_forgiven = False
        self.warnings: list[str] = []
        self.said: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        with os.fdopen(os.dup(self._pipe.fileno()), encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._take(line.rstrip("\n"))

    def _take(self, line: str) -> None:
        if self.error is None:
            try:
                self._tell(line)
            except BaseException as error:  # noqa: BLE001 - the thread that waits for pg_restore raises it
                self.error = error
        message = _BEFORE.sub("", line, count=1)
        if self._forgiving and self._forgive(message):
            return
        if _WARNING.search(line):
            self.warnings.append(message)
        if message.startswith("from TOC entry "):
            self._entry = [message]
        elif not _NARRATIVE.match(message):
            self.said += [*self._entry, without_values(message)][: _KEPT_LINES - len(self.said)]
            self._entry = []

    def _forgive(self, message: str) -> bool:
        """Whether this is about the one error that may be; any other ends pg_restore, which would go on by itself."""
        if _SEVERITY.search(message) and _NOT_KNOWN not in message:
            self._process.terminate()
            self._other_errors = True
        self.only_forgiven = not self._other_errors and (self.only_forgiven or _IGNORED in message)
        return _NOT_KNOWN in message or _IGNORED in message or message == _NOT_KNOWN_COMMAND

    def _tell(self, line: str) -> None:
        # Several in one line: messages of several processes may come before the end of the first one's line.
        for _ in _TABLE_DONE[self._parallel].findall(line):
            self._tables = (self._tables[0] + 1, self._tables[1])
            self._progress("tables", *self._tables)
        for _ in _INDEX_DONE[self._parallel].findall(line):
            self._indexes = (self._indexes[0] + 1, self._indexes[1])
            self._progress("indexes", *self._indexes)


@contextmanager
def _list_file(only: Sequence[str] | None) -> Iterator[list[str]]:
    if only is None:
        yield []
        return
    with tempfile.NamedTemporaryFile(prefix="night-porter-list-") as file:
        file.write("".join(f"{line}\n" for line in only).encode(errors="surrogateescape"))
        file.flush()
        yield [f"--use-list={file.name}"]
