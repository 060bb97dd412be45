//! The texts of real runtimes, word for word, with what they mean.

use drop_proto::FailureClass as Class;
use tonic::Code;

use super::classify;

/// Runtime and situation, reference, code, text, class, cleaned cause.
type Case = (
    &'static str,
    &'static str,
    Code,
    &'static str,
    Class,
    &'static str,
);

const APP: &str = "r.example:5000/team/app:v1";

fn check(cases: &[Case]) {
    for (case, reference, code, text, class, message) in cases {
        let failure = classify(*code, text, reference);
        assert_eq!(
            (failure.class, failure.message.as_str()),
            (*class, *message),
            "{case}"
        );
    }
}

const CONTAINERD_1_6: &[Case] = &[
    (
        "absent",
        APP,
        Code::NotFound,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": r.example:5000/team/app:v1: not found"#,
        Class::NotFound,
        "image not found",
    ),
    (
        "no platform",
        APP,
        Code::NotFound,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": no match for platform in manifest: not found"#,
        Class::NoPlatform,
        "no image for this node's platform",
    ),
    (
        "401",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": pulling from host r.example:5000 failed with status code [manifests v1]: 401 Unauthorized"#,
        Class::Unauthorized,
        "unauthorized: check imagePullSecrets",
    ),
    (
        "403",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": pulling from host r.example:5000 failed with status code [manifests v1]: 403 Forbidden"#,
        Class::Forbidden,
        "forbidden: access denied",
    ),
    (
        "429 on the manifest",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": pulling from host r.example:5000 failed with status code [manifests v1]: 429 Too Many Requests"#,
        Class::Throttled,
        "throttled by r.example:5000",
    ),
    (
        "429 on a blob behind a signed URL",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to copy: httpReadSeeker: failed open: unexpected status code https://cdn.example/404/blobs/sha256:aa?X-Amz-Signature=5f: 429 Too Many Requests - Server message: unknown"#,
        Class::Throttled,
        "throttled by r.example:5000",
    ),
    (
        "500",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": pulling from host r.example:5000 failed with status code [manifests v1]: 500 Internal Server Error"#,
        Class::ServerError,
        "pulling from host r.example:5000 failed with status code [manifests v1]: 500 Internal Server Error",
    ),
    (
        "token endpoint",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized"#,
        Class::Unauthorized,
        "unauthorized: check imagePullSecrets",
    ),
    (
        "refused",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": dial tcp 10.0.0.7:5000: connect: connection refused"#,
        Class::Connection,
        "connection refused: r.example:5000",
    ),
    (
        "dns",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": dial tcp: lookup r.example on 10.96.0.10:53: no such host"#,
        Class::Dns,
        "dns: cannot resolve r.example",
    ),
    (
        "dns of the blob server",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to copy: httpReadSeeker: failed open: failed to do request: Get "https://cdn.example/b?sig=1": dial tcp: lookup cdn.example on 10.96.0.10:53: server misbehaving"#,
        Class::Dns,
        "dns: cannot resolve cdn.example (for r.example:5000)",
    ),
    (
        "dns timeout",
        "docker.io/library/nginx:1.27",
        Code::Unknown,
        r#"failed to pull and unpack image "docker.io/library/nginx:1.27": failed to resolve reference "docker.io/library/nginx:1.27": failed to do request: Head "https://registry-1.docker.io/v2/library/nginx/manifests/1.27": dial tcp: lookup registry-1.docker.io: i/o timeout"#,
        Class::Dns,
        "dns: cannot resolve registry-1.docker.io (for docker.io)",
    ),
    (
        "certificate",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": x509: certificate signed by unknown authority"#,
        Class::Tls,
        "tls: certificate error",
    ),
    (
        "plain HTTP",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": http: server gave HTTP response to HTTPS client"#,
        Class::Tls,
        "tls: r.example:5000 does not speak TLS",
    ),
    (
        "disk full while downloading",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to copy: write /var/lib/containerd/io.containerd.content.v1.content/ingest/503/data: no space left on device"#,
        Class::NoSpace,
        "no space left on the node",
    ),
    (
        "disk full while unpacking",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to extract layer sha256:aa: write /var/lib/containerd/x/bin/forbidden: no space left on device: unknown"#,
        Class::NoSpace,
        "no space left on the node",
    ),
    (
        "malformed",
        "r.example/UPPER:v1",
        Code::Unknown,
        r#"failed to parse image reference "r.example/UPPER:v1": invalid reference format: repository name must be lowercase"#,
        Class::InvalidName,
        "invalid image name",
    ),
    (
        "deadline",
        APP,
        Code::DeadlineExceeded,
        "context deadline exceeded",
        Class::Timeout,
        "timeout connecting to r.example:5000",
    ),
];

