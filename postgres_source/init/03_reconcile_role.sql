-- The role that pg-sinker compares the sink with the source by: it may read the compared tables, and nothing else.
-- The password is for demo and tests; set another one where it matters.

CREATE ROLE tidemill_reconcile LOGIN PASSWORD 'tidemill_reconcile';

GRANT USAGE ON SCHEMA business TO tidemill_reconcile;

GRANT SELECT ON business.orders, business.users TO tidemill_reconcile;
