//! drop's registry client against answers that real registries cannot be made to give.

mod answers;
mod facts;
mod lists;
mod pauses;
mod secrets;
mod shelf;

use anyhow::Result;
use drop_oci::transport::Options;
use drop_tests::registry_client::{client, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};

/// Set in the child process that the next test starts: the registry to ask.
const CHILD: &str = "DROP_TEST_PROXY_CHILD";

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_and_its_exceptions_are_kept() -> Result<()> {
    if let Some(address) = drop_tests::parts::environment(CHILD) {
        let client = client(&Options::default())?;
        let address = address.to_string_lossy().into_owned();
        client.tags(&plain(&address, "app")?, 10, &[]).await?;
        return Ok(());
    }
    let proxy = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":["a"]}"#)).await?;
    let registry = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":["a"]}"#)).await?;
    let run = async |address: &str, exceptions: &str| -> Result<()> {
        let me = std::env::current_exe()?;
        let name = "the_proxy_of_the_environment_is_used_and_its_exceptions_are_kept";
        let output = tokio::process::Command::new(me)
            .args(["--exact", name])
            .env(CHILD, address)
            .env("HTTP_PROXY", format!("http://{}", proxy.address()))
            .env("http_proxy", format!("http://{}", proxy.address()))
            .env("NO_PROXY", exceptions)
            .env("no_proxy", exceptions)
            .kill_on_drop(true)
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    };
    run("registry.invalid", "").await?;
    let through = proxy.lines();
    assert!(
        through
            .iter()
            .any(|line| line.contains("/v2/app/tags/list")),
        "{through:?}"
    );
    run(&registry.address(), "127.0.0.1").await?;
    assert_eq!(proxy.lines().len(), through.len());
    assert_eq!(registry.lines().len(), 1);
    Ok(())
}
