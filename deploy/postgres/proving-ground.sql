-- Run once by the postgres image, as superuser, when the volume is empty.
-- The role makes and drops the databases that backups are restored into; it is no superuser.
\getenv password PROVING_GROUND_PASSWORD
CREATE ROLE proving_ground LOGIN CREATEDB PASSWORD :'password';
GRANT pg_read_all_stats TO proving_ground;
-- Roles are in no backup. Those that own what is restored have to be there and be given to the role that restores;
-- those that are only named in grants have to be there.
CREATE ROLE hotel NOLOGIN;
GRANT hotel TO proving_ground;
