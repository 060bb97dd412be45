//! drop's registry client against real registries: Debian's docker-registry 2.8 and distribution 3, open, with passwords, with
//! tokens, with TLS. skopeo brings the images, and says what is there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use drop_oci::client::{Manifest, Stop};
use drop_oci::facts::{Choice, Kind, Memory};
use drop_oci::transport::Options;
use drop_oci::{Credential, Facts, Repository};
use drop_tests::certificates::Authority;
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::proxy::Proxy;
use drop_tests::registry::{HTPASSWD, Registry, Setup, Version};
use drop_tests::registry_client::{basic, client, plain};
use drop_tests::skopeo::{self, Place};
use drop_tests::token_server::{LOGIN, REFRESH_TOKEN, TokenServer};

const VERSIONS: [Version; 2] = [Version::Two, Version::Three];

/// An image for two platforms, which skopeo copies wherever a test wants it.
struct Source {
    scratch: Scratch,
    registry: Registry,
    digest: String,
}

impl Source {
    async fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch.folder("source")?).await?;
        let recipe = Recipe::layers(&[50_000, 20_000])
            .platform("linux/amd64")
            .platform("linux/arm64");
        let digest = recipe.push(&registry, "app", "v1").await?;
        Ok(Self {
            scratch,
            registry,
            digest,
        })
    }

    fn image(&self) -> Place {
        Place::new(&format!("{}/app:v1", self.registry.address()))
    }
}

