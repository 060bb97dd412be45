//! Credential helpers and credential-provider plugins, as real programs (shell scripts in `programs`).

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drop_oci::keychain::Limits;
use drop_oci::keychain::helpers::DockerConfig;
use drop_oci::keychain::plugins::{PluginError, Plugins};
use drop_oci::{Credential, Reference};

const SECRET: &str = "hunter2-do-not-show";

/// Ample on a busy machine.
const AMPLE: Limits = Limits {
    timeout: Duration::from_secs(60),
    max_bytes: 10_000,
};

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

fn image(text: &str) -> Reference {
    text.parse().expect(text)
}

fn users(credentials: &[Credential]) -> Vec<&str> {
    credentials
        .iter()
        .map(|credential| match credential {
            Credential::Anonymous => "-",
            Credential::Basic { username, .. } => username,
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => token,
        })
        .collect()
}

/// All that a log could show of an error.
fn shown(error: &(dyn Error + 'static)) -> String {
    let messages = std::iter::successors(Some(error), |&error| error.source());
    let messages: Vec<_> = messages.map(ToString::to_string).collect();
    format!("{error:?} / {}", messages.join(" / "))
}

fn docker_config(json: &str) -> DockerConfig {
    let mut path = OsString::from(programs());
    path.push(":/usr/bin:/bin");
    let config = DockerConfig::parse(json.as_bytes());
    config
        .unwrap_or_else(|error| panic!("{error}"))
        .with_helpers_from(path, AMPLE)
}

#[tokio::test]
async fn a_helper_is_asked_for_its_registry_and_the_store_for_all_others() {
    let config = docker_config(
        r#"{"auths": {"r.io": {"username": "in the file", "password": "x"}},
            "credHelpers": {"r.io": "answers", "index.docker.io": "token", "off.io": ""},
            "credsStore": "knows-nothing"}"#,
    );
    for (name, expected) in [
        ("r.io/team/app", vec!["user of r.io", "in the file", "-"]),
        ("nginx", vec!["refresh", "-"]),
        ("other.io/app", vec!["-"]),
        ("off.io/app", vec!["-"]),
    ] {
        let (credentials, error) = config.lookup(&image(name)).await;
        assert_eq!(users(&credentials), expected, "{name}");
        assert!(error.is_none(), "{name}");
    }
    let hub = docker_config(r#"{"credsStore": "answers"}"#);
    let (credentials, _) = hub.lookup(&image("nginx")).await;
    assert_eq!(
        users(&credentials),
        ["user of https://index.docker.io/v1/", "-"]
    );
}

#[tokio::test]
async fn a_helper_that_fails_takes_no_other_login_away_and_shows_no_secret() {
    for (helper, class) in [
        ("fails", "failed"),
        ("is-not-installed", "not_started"),
        ("../programs/docker-credential-answers", "bad_answer"),
    ] {
        let config = docker_config(&format!(
            r#"{{"auths": {{"r.io": {{"username": "in the file", "password": "x"}}}},
                 "credHelpers": {{"r.io": "{helper}"}}}}"#
        ));
        let (credentials, error) = config.lookup(&image("r.io/app")).await;
        assert_eq!(users(&credentials), ["in the file", "-"]);
        let error = error.expect(helper);
        assert_eq!(error.class(), class, "{error}");
        let shown = shown(&error);
        assert!(
            shown.contains("docker-credential-") && !shown.contains(SECRET),
            "{shown}"
        );
    }
}

fn plugins(args: &str, env: &[(&str, &Path)], limits: Limits) -> Plugins {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| format!("{{name: {name}, value: '{}'}}", value.display()))
        .collect();
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['*.example.com', '*.example.com:5000/team']
  defaultCacheDuration: 10m0s
  args: [{args}]
  env: [{}]
",
        env.join(", ")
    );
    Plugins::from_config(&config, &programs(), limits).unwrap_or_else(|error| panic!("{error}"))
}

/// A file of this test alone.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_file(&file);
    file
}

fn calls(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn a_plugin_is_asked_with_the_kubelets_request_for_its_images_only() {
    let log = scratch("asked");
    let mut plugins = plugins("answer", &[("CALLS", &log)], AMPLE);
    let now = Instant::now();
    let (credentials, errors) = plugins
        .lookup(&image("a.example.com/team/app:v1"), now)
        .await;
    assert!(errors.is_empty());
    assert_eq!(users(&credentials), ["plugin"]);
    for name in ["other.com/app", "a.example.com:5000/app", "nginx"] {
        let (credentials, errors) = plugins.lookup(&image(name), now).await;
        assert!(credentials.is_empty() && errors.is_empty(), "{name}");
    }
    let requests = fs::read_to_string(&log).unwrap();
    let request: serde_json::Value = serde_json::from_str(&requests).unwrap();
    assert_eq!(
        request,
        serde_json::json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderRequest",
            "image": "a.example.com/team/app",
        })
    );
}

