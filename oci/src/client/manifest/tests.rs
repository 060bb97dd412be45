use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn index(text: &str) -> Index {
    match parse(INDEX, text.as_bytes()) {
        Ok(Manifest::Index(index)) => index,
        other => panic!("no index: {other:?}"),
    }
}

fn image(text: &str) -> ImageManifest {
    match parse(IMAGE, text.as_bytes()) {
        Ok(Manifest::Image(image)) => image,
        other => panic!("no image: {other:?}"),
    }
}

#[test]
fn an_odd_entry_hides_no_other() {
    let index = index(
        r#"{"schemaVersion":2,"annotations":null,"manifests":[
        {"digest":"sha256:a","size":-1,"mediaType":null,"platform":null,"annotations":{"vnd.docker.reference.type":"attestation-manifest"}},
        {"digest":"sha256:b","size":7,"platform":{"architecture":"unknown","os":"unknown"}},
        {"digest":"sha256:c","size":7,"platform":{"architecture":"amd64"}},
        {"digest":"sha256:d","size":7,"platform":{"architecture":"","os":""}},
        {"digest":7},
        {"digest":"sha256:e","size":7,"platform":{"architecture":"arm64","os":"linux","variant":"","os.version":"1","features":["x"]}}]}"#,
    );
    let attestations: Vec<bool> = index
        .entries
        .iter()
        .map(|entry| entry.is_attestation)
        .collect();
    assert_eq!(attestations, [true, true, false, false, false, false]);
    assert_eq!(index.platforms(), ["linux/arm64".parse().unwrap()]);
    assert_eq!(index.unnamed().count(), 3);
    assert_eq!(index.entries[0].descriptor.size_bytes, 0);
}

#[test]
fn null_and_missing_lists_are_empty() {
    assert!(
        index(r#"{"schemaVersion":2,"manifests":null}"#)
            .entries
            .is_empty()
    );
    assert!(
        index(r#"{"schemaVersion":2,"manifests":[]}"#)
            .entries
            .is_empty()
    );
    let image = image(
        r#"{"schemaVersion":2,"config":{"digest":"sha256:c"},"layers":null,"annotations":{"a":"b","n":1}}"#,
    );
    assert!(image.layers.is_empty());
    assert_eq!(
        image.annotations,
        Texts::from([("a".to_owned(), "b".to_owned())])
    );
}

#[test]
fn an_image_weighs_its_configuration_and_layers_and_an_artifact_its_layers() {
    let body = |config: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"sha256:c","size":10}},
            "layers":[{{"digest":"sha256:l","size":200}},{{"digest":"sha256:m","size":3000}}]}}"#
        )
    };
    for config in IMAGE_CONFIGS {
        let image = image(&body(config));
        assert!(image.is_image());
        assert_eq!(image.size_bytes(), 3_210);
    }
    let chart = image(&body("application/vnd.cncf.helm.config.v1+json"));
    assert!(!chart.is_image());
    assert_eq!(chart.size_bytes(), 3_200);
}

#[test]
fn sizes_that_are_too_large_do_not_overflow() {
    let max = u64::MAX;
    let image = image(&format!(
        r#"{{"config":{{"size":{max}}},"layers":[{{"size":{max}}},{{"size":{max}}}]}}"#
    ));
    assert_eq!(image.size_bytes(), max);
}

#[test]
fn the_first_form_is_known_by_its_version_or_its_type() {
    let body = br#"{"schemaVersion":1,"name":"app","fsLayers":[{"blobSum":"sha256:a"}]}"#;
    assert_eq!(parse("application/json", body), Ok(Manifest::Schema1));
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    assert_eq!(parse(signed, b"{}"), Ok(Manifest::Schema1));
    assert!(is_schema1(signed));
}

#[test]
fn what_is_two_things_or_none_is_refused() {
    for body in [
        r#"{"manifests":[],"config":{}}"#,
        r#"{"manifests":[],"layers":[]}"#,
        r#"{"schemaVersion":2}"#,
        "[]",
        "",
        "<html>",
    ] {
        assert!(parse(IMAGE, body.as_bytes()).is_err(), "{body}");
    }
}
