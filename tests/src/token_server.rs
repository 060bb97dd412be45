//! A token server that signs for a real registry: the other half of Bearer authentication.
//!
//! It knows one user and one refresh token. Everybody may pull from repositories below `public/`; the user may do everything.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::form_urlencoded;

/// The user, as `user:password`.
pub const LOGIN: &str = "me:correct-horse";

/// The refresh token of the same user.
pub const REFRESH_TOKEN: &str = "refresh-me-not";

/// What the registry is called here.
pub const SERVICE: &str = "registry.drop-tests";

/// Who signs.
pub const ISSUER: &str = "drop-tests";

/// A running token server. Dropped: it refuses connections.
pub struct TokenServer {
    port: u16,
    certificate: PathBuf,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    key: EcdsaKeyPair,
    chain: String,
    asked: Mutex<Vec<Grant>>,
    lifetime_seconds: i64,
}

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `GET` or `POST`.
    pub method: String,
    /// Who got it: `me`, or empty for anybody.
    pub user: String,
    /// What it was asked for.
    pub scopes: Vec<String>,
    /// The status.
    pub status: u16,
}

impl TokenServer {
    /// Starts one that signs with a new key. Its tokens hold for `lifetime_seconds`, and say that they hold for an hour.
    pub async fn start(folder: &Path, lifetime_seconds: i64) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::default().self_signed(&key)?;
        let file = folder.join("token-server.crt");
        std::fs::write(&file, certificate.pem()).context("write the token server's certificate")?;
        let signing = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &SystemRandom::new(),
        );
        let state = Arc::new(State {
            key: signing.map_err(|error| anyhow::anyhow!("read the signing key: {error}"))?,
            chain: STANDARD.encode(certificate.der()),
            asked: Mutex::default(),
            lifetime_seconds,
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self {
            port,
            certificate: file,
            state,
            server,
        })
    }

    /// Where tokens are.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    /// What the registry trusts.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// All it was asked for.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        self.state
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(Arc::clone(&state), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let proof = request.headers().get(header::AUTHORIZATION).cloned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await;
    let form = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let input = if method == Method::POST {
        String::from_utf8_lossy(&form).into_owned()
    } else {
        query
    };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(input.as_bytes())
        .into_owned()
        .collect();
    let values = |name: &str| {
        let found = pairs.iter().filter(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let login = format!("Basic {}", STANDARD.encode(LOGIN));
    let user = match (&method, &proof) {
        (&Method::POST, _) if values("refresh_token") == [REFRESH_TOKEN] => Some("me"),
        (&Method::GET, Some(proof)) if *proof == login => Some("me"),
        (&Method::GET, None) => Some(""),
        _ => None,
    };
    let status = match user {
        Some(_) => StatusCode::OK,
        None => StatusCode::UNAUTHORIZED,
    };
    let scopes = values("scope");
    let grant = Grant {
        method: method.to_string(),
        user: user.unwrap_or_default().to_owned(),
        scopes: scopes.clone(),
        status: status.as_u16(),
    };
    state
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(grant);
    let body = match user {
        Some(user) => json!({"token": state.token(user, &scopes), "expires_in": 3_600}),
        None => json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

impl State {
    /// A signed token that allows what `user` may do of what was asked for.
    fn token(&self, user: &str, scopes: &[String]) -> String {
        let now = Timestamp::now().as_second();
        let access: Vec<_> = scopes
            .iter()
            .filter_map(|scope| allowed(user, scope))
            .collect();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.chain]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 60, "exp": now + self.lifetime_seconds,
            "jti": format!("{:x}", rand::random::<u64>()), "access": access,
        });
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signed = self.key.sign(&SystemRandom::new(), text.as_bytes());
        // Without a signature the registry refuses it, and the test with it.
        let signature = signed.map(|signature| URL_SAFE_NO_PAD.encode(signature));
        format!("{text}.{}", signature.unwrap_or_default())
    }
}

/// `repository:NAME:pull,push` -> what the registry reads in a token.
fn allowed(user: &str, scope: &str) -> Option<serde_json::Value> {
    let mut parts = scope.split(':');
    let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|action| user == "me" || (*action == "pull" && name.starts_with("public/")))
        .collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}