#[tokio::test]
async fn an_answer_is_kept_for_as_long_and_for_what_the_plugin_says() {
    let minute = Duration::from_secs(60);
    for (args, same_image, same_host, after_5_minutes, after_10_minutes) in [
        ("answer, Image", 1, 2, 2, 3),
        ("answer, Registry", 1, 1, 1, 2),
        ("answer, Global, 5m", 1, 1, 2, 3),
        ("answer, Registry, 0s", 2, 3, 4, 5),
    ] {
        let log = scratch("kept");
        let mut plugins = plugins(args, &[("CALLS", &log)], AMPLE);
        let start = Instant::now();
        for (name, after, expected) in [
            ("a.example.com/app:v1", Duration::ZERO, 1),
            ("a.example.com/app:v2", Duration::ZERO, same_image),
            ("a.example.com/other", Duration::ZERO, same_host),
            ("a.example.com/app", 5 * minute, after_5_minutes),
            ("a.example.com/app", 10 * minute, after_10_minutes),
        ] {
            let (credentials, errors) = plugins.lookup(&image(name), start + after).await;
            assert!(
                errors.is_empty() && credentials.len() == 1,
                "{args}: {name}"
            );
            assert_eq!(calls(&log), expected, "{args}: {name} after {after:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_for_other_images_gives_no_login() {
    let mut plugins = plugins("answer, Registry, 1m, b.example.com", &[], AMPLE);
    let now = Instant::now();
    let (credentials, errors) = plugins.lookup(&image("a.example.com/app"), now).await;
    assert!(credentials.is_empty() && errors.is_empty());
}

#[tokio::test]
async fn a_plugin_that_fails_is_named_and_shows_no_secret() {
    let now = Instant::now();
    for (args, class, words) in [
        ("fail", "failed", "exit status: 7"),
        ("garbage", "bad_answer", "CredentialProviderResponse"),
        (
            "old-version",
            "bad_answer",
            "credentialprovider.kubelet.k8s.io/v1",
        ),
        ("answer, Nonsense", "bad_answer", "cacheKeyType"),
        (
            "answer, Registry, forever",
            "bad_answer",
            "CredentialProviderResponse",
        ),
        ("answer, Registry, 1m, bad host", "bad_answer", "bad host"),
        ("flood", "bad_answer", "10000 bytes"),
    ] {
        let mut plugins = plugins(args, &[], AMPLE);
        let (credentials, errors) = plugins.lookup(&image("a.example.com/app"), now).await;
        assert!(credentials.is_empty(), "{args}");
        let [error] = errors.as_slice() else {
            panic!("{args}: {} errors", errors.len());
        };
        let shown = shown(error);
        assert_eq!(error.class(), class, "{shown}");
        assert!(shown.contains(words) && shown.contains("plugin"), "{shown}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_all_that_it_started() {
    let child = scratch("child");
    let limits = Limits {
        timeout: Duration::from_secs(3),
        ..AMPLE
    };
    let mut plugins = plugins("hang", &[("CHILD", &child)], limits);
    let app = image("a.example.com/app");
    let (_, errors) = plugins.lookup(&app, Instant::now()).await;
    assert_eq!(errors.first().map(PluginError::class), Some("timeout"));
    let pid = fs::read_to_string(&child).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    for _ in 0..600 {
        // Gone, or dead and not yet collected.
        if fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {} still runs", pid.trim());
}

#[tokio::test]
async fn a_plugin_that_needs_a_service_account_is_not_run() {
    let config = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [r.io]
  defaultCacheDuration: 1m
  args: [answer]
  tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true, cacheType: Token}
";
    let plugins = Plugins::from_config(config, &programs(), AMPLE);
    let mut plugins = plugins.unwrap_or_else(|error| panic!("{error}"));
    let (credentials, errors) = plugins.lookup(&image("r.io/app"), Instant::now()).await;
    assert!(credentials.is_empty());
    assert_eq!(
        errors.first().map(PluginError::class),
        Some("service_account")
    );
}

#[test]
fn a_configuration_that_the_kubelet_refuses_is_refused() {
    let provider = |fields: &str| {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- {fields}\n"
        )
    };
    let api = "apiVersion: credentialprovider.kubelet.k8s.io/v1";
    for (config, words) in [
        ("{".to_owned(), "line"),
        (provider(&format!("{{name: a, env: {SECRET}}}")), "line 4"),
        (
            "apiVersion: v1\nkind: Secret\n".to_owned(),
            "CredentialProviderConfig",
        ),
        (
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n".to_owned(),
            "no providers",
        ),
        (provider("{name: a/b}"), "slash"),
        (provider("{name: ..}"), "folder"),
        (
            provider("{name: a}"),
            "credentialprovider.kubelet.k8s.io/v1",
        ),
        (provider(&format!("{{name: a, {api}}}")), "matchImages"),
        (
            provider(&format!("{{name: a, {api}, matchImages: [r.io]}}")),
            "defaultCacheDuration",
        ),
        (
            provider(&format!(
                "{{name: a, {api}, matchImages: [''], defaultCacheDuration: 1m}}"
            )),
            "registry host",
        ),
        (
            provider(&format!(
                "{{name: a, {api}, matchImages: [r.io], defaultCacheDuration: -1m}}"
            )),
            "line 4",
        ),
    ] {
        let error = Plugins::from_config(&config, &programs(), AMPLE).err();
        let error = error.expect("refused").to_string();
        assert!(error.contains(words) && !error.contains(SECRET), "{error}");
    }
    let twice = format!("{{name: a, {api}, matchImages: [r.io], defaultCacheDuration: 1m}}");
    let twice = provider(&format!("{twice}\n- {twice}"));
    let error = Plugins::from_config(&twice, &programs(), AMPLE).err();
    assert!(error.expect("refused").to_string().contains("twice"));
}
