//! A Kafka of a test's own: what is done to it disturbs no other test.

use std::path::PathBuf;
use std::process::Command;

use lab::ports::free_port;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use shared::kafka::KafkaConfig;

use crate::stack::Stack;

/// Killed at the end, with its data.
pub struct FurtherBroker {
    pub port: u16,
    script: PathBuf,
    state: PathBuf,
}

impl FurtherBroker {
    pub fn start(stack: &Stack) -> Self {
        FurtherBroker::start_with(stack, &[])
    }

    /// With variables of scripts/servers.sh.
    pub fn start_with(stack: &Stack, variables: &[(&str, &str)]) -> Self {
        let state = stack.environment.logs.join(format!("{}-kafka", stack.name));
        let port = free_port().unwrap();
        let broker = FurtherBroker { port, script: stack.environment.servers_script.clone(), state };
        let mut start = broker.command("start");
        for (variable, port) in
            [("TIDEMILL_KAFKA_PORT", port), ("TIDEMILL_KAFKA_CONTROLLER_PORT", free_port().unwrap())]
        {
            start.env(variable, port.to_string());
        }
        let answer = start.envs(variables.iter().copied()).arg("kafka").output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        broker
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(what).env("TIDEMILL_STATE", &self.state);
        command
    }

    pub fn client(&self) -> KafkaConfig {
        KafkaConfig { brokers: format!("127.0.0.1:{}", self.port), ..KafkaConfig::default() }
    }

    /// From now on a topic takes batches of so many bytes at most.
    pub async fn takes_at_most(&self, topic: &str, bytes: u32) {
        let admin: AdminClient<DefaultClientContext> = self.client().client("tidemill-e2e").create().unwrap();
        let bytes = bytes.to_string();
        let setting = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &bytes);
        for altered in admin.alter_configs(&[setting], &AdminOptions::new()).await.unwrap() {
            altered.unwrap_or_else(|(resource, code)| panic!("{resource:?}: {code}"));
        }
    }
}

impl Drop for FurtherBroker {
    fn drop(&mut self) {
        let _ = self.command("wipe").output();
    }
}
