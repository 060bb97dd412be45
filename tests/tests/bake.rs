//! `drop-agent bake` as a user runs it: a real containerd, a real registry, no cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_tests::cached_image::{policy, yaml};
use drop_tests::command::{Command, Ended};
use drop_tests::containerd::{Containerd, Disk};
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::process::{Process, Program};
use drop_tests::proxy::{Fault, Proxy};
use drop_tests::registry::Registry;
use drop_tests::{parts, wait};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(90);
/// How full this machine's disk is does not matter.
const ANY_DISK: [&str; 2] = ["--disk-high-percent=100", "--disk-default-need=0"];

/// A machine with a containerd, and a registry behind a proxy.
struct Machine {
    containerd: Containerd,
    proxy: Proxy,
    registry: Registry,
    scratch: Scratch,
}

impl Machine {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch.path().join("registry")).await?;
        let proxy = Proxy::start(registry.address()).await?;
        let folder = scratch.path().join("machine");
        let containerd = Containerd::start(&folder, "machine", Disk::Machine).await?;
        Ok(Self {
            containerd,
            proxy,
            registry,
            scratch,
        })
    }

    async fn push(&self, repository: &str, tag: &str, size: usize) -> Result<String> {
        let recipe = Recipe::layers(&[size]);
        recipe.push(&self.registry, repository, tag).await
    }

    fn image(&self, repository: &str) -> String {
        format!("{}/{repository}", self.proxy.host())
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.scratch.path().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Digests under which the runtime itself lists `repository:tag`.
    async fn held(&self, repository: &str, tag: &str) -> Result<Vec<String>> {
        let reference = format!("{}:{tag}", self.image(repository));
        self.containerd.cri().digests(&reference).await
    }

    async fn bake(&self, args: &[&str]) -> Result<Ended> {
        self.bake_stdin(args, "").await
    }

    async fn bake_stdin(&self, args: &[&str], stdin: &str) -> Result<Ended> {
        let ended = Command::new(&parts::built("drop-agent")?)
            .args(["bake", "--runtime-endpoint", &self.containerd.endpoint()])
            .args(ANY_DISK)
            .args(args)
            .env("TERM", "xterm-256color")
            .stdin(stdin)
            .run(WITHIN)
            .await?;
        ensure!(!ended.all().contains("panicked"), "{ended:?}");
        Ok(ended)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_exits_with_0_when_every_image_is_there() -> Result<()> {
    let machine = Machine::start().await?;
    let mut digests = Vec::new();
    for name in ["one", "two", "three"] {
        digests.push(machine.push(name, "v1", 200_000).await?);
    }
    let fresh = |name: &str, spec: &str| yaml(name, &machine.image(name), "v1", spec);
    // A directory: documents in two files, a policy among them, and a file that is none of bake's business.
    let (one, two) = (
        fresh("one", ""),
        fresh("two", "imagePullPolicy: IfNotPresent"),
    );
    machine.file("in/a.yaml", &format!("{one}{}{two}", policy("quick", "")))?;
    machine.file(
        "in/b.yml",
        &fresh("three", "priority: -1, policyRef: {name: quick}"),
    )?;
    machine.file("in/notes.txt", "no: [yaml")?;
    let folder = machine.scratch.path().join("in").display().to_string();

    let ended = machine.bake(&[&folder]).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    for (name, digest) in ["one", "two", "three"].iter().zip(&digests) {
        let held = machine.held(name, "v1").await?;
        ensure!(held.contains(digest), "{name}: {held:?}");
        let line = ended
            .stdout
            .lines()
            .find(|line| line.contains("  present  ") && line.contains(&format!("  {name}  ")));
        ensure!(line.is_some_and(|line| line.contains(digest)), "{ended:?}");
    }
    ensure!(
        ended.stdout.contains("3 of 3 images present after "),
        "{ended:?}"
    );
    // Nobody looks at a terminal: plain lines, without colours and motion.
    ensure!(!ended.all().contains('\u{1b}'), "{ended:?}");
    ensure!(!ended.all().contains('\r'), "{ended:?}");
    // Lower priorities first.
    let first = ended
        .stdout
        .lines()
        .find(|line| line.contains("  pulling  "));
    ensure!(
        first.is_some_and(|line| line.contains("  three  ")),
        "{ended:?}"
    );

    // Again: what is there needs no layer, and with IfNotPresent not even a question.
    let before = machine.proxy.log().count();
    let two = machine.file("two.yaml", &two)?;
    let again = machine.bake(&[&two]).await?;
    ensure!(again.code == Some(0), "{again:?}");
    ensure!(
        machine.proxy.log().count() == before,
        "{}",
        machine.proxy.log().table()
    );
    let again = machine.bake(&[&folder]).await?;
    ensure!(again.code == Some(0), "{again:?}");
    let asked = machine.proxy.log().after(before);
    ensure!(asked.blobs().count() == 0, "{}", asked.table());
    ensure!(asked.repository("two").count() == 0, "{}", asked.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_exits_with_1_and_names_what_failed_and_why() -> Result<()> {
    let machine = Machine::start().await?;
    let digest = machine.push("good", "v1", 100_000).await?;
    let image = |name: &str| machine.image(name);
    let never = "imagePullPolicy: Never";
    let text = [
        yaml("good", &image("good"), "v1", ""),
        yaml("typo", &image("good"), "v2", ""),
        yaml("absent", &image("absent"), "v1", never),
        yaml("refused", "127.0.0.1:1/team/app", "v1", ""),
    ]
    .concat();
    let file = machine.file("images.yaml", &text)?;
    let ended = machine.bake(&[&file, "--wait-timeout", "8s"]).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(machine.held("good", "v1").await? == [digest]);
    let (_, table) = ended
        .stdout
        .split_once("1 of 4 images present after ")
        .with_context(|| format!("{ended:?}"))?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    ensure!(
        rows.len() == 4 && rows[0] == ["NAME", "REFERENCE", "CLASS", "CAUSE"],
        "{rows:?}"
    );
    let of = |name: &str| {
        rows.iter()
            .find(|row| row[0] == name)
            .context("no such row")
    };
    let typo = format!("{}:v2", image("good"));
    ensure!(
        of("typo")? == &["typo", &typo, "not_found", "image not found"],
        "{rows:?}"
    );
    ensure!(of("absent")?[2] == "never", "{rows:?}");
    let refused = of("refused")?;
    ensure!(refused[2] == "connection", "{rows:?}");
    ensure!(
        refused[3].starts_with("connection refused: 127.0.0.1:1"),
        "{rows:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_exits_with_2_and_says_in_which_line_the_mistake_is() -> Result<()> {
    let machine = Machine::start().await?;
    let head =
        "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata:\n  name: a\nspec:\n";
    let good = yaml("good", &machine.image("good"), "v1", "");
    let two = format!("{good}---\n{head}  image: nginx:1.25\n");
    let cases = [
        (
            format!("{head}  image: nginx:1.25\n"),
            6,
            "put the tag in its own field",
        ),
        (format!("{head}  image: nginx\n  tag: 1.25\n"), 7, "string"),
        (
            format!(
                "{head}  image: nginx\n  tag: v1\n  digest: sha256:{}\n",
                "0".repeat(64)
            ),
            8,
            "not both",
        ),
        (
            format!("{head}  image: nginx\n  digest: sha256:12\n"),
            7,
            "64 lower-case",
        ),
        (format!("{head}  image: NGINX\n"), 6, "lower-case"),
        (
            format!("{head}  image: https://r.example/a\n"),
            6,
            "not a URL",
        ),
        (format!("{head}  image: nginx\n  tagg: v1\n"), 7, "tagg"),
        (
            format!("{head}  image: nginx\n  imagePullPolicy: Perhaps\n"),
            7,
            "Perhaps",
        ),
        (format!("{head}  tag: v1\n"), 6, "image"),
        (
            head.replace("name: a", "name: A_b") + "  image: nginx\n",
            4,
            "metadata.name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned(),
            2,
            "Pod",
        ),
        ("a: [1,\n".to_owned(), 1, "bracket"),
        ("a: b\n".to_owned(), 1, "kind"),
        (
            format!("# one\n# two\n{two}"),
            14,
            "put the tag in its own field",
        ),
        (format!("{good}{good}"), 8, "already defined"),
    ];
    for (number, (text, line, message)) in cases.iter().enumerate() {
        let file = machine.file(&format!("bad-{number}.yaml"), text)?;
        let ended = machine.bake(&[&file]).await?;
        refused(&ended, &format!("{file}:{line}: "), message)?;
        let ended = machine.bake_stdin(&["-"], text).await?;
        refused(&ended, &format!("<stdin>:{line}: "), message)?;
    }
    // No line to name where nothing could be read.
    let empty = machine.file("empty.yaml", "# nothing\n")?;
    let hollow = machine.scratch.folder("hollow")?.display().to_string();
    let binary = machine.file("binary.yaml", "")?;
    std::fs::write(Path::new(&binary), [0xff, 0xfe, 0x00])?;
    for (path, place, message) in [
        ("/no/such/file", "/no/such/file: ", "No such file"),
        (&empty, "error: ", "no CachedImage"),
        (&hollow, &format!("{hollow}: "), "no .yaml"),
        (&binary, &format!("{binary}: "), "UTF-8"),
    ] {
        refused(&machine.bake(&[path]).await?, place, message)?;
    }
    // Every mistake at once, and no pull of what would be right.
    let all: Vec<String> = (0..3)
        .map(|n| {
            machine
                .scratch
                .path()
                .join(format!("bad-{n}.yaml"))
                .display()
                .to_string()
        })
        .collect();
    let fine = machine.file("fine.yaml", &good)?;
    let ended = machine.bake(&[&fine, &all[0], &all[1], &all[2]]).await?;
    for file in &all {
        refused(&ended, &format!("{file}:"), "")?;
    }
    ensure!(
        machine.proxy.log().count() == 0,
        "{}",
        machine.proxy.log().table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_writes_one_json_document_about_all_images() -> Result<()> {
    let machine = Machine::start().await?;
    let digest = machine.push("good", "v1", 100_000).await?;
    let image = machine.image("good");
    let text = [
        yaml("good", &image, "v1", ""),
        yaml("typo", &image, "v2", "nodeSelector: {a: b}"),
        yaml("absent", &image, "v3", "imagePullPolicy: Never"),
    ]
    .concat();
    let ended = machine.bake_stdin(&["-o", "json", "-"], &text).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    // Standard output is the document and nothing else; the rest is for people.
    let document: Value =
        serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.stderr.contains("nodeSelector"), "{ended:?}");
    let images = document["images"].as_array().context("no images")?;
    let names: Vec<&str> = images.iter().filter_map(|i| i["name"].as_str()).collect();
    ensure!(names == ["good", "typo", "absent"], "{document}");
    let [good, typo, absent] = [&images[0], &images[1], &images[2]];
    ensure!(
        good["state"] == "present" && good["digest"] == digest.as_str(),
        "{good}"
    );
    ensure!(good["reference"] == format!("{image}:v1"), "{good}");
    ensure!(
        good["sizeBytes"]
            .as_u64()
            .is_some_and(|size| size > 100_000),
        "{good}"
    );
    ensure!(
        good["elapsedSeconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0),
        "{good}"
    );
    ensure!(
        good["class"].is_null() && good["message"].is_null(),
        "{good}"
    );
    ensure!(
        typo["state"] == "failed" && typo["class"] == "not_found",
        "{typo}"
    );
    ensure!(
        typo["message"] == "image not found" && typo["digest"].is_null(),
        "{typo}"
    );
    ensure!(
        absent["state"] == "failed" && absent["class"] == "never",
        "{absent}"
    );

    let text = yaml("good", &image, "v1", "");
    let ended = machine.bake_stdin(&["--output=json", "-"], &text).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let document: Value = serde_json::from_str(&ended.stdout)?;
    ensure!(document["images"][0]["state"] == "present", "{document}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_waits_for_a_runtime_that_comes_later() -> Result<()> {
    let mut machine = Machine::start().await?;
    let digest = machine.push("late", "v1", 100_000).await?;
    let file = machine.file("late.yaml", &yaml("late", &machine.image("late"), "v1", ""))?;
    machine.containerd.kill();

    let ended = machine.bake(&[&file, "--wait-timeout", "2s"]).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(ended.stdout.contains("0 of 1 images present"), "{ended:?}");
    ensure!(
        ended
            .stdout
            .contains("the container runtime does not answer"),
        "{ended:?}"
    );

    let program = Program::new("bake", parts::built("drop-agent")?, machine.scratch.path())
        .args(["bake", "--runtime-endpoint", &machine.containerd.endpoint()])
        .args(ANY_DISK)
        .arg(&file);
    let mut bake = Process::start(program)?;
    wait::until("bake to wait for the runtime", WITHIN, async || {
        ensure!(
            bake.log().contains("waiting for the runtime"),
            "{}",
            bake.log()
        );
        Ok(())
    })
    .await?;
    machine.containerd.restart().await?;
    let status = bake.wait_exit(WITHIN).await?;
    ensure!(status.code() == Some(0), "{status}: {}", bake.log());
    ensure!(machine.held("late", "v1").await? == [digest]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_draws_one_line_for_each_image_on_a_terminal() -> Result<()> {
    let machine = Machine::start().await?;
    for name in ["one", "two"] {
        machine.push(name, "v1", 400_000).await?;
    }
    // Slow enough to be seen being pulled.
    machine.proxy.inject(Fault::rate(400_000));
    let text = [
        yaml("one", &machine.image("one"), "v1", ""),
        yaml("two", &machine.image("two"), "v1", ""),
        yaml("typo", &machine.image("one"), "v9", ""),
    ]
    .concat();
    let file = machine.file("images.yaml", &text)?;
    let command = format!(
        "{} bake {} --runtime-endpoint {} {file}",
        parts::built("drop-agent")?.display(),
        ANY_DISK.join(" "),
        machine.containerd.endpoint()
    );
    let script = Command::new(&parts::installed("script")?)
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("SHELL", "/bin/sh");
    let ended = script.env("TERM", "xterm-256color").run(WITHIN).await?;
    ensure!(ended.code == Some(1), "{ended:?}");

    let frames = screens(&ended.stdout);
    let shows = |screen: &[String], name: &str, word: &str| {
        let lines: Vec<&String> = screen
            .iter()
            .filter(|line| line.starts_with(name))
            .collect();
        lines.len() == 1 && lines[0].split_whitespace().nth(1) == Some(word)
    };
    for name in ["one", "two"] {
        let seen = frames.iter().any(|screen| shows(screen, name, "pulling"));
        ensure!(seen, "{name} was never shown as being pulled: {frames:?}");
    }
    let last = frames.last().context("nothing was drawn")?;
    ensure!(
        shows(last, "one ", "present") && shows(last, "two ", "present"),
        "{last:?}"
    );
    // The picture stays, and the table of what failed follows.
    ensure!(
        last.len() > 4 && last[3].starts_with("2/3 present"),
        "{last:?}"
    );
    ensure!(
        last[4].starts_with("2 of 3 images present after "),
        "{last:?}"
    );
    let row = last.last().context("an empty screen")?;
    ensure!(
        row.starts_with("typo ") && row.contains("not_found"),
        "{last:?}"
    );
    ensure!(
        ended.stdout.contains("\u{1b}[32mpresent"),
        "no colours: {ended:?}"
    );

    // NO_COLOR keeps the motion and drops the colours; a dumb terminal gets plain lines.
    for (variable, value, moves) in [("NO_COLOR", "1", true), ("TERM", "dumb", false)] {
        let ended = Command::new(&parts::installed("script")?)
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .env(variable, value)
            .run(WITHIN)
            .await?;
        ensure!(ended.code == Some(1), "{ended:?}");
        ensure!(
            !ended.stdout.contains("\u{1b}[32m"),
            "{variable}: {ended:?}"
        );
        ensure!(
            ended.stdout.contains("\u{1b}[") == moves,
            "{variable}: {ended:?}"
        );
    }
    Ok(())
}

fn refused(ended: &Ended, place: &str, message: &str) -> Result<()> {
    ensure!(ended.code == Some(2), "{place} {ended:?}");
    ensure!(ended.stdout.is_empty(), "{place} {ended:?}");
    let line = ended.stderr.lines().find(|line| line.starts_with(place));
    let line = line.with_context(|| format!("nothing begins with {place}: {ended:?}"))?;
    ensure!(
        line.contains(message),
        "{place} does not say {message}: {ended:?}"
    );
    Ok(())
}

/// What a terminal shows after each piece that ends a frame, for the few commands that bake uses.
fn screens(output: &str) -> Vec<Vec<String>> {
    let (mut lines, mut row) = (vec![String::new()], 0);
    let mut frames = Vec::new();
    let mut rest = output;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\u{1b}' => {
                let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else {
                    break;
                };
                let count = rest[1..end].parse().unwrap_or(1);
                match &rest[end..=end] {
                    "A" => {
                        row -= std::cmp::min(row, count);
                        frames.push(lines.clone());
                    }
                    "K" => lines[row].clear(),
                    "J" => lines.truncate(row + 1),
                    _ => {}
                }
                rest = &rest[end + 1..];
            }
            '\r' => {}
            '\n' => {
                row += 1;
                if lines.len() == row {
                    lines.push(String::new());
                }
            }
            other => lines[row].push(other),
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    frames.push(lines);
    frames
}
