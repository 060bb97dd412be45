//! Command lines that make no sense: each gets an exit code that is not 0 and a message that names the flag.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use drop_tests::command::{Command, Ended};
use drop_tests::dirs::Scratch;
use drop_tests::parts;
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(30);

/// Flags with their values, and what the message must name: the flag, and what is right or wrong about it.
type Case<'a> = (&'a str, &'a str, &'a str);

const COORDINATOR: [Case; 37] = [
    ("--no-such-flag", "--no-such-flag", "--help"),
    ("stray", "'stray'", "--help"),
    (
        "--session-bind-address=7070",
        "--session-bind-address",
        ":8080",
    ),
    (
        "--session-bind-address=0",
        "--session-bind-address",
        "cannot be disabled",
    ),
    (
        "--session-bind-address=host:x",
        "--session-bind-address",
        ":8080",
    ),
    (
        "--metrics-bind-address=127.0.0.1",
        "--metrics-bind-address",
        ":8080",
    ),
    (
        "--health-probe-bind-address=:99999",
        "--health-probe-bind-address",
        ":8080",
    ),
    ("--grant-ttl=soon", "--grant-ttl", "soon"),
    ("--grant-ttl=10", "--grant-ttl", "10"),
    ("--grant-ttl=-5s", "--grant-ttl", "-5s"),
    ("--grant-ttl=0s", "--grant-ttl", "at least 1s"),
    ("--agent-grace=1d", "--agent-grace", "1d"),
    ("--agent-grace=", "--agent-grace", "duration"),
    ("--lease-duration=soon", "--lease-duration", "soon"),
    (
        "--leader-elect --lease-duration=5s",
        "--lease-duration",
        "--lease-renew-deadline",
    ),
    ("--lease-retry-period=2", "--lease-retry-period", "2"),
    (
        "--max-pulls-per-registry=0",
        "--max-pulls-per-registry",
        "0",
    ),
    (
        "--max-pulls-per-registry=many",
        "--max-pulls-per-registry",
        "many",
    ),
    ("--log-filter==[", "--log-filter", "=["),
    ("--log-format=xml", "--log-format", "json"),
    ("--kubeconfig", "--kubeconfig", "value"),
    (
        "--kubeconfig=/no/such/file",
        "--kubeconfig",
        "/no/such/file",
    ),
    // Neither a kubeconfig nor a pod's ServiceAccount.
    ("--agent-grace=1s", "--kubeconfig", "ServiceAccount"),
    ("--pod-namespace", "--pod-namespace", "value"),
    ("--pod-namespace=Drop", "--pod-namespace", "lower-case"),
    ("--session-service=a.b", "--session-service", "lower-case"),
    (
        "--session-bind-address=:7070 --insecure-plaintext",
        "--insecure-plaintext",
        "127.0.0.1:PORT",
    ),
    (
        "--session-bind-address=10.0.0.1:7070 --insecure-plaintext",
        "--insecure-plaintext",
        "10.0.0.1:7070",
    ),
    (
        "--insecure-plaintext --tls-cert-file=a --tls-key-file=b",
        "--insecure-plaintext",
        "--tls-cert-file",
    ),
    (
        "--registry-ca-file=/no/such/file",
        "--registry-ca-file /no/such/file",
        "mount the PEM file there, or leave the flag out",
    ),
    (
        "--registry-ca-file=/dev/null",
        "--registry-ca-file /dev/null",
        "BEGIN CERTIFICATE",
    ),
    // Where nobody asks registries, what is wrong with their authorities stops nothing: the next flag is to blame.
    (
        "--resolve-tags=false --registry-ca-file=/no/such/file --kubeconfig=/no/kubeconfig",
        "--kubeconfig",
        "/no/kubeconfig",
    ),
    (
        "--plain-http-registry=http://r.io",
        "--plain-http-registry",
        "without a scheme",
    ),
    ("--tls-cert-file=/tls.crt", "--tls-key-file", "required"),
    ("--tls-lifetime=5s", "--tls-lifetime", "at least 6s"),
    ("--token-recheck=0s", "--token-recheck", "at least 1s"),
    (
        "--agent-service-account=drop-agent",
        "--agent-service-account",
        "system:serviceaccount:NAMESPACE:NAME",
    ),
];

