//! Where the servers and the programs are: the variables that scripts/test.sh sets.

use std::path::PathBuf;

use lab::places::Places;

/// What all tests share.
pub struct Environment {
    /// The shared servers, with their own databases.
    pub places: Places,
    /// The folder of the four programs.
    pub programs: PathBuf,
    pub servers_script: PathBuf,
    pub logs: PathBuf,
}

/// The variables without which no test can run; the last ones are read by [`Places`].
const NEEDED: [&str; 6] = [
    "TIDEMILL_BIN_DIR",
    "TIDEMILL_SERVERS_SH",
    "TIDEMILL_STATE",
    "TIDEMILL_SOURCE_PORT",
    "TIDEMILL_SINK_PORT",
    "TIDEMILL_KAFKA_BROKERS",
];

impl Environment {
    pub fn read() -> Self {
        let missing: Vec<&str> = NEEDED.into_iter().filter(|name| std::env::var_os(name).is_none()).collect();
        assert!(
            missing.is_empty(),
            "{} not set: these tests need PostgreSQL, Kafka and the built programs. Run ./scripts/test.sh, which has them all",
            missing.join(", ")
        );
        let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
        let logs = path("TIDEMILL_STATE").join("log");
        std::fs::create_dir_all(&logs).unwrap();
        Environment {
            places: Places::from_environment().unwrap_or_else(|failure| panic!("{}", failure.chain())),
            programs: path("TIDEMILL_BIN_DIR"),
            servers_script: path("TIDEMILL_SERVERS_SH"),
            logs,
        }
    }
}

/// Orders of a load: few enough for every change of the code; more by the environment.
pub fn load_orders() -> u32 {
    std::env::var("TIDEMILL_TEST_ORDERS").map_or(2_000, |text| text.parse().expect("TIDEMILL_TEST_ORDERS is a number"))
}