fn choice(platform: &str) -> Result<Choice> {
    Ok(Choice::only(platform.parse()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_skopeo_pushed_has_the_digest_that_skopeo_says_and_its_sizes() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let registry = Setup::new(version).start(&folder).await?;
        let place = Place::new(&format!("{}/team/app:v1", registry.address()));
        skopeo::copy(&source.image(), &place, None).await?;
        let client = client(&Options::default())?;
        let repository = plain(registry.address(), "team/app")?;

        let head = client.head(&repository, "v1", &[]).await?;
        assert_eq!(head.digest, source.digest, "{version:?}");
        assert_eq!(head.digest, skopeo::digest(&place).await?);

        let facts = Facts::new(Memory::default());
        for platform in ["linux/amd64", "linux/arm64"] {
            let image = facts
                .of(&client, &repository, "v1", &choice(platform)?, &[])
                .await?;
            assert_eq!(image.kind, Kind::Index);
            assert_eq!(image.platforms.len(), 2);
            assert_eq!(image.platform, Some(platform.parse()?));
            // Two layers, each a tar of a header, the content and its end, and a small configuration.
            let size = image.size_bytes.context("no size")?;
            assert!((73_000..76_000).contains(&size), "{size}");
        }
        let absent = facts
            .of(&client, &repository, "v1", &choice("linux/s390x")?, &[])
            .await?;
        assert_eq!((absent.platform, absent.size_bytes), (None, None));
        assert_eq!(absent.digest, source.digest);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forms_of_docker_are_understood_as_those_of_the_specification() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let registry = Setup::new(version).start(&folder).await?;
        let place = Place::new(&format!("{}/app:docker", registry.address()));
        skopeo::copy(&source.image(), &place, Some("v2s2")).await?;
        let client = client(&Options::default())?;
        let repository = plain(registry.address(), "app")?;
        let fetched = client.manifest(&repository, "docker", &[]).await?;
        assert!(fetched.head.media_type.contains("docker"), "{fetched:?}");
        assert_eq!(fetched.head.digest, skopeo::digest(&place).await?);
        let Manifest::Index(index) = fetched.manifest else {
            anyhow::bail!("the list is no index");
        };
        assert_eq!(index.platforms().len(), 2);
        let facts = Facts::new(Memory::default());
        let image = facts
            .of(&client, &repository, "docker", &choice("linux/arm64")?, &[])
            .await?;
        assert!(image.size_bytes.is_some_and(|size| size > 70_000));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_with_its_host_its_repository_and_what_to_do() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let registry = Setup::new(version).start(&folder).await?;
        skopeo::copy(
            &source.image(),
            &Place::new(&format!("{}/app:v1", registry.address())),
            None,
        )
        .await?;
        let client = client(&Options::default())?;
        for (name, tag) in [("app", "v9"), ("no/app", "v1")] {
            let repository = plain(registry.address(), name)?;
            let error = client.head(&repository, tag, &[]).await.unwrap_err();
            assert_eq!(error.class(), "not_found");
            let text = error.to_string();
            assert!(
                text.contains(&format!("{}/{name}: tag {tag}", registry.address())),
                "{text}"
            );
            assert!(text.contains("404") && text.contains("check"), "{text}");
        }
        let missing = plain(registry.address(), "no/app")?;
        let error = client.tags(&missing, 10, &[]).await.unwrap_err();
        assert_eq!(error.class(), "not_found");
        assert!(error.to_string().contains("NAME_UNKNOWN"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_are_listed_whether_the_registry_pages_or_not() -> Result<()> {
    let scratch = Scratch::new()?;
    for version in VERSIONS {
        let folder = scratch.folder(&format!("{version:?}"))?;
        // Version 3 refuses the 1,000 that are asked for, and then gives 7 at a time.
        let setup = Setup::new(version);
        let setup = if version == Version::Three {
            setup.tags_a_page(7)
        } else {
            setup
        };
        let registry = setup.start(&folder).await?;
        Recipe::layers(&[100]).push(&registry, "app", "v0").await?;
        for n in 1..40 {
            registry.tag("app", "v0", &format!("v{n}")).await?;
        }
        let client = client(&Options::default())?;
        let repository = plain(registry.address(), "app")?;
        let list = client.tags(&repository, 10_000, &[]).await?;
        assert_eq!(list.stopped, None, "{version:?}");
        let expected: BTreeSet<String> = (0..40).map(|n| format!("v{n}")).collect();
        assert_eq!(list.tags.len(), 40, "{version:?}");
        assert_eq!(list.tags.into_iter().collect::<BTreeSet<_>>(), expected);

        let capped = client.tags(&repository, 25, &[]).await?;
        assert_eq!(capped.tags.len(), 25);
        assert_eq!(capped.stopped, Some(Stop::Enough(25)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_repository_costs_one_list_and_one_head_a_tag() -> Result<()> {
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch.folder("registry")?).await?;
    let proxy = Proxy::start(registry.address()).await?;
    Recipe::layers(&[100]).push(&registry, "app", "v0").await?;
    for n in 1..500 {
        registry.tag("app", "v0", &format!("v{n}")).await?;
    }
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&proxy.host(), "app")?;
    let scan = async || -> Result<()> {
        let list = client.tags(&repository, 10_000, &[]).await?;
        for tag in &list.tags {
            let head = facts.refresh(&client, &repository, tag, &[]).await?;
            facts
                .of_head(&client, &repository, &head, &choice("linux/amd64")?, &[])
                .await?;
        }
        Ok(())
    };
    scan().await?;
    let first = proxy.log().count();
    scan().await?;
    let second = proxy.log().after(first);
    assert_eq!((second.method("HEAD").count(), second.count()), (500, 501));
    // The ping, the manifest and its configuration once.
    assert_eq!(first, 501 + 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_passwords_takes_the_right_one_and_refuses_others_by_name() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD)?;
        let registry = Setup::new(version).passwords(&file).start(&folder).await?;
        let place = Place::new(&format!("{}/app:v1", registry.address())).login("me:correct-horse");
        skopeo::copy(&source.image(), &place, None).await?;
        let client = client(&Options::default())?;
        let repository = plain(registry.address(), "app")?;
        let right = basic("me", "correct-horse");
        let wrong = basic("me", "battery-staple");

        let head = client
            .head(&repository, "v1", std::slice::from_ref(&right))
            .await?;
        assert_eq!(head.digest, source.digest);
        let second = client
            .head(&repository, "v1", &[wrong.clone(), right])
            .await?;
        assert_eq!(second.digest, source.digest);

        let error = client.head(&repository, "v1", &[]).await.unwrap_err();
        assert_eq!(error.class(), "unauthorized");
        assert!(error.to_string().contains("pull secret"), "{error}");
        let error = client.head(&repository, "v1", &[wrong]).await.unwrap_err();
        assert_eq!(error.class(), "unauthorized");
        let text = error.to_string();
        assert!(
            text.contains("401") && text.contains("check user name and password"),
            "{text}"
        );
        assert!(!text.contains("battery-staple"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_for_each_credential_and_never_shared() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let server = TokenServer::start(&folder, 600).await?;
        let registry = Setup::new(version).tokens(&server).start(&folder).await?;
        for name in ["private/app", "public/app"] {
            let place = Place::new(&format!("{}/{name}:v1", registry.address())).login(LOGIN);
            skopeo::copy(&source.image(), &place, None).await?;
        }
        let pushed = server.grants().len();
        let client = client(&Options::default())?;
        let private = plain(registry.address(), "private/app")?;
        let password = [basic("me", "correct-horse")];
        let refresh = [Credential::IdentityToken(REFRESH_TOKEN.to_owned())];
        for _ in 0..10 {
            for credentials in [&password, &refresh] {
                let head = client.head(&private, "v1", credentials).await?;
                assert_eq!(head.digest, source.digest);
            }
        }
        let asked: Vec<String> = server.grants()[pushed..]
            .iter()
            .map(|grant| grant.method.clone())
            .collect();
        assert_eq!(asked, ["GET", "POST"], "{version:?}");
        let scopes = &server.grants()[pushed].scopes;
        assert_eq!(scopes, &["repository:private/app:pull"]);

        // Somebody without credentials gets in where everybody may, and not by the tokens of others.
        let error = client.head(&private, "v1", &[]).await.unwrap_err();
        assert_eq!(error.class(), "unauthorized", "{error}");
        let public = plain(registry.address(), "public/app")?;
        assert_eq!(client.head(&public, "v1", &[]).await?.digest, source.digest);
        let wrong = [basic("me", "battery-staple")];
        let before = server.grants().len();
        for _ in 0..5 {
            let error = client.head(&private, "v1", &wrong).await.unwrap_err();
            assert_eq!(error.class(), "unauthorized", "{error}");
            assert!(error.to_string().contains("token server"), "{error}");
        }
        assert_eq!(
            server.grants().len(),
            before + 1,
            "a wrong password was repeated"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_before_its_time_is_renewed() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        // Ended before the registry sees it, but for the minute by which its clock may differ.
        let server = TokenServer::start(&folder, -58).await?;
        let registry = Setup::new(version).tokens(&server).start(&folder).await?;
        let client = client(&Options::default())?;
        let repository = plain(registry.address(), "private/app")?;
        let credentials = [basic("me", "correct-horse")];
        let wait = drop_tests::wait::until(
            "the registry to see the end of a token",
            std::time::Duration::from_secs(20),
            async || {
                let error = client
                    .head(&repository, "v1", &credentials)
                    .await
                    .unwrap_err();
                // The repository is empty, and the login good at any time.
                assert_eq!(error.class(), "not_found", "{error}");
                anyhow::ensure!(server.grants().len() > 1, "one token so far");
                Ok(())
            },
        );
        wait.await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_unless_it_is_said_not_to_be() -> Result<()> {
    let source = Source::new().await?;
    for version in VERSIONS {
        let folder = source.scratch.folder(&format!("{version:?}"))?;
        let authority = Authority::new(&folder)?;
        let (certificate, key) = authority.serve("registry")?;
        let registry = Setup::new(version)
            .tls(&certificate, &key, None)
            .start(&folder)
            .await?;
        let place = Place::new(&format!("{}/app:v1", registry.address()));
        skopeo::copy(&source.image(), &place, None).await?;
        let repository = Repository::at(registry.address(), "app")?;

        let error = client(&Options::default())?
            .head(&repository, "v1", &[])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "tls", "{error}");
        assert!(error.to_string().contains("give the CA"), "{error}");

        let trusting = Options {
            ca_bundle: Some(std::fs::read(authority.certificate())?),
            ..Options::default()
        };
        let head = client(&trusting)?.head(&repository, "v1", &[]).await?;
        assert_eq!(head.digest, source.digest);

        let careless = Options {
            skip_verify: true,
            ..Options::default()
        };
        let head = client(&careless)?.head(&repository, "v1", &[]).await?;
        assert_eq!(head.digest, source.digest);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_never_spoken_to_a_registry_that_was_not_given_as_http() -> Result<()> {
    let source = Source::new().await?;
    let repository = Repository::at(source.registry.address(), "app")?;
    for skip_verify in [false, true] {
        let options = Options {
            skip_verify,
            ..Options::default()
        };
        let error = client(&options)?
            .head(&repository, "v1", &[])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "tls", "{error}");
        assert!(error.to_string().contains("http://"), "{error}");
    }
    let repository = Repository::at(&format!("http://{}", source.registry.address()), "app")?;
    let head = client(&Options::default())?
        .head(&repository, "v1", &[])
        .await?;
    assert_eq!(head.digest, source.digest);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_client_certificate_gets_it() -> Result<()> {
    let source = Source::new().await?;
    let folder = source.scratch.folder("tls")?;
    let authority = Authority::new(&folder)?;
    let (certificate, key) = authority.serve("registry")?;
    let registry = Setup::new(Version::Two)
        .tls(&certificate, &key, Some(&authority.certificate()))
        .start(&folder)
        .await?;
    let (mine, my_key) = authority.identify("client", "drop", &[])?;
    let certificates = source.scratch.folder("skopeo")?;
    std::fs::copy(&mine, certificates.join("client.cert"))?;
    std::fs::copy(&my_key, certificates.join("client.key"))?;
    let place = Place::new(&format!("{}/app:v1", registry.address())).certificates(&certificates);
    skopeo::copy(&source.image(), &place, None).await?;

    let repository = Repository::at(registry.address(), "app")?;
    let without = Options {
        ca_bundle: Some(std::fs::read(authority.certificate())?),
        ..Options::default()
    };
    let error = client(&without)?
        .head(&repository, "v1", &[])
        .await
        .unwrap_err();
    assert_eq!(error.class(), "tls", "{error}");
    let with = Options {
        client_certificate: Some(joined(&mine, &my_key)?),
        ..without
    };
    let head = client(&with)?.head(&repository, "v1", &[]).await?;
    assert_eq!(head.digest, source.digest);
    Ok(())
}

fn joined(certificate: &Path, key: &Path) -> Result<Vec<u8>> {
    let mut pem = std::fs::read(certificate)?;
    pem.extend(std::fs::read(key)?);
    Ok(pem)
}
