"""What is asked of the catalogs about rights and about what belongs to a database as a whole.

The rows are made as in `include.backup.schema_objects`. Rights are told as the difference from what an object of that
kind has by default (an extension's or the server's own object: from what it came with), never mind by whom they were
granted: what nobody changed is not there, and a privilege that only a later version knows (MAINTAIN, from 17 on) is
there only where somebody granted or revoked it.

A database's owner, settings and grants are no part of an archive; they are told as statements, with `:database` for the
name of the database: `NOT_IN_ARCHIVE` names their kinds.
"""

# ruff: noqa: S608 - whatever these queries are put together from is a constant of these modules

from __future__ import annotations

from include.backup.schema_objects import USER_SCHEMA, no_member, own
from include.backup.schema_objects_code import FIRST_NORMAL_OID

NOT_IN_ARCHIVE = frozenset({"database owner", "database setting", "database grant"})

_GRANTEE = "CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END"
_PRIVILEGE = "e.privilege_type || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"


def _difference(kind: str) -> str:
    """From rows (name, acl, usual) of a CTE `judged`: one row for each grantee whose rights are not the usual ones."""
    explode = f"SELECT j.name, {_GRANTEE} AS grantee, {_PRIVILEGE} AS privilege FROM judged j, aclexplode(j.{{}}) e"
    now, usual = explode.format("acl"), explode.format("usual")
    return f"""
    SELECT '{kind}', name || ' to ' || grantee, string_agg(privilege, ', ' ORDER BY revoked, privilege), '', NULL
    FROM (SELECT name, grantee, privilege, false AS revoked FROM ({now} EXCEPT {usual}) granted
          UNION ALL
          SELECT name, grantee, 'not ' || privilege, true FROM ({usual} EXCEPT {now}) revoked) d
    GROUP BY name, grantee
    """


# Of the system's schemas pg_dump heeds the grants in pg_catalog alone. An empty acl is written acldefault('c', 0), that
# of a column; '{}' is not taken for one.
GRANTS = f"""
    WITH object AS (
      SELECT CASE c.relkind WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view '
                            WHEN 'f' THEN 'foreign table ' ELSE 'table ' END
               || format('%I.%I', n.nspname, c.relname) AS name,
             'pg_class'::regclass AS class, c.oid, 0 AS sub, n.nspname AS schema, c.relacl AS acl,
             acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner) AS usual
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relacl IS NOT NULL
      UNION ALL
      SELECT 'column ' || format('%I.%I.%I', n.nspname, c.relname, a.attname), 'pg_class'::regclass, c.oid, a.attnum,
             n.nspname, a.attacl, acldefault('c', c.relowner)
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
      UNION ALL
      SELECT CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END
               || format('%I.%I(%s)', n.nspname, p.proname,
                    (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY i)
                     FROM unnest(p.proargtypes) WITH ORDINALITY u(t, i))),
             'pg_proc'::regclass, p.oid, 0, n.nspname, p.proacl, acldefault('f', p.proowner)
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proacl IS NOT NULL
      UNION ALL
      SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || format('%I.%I', n.nspname, t.typname),
             'pg_type'::regclass, t.oid, 0, n.nspname, t.typacl, acldefault('T', t.typowner)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typacl IS NOT NULL
      UNION ALL
      SELECT 'schema ' || quote_ident(nspname), 'pg_namespace'::regclass, oid, 0, nspname, nspacl,
             acldefault('n', nspowner)
      FROM pg_namespace WHERE nspacl IS NOT NULL
      UNION ALL
      SELECT 'language ' || quote_ident(lanname), 'pg_language'::regclass, oid, 0, NULL, lanacl,
             acldefault('l', lanowner)
      FROM pg_language WHERE lanacl IS NOT NULL
      UNION ALL
      SELECT 'foreign data wrapper ' || quote_ident(fdwname), 'pg_foreign_data_wrapper'::regclass, oid, 0, NULL,
             fdwacl, acldefault('F', fdwowner)
      FROM pg_foreign_data_wrapper WHERE fdwacl IS NOT NULL
      UNION ALL
      SELECT 'foreign server ' || quote_ident(srvname), 'pg_foreign_server'::regclass, oid, 0, NULL,
             srvacl, acldefault('S', srvowner)
      FROM pg_foreign_server WHERE srvacl IS NOT NULL
    ), judged AS (
      SELECT o.name, o.acl,
             CASE WHEN o.schema = 'pg_catalog' OR (o.schema IS NULL AND o.oid < {FIRST_NORMAL_OID})
                       OR NOT {no_member("o.oid", "o.class")}
                  THEN coalesce(i.initprivs, o.usual) ELSE o.usual END AS usual
      FROM object o
      LEFT JOIN pg_init_privs i ON i.classoid = o.class AND i.objoid = o.oid AND i.objsubid = o.sub
      WHERE o.schema IS NULL OR o.schema = 'pg_catalog' OR o.schema !~ '^pg_' AND o.schema <> 'information_schema'
    )
    {_difference("grant")}
"""

