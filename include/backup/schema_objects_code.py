"""What is asked of the catalogs about code: routines, types, and what the two of them make up.

The rows are made as in `include.backup.schema_objects`.
"""

# ruff: noqa: S608 - whatever these queries are put together from is a constant of these modules

from __future__ import annotations

from include.backup.schema_objects import USER_SCHEMA, own

FIRST_NORMAL_OID = 16384  # below it everything came with PostgreSQL


def _in_schema(catalog: str, prefix: str) -> str:
    return f"""
    FROM {catalog} x JOIN pg_namespace n ON n.oid = x.{prefix}namespace
    WHERE {USER_SCHEMA} AND {own("x.oid", catalog)}
    """


def _outside_schemas(catalog: str) -> str:
    return f"FROM {catalog} x WHERE x.oid >= {FIRST_NORMAL_OID} AND {own('x.oid', catalog)}"


def _made_by_itself(catalog: str) -> str:
    """The condition that an object did not come with another one, as a range type's constructors do."""
    return f"""NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = '{catalog}'::regclass AND i.objid = x.oid
                           AND i.deptype = 'i')"""


ROUTINES = f"""
    SELECT CASE x.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
      format('%I.%I(%s)', n.nspname, x.proname,
        (SELECT string_agg(format_type(a.type, NULL), ', ' ORDER BY a.i)
         FROM unnest(x.proargtypes) WITH ORDINALITY a(type, i))),
      concat_ws(' ',
        '(' || pg_get_function_arguments(x.oid) || ')',
        'RETURNS ' || pg_get_function_result(x.oid),
        'LANGUAGE ' || (SELECT quote_ident(lanname) FROM pg_language WHERE oid = x.prolang),
        CASE x.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
        'PARALLEL ' || CASE x.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END,
        CASE WHEN x.prokind = 'w' THEN 'WINDOW' END,
        CASE WHEN x.proisstrict THEN 'STRICT' END,
        CASE WHEN x.proleakproof THEN 'LEAKPROOF' END,
        'COST ' || x.procost,
        CASE WHEN x.prorows > 0 THEN 'ROWS ' || x.prorows END,
        'SUPPORT ' || nullif(x.prosupport, 0)::regprocedure,
        'TRANSFORM ' || (SELECT string_agg(format_type(t, NULL), ', ') FROM unnest(x.protrftypes) t),
        'SET ' || array_to_string(x.proconfig, ' SET '),
        (SELECT concat_ws(' ',
           'KIND ' || g.aggkind::text, 'SFUNC ' || g.aggtransfn::regprocedure,
           'STYPE ' || format_type(g.aggtranstype, NULL),
           'SSPACE ' || g.aggtransspace, 'FINALFUNC ' || g.aggfinalfn::regprocedure,
           'COMBINEFUNC ' || g.aggcombinefn::regprocedure, 'SERIALFUNC ' || g.aggserialfn::regprocedure,
           'DESERIALFUNC ' || g.aggdeserialfn::regprocedure, 'INITCOND ' || quote_literal(g.agginitval),
           'MSFUNC ' || g.aggmtransfn::regprocedure, 'MINVFUNC ' || g.aggminvtransfn::regprocedure,
           'MFINALFUNC ' || g.aggmfinalfn::regprocedure, 'MSTYPE ' || format_type(g.aggmtranstype, NULL),
           'MSSPACE ' || g.aggmtransspace, 'MINITCOND ' || quote_literal(g.aggminitval),
           'EXTRA ' || g.aggfinalextra || ' ' || g.aggmfinalextra,
           'MODIFY ' || g.aggfinalmodify::text || g.aggmfinalmodify::text,
           'SORTOP ' || g.aggsortop::regoperator)
         FROM pg_aggregate g WHERE g.aggfnoid = x.oid),
        CASE WHEN x.prokind <> 'a' THEN
          'AS ' || concat_ws(' ', quote_literal(x.probin), coalesce(pg_get_function_sqlbody(x.oid), x.prosrc)) END),
      'security_definer=' || x.prosecdef::text,
      pg_get_userbyid(x.proowner)
    {_in_schema("pg_proc", "pro")} AND {_made_by_itself("pg_proc")}
"""