#[test]
fn containerd_1_6() {
    check(CONTAINERD_1_6);
}

const CONTAINERD_1_7_AND_2: &[Case] = &[
    (
        "401 without credentials",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"#,
        Class::Unauthorized,
        "unauthorized: check imagePullSecrets",
    ),
    (
        "denied by a token server's scope",
        "docker.io/library/nothing:v1",
        Code::Unknown,
        r#"failed to pull and unpack image "docker.io/library/nothing:v1": failed to resolve reference "docker.io/library/nothing:v1": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"#,
        Class::Unauthorized,
        "unauthorized: check imagePullSecrets",
    ),
    (
        "429",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": unexpected status from HEAD request to https://r.example:5000/v2/team/app/manifests/v1: 429 Too Many Requests"#,
        Class::Throttled,
        "throttled by r.example:5000",
    ),
    (
        "Docker Hub's limit, said by the body",
        "docker.io/library/nginx:1.27",
        Code::Unknown,
        r#"failed to pull and unpack image "docker.io/library/nginx:1.27": failed to copy: httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/library/nginx/manifests/sha256:aa: 429 Too Many Requests - Server message: toomanyrequests: You have reached your unauthenticated pull rate limit."#,
        Class::Throttled,
        "throttled by docker.io",
    ),
    (
        "403 with the registry's words, 2.3",
        APP,
        Code::Unknown,
        "failed to resolve image: unexpected status from GET request to https://r.example:5000/v2/team/app/manifests/v1: 403 Forbidden: denied: requested access to the resource is denied, unauthorized to see team/app",
        Class::Forbidden,
        "forbidden: access denied",
    ),
    (
        "503, transfer service",
        APP,
        Code::Unknown,
        "failed to resolve image: unexpected status from HEAD request to https://r.example:5000/v2/team/app/manifests/v1?ns=r.example: 503 Service Unavailable",
        Class::ServerError,
        "unexpected status from HEAD request to https://r.example:5000/v2/team/app/manifests/v1: 503 Service Unavailable",
    ),
    (
        "certificate",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to resolve reference "r.example:5000/team/app:v1": failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": tls: failed to verify certificate: x509: certificate has expired or is not yet valid"#,
        Class::Tls,
        "tls: certificate error",
    ),
    (
        "slow handshake",
        APP,
        Code::Unknown,
        r#"failed to resolve image: failed to do request: Head "https://r.example:5000/v2/team/app/manifests/v1": net/http: TLS handshake timeout"#,
        Class::Timeout,
        "timeout connecting to r.example:5000",
    ),
    (
        "no progress",
        APP,
        Code::Cancelled,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to copy: httpReadSeeker: failed open: failed to do request: Get "https://cdn.example/b?X-Amz-Signature=5f": context canceled"#,
        Class::Canceled,
        "cancelled by the container runtime",
    ),
    (
        "cut connection",
        APP,
        Code::Unknown,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to copy: read tcp 10.0.0.2:4010->10.0.0.7:5000: read: connection reset by peer"#,
        Class::Connection,
        "connection lost: r.example:5000",
    ),
    (
        "content that vanished below the unpacker is no missing image",
        APP,
        Code::NotFound,
        r#"failed to pull and unpack image "r.example:5000/team/app:v1": failed to extract layer sha256:aa: failed to get reader from content store: content digest sha256:bb: not found"#,
        Class::Unspecified,
        "content digest sha256:bb: not found",
    ),
    (
        "killed under the call",
        APP,
        Code::Unavailable,
        "error reading server preface: EOF",
        Class::Runtime,
        "the container runtime went away",
    ),
    (
        "connection closed under the call",
        APP,
        Code::Unknown,
        "h2 protocol error: error reading a body from connection",
        Class::Runtime,
        "the container runtime went away",
    ),
];

#[test]
fn containerd_1_7_and_2() {
    check(CONTAINERD_1_7_AND_2);
}

