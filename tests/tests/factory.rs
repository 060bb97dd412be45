//! `image-factory sync --resolve` against a real registry.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_tests::command::{Command, Ended};
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::parts;
use drop_tests::proxy::{Fault, Kind, Proxy};
use drop_tests::registry::Registry;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);

/// A factory with one managed image on two bases, and a registry behind a proxy.
struct Workshop {
    proxy: Proxy,
    registry: Registry,
    scratch: Scratch,
}

impl Workshop {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch.path().join("registry")).await?;
        let proxy = Proxy::start(registry.address()).await?;
        let host = proxy.host();
        let workshop = Self {
            proxy,
            registry,
            scratch,
        };
        workshop.write(
            "factory/images.yaml",
            &format!(
                "- name: app\n  registry: {host}\n  repository: o/app\n  source: {{repo: o/app, dockerfile: Dockerfile}}\n\
                 - name: db\n  registry: {host}\n  repository: base/db\n  allowTags: ^16$\n"
            ),
        )?;
        workshop.write(
            "Dockerfile",
            &format!("FROM {host}/base/node:22\nCOPY --from={host}/base/tool:1.10 / /\n"),
        )?;
        for (repository, tag) in [
            ("base/node", "22"),
            ("base/tool", "1.10"),
            ("base/db", "16"),
        ] {
            workshop.push(repository, tag).await?;
        }
        Ok(workshop)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.scratch.path().join(path);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        std::fs::write(path, text)?;
        Ok(())
    }

    /// A new image under this tag. Its digest.
    async fn push(&self, repository: &str, tag: &str) -> Result<String> {
        Recipe::layers(&[100])
            .push(&self.registry, repository, tag)
            .await
    }

    fn factory(&self) -> PathBuf {
        self.scratch.path().join("factory")
    }

    async fn run(&self, now: &str, args: &[&str]) -> Result<Ended> {
        let folder = self.factory();
        let folder = folder.to_str().context("a folder's name")?;
        Command::new(&parts::built("image-factory")?)
            .args(args)
            .args(["--dir", folder, "--now", now])
            .env("HOME", self.scratch.path())
            .run(WITHIN)
            .await
    }

    async fn resolve(&self, now: &str) -> Result<Ended> {
        let host = self.proxy.host();
        self.run(now, &["sync", "--resolve", "--plain-http", &host])
            .await
    }

    /// What a state file says.
    fn state(&self, name: &str) -> Result<Value> {
        let path = self.factory().join("state").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(serde_saphyr::from_str(&text)?)
    }
}

fn at(day: usize) -> String {
    format!("2026-03-{day:02}T10:00:00Z")
}

