use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Stands in every login here, so that an error that quotes anything of one is found out.
const SECRET: &str = "hunter2-do-not-show";

fn image(text: &str) -> Reference {
    text.parse().expect(text)
}

/// Logins whose user name is their own key.
fn keychain(keys: &[&str]) -> Keychain {
    let keys = keys.iter().map(|key| {
        let entry = Keychain::from_basic(key, key, SECRET).unwrap_or_else(|e| panic!("{key}: {e}"));
        ((*key).to_owned(), Ok(entry))
    });
    Keychain::gather(keys).0
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

fn error_of(json: &serde_json::Value) -> KeychainError {
    let error = Keychain::from_docker_config_json(json.to_string().as_bytes()).err();
    error.expect("an error")
}

#[test]
fn a_login_is_for_the_images_that_the_kubelet_takes_it_for() {
    // From the kubelet's own tests (keyring_test.go), and what its code does beyond them.
    for (key, name, expected) in [
        ("*.kubernetes.io", "prefix.kubernetes.io/app", true),
        ("prefix.*.io", "prefix.kubernetes.io/app", true),
        ("prefix.kubernetes.*", "prefix.kubernetes.io/app", true),
        (
            "*-good.kubernetes.io",
            "prefix-good.kubernetes.io/app",
            true,
        ),
        ("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", true),
        ("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", true),
        (
            "*.kubernetes.io:1111/blah",
            "prefix.kubernetes.io:1111/blah",
            true,
        ),
        (
            "prefix.*.io:1111/foo",
            "prefix.kubernetes.io:1111/foo/bar",
            true,
        ),
        ("*.kubernetes.io", "kubernetes.io/app", false),
        ("*.*.kubernetes.io", "prefix.kubernetes.io/app", false),
        ("*.*.kubernetes.io", "kubernetes.io/app", false),
        ("*kubernetes.io", "a.kubernetes.io/app", false),
        ("*kubernetes.io", "kubernetes.io/app", true),
        ("*.*.*.kubernetes.io", "a.b.c.kubernetes.io/app", true),
        ("kubernetes.io", "kubernetes.com/app", false),
        ("k*.io", "quay.io/app", false),
        (
            "*.kubernetes.io:1234/blah",
            "prefix.kubernetes.io:1111/blah",
            false,
        ),
        (
            "prefix.*.io/foo",
            "prefix.kubernetes.io:1111/foo/bar",
            false,
        ),
        (
            "https://hello.kubernetes.io",
            "hello.kubernetes.io/app",
            true,
        ),
        (
            "http://hello.kubernetes.io",
            "hello.kubernetes.io/app",
            true,
        ),
        ("https://*.docker.io/path", "prefix.docker.io/path", true),
        (
            "https://*.docker.io:8888",
            "prefix.docker.io:8888/app",
            true,
        ),
        ("https://*.docker.io/v1/", "prefix.docker.io/app", true),
        ("https://*.docker.io/v2/", "prefix.docker.io/app", true),
        ("https://r.io/v2/team", "r.io/team/app", true),
        ("https://r.io/v2", "r.io/app", false),
        ("https://r.io/", "r.io/app", true),
        (
            "prefix.docker.io:1111",
            "prefix.docker.io:1111/path/app",
            true,
        ),
        (
            "https://hello.kubernetes.io",
            "world.mesos.org/foo/bar",
            false,
        ),
        ("https://*.docker.com", "prefix.docker.io/app", false),
        ("https://prefix.docker.c*", "prefix.docker.io/app", false),
        // No port is not every port, and not the default port.
        ("r.io", "r.io:443/app", false),
        ("r.io:443", "r.io/app", false),
        ("r.io:", "r.io/app", true),
        // A prefix of the text, not of the components.
        ("r.io/foo", "r.io/foobar", true),
        ("r.io/foo/", "r.io/foobar", false),
        ("r.io/foo", "r.io/fo", false),
        ("r.io/*", "r.io/foo", false),
        ("R.io", "r.io/app", false),
        ("*.io", "a.b.io/app", false),
        ("*", "localhost/app", true),
        ("a*c*e.io", "abcde.io/app", true),
        ("a*c*e.io", "abcdef.io/app", false),
        ("r[a-c1].io", "rb.io/app", true),
        ("r[a-c1].io", "r1.io/app", true),
        ("r[a-c1].io", "rd.io/app", false),
        ("r[a-c.io", "ra.io/app", false),
        ("[::1]:5000", "[::1]:5000/app", true),
        ("[::1]", "[::1]/app", true),
        ("[::1]", "[::2]/app", false),
        ("user:password@r.io", "r.io/app", true),
        ("https://index.docker.io/v1/", "nginx", true),
        ("index.docker.io", "team/app", true),
        ("docker.io", "docker.io/team/app", true),
        ("docker.io/team", "team/app", true),
        ("docker.io/library", "nginx", true),
        ("https://index.docker.io/v1/", "quay.io/team/app", false),
        ("https://index.docker.io/v1/", "localhost/app", false),
        ("registry-1.docker.io", "nginx", false),
    ] {
        let found = keychain(&[key]).matching(&image(name)).len();
        assert_eq!(found, usize::from(expected), "{key} for {name}");
    }
}

#[test]
fn the_longest_path_is_tried_first_and_nobody_last() {
    let keychain = keychain(&["r.io", "*.io", "r.io/team/app", "other.io", "r.io/team"]);
    let credentials = keychain.lookup(&image("r.io/team/app:v1"));
    assert_eq!(
        users(&credentials),
        ["r.io/team/app", "r.io/team", "r.io", "*.io", "-"]
    );
    assert_eq!(users(&keychain.lookup(&image("x.y.io/app"))), ["-"]);
}

#[test]
fn docker_hubs_login_is_used_only_where_no_other_is() {
    let keychain = keychain(&["https://index.docker.io/v1/", "docker.io/team"]);
    assert_eq!(
        users(&keychain.matching(&image("team/app"))),
        ["docker.io/team"]
    );
    assert_eq!(
        users(&keychain.matching(&image("nginx"))),
        ["https://index.docker.io/v1/"]
    );
}

#[test]
fn two_secrets_for_one_place_are_tried_in_their_order_and_equal_logins_once() {
    let login = |user: &str| Keychain::from_basic("https://r.io", user, SECRET);
    let (keychain, errors) = Keychain::gather([
        ("one".to_owned(), login("old")),
        ("two".to_owned(), login("new")),
        ("three".to_owned(), login("old")),
    ]);
    assert!(errors.is_empty());
    assert_eq!(
        users(&keychain.matching(&image("r.io/app"))),
        ["old", "new"]
    );
}

#[test]
fn every_form_of_a_login_is_read() {
    let auth = STANDARD.encode("auth-user:with:colons");
    let unpadded = STANDARD_NO_PAD.encode("nopad:pw");
    let config = json!({
        "auths": {
            "plain.io": {"username": "plain", "password": SECRET, "email": "a@b.c"},
            "auth.io": {"username": "ignored", "password": "ignored", "auth": auth},
            "unpadded.io": {"auth": unpadded},
            "folded.io": {"auth": format!("{}\n{}", &auth[..8], &auth[8..])},
            "identity.io": {"auth": auth, "identitytoken": "refresh"},
            "token.io": {"registrytoken": "bearer"},
            "nameless.io": {"username": "", "password": SECRET},
            "helper.io": {},
            "null.io": null,
        },
        "credsStore": "desktop",
        "HttpHeaders": {"User-Agent": "docker"},
    });
    let keychain = Keychain::from_docker_config_json(config.to_string().as_bytes());
    let keychain = keychain.expect("logins");
    for (host, expected) in [
        ("plain.io", vec!["plain"]),
        ("auth.io", vec!["auth-user"]),
        ("unpadded.io", vec!["nopad"]),
        ("folded.io", vec!["auth-user"]),
        ("identity.io", vec!["refresh"]),
        ("token.io", vec!["bearer"]),
        ("nameless.io", vec![""]),
        ("helper.io", vec![]),
        ("null.io", vec![]),
    ] {
        let found = keychain.matching(&image(&format!("{host}/app")));
        assert_eq!(users(&found), expected, "{host}");
    }
    let found = keychain.matching(&image("auth.io/app"));
    assert!(
        matches!(&found[0], Credential::Basic { password, .. } if password == "with:colons"),
        "only the first colon divides"
    );
}

#[test]
fn secrets_are_read_by_their_type() {
    let config = json!({"auths": {"r.io": {"username": "json", "password": SECRET}}}).to_string();
    let legacy = json!({"r.io": {"username": "legacy", "password": SECRET}}).to_string();
    let basic = BasicKeys {
        location: "https://r.io/team",
        username: "user",
        password: "pw",
    };
    let secret = |kind, values: &[(&'static str, &'static str)]| SecretData {
        kind,
        values: values
            .iter()
            .map(|(key, value)| (*key, value.as_bytes()))
            .collect(),
    };
    let config: &'static str = config.leak();
    let legacy: &'static str = legacy.leak();
    for (secret, expected) in [
        (
            secret(DOCKER_CONFIG_JSON, &[(".dockerconfigjson", config)]),
            "json",
        ),
        (secret(DOCKERCFG, &[(".dockercfg", legacy)]), "legacy"),
        (
            secret("Opaque", &[("user", "basic"), ("pw", SECRET)]),
            "basic",
        ),
        (
            secret("kubernetes.io/basic-auth", &[("user", ""), ("pw", SECRET)]),
            "",
        ),
    ] {
        let keychain = Keychain::from_registry_secret(&secret, &basic).expect("logins");
        assert_eq!(
            users(&keychain.matching(&image("r.io/team/app"))),
            [expected]
        );
    }
    let no_key = |secret| {
        Keychain::from_registry_secret(&secret, &basic)
            .err()
            .unwrap()
    };
    let missing = no_key(secret("Opaque", &[("user", "basic")]));
    assert!(missing.to_string().contains("\"pw\""), "{missing}");
    assert_eq!(missing.class(), "missing_key");
    let missing = no_key(secret(DOCKER_CONFIG_JSON, &[]));
    assert!(
        missing.to_string().contains(".dockerconfigjson"),
        "{missing}"
    );
    let opaque = secret("Opaque", &[(".dockerconfigjson", config)]);
    let kind = Keychain::from_pull_secret(&opaque).err().unwrap();
    assert!(kind.to_string().contains(DOCKER_CONFIG_JSON), "{kind}");
    let binary = SecretData {
        kind: "Opaque",
        values: BTreeMap::from([("user", &b"\xff"[..]), ("pw", &b"x"[..])]),
    };
    assert!(no_key(binary).to_string().contains("\"user\""));
}

#[test]
fn a_bad_secret_hides_no_other_and_is_named() {
    let good = Keychain::from_basic("r.io", "good", SECRET);
    let bad = Keychain::from_docker_config_json(b"{");
    let (keychain, errors) = Keychain::gather([
        ("Secret drop-system/bad".to_owned(), bad),
        ("Secret drop-system/good".to_owned(), good),
    ]);
    assert_eq!(users(&keychain.matching(&image("r.io/app"))), ["good"]);
    let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        messages,
        ["Secret drop-system/bad is not JSON at line 1, column 1"]
    );
}