DEFAULT_GRANTS = f"""
    WITH judged AS (
      SELECT format('for %I%s on %s', pg_get_userbyid(d.defaclrole), ' in ' || quote_ident(n.nspname),
               CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
                 WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE 'large objects' END) AS name,
             d.defaclacl AS acl,
             CASE WHEN d.defaclnamespace <> 0 THEN acldefault('c', 0)
                  ELSE acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole)
             END AS usual
      FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    )
    {_difference("default grant")}
"""

DATABASE_GRANTS = """
    WITH own AS (SELECT datacl AS acl, acldefault('d', datdba) AS usual FROM pg_database
                 WHERE datname = current_database() AND datacl IS NOT NULL),
    now AS (SELECT e.grantee, e.privilege_type, e.is_grantable FROM own, aclexplode(acl) e),
    usual AS (SELECT e.grantee, e.privilege_type, e.is_grantable FROM own, aclexplode(usual) e)
    SELECT 'database grant', format('%s to %s', privilege_type, role),
      format('GRANT %s ON DATABASE :database TO %s%s', privilege_type, role,
             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END), '', NULL
    FROM (TABLE now EXCEPT TABLE usual) g,
         LATERAL (SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END) r(role)
    UNION ALL
    SELECT 'database grant', format('no %s to %s', privilege_type, role),
      format('REVOKE %s ON DATABASE :database FROM %s', privilege_type, role), '', NULL
    FROM (SELECT grantee, privilege_type FROM usual EXCEPT SELECT grantee, privilege_type FROM now) g,
         LATERAL (SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END) r(role)
"""

DATABASE_OWNER = """
    SELECT 'database owner', 'owner', format('ALTER DATABASE :database OWNER TO %I', pg_get_userbyid(datdba)), '', NULL
    FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 'database setting', 'connection limit',
      format('ALTER DATABASE :database CONNECTION LIMIT %s', datconnlimit), '', NULL
    FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
"""

# These settings hold lists whose parts are quoted already; a second quoting would make one part of them all.
DATABASE_SETTINGS = """
    SELECT 'database setting', concat_ws(' for ', s.name, quote_ident(pg_get_userbyid(nullif(d.setrole, 0)))),
      format('ALTER %s SET %I TO %s',
        CASE d.setrole WHEN 0 THEN 'DATABASE :database'
          ELSE format('ROLE %I IN DATABASE :database', pg_get_userbyid(d.setrole)) END,
        s.name,
        CASE WHEN s.name IN ('local_preload_libraries', 'search_path', 'session_preload_libraries',
                             'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
             THEN coalesce(nullif(s.value, ''), '''''') ELSE quote_literal(s.value) END),
      '', NULL
    FROM pg_db_role_setting d, unnest(d.setconfig) c,
         LATERAL (SELECT split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)) s(name, value)
    WHERE d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

SCHEMAS = f"""
    SELECT 'schema', quote_ident(n.nspname), '', '', pg_get_userbyid(n.nspowner)
    FROM pg_namespace n WHERE {USER_SCHEMA} AND {own("n.oid", "pg_namespace")}
