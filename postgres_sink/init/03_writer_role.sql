-- The role of pg-sinker: it may write the result tables and its own, and nothing else.
-- The password is for demo and tests; set another one where it matters.

CREATE ROLE tidemill_writer LOGIN PASSWORD 'tidemill_writer';

GRANT USAGE ON SCHEMA result, tidemill TO tidemill_writer;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA result, tidemill TO tidemill_writer;

-- PostgreSQL lets everybody make temporary tables, and before version 15 tables in the schema public. Nobody here needs either.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$;
