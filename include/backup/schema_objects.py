"""What is asked of the catalogs about relations: tables, columns, constraints, indexes, triggers, views, sequences.

Each query gives kind, name, definition, flags and owner (or NULL), for exactly what pg_dump writes: no system schemas,
nothing temporary, no members of extensions, no tablespaces. Wherever a catalog's own row tells enough, it is used and
not a function that deparses: rows are those of the snapshot, the functions look at the newest catalog.

They run with search_path = pg_catalog, so that every name comes out qualified.

Source: PostgreSQL's `src/bin/pg_dump/pg_dump.c` for what it leaves out, `src/backend/utils/adt/ruleutils.c`.
"""

# ruff: noqa: S608 - whatever these queries are put together from is a constant of these modules

from __future__ import annotations


def no_member(oid: str, catalog: str) -> str:
    """The condition that an object is no member of an extension; both are SQL expressions."""
    return f"NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = {catalog} AND m.objid = {oid} AND m.deptype = 'e')"


def own(oid: str, catalog: str) -> str:
    """The same for the objects of one catalog."""
    return no_member(oid, f"'{catalog}'::regclass")


USER_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
NAME = "format('%I.%I', n.nspname, c.relname)"
_DUMPED = f"{USER_SCHEMA} AND c.relpersistence <> 't' AND {own('c.oid', 'pg_class')}"
_RELATION = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_OWNER = "pg_get_userbyid(c.relowner)"
_NO_OWNER = "NULL"
_PERSISTENCE = "CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'permanent' END"
_OPTIONS = """
    'WITH (' || (SELECT string_agg(o, ', ' ORDER BY o) FROM (
        SELECT unnest(c.reloptions) UNION ALL
        SELECT 'toast.' || unnest(t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid) s(o)) || ')'
"""
_ACCESS_METHOD = "'USING ' || (SELECT quote_ident(amname) FROM pg_am WHERE oid = c.relam)"
_PARENTS = """
    (SELECT string_agg(format('%I.%I', pn.nspname, p.relname), ', ' ORDER BY i.inhseqno)
     FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
     WHERE i.inhrelid = {oid})
"""


def enabled(column: str) -> str:
    """When a trigger or rule fires, in words."""
    return f"CASE {column} WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' ELSE 'origin' END"


# The order of columns is left out where a table inherits: pg_dump may write another one there.
TABLES = f"""
    SELECT CASE c.relkind WHEN 'f' THEN 'foreign table' ELSE 'table' END, {NAME},
      concat_ws(' ',
        CASE WHEN c.relispartition OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) THEN
          '(' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                  WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) || ')' END,
        'OF ' || format_type(nullif(c.reloftype, 0), NULL),
        'INHERITS (' || {_PARENTS.format(oid="c.oid")} || ')',
        pg_get_expr(c.relpartbound, c.oid),
        'PARTITION BY ' || pg_get_partkeydef(c.oid),
        {_ACCESS_METHOD},
        {_OPTIONS},
        (SELECT format('SERVER %I OPTIONS (%s)', s.srvname, array_to_string(ft.ftoptions, ', '))
         FROM pg_foreign_table ft JOIN pg_foreign_server s ON s.oid = ft.ftserver WHERE ft.ftrelid = c.oid)),
      concat_ws(' ',
        'persistence=' || {_PERSISTENCE},
        'row_security=' || c.relrowsecurity::text,
        'forced_row_security=' || c.relforcerowsecurity::text,
        'replica_identity=' || CASE c.relreplident
          WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full' WHEN 'i' THEN 'index' ELSE 'default' END),
      {_OWNER}
    FROM {_RELATION} WHERE c.relkind IN ('r', 'p', 'f') AND {_DUMPED}
"""

# NOT NULL is a constraint of its own from 18 on, and may wait to be validated there; before, it is the column's.
COLUMNS = f"""
    SELECT 'column', format('%I.%I.%I', n.nspname, c.relname, a.attname),
      concat_ws(' ',
        format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || (
          SELECT format('%I.%I', cn.nspname, co.collname) FROM pg_collation co
          JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
        CASE WHEN a.attgenerated = '' THEN 'DEFAULT ' ELSE 'GENERATED AS ' END || pg_get_expr(d.adbin, d.adrelid),
        CASE WHEN a.attstorage <> t.typstorage THEN 'STORAGE ' || CASE a.attstorage
          WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END,
        CASE a.attcompression WHEN 'p' THEN 'COMPRESSION pglz' WHEN 'l' THEN 'COMPRESSION lz4' END,
        CASE WHEN a.attstattarget >= 0 THEN 'STATISTICS ' || a.attstattarget END,
        'OPTIONS (' || array_to_string(a.attoptions || a.attfdwoptions, ', ') || ')'),
      concat_ws(' ',
        'not_null=' || CASE WHEN EXISTS (
          SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
            AND NOT k.convalidated) THEN 'unvalidated' ELSE a.attnotnull::text END,
        'identity=' || CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by_default' ELSE 'no' END,
        'generated=' || CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' ELSE 'no' END),
      {_NO_OWNER}
    FROM pg_attribute a JOIN {_RELATION} ON c.oid = a.attrelid
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {_DUMPED}
"""