const AGENT: [Case; 32] = [
    ("--no-such-flag", "--no-such-flag", "--help"),
    ("--node-name=", "--node-name", "Node object"),
    ("--node-name=Node One", "--node-name", "Node object"),
    (
        "--coordinator=localhost:7070",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--coordinator=https://127.0.0.1:7070",
        "--insecure-plaintext",
        "http://127.0.0.1:port",
    ),
    (
        "--coordinator=http://drop-coordinator.drop-system.svc:7070",
        "--insecure-plaintext",
        "http://127.0.0.1:port",
    ),
    (
        "--coordinator=http://",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--coordinator=http://a b:1",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--coordinator=http://c:99999",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--coordinator=http://a:1,b:2",
        "--coordinator",
        "separated by commas",
    ),
    (
        "--coordinator=http://c:1/path",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--coordinator=http://u:secret@c:1",
        "--coordinator",
        "https://host:port",
    ),
    (
        "--runtime-endpoint=tcp://127.0.0.1:1",
        "--runtime-endpoint",
        "unix://",
    ),
    (
        "--runtime-endpoint=run.sock",
        "--runtime-endpoint",
        "unix://",
    ),
    ("--runtime-endpoint=", "--runtime-endpoint", "unix://"),
    ("--max-parallel-pulls=0", "--max-parallel-pulls", "1..=64"),
    ("--max-parallel-pulls=65", "--max-parallel-pulls", "1..=64"),
    ("--max-parallel-pulls=x", "--max-parallel-pulls", "x"),
    ("--list-interval=0s", "--list-interval", "longer than zero"),
    ("--list-interval=5", "--list-interval", "5"),
    ("--pull-deadline=never", "--pull-deadline", "never"),
    ("--shutdown-grace=-1s", "--shutdown-grace", "-1s"),
    ("--disk-high-percent=0", "--disk-high-percent", "1..=100"),
    ("--disk-high-percent=101", "--disk-high-percent", "1..=100"),
    ("--disk-default-need=much", "--disk-default-need", "2Gi"),
    ("--disk-default-need=-1", "--disk-default-need", "2Gi"),
    ("--allow-registries=nginx", "--allow-registries", "host"),
    (
        "--allow-registries=ghcr.io,https://r.io",
        "--allow-registries",
        "https://r.io",
    ),
    (
        "--metrics-bind-address=8080",
        "--metrics-bind-address",
        ":8080",
    ),
    (
        "--health-probe-bind-address=x",
        "--health-probe-bind-address",
        ":8080",
    ),
    ("--log-filter=a=b=c", "--log-filter", "a=b=c"),
    ("--log-format=", "--log-format", "json"),
];

const BIND_FLAGS: [&str; 3] = [
    "--session-bind-address",
    "--metrics-bind-address",
    "--health-probe-bind-address",
];