#[test]
fn no_error_shows_a_secret() {
    let encoded = STANDARD.encode(SECRET);
    let location = format!("https://user:{SECRET}@bad host.io");
    for json in [
        json!(SECRET),
        json!({"auths": SECRET}),
        json!({"auths": {"r.io": SECRET}}),
        json!({"auths": {"r.io": {"password": [SECRET]}}}),
        json!({"auths": {"r.io": {"auth": encoded}}}),
        json!({"auths": {"r.io": {"auth": format!("{SECRET}!")}}}),
        json!({"auths": {(location.as_str()): {"auth": "!", "password": SECRET}}}),
        json!({"auths": {(location): {"username": "user", "password": SECRET}}}),
    ] {
        let error = error_of(&json);
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(
                !shown.contains(SECRET) && !shown.contains(&encoded),
                "{shown}"
            );
        }
        assert_eq!(error.class(), "invalid");
    }
    let truncated = format!("{{\"auths\": {{\"r.io\": {{\"password\": \"{SECRET}");
    let error = Keychain::from_docker_config_json(truncated.as_bytes())
        .err()
        .unwrap();
    assert!(!format!("{error} {error:?}").contains(SECRET));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_configuration_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Keychain::from_docker_config_json(&bytes);
        let _ = Keychain::from_dockercfg(&bytes);
    }

    #[test]
    fn no_login_of_a_configuration_panics_or_is_shown(
        location in any::<String>(),
        near in "(https?://)?[a-z*\\[\\]:./@-]{0,30}",
        auth in "[A-Za-z0-9+/=:\n]{0,20}",
    ) {
        let config = json!({
            (location): {"auth": auth},
            (near.clone()): {"auth": auth, "password": SECRET},
        });
        match Keychain::from_dockercfg(config.to_string().as_bytes()) {
            Ok(keychain) => prop_assert!(!keychain.lookup(&image("r.io/team/app")).is_empty()),
            Err(error) => prop_assert!(!error.to_string().contains(SECRET)),
        }
        let _ = Keychain::from_basic(&near, "", "");
    }

    #[test]
    fn a_host_with_stars_in_place_of_labels_matches(labels in prop::collection::vec("[a-z0-9]{1,8}", 2..6), stars in any::<u8>()) {
        let starred: Vec<_> = labels
            .iter()
            .enumerate()
            .map(|(n, label)| if stars >> (n % 8) & 1 == 1 { "*" } else { label })
            .collect();
        let keychain = Keychain::from_basic(&starred.join("."), "user", SECRET).ok().unwrap();
        prop_assert_eq!(keychain.matching(&image(&format!("{}/app", labels.join(".")))).len(), 1);
    }
}