const CRI_O: &[Case] = &[
    (
        "absent",
        APP,
        Code::Unknown,
        "unable to pull image or OCI artifact: pull image err: initializing source docker://r.example:5000/team/app:v1: reading manifest v1 in r.example:5000/team/app: manifest unknown; artifact err: get manifest: build image source: 401 Unauthorized",
        Class::NotFound,
        "image not found",
    ),
    (
        "404 in brackets",
        APP,
        Code::Unknown,
        "initializing source docker://r.example:5000/team/app:v1: reading manifest v1 in r.example:5000/team/app: StatusCode: 404, page",
        Class::NotFound,
        "image not found",
    ),
    (
        "429",
        APP,
        Code::Unknown,
        "initializing source docker://r.example:5000/team/app:v1: reading manifest v1 in r.example:5000/team/app: too many requests to registry",
        Class::Throttled,
        "throttled by r.example:5000",
    ),
    (
        "401",
        APP,
        Code::Unknown,
        "initializing source docker://r.example:5000/team/app:v1: reading manifest v1 in r.example:5000/team/app: unauthorized: authentication required",
        Class::Unauthorized,
        "unauthorized: check imagePullSecrets",
    ),
    (
        "403",
        APP,
        Code::Unknown,
        "initializing source docker://r.example:5000/team/app:v1: Requesting bearer token: invalid status code from registry 403 (Forbidden)",
        Class::Forbidden,
        "forbidden: access denied",
    ),
    (
        "500",
        APP,
        Code::Unknown,
        "initializing source docker://r.example:5000/team/app:v1: reading manifest v1 in r.example:5000/team/app: received unexpected HTTP status: 500 Internal Server Error",
        Class::ServerError,
        "received unexpected HTTP status: 500 Internal Server Error",
    ),
    (
        "no platform",
        APP,
        Code::Unknown,
        r#"choosing image instance: no image found in image index for architecture "amd64", variant "", OS "linux": not found"#,
        Class::NoPlatform,
        "no image for this node's platform",
    ),
    (
        "refused",
        APP,
        Code::Unknown,
        r#"RegistryUnavailable: pinging container registry r.example:5000: Get "https://r.example:5000/v2/": dial tcp 10.0.0.7:5000: connect: connection refused"#,
        Class::Connection,
        "connection refused: r.example:5000",
    ),
    (
        "signature policy",
        APP,
        Code::Unknown,
        "SignatureValidationFailed: Source image rejected: A signature was required, but no signature exists",
        Class::Unspecified,
        "Source image rejected: A signature was required, but no signature exists",
    ),
    (
        "disk full",
        APP,
        Code::Unknown,
        "copying system image from manifest list: writing blob: storing blob to file \"/var/tmp/x/1\": write /var/tmp/x/1: no space left on device",
        Class::NoSpace,
        "no space left on the node",
    ),
];

#[test]
fn cri_o() {
    check(CRI_O);
}

#[test]
fn names_that_look_like_causes_are_only_names() {
    check(&[
        (
            "repository 404-page, tag 429",
            "r.example:4010/team/404-page:429",
            Code::Unknown,
            r#"failed to pull and unpack image "r.example:4010/team/404-page:429": failed to resolve reference "r.example:4010/team/404-page:429": unexpected status from HEAD request to https://r.example:4010/v2/team/404-page/manifests/429: 500 Internal Server Error"#,
            Class::ServerError,
            "unexpected status from HEAD request to https://r.example:4010/v2/team/404-page/manifests/429: 500 Internal Server Error",
        ),
        (
            "tag 401 in 1.6's brackets",
            "r.example:4030/a/b:401",
            Code::Unknown,
            r#"failed to resolve reference "r.example:4030/a/b:401": pulling from host r.example:4030 failed with status code [manifests 401]: 403 Forbidden"#,
            Class::Forbidden,
            "forbidden: access denied",
        ),
        (
            "repository unauthorized/x509, tag timeout",
            "r.example/unauthorized/x509:timeout",
            Code::NotFound,
            r#"failed to pull and unpack image "r.example/unauthorized/x509:timeout": failed to resolve reference "r.example/unauthorized/x509:timeout": r.example/unauthorized/x509:timeout: not found"#,
            Class::NotFound,
            "image not found",
        ),
        (
            "CRI-O, tag forbidden",
            "r.example/a:forbidden",
            Code::Unknown,
            "initializing source docker://r.example/a:forbidden: reading manifest forbidden in r.example/a: manifest unknown",
            Class::NotFound,
            "image not found",
        ),
        (
            "port 429",
            "10.0.0.1:429/a:v1",
            Code::Unknown,
            r#"failed to do request: Head "http://10.0.0.1:429/v2/a/manifests/v1": dial tcp 10.0.0.1:429: connect: no route to host"#,
            Class::Connection,
            "connection lost: 10.0.0.1:429",
        ),
    ]);
}

#[test]
fn nothing_secret_and_nothing_long_gets_through() {
    let text = format!(
        "failed: odd {} https://u:p@cdn.example/b?sig=SECRET",
        "long ".repeat(100)
    );
    let failure = classify(Code::Unknown, &text, APP);
    assert!(
        failure.message.chars().count() <= 120,
        "{}",
        failure.message
    );
    let short = classify(
        Code::Unknown,
        "odd: see https://u:p@cdn.example/b?sig=SECRET",
        APP,
    );
    assert_eq!(short.message, "odd: see https://cdn.example/b");
    assert_eq!(
        classify(Code::Unknown, "", APP).message,
        "the runtime gave no reason"
    );
}
