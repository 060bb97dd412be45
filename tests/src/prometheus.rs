//! A real Prometheus that scrapes what a test names, and `promtool` as the judge of a scrape.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Process, Program};
use crate::scrape::Sample;
use crate::{http, parts, ports, wait};

/// A running Prometheus that scrapes every half second.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: String,
}

impl Prometheus {
    /// Starts one in `folder`; `targets` are (job, `127.0.0.1:port`).
    pub async fn start(folder: &Path, targets: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir_all(folder).context("create Prometheus' folder")?;
        let jobs: Vec<String> = targets
            .iter()
            .map(|(job, address)| {
                format!("- {{job_name: '{job}', static_configs: [{{targets: ['{address}']}}]}}")
            })
            .collect();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}\nscrape_configs:\n{}\n",
            jobs.join("\n")
        );
        let file = folder.join("prometheus.yaml");
        std::fs::write(&file, config).context("write Prometheus' configuration")?;
        let address = ports::address()?;
        let program = Program::new("prometheus", parts::installed("prometheus")?, folder)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let mut process = Process::start(program)?;
        let ready = format!("http://{address}/-/ready");
        process
            .wait_ready(Duration::from_secs(30), async || {
                http::get(&ready).await?.success().map(drop)
            })
            .await?;
        Ok(Self { process, address })
    }

    /// `127.0.0.1:port` of its API and of its own metrics.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The samples of an instant query.
    pub async fn query(&self, query: &str) -> Result<Vec<Sample>> {
        let escaped: String = query.bytes().map(escape).collect();
        let url = format!("http://{}/api/v1/query?query={escaped}", self.address);
        let answer: Value = serde_json::from_slice(&http::get(&url).await?.success()?.body)?;
        let result = answer["data"]["result"].as_array().context("no result")?;
        result
            .iter()
            .map(|item| sample(item).context("parse a sample"))
            .collect()
    }

    /// Waits until each metric has at least one sample.
    pub async fn wait_for(&self, metrics: &[&str], within: Duration) -> Result<()> {
        let seen = wait::until("each metric to carry data", within, async || {
            for metric in metrics {
                ensure!(
                    !self.query(metric).await?.is_empty(),
                    "{metric} carries none"
                );
            }
            Ok(())
        });
        seen.await
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What `promtool check metrics` says about a scrape; empty when it has no complaint.
pub fn complaints(scrape: &str) -> Result<String> {
    let mut promtool = Command::new(parts::installed("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    promtool
        .stdin
        .take()
        .context("promtool has no input")?
        .write_all(scrape.as_bytes())
        .context("write to promtool")?;
    let output = promtool
        .wait_with_output()
        .context("read promtool's verdict")?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn sample(item: &Value) -> Option<Sample> {
    let metric = item["metric"].as_object()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let labels = metric
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .collect();
    let name = metric.get("__name__").and_then(text).unwrap_or_default();
    Some(Sample {
        name,
        labels,
        value: item["value"][1].as_str()?.parse().ok()?,
    })
}

fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}
