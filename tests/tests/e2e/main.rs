//! The whole pipeline, end to end: real PostgreSQL, real Kafka, the real programs as processes of their own.
//!
//! ```text
//!  environment (scripts/test.sh) ──▶ stack: databases · topics' names · processes ──▶ a test
//!                                                                                      │  until: a state, with a deadline
//!                                                              lab: load, compare ◀────┤
//!                                                              history: topics    ◀────┘
//! ```
//!
//! Each test has databases, topics, a slot and consumer groups of its own on the shared servers, and takes them down at its end.

// What a test stands on.
mod authority;
mod database;
mod environment;
mod further_broker;
mod further_server;
mod process;
mod secured_broker;
mod stack;
mod until;

// What a test does, and what it looks at.
mod browser;
mod busy;
mod captured_table;
mod capturing;
mod cleaning;
mod collector;
mod history;
mod judged_table;
mod late_server;
mod patient_writer;
mod random;
mod random_results;
mod random_values;
mod service_page;
mod sunk;
#[cfg(feature = "fluss")]
mod table_of_fluss;
mod table_page;
mod topics;
mod typed_values;
mod whole_sink;
mod writer;

// Right: the data comes through.
mod composite_keys;
mod first_copy;
mod first_orders;
mod joined;
mod joined_by_mode;
mod joined_case_by_case;
mod many_orders;
mod missing_users;
mod source_changes;
mod user_changes;

// Right: sums over the rows are what the rows say.
#[cfg(feature = "fluss")]
mod dimension_from_fluss;
mod report_figures;
mod rolled_up;
mod warehouse;

// Right: any table of the sink is written as its settings say.
mod sink_batches;
mod sink_faults;
mod sink_growth;
mod sink_rehearsed;
mod sink_tombstones;
mod sink_topics;

// Right: the rules of the settings are in force, and what they rejected comes back.
mod cleaned_kinds;
mod cleaned_rows;
mod cleaned_users;
mod guide;
mod replayed;

// Right, and it is proved while all goes on.
mod reconciled;

// Right: any table of the source is in its topic, whatever its columns, keys and changes are.
mod capture_changes;
mod capture_identities;
mod capture_random_values;
mod capture_tables;
mod capture_values;

// Capture of any table: its topic is the table, whatever is done to it.
mod capture_altered_copies;
mod capture_columns;
mod capture_commands;
mod capture_copies;
mod capture_keys;
mod capture_missing;
mod capture_names;
mod capture_other_tables;
mod capture_stopped;
mod capture_unsent;

// Nothing lost, nothing twice, whatever happens to the processes.
mod asked_to_stop;
mod backfilled;
mod chaos_verdict;
mod in_flight;
mod killed;
mod rebuilt;
mod repeats;
mod replicas;
mod topic_parts;
mod two_joiners;

// Nothing lost, nothing twice, whatever happens to the source and its slot.
mod capture_connection;
mod capture_failover;
mod capture_guardian;
mod capture_history;
mod capture_server_restarts;
mod capture_slot_in_use;
mod capture_slot_lost;

// Bad surroundings: a message that says what is wrong and what to do, and nothing is lost.
mod capture_privileges;
mod capture_slot_refused;
mod foreign_records;
mod found_by_key;
mod refused_rollups;
mod refused_settings;
mod refused_sink;
mod refused_source;
mod refused_topics;
mod servers_down;

// What the services say of themselves.
mod configuration_page;
mod console_api;
mod console_commands;
mod console_page;
mod console_pipeline;
mod counted_commits;
mod dashboard;
mod documented_metrics;
mod documented_settings;
mod json_log;
mod pages;
mod pure_modules;
mod secrets;
mod traces;
mod troubleshooting_page;

// Who may come in, and who may do what.
mod least_privilege;
mod secured;
