//! Logging in: the ping, the token server, and a second try when a login has ended.
//!
//! Credentials go to the registry that they were given for and to the token server that it names, and nowhere else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use super::challenge::{self, Challenge, TokenServer};
use super::known::{Known, Login};
use super::repository::Repository;
use super::token::{self, Token};
use crate::credential::Credential;
use crate::error::{Answered, Failure};
use crate::flight::Flights;
use crate::transport::{self, Answer, Request, Transport};

/// What token servers know us by.
const CLIENT_ID: &str = "drop";

/// Largest answer of a ping or a token server. Tokens of some clouds have 10 KB.
const TOKEN_BYTES: usize = 256 * 1_024;

/// All logins of a client.
pub(super) struct Logins {
    known: Mutex<Known>,
    flights: Flights<Login>,
}

impl Logins {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            flights: Flights::new(),
        }
    }

    /// Sends `request` as `credential`, and once more after a new login if the registry says 401.
    pub(super) async fn send(
        &self,
        transport: &Transport,
        repository: &Repository,
        credential: &Credential,
        request: Request,
    ) -> Result<Answer, Failure> {
        let login = Login {
            registry: repository.registry().to_owned(),
            repository: repository.name().to_owned(),
            credential: credential.clone(),
        };
        if let Some(failure) = self.known().refusal(&login, now()) {
            return Err(failure.clone());
        }
        let challenge = self.challenge(transport, repository).await?;
        let proof = self
            .proof(transport, repository, &login, &challenge)
            .await?;
        let answer = transport.send(with(&request, proof.clone())).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // The token ended before its time, or what the ping said does not hold for this repository.
        let Some(challenge) = challenge_of(&answer) else {
            return Err(self.refused(&login, &answer));
        };
        self.known()
            .learn_challenge(&login.registry, challenge.clone(), now());
        self.known().forget_token(&login);
        let renewed = self
            .proof(transport, repository, &login, &challenge)
            .await?;
        if renewed == proof {
            return Err(self.refused(&login, &answer));
        }
        let answer = transport.send(with(&request, renewed)).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(self.refused(&login, &answer));
        }
        Ok(answer)
    }

    /// How the registry wants logins: known, or asked by a ping. A registry that has no ping shows it with its first 401.
    async fn challenge(
        &self,
        transport: &Transport,
        repository: &Repository,
    ) -> Result<Challenge, Failure> {
        let registry = repository.registry();
        if let Some(known) = self.known().challenge(registry, now()) {
            return Ok(known);
        }
        let whole_registry = Login {
            registry: registry.to_owned(),
            repository: String::new(),
            credential: Credential::Anonymous,
        };
        let _flight = self.flights.enter(whole_registry).await;
        if let Some(known) = self.known().challenge(registry, now()) {
            return Ok(known);
        }
        let ping = Request::get(repository.ping(), "the ping of the API", TOKEN_BYTES);
        let answer = transport.send(ping).await?;
        if answer.status.is_server_error() {
            return Err(Failure::Server(Answered::new(answer.status, &answer.body)));
        }
        let challenge = challenge_of(&answer)
            .filter(|_| answer.status == StatusCode::UNAUTHORIZED)
            .unwrap_or(Challenge::Open);
        self.known()
            .learn_challenge(registry, challenge.clone(), now());
        Ok(challenge)
    }

    /// The `Authorization` header that answers a challenge, if one is to be sent.
    async fn proof(
        &self,
        transport: &Transport,
        repository: &Repository,
        login: &Login,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, Failure> {
        match (&login.credential, challenge) {
            (Credential::RegistryToken(token), _) => {
                let unsendable = || Failure::Invalid("the registry token holds what no header can".to_owned());
                token::bearer(token).map(Some).ok_or_else(unsendable)
            }
            (_, Challenge::Open) | (Credential::Anonymous, Challenge::Basic) => Ok(None),
            (Credential::Basic { username, password }, Challenge::Basic) => {
                Ok(basic(username, password))
            }
            (Credential::IdentityToken(_), Challenge::Basic) => Err(Failure::Invalid(
                "the registry wants a user name and a password, and the credential is an identity token: log in anew"
                    .to_owned(),
            )),
            (_, Challenge::Bearer(server)) => {
                let _flight = self.flights.enter(login.clone()).await;
                if let Some(token) = self.known().token(login, now()) {
                    return Ok(Some(token.header.clone()));
                }
                let fetched = fetch(transport, repository, login, server).await;
                if let Err(failure @ (Failure::Unauthorized(_) | Failure::NoCredentials(_))) = &fetched {
                    self.known().learn_refusal(login, failure.clone(), now());
                }
                let token = fetched?;
                let header = token.header.clone();
                self.known().learn_token(login, token, now());
                Ok(Some(header))
            }
        }
    }

    /// The registry's last word on a login, which is remembered.
    fn refused(&self, login: &Login, answer: &Answer) -> Failure {
        let failure = refusal(
            &login.credential,
            Answered::new(answer.status, &answer.body),
        );
        let mut known = self.known();
        known.forget_token(login);
        known.learn_refusal(login, failure.clone(), now());
        failure
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a token server for a token to pull from the repository.
async fn fetch(
    transport: &Transport,
    repository: &Repository,
    login: &Login,
    server: &TokenServer,
) -> Result<Token, Failure> {
    let realm = realm_of(server, repository)?;
    let host = transport::host_name(&realm);
    let own_scope = format!("repository:{}:pull", repository.name());
    let query = Query {
        service: server.service.as_deref(),
        scope: server.scope.as_deref().unwrap_or(&own_scope),
    };
    let request = match &login.credential {
        Credential::IdentityToken(token) => query.post(
            realm,
            &[("grant_type", "refresh_token"), ("refresh_token", token)],
        ),
        Credential::Basic { username, password } => query.get(realm, basic(username, password)),
        Credential::Anonymous | Credential::RegistryToken(_) => query.get(realm, None),
    };
    let mut answer = transport.send(request.clone()).await?;
    if answer.status == StatusCode::METHOD_NOT_ALLOWED
        && let Credential::Basic { username, password } = &login.credential
    {
        // Servers that speak only OAuth2 take the password by POST.
        let mut realm = request.url;
        realm.set_query(None);
        let password = [
            ("grant_type", "password"),
            ("username", username.as_str()),
            ("password", password.as_str()),
        ];
        answer = transport.send(query.post(realm, &password)).await?;
    }
    if !answer.status.is_success() {
        let said =
            Answered::new(answer.status, &answer.body).said_by(&format!("the token server {host}"));
        return Err(match answer.status.as_u16() {
            // OAuth2 says 400 to a wrong refresh token.
            400 | 401 => refusal(&login.credential, said),
            _ => Failure::of_status("the token", said),
        });
    }
    token::parse(&answer.body, now()).map_err(|problem| {
        Failure::Invalid(format!("the answer of the token server {host} {problem}"))
    })
}

/// The address of the token server, if credentials may go there.
fn realm_of(server: &TokenServer, repository: &Repository) -> Result<Url, Failure> {
    let invalid = |why: &str| {
        Err(Failure::Refused(format!(
            "the registry sends logins to a token server {why}, so they are not sent: its configuration must give an https:// \
             realm"
        )))
    };
    let Ok(url) = server.realm.parse::<Url>() else {
        return invalid("whose address cannot be read");
    };
    match url.scheme() {
        "https" => Ok(url),
        // Who asked for plain HTTP to the registry gets it for its token server as well.
        "http" if repository.is_plain() => Ok(url),
        "http" => invalid("by plain HTTP"),
        _ => invalid("by another protocol than HTTP"),
    }
}

/// What a token is to be good for.
struct Query<'a> {
    service: Option<&'a str>,
    scope: &'a str,
}

impl Query<'_> {
    fn get(&self, mut realm: Url, proof: Option<HeaderValue>) -> Request {
        {
            let mut pairs = realm.query_pairs_mut();
            if let Some(service) = self.service {
                pairs.append_pair("service", service);
            }
            for scope in self.scope.split_whitespace() {
                pairs.append_pair("scope", scope);
            }
            pairs.append_pair("client_id", CLIENT_ID);
        }
        with(&Request::get(realm, "a token", TOKEN_BYTES), proof)
    }

    fn post(&self, realm: Url, grant: &[(&str, &str)]) -> Request {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(grant).append_pair("scope", self.scope);
        form.append_pair("service", self.service.unwrap_or_default());
        form.append_pair("client_id", CLIENT_ID);
        Request {
            method: Method::POST,
            form: Some(Bytes::from(form.finish())),
            ..Request::get(realm, "a token", TOKEN_BYTES)
        }
    }
}