# Left out: row types of tables, arrays and multiranges, which come with something else.
TYPES = f"""
    SELECT CASE x.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, format('%I.%I', n.nspname, x.typname),
      CASE x.typtype
        WHEN 'e' THEN 'ENUM (' || coalesce((SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                                            FROM pg_enum WHERE enumtypid = x.oid), '') || ')'
        WHEN 'c' THEN 'AS (' || coalesce((
          SELECT string_agg(concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                                      'COLLATE ' || nullif(a.attcollation, 0)::regcollation), ', ' ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = x.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') || ')'
        WHEN 'd' THEN concat_ws(' ', 'AS ' || format_type(x.typbasetype, x.typtypmod),
          'COLLATE ' || nullif(x.typcollation, 0)::regcollation,
          'DEFAULT ' || coalesce(pg_get_expr(x.typdefaultbin, 0), x.typdefault))
        WHEN 'r' THEN (
          SELECT concat_ws(' ', 'RANGE ' || format_type(r.rngsubtype, NULL),
            'OPCLASS ' || (SELECT format('%I.%I', o.nspname, p.opcname) FROM pg_opclass p
                           JOIN pg_namespace o ON o.oid = p.opcnamespace WHERE p.oid = r.rngsubopc),
            'COLLATE ' || nullif(r.rngcollation, 0)::regcollation,
            'CANONICAL ' || r.rngcanonical::regprocedure, 'SUBDIFF ' || r.rngsubdiff::regprocedure,
            'MULTIRANGE ' || format_type(r.rngmultitypid, NULL))
          FROM pg_range r WHERE r.rngtypid = x.oid)
        WHEN 'b' THEN concat_ws(' ', 'INPUT ' || x.typinput::regprocedure, 'OUTPUT ' || x.typoutput::regprocedure,
          'RECEIVE ' || x.typreceive::regprocedure, 'SEND ' || x.typsend::regprocedure,
          'TYPMOD ' || x.typmodin::regprocedure || ' ' || x.typmodout::regprocedure,
          'ANALYZE ' || x.typanalyze::regprocedure, 'SUBSCRIPT ' || x.typsubscript::regprocedure,
          'LENGTH ' || x.typlen, 'BYVALUE ' || x.typbyval, 'ALIGN ' || x.typalign::text,
          'STORAGE ' || x.typstorage::text,
          'CATEGORY ' || x.typcategory::text, 'PREFERRED ' || x.typispreferred, 'DELIMITER ' || x.typdelim::text,
          'ELEMENT ' || format_type(nullif(x.typelem, 0), NULL), 'DEFAULT ' || x.typdefault)
        ELSE 'SHELL' END,
      CASE x.typtype WHEN 'd' THEN 'not_null=' || x.typnotnull::text ELSE '' END,
      pg_get_userbyid(x.typowner)
    {_in_schema("pg_type", "typ")}
      AND x.typtype <> 'm'
      AND (x.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = x.typrelid AND c.relkind = 'c'))
      AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = x.typelem AND e.typarray = x.oid)
"""

OPERATORS = f"""
    SELECT 'operator', format('%I.%s(%s, %s)', n.nspname, x.oprname, format_type(nullif(x.oprleft, 0), NULL),
                              format_type(nullif(x.oprright, 0), NULL)),
      concat_ws(' ', 'FUNCTION ' || x.oprcode::regprocedure, 'COMMUTATOR ' || x.oprcom::regoperator,
        'NEGATOR ' || x.oprnegate::regoperator, 'RESTRICT ' || x.oprrest::regprocedure,
        'JOIN ' || x.oprjoin::regprocedure, 'HASHES ' || x.oprcanhash, 'MERGES ' || x.oprcanmerge),
      '', pg_get_userbyid(x.oprowner)
    {_in_schema("pg_operator", "opr")} AND x.oprcode <> 0
"""

OPERATOR_CLASSES = f"""
    SELECT 'operator class', format('%I.%I USING %I', n.nspname, x.opcname, a.amname),
      concat_ws(' ', 'FOR ' || format_type(x.opcintype, NULL), 'FAMILY ' || quote_ident(f.opfname),
        CASE WHEN x.opcdefault THEN 'DEFAULT' END, 'STORAGE ' || format_type(nullif(x.opckeytype, 0), NULL)),
      '', pg_get_userbyid(x.opcowner)
    FROM pg_opclass x JOIN pg_namespace n ON n.oid = x.opcnamespace
    JOIN pg_am a ON a.oid = x.opcmethod JOIN pg_opfamily f ON f.oid = x.opcfamily
    WHERE {USER_SCHEMA} AND {own("x.oid", "pg_opclass")}
"""

OPERATOR_FAMILIES = f"""
    SELECT 'operator family', format('%I.%I USING %I', n.nspname, x.opfname, a.amname),
      concat_ws(' ',
        (SELECT string_agg(format('%s %s %s', o.amopstrategy, o.amopopr::regoperator, o.amoppurpose), ', '
                           ORDER BY o.amopstrategy, o.amopopr::regoperator::text)
         FROM pg_amop o WHERE o.amopfamily = x.oid),
        (SELECT string_agg(format('%s %s', p.amprocnum, p.amproc::regprocedure), ', '
                           ORDER BY p.amprocnum, p.amproc::regprocedure::text)
         FROM pg_amproc p WHERE p.amprocfamily = x.oid)),
      '', pg_get_userbyid(x.opfowner)
    FROM pg_opfamily x JOIN pg_namespace n ON n.oid = x.opfnamespace JOIN pg_am a ON a.oid = x.opfmethod
    WHERE {USER_SCHEMA} AND {own("x.oid", "pg_opfamily")}
"""

# The locale's column has three names: collcollate, colliculocale (15 and 16), colllocale (from 17 on).
COLLATIONS = f"""
    SELECT 'collation', format('%I.%I', n.nspname, x.collname),
      concat_ws(' ', 'PROVIDER ' || x.collprovider::text, 'COLLATE ' || x.collcollate, 'CTYPE ' || x.collctype,
        'LOCALE ' || coalesce(to_jsonb(x) ->> 'colllocale', to_jsonb(x) ->> 'colliculocale'),
        'RULES ' || (to_jsonb(x) ->> 'collicurules'), 'DETERMINISTIC ' || x.collisdeterministic),
      '', pg_get_userbyid(x.collowner)
    {_in_schema("pg_collation", "coll")}
"""

