//! Settings: defaults in code, then the file, then the environment. Unknown keys are refused.
//!
//! Every key can be set as `DIM_JOINER__KAFKA__BROKERS`: the service's name, then the sections and the key, in upper case, with
//! two underscores between. A secret can stand in a file of its own, which the same key with `_file` names: `password_file`.

use std::fmt;
use std::path::Path;

use ::config::{Config, Environment, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::failure::{Failure, FailureKind};

/// Loads the settings of `service` from the file, where one is named, and the environment.
///
/// `maps` are sections whose keys are data, with case; a `*` in them stands for any name. The environment's names have no case, so such a key
/// is refused there.
pub fn load<C: DeserializeOwned>(service: &str, file: Option<&Path>, maps: &[&str]) -> Result<C, Failure> {
    let prefix = prefix(service);
    let of_a_map = |name: &String| is_of_a_map(&prefix, name, maps);
    if let Some(name) = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).find(of_a_map) {
        return Err(Failure::new(
            FailureKind::Settings,
            format!("{name} names a key of a map, which the environment cannot carry"),
        )
        .cure("set the map in the file given by --config: upper and lower case count there"));
    }
    load_from(service, file, None, maps)
}

/// Whether a variable names a key of a map.
fn is_of_a_map(prefix: &str, name: &str, maps: &[&str]) -> bool {
    let Some(path) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("__")) else { return false };
    let mut sections: Vec<&str> = path.split("__").collect();
    sections.pop();
    is_in_a_map(&sections, maps)
}

/// Whether these sections lead into a map.
fn is_in_a_map(sections: &[&str], maps: &[&str]) -> bool {
    maps.iter().any(|map| {
        let wanted: Vec<&str> = map.split('.').collect();
        let fits = |(wanted, found): (&&str, &&str)| *wanted == "*" || wanted.eq_ignore_ascii_case(found);
        sections.len() >= wanted.len() && wanted.iter().zip(sections).all(fits)
    })
}

/// What the names of a service's variables begin with.
pub(crate) fn prefix(service: &str) -> String {
    service.replace('-', "_").to_uppercase()
}

fn load_from<C: DeserializeOwned>(
    service: &str,
    file: Option<&Path>,
    environment: Option<std::collections::HashMap<String, String>>,
    maps: &[&str],
) -> Result<C, Failure> {
    let refused = |error: ::config::ConfigError| {
        let place = file.map_or("the environment".to_owned(), |path| format!("{} or the environment", path.display()));
        Failure::new(FailureKind::Settings, format!("the configuration of {service} in {place} is not right"))
            .caused_by(without_lines(error))
            .cure(format!("correct the key; config/{service}.toml documents every one"))
    };
    let prefix = prefix(service);
    let variables = Environment::with_prefix(&prefix).prefix_separator("__").separator("__").source(environment);
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.push(Config::builder().add_source(File::from(path).format(FileFormat::Toml)));
    }
    layers.push(Config::builder().add_source(variables));
    let mut builder = Config::builder();
    // A later layer wins, whether it has the secret or names its file.
    for layer in layers {
        let mut layer = layer.build().map_err(refused)?;
        read_secrets(&mut layer.cache, &[], maps)?;
        builder = builder.add_source(layer);
    }
    builder.build().and_then(Config::try_deserialize).map_err(refused)
}

/// A file that is no TOML is not quoted: a secret may stand in the line.
fn without_lines(error: ::config::ConfigError) -> ::config::ConfigError {
    let ::config::ConfigError::FileParse { uri, cause } = &error else { return error };
    let is_told = |line: &&str| {
        !line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']).starts_with('|')
    };
    let text = cause.to_string();
    let told = text.lines().filter(is_told).collect::<Vec<_>>().join(": ");
    ::config::ConfigError::Message(format!("{told} in {}", uri.as_deref().unwrap_or("the file")))
}

/// The keys that hold secrets, in any section.
const SECRETS: [&str; 5] = ["password", "control_token", "token", "hash_key", "key_password"];

/// Puts the text of the file that `password_file` names in the place of `password`, and so for every secret of a layer. The keys of a map are
/// data.
fn read_secrets(section: &mut Value, path: &[&str], maps: &[&str]) -> Result<(), Failure> {
    let ValueKind::Table(keys) = &mut section.kind else { return Ok(()) };
    if is_in_a_map(path, maps) {
        return Ok(());
    }
    for name in SECRETS {
        let Some(file) = keys.remove(&format!("{name}_file")) else { continue };
        let (file, key) = (file.to_string(), [path, &[name]].concat().join("."));
        if file.is_empty() {
            continue;
        }
        if keys.get(name).is_some_and(|value| !value.to_string().is_empty()) {
            return Err(Failure::new(FailureKind::Settings, format!("both {key} and {key}_file are set"))
                .cure("set one of them"));
        }
        keys.insert(name.to_owned(), Value::new(None, read_secret(&key, &file)?));
    }
    keys.iter_mut().try_for_each(|(name, value)| read_secrets(value, &[path, &[name.as_str()]].concat(), maps))
}

