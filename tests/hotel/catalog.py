"""What a database's catalogs say about the hotel's tables, in a form that can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn

_SCHEMA = """
SELECT 'column', format('%s.%s', attrelid::regclass, attname), format(
    '%s %s %s %s %s', attnum, format_type(atttypid, atttypmod), attnotnull, attidentity,
    (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum)
)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint', conname, format('%s %s %s', conrelid::regclass, convalidated, pg_get_constraintdef(oid))
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexrelid::regclass::text, format('%s %s', indisvalid, pg_get_indexdef(indexrelid))
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


def schema(dsn: Dsn) -> list[tuple[str, str, str]]:
    """Every column, constraint and index of the schema public: kind, name, definition."""
    with dsn.connect() as session:
        return [(str(kind), str(name), str(text)) for kind, name, text in session.execute(_SCHEMA)]