"""

EXTENSIONS = """
    SELECT 'extension', quote_ident(e.extname), format('VERSION %L SCHEMA %I', e.extversion, n.nspname), '', NULL
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
"""

# Of user mappings only the names: their options hold passwords.
FOREIGN_DATA = f"""
    SELECT 'foreign data wrapper', quote_ident(x.fdwname),
      concat_ws(' ', 'HANDLER ' || x.fdwhandler::regproc, 'VALIDATOR ' || x.fdwvalidator::regproc,
                'OPTIONS (' || array_to_string(x.fdwoptions, ', ') || ')'),
      '', pg_get_userbyid(x.fdwowner)
    FROM pg_foreign_data_wrapper x WHERE {own("x.oid", "pg_foreign_data_wrapper")}
    UNION ALL
    SELECT 'foreign server', quote_ident(x.srvname),
      concat_ws(' ', 'WRAPPER ' || (SELECT quote_ident(fdwname) FROM pg_foreign_data_wrapper WHERE oid = x.srvfdw),
                'TYPE ' || quote_literal(x.srvtype), 'VERSION ' || quote_literal(x.srvversion),
                'OPTIONS (' || array_to_string(x.srvoptions, ', ') || ')'),
      '', pg_get_userbyid(x.srvowner)
    FROM pg_foreign_server x WHERE {own("x.oid", "pg_foreign_server")}
    UNION ALL
    SELECT 'user mapping', format('for %s on %I', CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(usename) END,
                                  srvname), '', '', NULL
    FROM pg_user_mappings
"""

PUBLICATIONS = f"""
    SELECT 'publication', quote_ident(p.pubname),
      concat_ws(' ',
        CASE WHEN p.puballtables THEN 'FOR ALL TABLES' END,
        'TABLES (' || (SELECT string_agg(concat_ws(' ', format('%I.%I', t.schemaname, t.tablename),
                                'WHERE ' || (to_jsonb(t) ->> 'rowfilter'),
                                to_jsonb(t) ->> 'attnames'), ', '
                              ORDER BY t.schemaname, t.tablename)
                       FROM pg_publication_tables t WHERE t.pubname = p.pubname) || ')'),
      format('insert=%s update=%s delete=%s truncate=%s via_root=%s', p.pubinsert::text, p.pubupdate::text,
             p.pubdelete::text, p.pubtruncate::text, p.pubviaroot::text),
      pg_get_userbyid(p.pubowner)
    FROM pg_publication p WHERE {own("p.oid", "pg_publication")}
"""

# Of what came with PostgreSQL only schema public's comment is dumped. An invalid index is not, nor is its comment.
COMMENTS = f"""
    SELECT 'comment', format('%s %s', i.type, i.identity), d.description, '', NULL
    FROM pg_description d, LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    WHERE (d.objoid >= {FIRST_NORMAL_OID} OR d.classoid = 'pg_largeobject'::regclass
           OR d.classoid = 'pg_namespace'::regclass AND d.objoid = to_regnamespace('public'))
      AND {no_member("d.objoid", "d.classoid")}
      AND i.identity !~ '(^|[. ])pg_(temp|toast_temp)'
      AND NOT EXISTS (SELECT FROM pg_index x WHERE d.classoid = 'pg_class'::regclass AND x.indexrelid = d.objoid
                      AND NOT x.indisvalid)
"""

QUERIES = (
    GRANTS,
    DEFAULT_GRANTS,
    DATABASE_OWNER,
    DATABASE_GRANTS,
    DATABASE_SETTINGS,
    SCHEMAS,
    EXTENSIONS,
    FOREIGN_DATA,
    PUBLICATIONS,
    COMMENTS,
)
