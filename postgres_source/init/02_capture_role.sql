-- The role of cdc-ingest: it may follow the log and read the captured tables, and can write nothing. REPLICATION is a strong privilege:
-- docs/security.md says what it opens, and how pg_hba.conf narrows it.
-- The password is for demo and tests; set another one where it matters.

CREATE ROLE tidemill_capture LOGIN REPLICATION PASSWORD 'tidemill_capture';

GRANT USAGE ON SCHEMA business TO tidemill_capture;

GRANT SELECT ON business.orders, business.users TO tidemill_capture;

-- Only the owner of a table can put it into a publication, so the publication is made here.
CREATE PUBLICATION tidemill FOR TABLE business.orders, business.users;

-- PostgreSQL lets everybody make temporary tables, and before version 15 tables in the schema public. Nobody here needs either.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$;
