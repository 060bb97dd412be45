//! Where credentials and tokens go, and where they must not.

use anyhow::Result;
use drop_oci::facts::Memory;
use drop_oci::transport::Options;
use drop_oci::{Credential, Facts};
use drop_tests::images::Blob;
use drop_tests::registry_client::{basic, client, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};

use crate::shelf::{Shelf, amd64};

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credentials_along() -> Result<()> {
    let config = Blob::new("{}");
    let content = config.bytes.clone();
    let storage = ScriptedRegistry::start(move |_| Reply::ok(content.clone())).await?;
    let target = format!("http://{}/blob?signature=hunter2", storage.address());
    let registry = ScriptedRegistry::start(move |asked| {
        if asked.proof.is_empty() {
            return Reply::status(401, "").header("www-authenticate", "Basic realm=\"r\"");
        }
        Reply::status(307, "").header("location", &target)
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "hunter2")];
    let blob = client
        .blob(
            &plain(&registry.address(), "app")?,
            &config.digest,
            &credentials,
        )
        .await?;
    assert_eq!(blob, config.bytes);
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].proof, "");
    Ok(())
}

#[tokio::test]
async fn a_form_with_credentials_follows_no_redirect() -> Result<()> {
    let elsewhere = ScriptedRegistry::start(|_| Reply::ok(r#"{"token":"t"}"#)).await?;
    for status in [301, 307, 308] {
        let target = format!("http://{}/token", elsewhere.address());
        let registry = ScriptedRegistry::start(move |asked| {
            if asked.path == "/token" {
                return Reply::status(status, "").header("location", &target);
            }
            let server = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Reply::status(401, "").header("www-authenticate", &server)
        })
        .await?;
        let client = client(&Options::default())?;
        let repository = plain(&registry.address(), "app")?;
        let credentials = [Credential::IdentityToken("refresh-value".to_owned())];
        let error = client.head(&repository, "v1", &credentials).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("({status}")), "{error}");
        assert!(error.contains("token server"), "{error}");
    }
    assert_eq!(elsewhere.asked(), []);
    Ok(())
}

#[tokio::test]
async fn a_token_server_that_takes_no_get_is_given_the_password_in_a_form() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.path.split('?').next() {
        Some("/token") if asked.method == "GET" => Reply::status(405, ""),
        Some("/token") if asked.form.contains("password=hunter2") => {
            Reply::ok(r#"{"access_token":"good"}"#)
        }
        Some("/v2/app/tags/list") if asked.proof == "Bearer good" => Reply::ok(r#"{"tags":["a"]}"#),
        _ => {
            let server = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Reply::status(401, "").header("www-authenticate", &server)
        }
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "hunter2")];
    let list = client
        .tags(&plain(&registry.address(), "app")?, 10, &credentials)
        .await?;
    assert_eq!(list.tags, ["a"]);
    // Nothing secret stands in an address.
    assert!(
        registry
            .lines()
            .iter()
            .all(|line| !line.contains("hunter2"))
    );
    Ok(())
}

#[tokio::test]
async fn no_secret_reaches_an_error() -> Result<()> {
    let secrets = [
        "hunter2",
        "t0ken-value",
        "refresh-value",
        "aHVudGVyMg",
        "cookie-value",
    ];
    // The server repeats what it was sent, and adds secrets of its own.
    let registry = ScriptedRegistry::start(|asked| {
        let echo = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"{} token=t0ken-value at https://u:hunter2@cdn/x?sig=hunter2"}}]}}"#,
            asked.proof.replace('"', "")
        );
        match asked.path.split('?').next() {
            Some("/v2/") => Reply::status(401, "").header("www-authenticate", &format!(
                r#"Bearer realm="http://{}/token",service="s""#, asked.host
            )),
            Some("/token") if asked.method == "POST" => Reply::status(401, echo + &asked.form),
            Some("/token") => Reply::ok(r#"{"token":"t0ken-value"}"#),
            Some(path) if path.ends_with("away") => Reply::status(307, "")
                .header("location", "http://127.0.0.1:1/x?sig=hunter2&token=t0ken-value"),
            Some(path) if path.ends_with("401") => Reply::status(401, echo),
            Some(path) if path.ends_with("403") => Reply::status(403, echo),
            Some(path) if path.ends_with("404") => Reply::status(404, echo),
            _ => Reply::status(418, echo),
        }
    })
    .await?;
    let client = client(&Options::default())?;
    let repository = plain(&registry.address(), "app")?;
    let credentials = [
        basic("me", "hunter2"),
        Credential::IdentityToken("refresh-value".to_owned()),
        Credential::RegistryToken("t0ken-value".to_owned()),
    ];
    for credential in credentials {
        for tag in ["away", "401", "403", "404", "418"] {
            let credential = std::slice::from_ref(&credential);
            let error = client.head(&repository, tag, credential).await.unwrap_err();
            let manifest = client
                .manifest(&repository, tag, credential)
                .await
                .unwrap_err();
            for text in [
                error.to_string(),
                format!("{error:?}"),
                manifest.to_string(),
                format!("{manifest:?}"),
            ] {
                for secret in secrets {
                    assert!(!text.contains(secret), "{tag}: {text}");
                }
                assert!(text.contains(&registry.address()), "{text}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_is_good_for_what_the_registry_asks_for_and_not_for_another_repository()
-> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.path.split('?').next() {
        Some("/token") if asked.path.contains("scope=repository%3Amirror%2Fapp%3Apull") => {
            Reply::ok(r#"{"access_token":"good"}"#)
        }
        Some("/token") => Reply::ok(r#"{"access_token":"of-no-use"}"#),
        Some("/v2/app/tags/list") if asked.proof == "Bearer good" => Reply::ok(r#"{"tags":["a"]}"#),
        _ => Reply::status(401, "").header(
            "www-authenticate",
            &format!(
                r#"Bearer realm="http://{}/token?account=x",service="s",scope="repository:mirror/app:pull""#,
                asked.host
            ),
        ),
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "pw")];
    let list = client
        .tags(&plain(&registry.address(), "app")?, 10, &credentials)
        .await?;
    assert_eq!(list.tags, ["a"]);
    let before = registry.asked().len();
    let other = client
        .tags(&plain(&registry.address(), "other")?, 10, &credentials)
        .await;
    assert_eq!(other.unwrap_err().class(), "unauthorized");
    let first = &registry.asked()[before];
    assert!(
        first.path.contains("account=x") && first.path.contains("scope=repository%3Aother%3Apull"),
        "{first:?}"
    );
    assert!(first.proof.starts_with("Basic "));
    Ok(())
}

#[tokio::test]
async fn a_digest_that_one_credential_opens_is_not_told_to_another() -> Result<()> {
    let mut shelf = Shelf::default();
    let image = shelf.image("v1", ("linux", "amd64"));
    let registry = ScriptedRegistry::start(move |asked| {
        if asked.proof.is_empty() {
            return Reply::status(401, "").header("www-authenticate", "Basic");
        }
        shelf.answer(asked)
    })
    .await?;
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    for target in ["v1", image.digest.as_str()] {
        facts
            .of(&client, &repository, target, &amd64(), &[basic("a", "b")])
            .await?;
        let error = facts
            .of(&client, &repository, target, &amd64(), &[])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "unauthorized", "{target}");
    }
    Ok(())
}
