//! Lists of tags, page by page.

use anyhow::Result;
use drop_oci::client::Stop;
use drop_oci::transport::Options;
use drop_tests::registry_client::{basic, client, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};

#[tokio::test]
async fn tags_are_found_on_every_form_of_next_page_and_null_is_no_tag() -> Result<()> {
    let forms = [
        "</v2/app/tags/list?last=b>; rel=\"next\"",
        "<list?last=b>; rel=next",
        "<http://HOST/v2/app/tags/list?last=b>; rel=\"next\"",
        "<https://HOST/v2/app/tags/list?last=b>; rel=\"next\"",
    ];
    for form in forms {
        let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
            "/v2/app/tags/list?n=1000" => Reply::ok(r#"{"name":"app","tags":["a","b"]}"#)
                .header("link", &form.replace("HOST", &asked.host)),
            "/v2/app/tags/list?last=b" => Reply::ok(r#"{"tags":null}"#)
                .header("link", "</v2/app/tags/list?last=c>; rel=\"next\""),
            "/v2/app/tags/list?last=c" => Reply::ok(r#"{"tags":["b","c","not a tag","../x"]}"#),
            _ => Reply::status(404, ""),
        })
        .await?;
        let client = client(&Options::default())?;
        let list = client
            .tags(&plain(&registry.address(), "app")?, 100, &[])
            .await?;
        assert_eq!(list.tags, ["a", "b", "c"], "{form}");
        assert_eq!(list.stopped, None);
    }
    Ok(())
}

#[tokio::test]
async fn lists_that_lead_in_circles_away_or_nowhere_are_stopped_and_said() -> Result<()> {
    let table = [
        ("</v2/app/tags/list?n=1000>; rel=\"next\"", Stop::Circle),
        (
            "<http://evil.example/v2/app/tags/list>; rel=\"next\"",
            Stop::OtherHost("evil.example".to_owned()),
        ),
        ("<http://[>; rel=\"next\"", Stop::Unreadable),
    ];
    for (link, expected) in table {
        let registry =
            ScriptedRegistry::start(move |_| Reply::ok(r#"{"tags":["a"]}"#).header("link", link))
                .await?;
        let client = client(&Options::default())?;
        let list = client
            .tags(&plain(&registry.address(), "app")?, 100, &[])
            .await?;
        assert_eq!((list.tags.len(), list.stopped), (1, Some(expected)));
    }
    let endless = ScriptedRegistry::start(|asked| {
        let n = asked.path.rsplit('=').next().unwrap_or_default().to_owned();
        let next: u64 = n.parse::<u64>().unwrap_or_default() + 1;
        Reply::ok(format!(r#"{{"tags":["t{n}"]}}"#))
            .header("link", &format!("<?last={next}>; rel=\"next\""))
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&endless.address(), "app")?, 10_000, &[])
        .await?;
    assert_eq!(list.stopped, Some(Stop::TooManyPages));
    assert!(endless.asked().len() < 1_100);
    Ok(())
}

#[tokio::test]
async fn a_circle_of_several_pages_ends_and_links_may_come_in_several_headers() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        let (tag, next) = match asked.path.rsplit('=').next() {
            Some("b") => ("b", "c"),
            Some("c") => ("c", "a"),
            _ => ("a", "b"),
        };
        Reply::ok(format!(r#"{{"tags":["{tag}"]}}"#))
            .header("link", "</v2/app/tags/list?last=z>; rel=\"prev\"")
            .header("link", &format!("<?last={next}>; rel=\"next\""))
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&registry.address(), "app")?, 100, &[])
        .await?;
    assert_eq!(list.tags, ["a", "b", "c"]);
    assert_eq!(list.stopped, Some(Stop::Circle));
    // The first page, as it was asked for and by its link, and the two that follow.
    assert_eq!(registry.asked().len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_page_on_another_host_is_not_asked_for() -> Result<()> {
    let other = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":["evil"]}"#)).await?;
    let link = format!(
        "<http://{}/v2/app/tags/list>; rel=\"next\"",
        other.address()
    );
    let registry = ScriptedRegistry::start(move |asked| {
        if asked.proof.is_empty() {
            return Reply::status(401, "").header("www-authenticate", "Basic");
        }
        Reply::ok(r#"{"tags":["a"]}"#).header("link", &link)
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "hunter2")];
    let list = client
        .tags(&plain(&registry.address(), "app")?, 100, &credentials)
        .await?;
    assert_eq!(list.tags, ["a"]);
    assert_eq!(list.stopped, Some(Stop::OtherHost("127.0.0.1".to_owned())));
    assert_eq!(other.asked(), []);
    Ok(())
}

#[tokio::test]
async fn a_registry_that_refuses_a_page_size_is_asked_without() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        if asked.path.contains("n=") {
            return Reply::status(400, r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#);
        }
        Reply::ok(r#"{"tags":["a"]}"#)
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&registry.address(), "app")?, 100, &[])
        .await?;
    assert_eq!(list.tags, ["a"]);
    Ok(())
}
