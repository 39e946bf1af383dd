"""What is asked of a database about its large objects: two queries, each giving number, bytes and hash (or NULL).

Contents are read through functions that the right to SELECT an object is enough for, and 1 MiB at a time: only length
and hash of each piece are kept. The hash is a sum over all pieces and over each object's owner and grants (never mind
by whom they were granted), so that no order matters.
"""

from __future__ import annotations

SIZES = """
    SELECT count(*), coalesce(sum(size), 0)::bigint, NULL
    FROM pg_largeobject_metadata m,
         LATERAL (SELECT lo_open(m.oid, 262144) AS fd OFFSET 0) opened,
         LATERAL (SELECT lo_lseek64(fd, 0, 2) AS size WHERE m.oid > 0 OFFSET 0) sought,
         LATERAL (SELECT lo_close(fd) AS closed WHERE m.oid > 0 AND size >= 0 OFFSET 0) closed
"""  # 262144 is INV_READ, 2 is SEEK_END. OFFSET 0 keeps the three steps apart and in order; each descriptor has the
# number of the one closed before it, so without the oid the server would take the first one's answer for all

HASHES = """
    WITH RECURSIVE piece AS (
      SELECT m.oid, 0::bigint AS start, p.length, p.hash
      FROM pg_largeobject_metadata m,
           LATERAL (SELECT length(data), encode(sha256(data), 'hex') AS hash
                    FROM (SELECT lo_get(m.oid, 0, 1048576) AS data OFFSET 0) s) p
      UNION ALL
      SELECT b.oid, b.start + 1048576, p.length, p.hash
      FROM piece b,
           LATERAL (SELECT length(data), encode(sha256(data), 'hex') AS hash
                    FROM (SELECT lo_get(b.oid, b.start + 1048576, 1048576) AS data OFFSET 0) s) p
      WHERE b.length = 1048576
    ), object AS (
      SELECT m.oid, pg_get_userbyid(m.lomowner) AS owner,
             (SELECT string_agg(DISTINCT format('%L %s %s', CASE a.grantee WHEN 0 THEN NULL
                                                            ELSE pg_get_userbyid(a.grantee) END,
                                                a.privilege_type, a.is_grantable), ', ')
              FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) a) AS grants
      FROM pg_largeobject_metadata m
    )
    SELECT (SELECT count(*) FROM object),
           (SELECT coalesce(sum(length), 0)::bigint FROM piece),
           (coalesce((SELECT sum(hashtextextended(format('%s %s %s', oid, start, hash), 0)) FROM piece), 0)
            + coalesce((SELECT sum(hashtextextended(format('%s %L %s', oid, owner, grants), 0)) FROM object), 0))::text
"""
