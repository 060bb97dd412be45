//! ServiceAccount tokens: real ones of the API server, and real ones changed and signed anew with its key.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::Value;

use crate::control_plane::ControlPlane;

/// A token of a ServiceAccount for one audience, bound to an object (kind, name) or to nothing.
pub async fn request(
    client: &Client,
    (namespace, account): (&str, &str),
    audience: &str,
    bound_to: Option<(&str, &str)>,
) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let bound_object_ref = bound_to.map(|(kind, name)| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: None,
    });
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref,
            expiration_seconds: Some(3600),
        },
        ..TokenRequest::default()
    };
    let created = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("request a token of {account}"))?;
    Ok(created.status.context("a token without status")?.token)
}

/// The token with other claims, signed by the API server's own key: what the API server would issue, and does not for a test
/// (a life of seconds, claims of an older version).
pub fn reissue(
    control_plane: &ControlPlane,
    token: &str,
    change: impl FnOnce(&mut BTreeMap<String, Value>),
) -> Result<String> {
    let mut parts = token.split('.');
    let (header, claims) = (
        parts.next().context("no header")?,
        parts.next().context("no claims")?,
    );
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    change(&mut claims);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?);
    let signed = format!("{header}.{claims}");
    let key = KeyPair::from_pem(&control_plane.token_key()?)?.serialize_der();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random)
        .map_err(|error| anyhow::anyhow!("the tokens' key: {error}"))?;
    let signature = key
        .sign(&random, signed.as_bytes())
        .map_err(|error| anyhow::anyhow!("sign a token: {error}"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// As `reissue`, with this many seconds to live from now (none: it has expired).
pub fn with_life(control_plane: &ControlPlane, token: &str, seconds: i64) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    reissue(control_plane, token, |claims| {
        claims.insert("iat".to_owned(), (now - 600).into());
        claims.insert("nbf".to_owned(), (now - 600).into());
        claims.insert("exp".to_owned(), (now + seconds).into());
    })
}