/// The text of a file without its last line break.
fn read_secret(key: &str, file: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| cannot_be_read(&format!("{key}_file"), file, error))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::new(FailureKind::Settings, format!("{key}_file {file} is empty"))
            .cure("write the secret into it, or name no file")),
        secret => Ok(secret.to_owned()),
    }
}

/// A file that a key names must be there; empty: none is named.
pub fn can_be_read(key: &str, file: &str) -> Result<(), Failure> {
    if file.is_empty() {
        return Ok(());
    }
    std::fs::File::open(file).map(|_| ()).map_err(|error| cannot_be_read(key, file, error))
}

fn cannot_be_read(key: &str, file: &str, error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Settings, format!("{key} {file} cannot be read"))
        .caused_by(error)
        .cure("correct the path, and see that the user of this process may read the file")
}

/// A password. Shown as `***` wherever it would be printed, and without `==`, whose time tells how much of a guess is right.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// On a page as in a log: whether there is one, never which.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How often a failed chain is built again, and when the process gives up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartConfig {
    /// Wait before the first restart; doubled for each further one.
    pub backoff_first_ms: u64,
    /// Longest wait between two restarts.
    pub backoff_longest_ms: u64,
    /// Restarts in a row, with no chain that ran as long as `stable_after_ms`, before the process exits with an error. Those for a server
    /// that is away do not count: it is waited for.
    pub attempts_max: u32,
    /// A generation that lived this long counts as well: the next failure starts from the first wait again.
    pub stable_after_ms: u64,
    /// Longest wait for records in flight when the service is asked to stop.
    pub drain_timeout_ms: u64,
}