const NODE: &str = "base-images/base-node-22";

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_the_registrys_and_moves_are_remembered() -> Result<()> {
    let workshop = Workshop::start().await?;
    let first = workshop.registry.digest("base/node", "22").await?;
    workshop.resolve(&at(1)).await?.success()?;

    let node = workshop.state(NODE)?;
    ensure!(node["currentDigest"] == first, "{node}");
    ensure!(node["lastChecked"] == at(1), "{node}");
    ensure!(
        node["lastUpdated"].is_null(),
        "a first digest is no move: {node}"
    );
    let db = workshop.state("images/db")?;
    ensure!(
        db["currentDigest"] == workshop.registry.digest("base/db", "16").await?,
        "{db}"
    );
    // Not built yet: that is no problem, and no digest.
    let app = workshop.state("images/app")?;
    ensure!(
        app["discoveryStatus"] == "pending" && app["currentDigest"].is_null(),
        "{app}"
    );

    // One HEAD for each of the four, and one question how to log in.
    let log = workshop.proxy.log();
    let heads = log.filter(|exchange| exchange.method == "HEAD" && exchange.kind == Kind::Manifest);
    ensure!(heads.count() == 4 && log.count() == 5, "{log:?}");

    // Nothing moved: nothing is written, though time went by.
    let said = workshop.resolve(&at(2)).await?.success()?;
    ensure!(said.contains(" 0 files written"), "{said}");
    ensure!(workshop.state(NODE)?["lastChecked"] == at(1));

    // The app is published, and then its base moves twelve times.
    let built = workshop.push("o/app", "latest").await?;
    let mut digests = vec![first];
    for day in 3..15 {
        digests.push(workshop.push("base/node", "22").await?);
        workshop.resolve(&at(day)).await?.success()?;
    }
    let node = workshop.state(NODE)?;
    ensure!(node["currentDigest"] == digests[12], "{node}");
    ensure!(node["previousDigest"] == digests[11], "{node}");
    ensure!(node["lastUpdated"] == at(14), "{node}");
    let history = node["updateHistory"].as_array().context("a history")?;
    ensure!(history.len() == 10, "{node}");
    ensure!(
        history[0]["digest"] == digests[3] && history[0]["at"] == at(5),
        "{node}"
    );
    ensure!(history[9]["digest"] == digests[12], "{node}");

    let app = workshop.state("images/app")?;
    ensure!(
        app["discoveryStatus"] == "success" && app["currentDigest"] == built,
        "{app}"
    );
    // Seven days after the first move, which the history has forgotten by now.
    ensure!(app["rebuildEligibleAt"] == at(10), "{app}");
    let plan = workshop
        .run(&at(14), &["plan", "-o", "json"])
        .await?
        .success()?;
    let plan: Value = serde_json::from_str(&plan)?;
    ensure!(plan["rebuilds"][0]["image"] == "app", "{plan}");
    ensure!(plan["rebuilds"][0]["status"] == "due", "{plan}");
    ensure!(
        plan["rebuilds"][0]["changed"][0]["since"] == at(3),
        "{plan}"
    );

    // A build is published: it has consumed all that moved in earlier runs.
    workshop.push("o/app", "latest").await?;
    workshop.resolve(&at(15)).await?.success()?;
    let app = workshop.state("images/app")?;
    ensure!(app["rebuildState"]["status"] == "monitoring", "{app}");
    ensure!(app.get("rebuildEligibleAt").is_none(), "{app}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_keeps_its_values_and_says_why() -> Result<()> {
    let mut workshop = Workshop::start().await?;
    workshop.resolve(&at(1)).await?.success()?;
    let before = workshop.state(NODE)?;
    workshop.push("base/node", "22").await?;

    // The registry is away: said once, with all its images.
    workshop.proxy.stop();
    let ended = workshop.resolve(&at(2)).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    let host = workshop.proxy.host();
    ensure!(ended.stderr.lines().count() == 1, "{ended:?}");
    ensure!(
        ended
            .stderr
            .starts_with(&format!("registry: {host}: no answer")),
        "{ended:?}"
    );
    ensure!(
        ended.stderr.contains("4 of 4 images keep what is known"),
        "{ended:?}"
    );
    ensure!(workshop.state(NODE)? == before);
    workshop.proxy.restart().await?;

    // It wants to be left alone: asked once, not once for each image.
    let seen = workshop.proxy.log().count();
    let throttles = Fault::status(429).header("retry-after", "120");
    let throttles = workshop.proxy.inject(throttles);
    let ended = workshop.resolve(&at(3)).await?;
    workshop.proxy.remove(throttles);
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("left alone for 120 s"),
        "{ended:?}"
    );
    let asked = workshop.proxy.log().after(seen).count();
    ensure!(asked == 1, "{asked} requests to a registry that throttles");
    ensure!(workshop.state(NODE)? == before);

    // One image is gone: its values stay, the reason stands in its state, the others go on.
    let digest = workshop.registry.digest("base/tool", "1.10").await?;
    workshop.registry.delete("base/tool", &digest).await?;
    let ended = workshop.resolve(&at(4)).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(
        ended
            .stderr
            .contains("state/base-images/base-tool-1.10.yaml: "),
        "{ended:?}"
    );
    ensure!(ended.stderr.contains("is not there"), "{ended:?}");
    let tool = workshop.state("base-images/base-tool-1.10")?;
    ensure!(
        tool["currentDigest"] == digest && tool["resolveError"] == "not_found",
        "{tool}"
    );
    ensure!(workshop.state(NODE)?["previousDigest"] == before["currentDigest"]);
    // The same again is no news.
    let ended = workshop.resolve(&at(5)).await?;
    ensure!(ended.stdout.contains(" 0 files written"), "{ended:?}");

    // It is back, and so is the silence about it.
    workshop.push("base/tool", "1.10").await?;
    workshop.resolve(&at(6)).await?.success()?;
    ensure!(
        workshop
            .state("base-images/base-tool-1.10")?
            .get("resolveError")
            .is_none()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_those_of_the_docker_configuration() -> Result<()> {
    let workshop = Workshop::start().await?;
    let host = workshop.proxy.host();
    // "drop:secret"
    let config = format!(r#"{{"auths": {{"{host}": {{"auth": "ZHJvcDpzZWNyZXQ="}}}}}}"#);
    workshop.write(".docker/config.json", &config)?;
    let challenge = Fault::status(401).header("www-authenticate", "Basic realm=\"here\"");
    workshop.proxy.inject(challenge.times(1));
    let ended = workshop.resolve(&at(1)).await?;
    ensure!(!ended.all().contains("secret"), "{ended:?}");
    ended.success()?;
    let log = workshop.proxy.log();
    ensure!(
        log.filter(|exchange| exchange.authorized).count() > 0,
        "{log:?}"
    );

    workshop.write(".docker/config.json", "{")?;
    let ended = workshop.resolve(&at(2)).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(
        ended
            .stderr
            .contains(".docker/config.json is not JSON at line 1"),
        "{ended:?}"
    );
    Ok(())
}