#[tokio::test]
async fn the_coordinator_refuses_bad_flags_by_name() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Coordinator {
        home: scratch.path(),
    };
    for (flag, name, word) in COORDINATOR {
        let flags: Vec<&str> = flag.split(' ').collect();
        program.refuses(&flags, [name, word]).await?;
    }
    for (name, text) in [("garbage", "\u{0}\u{1}: not [yaml"), ("empty", "")] {
        let file = scratch.path().join(name);
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        program
            .refuses(&["--kubeconfig", &file], ["--kubeconfig", &file])
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn authorities_are_needed_only_by_a_coordinator_that_asks_registries() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Coordinator {
        home: scratch.path(),
    };
    // A machine whose system trusts nobody.
    let env = [("SSL_CERT_FILE", "/no/such/file")];
    for (flag, words) in [
        (
            "--resolve-tags=true",
            ["install ca-certificates", "--resolve-tags=false"],
        ),
        ("--resolve-tags=false", ["--kubeconfig", "ServiceAccount"]),
    ] {
        program.refuses_in(&env, &[flag], words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Coordinator {
        home: scratch.path(),
    };
    // Nobody answers there: a coordinator that got all its ports would wait for ever.
    let kubeconfig = scratch.path().join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
        clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {}}]}";
    std::fs::write(&kubeconfig, text)?;
    let kubeconfig = kubeconfig.display().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let taken = listener.local_addr()?.to_string();
    for flag in BIND_FLAGS {
        program
            .refuses(
                &["--kubeconfig", &kubeconfig, &format!("{flag}={taken}")],
                [flag, &taken],
            )
            .await?;
    }
    for flag in &BIND_FLAGS[1..] {
        agent_refuses(&running(&[&format!("{flag}={taken}")]), [flag, &taken]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_agent_refuses_bad_flags_by_name() -> Result<()> {
    let bare: [(&[&str], [&str; 2]); 5] = [
        (&[], ["run", "bake"]),
        (&["walk"], ["walk", "--help"]),
        (
            &["run", "--coordinator", "http://c:1"],
            ["--node-name", "required"],
        ),
        (&["run", "--node-name", "n"], ["--coordinator", "required"]),
        (&["bake"], ["FILE", "required"]),
    ];
    for (args, words) in bare {
        agent_refuses(args, words).await?;
    }
    for (flag, name, word) in AGENT {
        agent_refuses(&running(&[flag]), [name, word]).await?;
    }
    let secure = ["run", "--node-name=n", "--coordinator=https://c:7070"];
    for (more, word) in [
        (&[][..], "--coordinator-ca-file"),
        (&["--coordinator-ca-file=/ca.crt"], "--token-file"),
        (&["--token-file=/token"], "--coordinator-ca-file"),
    ] {
        agent_refuses(&[&secure, more].concat(), [word, "required"]).await?;
    }
    let plain = [
        "run",
        "--node-name=n",
        "--coordinator=http://127.0.0.1:7070",
    ];
    agent_refuses(&plain, ["--coordinator", "--insecure-plaintext"]).await?;
    // The environment is an input, too.
    let args = ["run", "--coordinator=http://127.0.0.1:1"];
    let ended = Command::new(&parts::built("drop-agent")?)
        .args(args)
        .env("NODE_NAME", "")
        .run(WITHIN)
        .await?;
    check_refusal(&args, &ended, ["--node-name", "Node object"])
}

/// The coordinator on a machine without a cluster.
struct Coordinator<'a> {
    home: &'a Path,
}

impl Coordinator<'_> {
    async fn refuses(&self, args: &[&str], words: [&str; 2]) -> Result<()> {
        self.refuses_in(&[], args, words).await
    }

    /// The same with more variables.
    async fn refuses_in(
        &self,
        env: &[(&str, &str)],
        args: &[&str],
        words: [&str; 2],
    ) -> Result<()> {
        let is_given = |flag: &&&str| args.iter().any(|arg| arg.starts_with(**flag));
        let others = BIND_FLAGS.iter().filter(|flag| !is_given(flag));
        let others: Vec<String> = others.map(|flag| format!("{flag}=127.0.0.1:0")).collect();
        let all: Vec<&str> = others
            .iter()
            .map(String::as_str)
            .chain(args.iter().copied())
            .collect();
        let mut command = Command::new(&parts::built("drop-coordinator")?)
            .args(&all)
            .env("HOME", self.home);
        for (name, value) in env {
            command = command.env(name, value);
        }
        let ended = command.run(WITHIN).await?;
        check_refusal(&all, &ended, words)
    }
}

async fn agent_refuses(args: &[&str], words: [&str; 2]) -> Result<()> {
    let program = Command::new(&parts::built("drop-agent")?);
    let ended = program.args(args).run(WITHIN).await?;
    check_refusal(args, &ended, words)
}

/// A sensible `drop-agent run` that is followed by `more`; later ones win.
fn running<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let common = [
        "run",
        "--node-name=n",
        "--coordinator=http://127.0.0.1:1",
        "--insecure-plaintext",
        "--metrics-bind-address=0",
        "--health-probe-bind-address=0",
    ];
    [&common, more].concat()
}

fn check_refusal(args: &[&str], ended: &Ended, words: [&str; 2]) -> Result<()> {
    let failed = ended.code.is_some_and(|code| code == 1 || code == 2);
    ensure!(failed, "{args:?}: {ended:?}");
    ensure!(ended.stdout.is_empty(), "{args:?}: {ended:?}");
    for word in words {
        ensure!(
            ended.stderr.contains(word),
            "{args:?} does not say {word}: {ended:?}"
        );
    }
    for noise in ["panicked", "RUST_BACKTRACE", "Stack backtrace"] {
        ensure!(!ended.all().contains(noise), "{args:?}: {ended:?}");
    }
    Ok(())
}