# A foreign key of a partitioned table has copies of itself at the partitions, under names of the server's choice.
# Constraint triggers are triggers here.
CONSTRAINTS = f"""
    SELECT 'constraint', format('%I.%I.%I', n.nspname, coalesce(c.relname, t.typname), k.conname),
      pg_get_constraintdef(k.oid),
      concat_ws(' ',
        'validated=' || k.convalidated::text,
        'deferrable=' || k.condeferrable::text,
        'deferred=' || k.condeferred::text,
        'enabled=' || (NOT EXISTS (
          SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgisinternal AND g.tgenabled <> 'O'))::text),
      {_NO_OWNER}
    FROM pg_constraint k
    LEFT JOIN pg_class c ON c.oid = k.conrelid
    LEFT JOIN pg_type t ON t.oid = k.contypid
    JOIN pg_namespace n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
    WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND (k.contype <> 'f' OR k.conparentid = 0) AND {USER_SCHEMA}
      AND (c.oid IS NULL OR c.relpersistence <> 't' AND {own("c.oid", "pg_class")})
      AND (t.oid IS NULL OR {own("t.oid", "pg_type")})
"""

INDEXES = f"""
    SELECT 'index', format('%I.%I', n.nspname, x.relname),
      concat_ws(' ',
        pg_get_indexdef(x.oid),
        'PARTITION OF ' || {_PARENTS.format(oid="x.oid")},
        'STATISTICS (' || (SELECT string_agg(attnum || ' ' || attstattarget, ', ' ORDER BY attnum) FROM pg_attribute
                           WHERE attrelid = x.oid AND attstattarget >= 0) || ')'),
      concat_ws(' ',
        'valid=' || i.indisvalid::text,
        'ready=' || i.indisready::text,
        'clustered=' || i.indisclustered::text,
        'replica_identity=' || i.indisreplident::text),
      {_NO_OWNER}
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN {_RELATION} ON c.oid = i.indrelid WHERE {_DUMPED}
"""

TRIGGERS = f"""
    SELECT 'trigger', format('%I.%I.%I', n.nspname, c.relname, g.tgname), pg_get_triggerdef(g.oid),
      'enabled=' || {enabled("g.tgenabled")}, {_NO_OWNER}
    FROM pg_trigger g JOIN {_RELATION} ON c.oid = g.tgrelid WHERE NOT g.tgisinternal AND {_DUMPED}
"""

RULES = f"""
    SELECT 'rule', format('%I.%I.%I', n.nspname, c.relname, r.rulename), pg_get_ruledef(r.oid),
      'enabled=' || {enabled("r.ev_enabled")}, {_NO_OWNER}
    FROM pg_rewrite r JOIN {_RELATION} ON c.oid = r.ev_class WHERE r.rulename <> '_RETURN' AND {_DUMPED}
"""

# Those on an extension's own tables are dumped too.
POLICIES = f"""
    SELECT 'policy', format('%I.%I.%I', n.nspname, c.relname, p.polname),
      concat_ws(' ',
        'TO ' || (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', '
                  ORDER BY CASE r WHEN 0 THEN '' ELSE pg_get_userbyid(r) END) FROM unnest(p.polroles) r),
        'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
      concat_ws(' ',
        'command=' || CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'
                                    WHEN 'd' THEN 'delete' ELSE 'all' END,
        'permissive=' || p.polpermissive::text),
      {_NO_OWNER}
    FROM pg_policy p JOIN {_RELATION} ON c.oid = p.polrelid WHERE {USER_SCHEMA} AND c.relpersistence <> 't'
"""

VIEWS = f"""
    SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, {NAME},
      concat_ws(' ', {_ACCESS_METHOD}, {_OPTIONS}, 'AS ' || pg_get_viewdef(c.oid)),
      CASE c.relkind WHEN 'm' THEN 'populated=' || c.relispopulated::text ELSE '' END,
      {_OWNER}
    FROM {_RELATION} WHERE c.relkind IN ('v', 'm') AND {_DUMPED}
"""

SEQUENCES = f"""
    SELECT 'sequence', {NAME},
      concat_ws(' ',
        'AS ' || format_type(s.seqtypid, NULL), 'START ' || s.seqstart, 'INCREMENT ' || s.seqincrement,
        'MINVALUE ' || s.seqmin, 'MAXVALUE ' || s.seqmax, 'CACHE ' || s.seqcache,
        CASE WHEN s.seqcycle THEN 'CYCLE' END,
        'OWNED BY ' || (SELECT format('%I.%I.%I', tn.nspname, t.relname, a.attname) FROM pg_depend d
          JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))),
      'persistence=' || {_PERSISTENCE},
      {_OWNER}
    FROM {_RELATION} JOIN pg_sequence s ON s.seqrelid = c.oid WHERE {_DUMPED}
"""

SEQUENCE_NAMES = f"""
    SELECT n.nspname, c.relname, s.seqincrement, s.seqcycle
    FROM {_RELATION} JOIN pg_sequence s ON s.seqrelid = c.oid WHERE {_DUMPED}
    ORDER BY 1, 2
"""

STATISTICS = f"""
    SELECT 'extended statistics', format('%I.%I', n.nspname, s.stxname),
      concat_ws(' ', pg_get_statisticsobjdef(s.oid),
                CASE WHEN s.stxstattarget >= 0 THEN 'STATISTICS ' || s.stxstattarget END),
      '', pg_get_userbyid(s.stxowner)
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
    WHERE {USER_SCHEMA} AND {own("s.oid", "pg_statistic_ext")}
"""

QUERIES = (TABLES, COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, RULES, POLICIES, VIEWS, SEQUENCES, STATISTICS)
