-- The role of cdc-ingest: it may follow the log and read the captured tables, and can write nothing.
-- The password is for demo and tests; set another one where it matters.

CREATE ROLE tidemill_capture LOGIN REPLICATION PASSWORD 'tidemill_capture';

GRANT USAGE ON SCHEMA business TO tidemill_capture;

GRANT SELECT ON business.orders, business.users TO tidemill_capture;

-- Only the owner of a table can put it into a publication, so the publication is made here.
CREATE PUBLICATION tidemill FOR TABLE business.orders, business.users;
