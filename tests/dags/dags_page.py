"""docs/dags.md, made from the DAG files' own docstrings: `make docs` writes it, a test compares it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dags.md"
HEAD = """# The DAGs

Generated from the docstrings in `dags/`, which Airflow's UI shows too. Change them there, then run `make docs`.
"""


def render() -> str:
    """The page's text."""
    parts = [HEAD]
    for file in sorted((ROOT / "dags").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        title, _, body = (docstring or "").partition("\n")
        parts.append(f"## {title.lstrip('# ')}\n\n`dags/{file.name}`\n{body}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