CONVERSIONS = f"""
    SELECT 'conversion', format('%I.%I', n.nspname, x.conname),
      format('%s TO %s FROM %s%s', pg_encoding_to_char(x.conforencoding), pg_encoding_to_char(x.contoencoding),
             x.conproc::regprocedure, CASE WHEN x.condefault THEN ' DEFAULT' END),
      '', pg_get_userbyid(x.conowner)
    {_in_schema("pg_conversion", "con")}
"""

TEXT_SEARCH = f"""
    SELECT 'text search configuration', format('%I.%I', n.nspname, x.cfgname),
      concat_ws(' ',
        'PARSER ' || (SELECT format('%I.%I', pn.nspname, p.prsname) FROM pg_ts_parser p
                      JOIN pg_namespace pn ON pn.oid = p.prsnamespace WHERE p.oid = x.cfgparser),
        (SELECT string_agg(format('%s %s', m.maptokentype, m.mapdict::regdictionary), ', '
                           ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map m WHERE m.mapcfg = x.oid)),
      '', pg_get_userbyid(x.cfgowner)
    {_in_schema("pg_ts_config", "cfg")}
    UNION ALL
    SELECT 'text search dictionary', format('%I.%I', n.nspname, x.dictname),
      concat_ws(' ',
        'TEMPLATE ' || (SELECT format('%I.%I', tn.nspname, t.tmplname) FROM pg_ts_template t
                        JOIN pg_namespace tn ON tn.oid = t.tmplnamespace WHERE t.oid = x.dicttemplate),
        x.dictinitoption),
      '', pg_get_userbyid(x.dictowner)
    {_in_schema("pg_ts_dict", "dict")}
    UNION ALL
    SELECT 'text search parser', format('%I.%I', n.nspname, x.prsname),
      concat_ws(' ', x.prsstart::regprocedure, x.prstoken::regprocedure, x.prsend::regprocedure,
                x.prsheadline::regprocedure, x.prslextype::regprocedure), '', NULL
    {_in_schema("pg_ts_parser", "prs")}
    UNION ALL
    SELECT 'text search template', format('%I.%I', n.nspname, x.tmplname),
      concat_ws(' ', x.tmplinit::regprocedure, x.tmpllexize::regprocedure), '', NULL
    {_in_schema("pg_ts_template", "tmpl")}
"""

CASTS = f"""
    SELECT 'cast', format('%s AS %s', format_type(x.castsource, NULL), format_type(x.casttarget, NULL)),
      concat_ws(' ', 'METHOD ' || x.castmethod::text, 'CONTEXT ' || x.castcontext::text,
                'FUNCTION ' || nullif(x.castfunc, 0)::regprocedure), '', NULL
    {_outside_schemas("pg_cast")} AND {_made_by_itself("pg_cast")}
"""

TRANSFORMS = f"""
    SELECT 'transform', format('FOR %s LANGUAGE %I', format_type(x.trftype, NULL),
                               (SELECT lanname FROM pg_language WHERE oid = x.trflang)),
      concat_ws(' ', 'FROM ' || x.trffromsql::regprocedure, 'TO ' || x.trftosql::regprocedure), '', NULL
    {_outside_schemas("pg_transform")}
"""

LANGUAGES = f"""
    SELECT 'language', quote_ident(x.lanname),
      concat_ws(' ', 'HANDLER ' || x.lanplcallfoid::regprocedure, 'INLINE ' || x.laninline::regprocedure,
                'VALIDATOR ' || x.lanvalidator::regprocedure, 'TRUSTED ' || x.lanpltrusted),
      '', pg_get_userbyid(x.lanowner)
    {_outside_schemas("pg_language")}
"""

ACCESS_METHODS = f"""
    SELECT 'access method', quote_ident(x.amname), format('%s %s', x.amtype, x.amhandler::regprocedure), '', NULL
    {_outside_schemas("pg_am")}
"""

EVENT_TRIGGERS = f"""
    SELECT 'event trigger', quote_ident(x.evtname),
      concat_ws(' ', 'ON ' || x.evtevent, 'WHEN TAG IN (' || array_to_string(x.evttags, ', ') || ')',
                'EXECUTE ' || x.evtfoid::regprocedure),
      'enabled=' || CASE x.evtenabled
        WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' ELSE 'origin' END,
      pg_get_userbyid(x.evtowner)
    {_outside_schemas("pg_event_trigger")}
"""

QUERIES = (
    ROUTINES,
    TYPES,
    OPERATORS,
    OPERATOR_CLASSES,
    OPERATOR_FAMILIES,
    COLLATIONS,
    CONVERSIONS,
    TEXT_SEARCH,
    CASTS,
    TRANSFORMS,
    LANGUAGES,
    ACCESS_METHODS,
    EVENT_TRIGGERS,
)
