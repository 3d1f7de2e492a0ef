//! Settings that cannot be right end the process at once, with the key or the cure.

use crate::process::Ended;
use crate::stack::{CDC_INGEST, PG_SINKER, SERVICES, Stack};

/// The process ended with an error that says all of this.
pub fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    for word in words {
        assert!(ended.output.contains(word), "{word:?} is not in: {}", ended.output);
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_environment_is_named() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        for arguments in [&[][..], &["check"]] {
            let ended = stack.command(service, arguments, &[("KAFKA__BROKRES", "127.0.0.1:1")]).await;
            assert_refused(&ended, &["brokres", "unknown", &format!("config/{service}.toml")]);
        }
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_named() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        let file = stack.environment.logs.join(format!("{}-{service}.toml", stack.name));
        std::fs::write(&file, "[restart]\nbackof_first_ms = 1\n").unwrap();
        let ended = stack.command(service, &["--config", file.to_str().unwrap()], &[]).await;
        assert_refused(&ended, &["backof_first_ms", "unknown", file.to_str().unwrap()]);
    }
}

#[tokio::test]
async fn a_wrong_password_ends_the_process_and_is_not_shown() {
    let mut stack = Stack::new().await;
    let secret = "correct-horse-battery";
    for (service, key) in [(CDC_INGEST, "SOURCE__PASSWORD"), (PG_SINKER, "SINK__PASSWORD")] {
        for arguments in [&[][..], &["check"]] {
            let ended = stack.command(service, arguments, &[(key, secret)]).await;
            assert_refused(&ended, &["password authentication failed", "correct user and password"]);
            assert!(!ended.output.contains(secret), "{}", ended.output);
        }
    }
}

#[tokio::test]
async fn every_program_says_its_version_and_its_usage() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        let version = stack.command(service, &["--version"], &[]).await;
        assert_eq!((version.code, version.output.split(' ').next()), (Some(0), Some(service)));
        let help = stack.command(service, &["--help"], &[]).await;
        assert_eq!(help.code, Some(0));
        for word in ["--config", "check", "--version", "Usage"] {
            assert!(help.output.contains(word), "{word} is not in: {}", help.output);
        }
    }
}