fn challenge_of(answer: &Answer) -> Option<Challenge> {
    let values = answer.headers.get_all(header::WWW_AUTHENTICATE);
    challenge::choose(values.iter().filter_map(|value| value.to_str().ok()))
}

fn with(request: &Request, proof: Option<HeaderValue>) -> Request {
    let mut request = request.clone();
    if let Some(proof) = proof {
        request.headers.insert(header::AUTHORIZATION, proof);
    }
    request
}

/// Base64 always fits into a header.
fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    token::secret(&format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    ))
}

fn refusal(credential: &Credential, answered: Answered) -> Failure {
    if *credential == Credential::Anonymous {
        Failure::NoCredentials(answered)
    } else {
        Failure::Unauthorized(answered)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm_at(registry: &str, realm: &str) -> Result<Url, Failure> {
        let server = TokenServer {
            realm: realm.to_owned(),
            service: None,
            scope: None,
        };
        realm_of(&server, &Repository::at(registry, "app").unwrap())
    }

    #[test]
    fn logins_go_to_a_token_server_by_plain_http_only_if_the_registry_is_plain_too() {
        assert!(realm_at("https://r.example", "https://auth.example/token?a=b").is_ok());
        assert!(realm_at("http://r.example", "https://auth.example/token").is_ok());
        assert!(realm_at("http://r.example", "http://auth.example/token").is_ok());
        for realm in [
            "http://auth.example/token",
            "ftp://auth.example",
            "/token",
            "",
        ] {
            let refusal = realm_at("https://r.example", realm).unwrap_err();
            assert_eq!(refusal.class(), "refused", "{realm}");
            assert!(refusal.to_string().contains("https:// realm"), "{refusal}");
        }
    }
}
