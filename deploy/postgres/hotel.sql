-- Run once by the postgres image, as superuser in the database `hotel`, when the volume is empty.
-- The password comes from the environment, so that no argument list shows it.
-- CREATEDB is for `backup_restore`, which never restores into a database that exists.
\getenv password HOTEL_DB_PASSWORD
CREATE ROLE hotel LOGIN CREATEDB PASSWORD :'password';
GRANT pg_read_all_stats TO hotel;
ALTER DATABASE hotel OWNER TO hotel;
