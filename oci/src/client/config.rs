//! What an image's configuration says of it. Read leniently, like manifests.

use jiff::Timestamp;
use serde::Deserialize;

use super::manifest::{Platform, RawTexts, Texts, lenient, texts};

/// The part of a configuration that drop uses. Environment and commands may hold secrets and are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// When the image was made, if it says so. Tools that build reproducibly write year 1, which is no answer.
    pub created: Option<Timestamp>,
    /// Its labels.
    pub labels: Texts,
    /// What it was built for.
    pub platform: Option<Platform>,
}

impl ImageConfig {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default, deserialize_with = "lenient")]
            created: Option<String>,
            #[serde(default, deserialize_with = "lenient")]
            os: Option<String>,
            #[serde(default, deserialize_with = "lenient")]
            architecture: Option<String>,
            #[serde(default, deserialize_with = "lenient")]
            variant: Option<String>,
            #[serde(default, deserialize_with = "lenient")]
            config: Option<Inner>,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(default, rename = "Labels", deserialize_with = "lenient")]
            labels: Option<RawTexts>,
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            format!("the image's configuration is not the JSON of one: {error}")
        })?;
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let platform = text(document.os).zip(text(document.architecture));
        let variant = text(document.variant);
        Ok(Self {
            created: document
                .created
                .and_then(|created| created.parse().ok())
                .filter(|created: &Timestamp| created.as_second() > YEAR_2),
            labels: texts(document.config.and_then(|config| config.labels)),
            platform: platform.map(|(os, architecture)| Platform {
                os,
                architecture,
                variant,
            }),
        })
    }
}

/// 0002-01-01 in Unix seconds: Go's zero time is a year before.
const YEAR_2: i64 = -62_104_060_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_gives_its_time_labels_and_platform() {
        let config = ImageConfig::parse(
            br#"{"created":"2024-05-06T07:08:09.123456789Z","os":"linux","architecture":"arm64","variant":"v8",
            "config":{"Env":["SECRET=1"],"Labels":{"a":"b","odd":7,"none":null}}}"#,
        )
        .unwrap();
        assert_eq!(
            config.created.map(Timestamp::as_second),
            Some(1_714_979_289)
        );
        assert_eq!(
            config.labels,
            Texts::from([("a".to_owned(), "b".to_owned())])
        );
        assert_eq!(config.platform, Some("linux/arm64/v8".parse().unwrap()));
    }

    #[test]
    fn what_is_missing_or_zero_is_no_answer() {
        for body in [
            "{}",
            r#"{"created":null,"config":null}"#,
            r#"{"created":"0001-01-01T00:00:00Z","os":"","architecture":"amd64","config":{"Labels":null}}"#,
            r#"{"created":"yesterday","config":[]}"#,
            r#"{"created":7}"#,
        ] {
            let config = ImageConfig::parse(body.as_bytes());
            assert_eq!(config, Ok(ImageConfig::default()), "{body}");
        }
        assert!(ImageConfig::parse(b"").is_err());
    }
}