impl Default for RestartConfig {
    fn default() -> Self {
        RestartConfig {
            backoff_first_ms: 100,
            backoff_longest_ms: 400,
            attempts_max: 60,
            stable_after_ms: 10_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Where the service answers over HTTP.
#[derive(Debug, Clone, Serialize)]
pub struct HttpConfig {
    /// Address to bind: `127.0.0.1` for this machine only, `0.0.0.0` for all.
    pub host: String,
    pub port: u16,
    /// Longest wait for the port: after a kill the old process may hold it for a moment.
    pub bind_wait_ms: u64,
    /// A part of the process that gives no sign of life for this long hangs, and `/health/live` says so.
    pub hang_max_ms: u64,
    /// What `Authorization: Bearer …` must say for a command. Empty: commands are refused.
    pub control_token: Secret,
    /// Another address for commands. Empty: that of the pages.
    pub control_host: String,
    /// Another port for commands, which has the pages as well; the port of the pages then takes none. 0: that of the pages.
    pub control_port: u16,
}

impl HttpConfig {
    /// This machine only, on a port.
    pub fn on(port: u16) -> Self {
        HttpConfig {
            host: "127.0.0.1".into(),
            port,
            bind_wait_ms: 2_000,
            hang_max_ms: 60_000,
            control_token: Secret::default(),
            control_host: String::new(),
            control_port: 0,
        }
    }

    /// Where commands are taken: host and port. `None`: with the pages.
    pub fn control_address(&self) -> Option<(&str, u16)> {
        let host = if self.control_host.is_empty() { &self.host } else { &self.control_host };
        (self.control_port != 0).then_some((host.as_str(), self.control_port))
    }

    /// Reads a section over these defaults, so that naming one key leaves the others as they are.
    pub fn given<'de, D: Deserializer<'de>>(self, section: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given {
            host: Option<String>,
            port: Option<u16>,
            bind_wait_ms: Option<u64>,
            hang_max_ms: Option<u64>,
            control_token: Option<Secret>,
            control_host: Option<String>,
            control_port: Option<u16>,
        }
        let given = Given::deserialize(section)?;
        Ok(HttpConfig {
            host: given.host.unwrap_or(self.host),
            port: given.port.unwrap_or(self.port),
            bind_wait_ms: given.bind_wait_ms.unwrap_or(self.bind_wait_ms),
            hang_max_ms: given.hang_max_ms.unwrap_or(self.hang_max_ms),
            control_token: given.control_token.unwrap_or(self.control_token),
            control_host: given.control_host.unwrap_or(self.control_host),
            control_port: given.control_port.unwrap_or(self.control_port),
        })
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level (`info`) or a filter (`info,cdc_ingest=debug`).
    pub filter: String,
    /// `human` or `json`.
    pub format: LogFormat,
}

/// The forms of a log line.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Human,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { filter: "info,actix_server=warn".into(), format: LogFormat::Human }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashMap};
    use std::io::Write as _;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Example {
        #[serde(deserialize_with = "http")]
        http: HttpConfig,
        restart: RestartConfig,
        map: BTreeMap<String, String>,
        password: Secret,
    }

    impl Default for Example {
        fn default() -> Self {
            let (map, password) = (BTreeMap::new(), Secret::default());
            Example { http: HttpConfig::on(8083), restart: RestartConfig::default(), map, password }
        }
    }

    fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
        HttpConfig::on(8083).given(section)
    }

    #[test]
    fn a_section_that_names_one_key_keeps_the_other_defaults() {
        let config = load_text("[http]\nhost = \"0.0.0.0\"", &[]).unwrap();
        assert_eq!((config.http.host.as_str(), config.http.port), ("0.0.0.0", 8083));
    }

    fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Example, Failure> {
        static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidemill-config-{}-{number}.toml", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let environment: HashMap<_, _> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let loaded = load_from("dim-joiner", Some(&path), Some(environment), &["map"]);
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_code() {
        let text = "[http]\nport = 9000\n[map]\nPENDING = \"待处理\"\n\"电子产品\" = \"ELECTRONICS\"";
        let config = load_text(text, &[("DIM_JOINER__HTTP__PORT", "9001"), ("DIM_JOINER__PASSWORD", "007")]).unwrap();
        assert_eq!((config.http.port, config.http.host.as_str()), (9001, "127.0.0.1"));
        assert_eq!(config.map.get("PENDING").unwrap(), "待处理");
        assert_eq!(config.map.get("电子产品").unwrap(), "ELECTRONICS");
        assert_eq!(config.password.reveal(), "007");
        assert!(!format!("{config:?}").contains("007"));
        assert_eq!(serde_json::to_string(&config.password).unwrap(), "\"***\"");
        assert_eq!(serde_json::to_string(&Secret::default()).unwrap(), "\"\"");
    }

    #[test]
    fn a_line_that_is_no_toml_is_not_quoted() {
        let failure = load_text("[http]\nhost = \"h\"\npassword = hunter2\n", &[]).unwrap_err();
        let chain = failure.chain();
        assert!(!chain.contains("hunter2") && chain.contains("line 3"), "{chain}");
    }

    #[test]
    fn a_key_of_a_map_is_known_by_its_sections() {
        let maps = ["rules", "tables.*.types"];
        for (name, wanted) in [
            ("S__RULES__STATUSES", true),
            ("S__TABLES__T__TYPES__ORDERTIME", true),
            ("S__TABLES__T__TYPE", false),
            ("S__TABLES__TYPES__X", false),
            ("S__RULES", false),
            ("OTHER__RULES__X", false),
        ] {
            assert_eq!(is_of_a_map("S", name, &maps), wanted, "{name}");
        }
    }

    #[test]
    fn a_key_of_a_map_is_no_secret() {
        let config = load_text("[map]\npassword_file = \"text\"", &[]).unwrap();
        assert_eq!(config.map.get("password_file").unwrap(), "text");
    }

    #[test]
    fn a_secret_may_stand_in_a_file_and_the_later_layer_wins() {
        let secret = |name: &str, text: &str| {
            let path = std::env::temp_dir().join(format!("tidemill-secret-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (one, two, empty) = (secret("one", "hunter2\n"), secret("two", "swordfish"), secret("empty", "\n"));
        let by_file = format!("password_file = \"{one}\"");
        assert_eq!(load_text(&by_file, &[]).unwrap().password.reveal(), "hunter2");
        let variable = ("DIM_JOINER__PASSWORD_FILE", two.as_str());
        for text in [by_file.as_str(), "password = \"default\""] {
            assert_eq!(load_text(text, &[variable]).unwrap().password.reveal(), "swordfish");
        }
        assert_eq!(load_text(&by_file, &[("DIM_JOINER__PASSWORD", "007")]).unwrap().password.reveal(), "007");
        assert_eq!(load_text("password_file = \"\"\npassword = \"x\"", &[]).unwrap().password.reveal(), "x");
        let token = load_text("", &[("DIM_JOINER__HTTP__CONTROL_TOKEN_FILE", &one)]).unwrap().http.control_token;
        assert_eq!(token.reveal(), "hunter2");
        for (text, words) in [
            (format!("{by_file}\npassword = \"x\""), "both password and password_file are set"),
            (format!("password_file = \"{empty}\""), "is empty"),
            ("[http]\ncontrol_token_file = \"/absent\"".to_owned(), "http.control_token_file /absent cannot be read"),
        ] {
            let failure = load_text(&text, &[]).unwrap_err();
            assert!(failure.chain().contains(words), "{}", failure.chain());
            assert!(!failure.chain().contains("hunter2"));
        }
        for path in [one, two, empty] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (text, variables) in [("[http]\nprot = 1", vec![]), ("", vec![("DIM_JOINER__HTTP__PROT", "1")])] {
            let failure = load_text(text, &variables).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Settings);
            assert!(failure.chain().contains("prot"), "{}", failure.chain());
        }
    }
}
