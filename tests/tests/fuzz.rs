//! Whatever comes from outside is read without a panic: messages of agents and coordinators, texts of runtimes and of people.
//!
//! Random inputs of the real state machines and parsers, for a bounded time. What each input means is proved elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;
use drop_agent::args::Cli;
use drop_agent::classify::classify;
use drop_agent::node::{self, Listed, Node};
use drop_api::{CachedImageSpec, GoDuration, ImagePullPolicy};
use drop_coordinator::args::Args;
use drop_coordinator::core::{Change, Config, Core, Input, Now, Output};
use drop_coordinator::index::{ImageObject, SessionId};
use drop_coordinator::plan::NodeFacts;
use drop_coordinator::session::message::Message;
use drop_oci::redact::{redact, shorten};
use drop_proto::{
    AgentMessage, Ask, CoordinatorMessage, Credential, Desired, DesiredImage, Done, Failed, Grant,
    HeldGrant, Hello, Inventory, InventoryImage, Release, Renew, Revoke, RuntimeState, Started,
    agent_message, coordinator_message,
};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use tonic::Code;

/// As many cases as take a few seconds in a debug build, and no file for a failing one: it prints its input.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// References that name something in these stories, and texts that name nothing.
fn reference() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "r\\.io/[a-d]:1".prop_map(String::from),
        1 => Just(format!("r.io/a@{}", digest_of('1'))),
        1 => any::<String>(),
        1 => "[a-z0-9./:@-]{0,300}",
    ]
}

fn digest_of(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(digest_of('1')),
        Just(digest_of('2')),
        Just(String::new()),
        any::<String>(),
    ]
}

/// Small numbers, which are likely to mean something, and all others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..6_u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn enumeration() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0..17_i32, 1 => any::<i32>()]
}

fn node_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "n[1-3]", 1 => any::<String>()]
}

fn runtime() -> impl Strategy<Value = RuntimeState> {
    (
        any::<bool>(),
        any::<String>(),
        any::<String>(),
        any::<String>(),
    )
        .prop_map(|(available, message, runtime, platform)| RuntimeState {
            available,
            message,
            runtime,
            platform,
        })
}

fn hello() -> impl Strategy<Value = Hello> {
    let held =
        (number(), reference(), number()).prop_map(|(token, reference, running_ms)| HeldGrant {
            token,
            reference,
            running_ms,
        });
    (
        node_name(),
        "[ab]?",
        any::<String>(),
        any::<u32>(),
        vec(held, 0..4),
        prop::option::of(runtime()),
    )
        .prop_map(|(node, instance, version, parallel, held, runtime)| Hello {
            node,
            instance,
            version,
            max_parallel_pulls: parallel,
            held,
            runtime,
        })
}

fn inventory() -> impl Strategy<Value = Inventory> {
    let image = (
        reference(),
        any::<bool>(),
        vec(digest(), 0..3),
        any::<bool>(),
    )
        .prop_map(|(reference, present, digests, lost)| InventoryImage {
            reference,
            present,
            digests,
            lost,
        });
    (number(), any::<bool>(), vec(image, 0..5)).prop_map(|(revision, complete, images)| Inventory {
        revision,
        complete,
        images,
    })
}

fn from_agent() -> impl Strategy<Value = agent_message::Kind> {
    use agent_message::Kind;
    let references = || vec(reference(), 0..5);
    prop_oneof![
        1 => hello().prop_map(Kind::Hello),
        3 => inventory().prop_map(Kind::Inventory),
        4 => (references(), references())
            .prop_map(|(references, withdrawn)| Kind::Ask(Ask { references, withdrawn })),
        2 => number().prop_map(|token| Kind::Started(Started { token })),
        1 => vec(number(), 0..5).prop_map(|tokens| Kind::Renew(Renew { tokens })),
        2 => (number(), vec(digest(), 0..3), number(), number(), reference()).prop_map(
            |(token, digests, size_bytes, pull_ms, reference)| Kind::Done(Done {
                token, digests, size_bytes, pull_ms, reference,
            })
        ),
        2 => (number(), enumeration(), any::<String>(), number(), reference()).prop_map(
            |(token, class, message, pull_ms, reference)| Kind::Failed(Failed {
                token, class, message, pull_ms, reference,
            })
        ),
        1 => number().prop_map(|token| Kind::Release(Release { token })),
        1 => runtime().prop_map(Kind::Runtime),
    ]
}

fn credential([username, password, identity_token, registry_token]: [String; 4]) -> Credential {
    Credential {
        username,
        password,
        identity_token,
        registry_token,
    }
}

fn from_coordinator() -> impl Strategy<Value = coordinator_message::Kind> {
    use coordinator_message::Kind;
    let image = (reference(), enumeration(), digest(), any::<i32>(), number()).prop_map(
        |(reference, pull_policy, expected_digest, priority, check)| DesiredImage {
            reference,
            pull_policy,
            expected_digest,
            priority,
            check,
            compressed_bytes: check,
        },
    );
    prop_oneof![
        3 => (number(), any::<bool>(), vec(image, 0..5), vec(reference(), 0..3)).prop_map(
            |(revision, complete, images, dropped)| Kind::Desired(Desired {
                revision, complete, images, dropped,
            })
        ),
        2 => (number(), reference(), any::<u32>(), vec(any::<[String; 4]>(), 0..3)).prop_map(
            |(token, reference, ttl_ms, logins)| Kind::Grant(Grant {
                token, reference, ttl_ms, credentials: logins.into_iter().map(credential).collect(),
                ..Grant::default()
            })
        ),
        1 => number().prop_map(|token| Kind::Revoke(Revoke { token })),
    ]
}

/// What agents and the passing of time can do to a coordinator.
#[derive(Clone, Debug)]
enum Happening {
    Connected(u64, Hello),
    Said(u64, agent_message::Kind),
    Disconnected(u64),
    Passed(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let agent = || 1..5_u64;
    prop_oneof![
        2 => (agent(), hello()).prop_map(|(agent, hello)| Happening::Connected(agent, hello)),
        8 => (agent(), from_agent()).prop_map(|(agent, kind)| Happening::Said(agent, kind)),
        1 => agent().prop_map(Happening::Disconnected),
        3 => (0..100_000_u64).prop_map(Happening::Passed),
    ]
}

/// A coordinator that wants four images on three nodes.
fn coordinator() -> Core {
    let mut core = Core::new(Config::default());
    let nodes = (1..4).map(|n| NodeFacts {
        name: format!("n{n}"),
        ..NodeFacts::default()
    });
    let images = ["a", "b", "c", "d"].map(|name| ImageObject {
        name: name.to_owned(),
        uid: name.to_owned(),
        generation: 1,
        resource_version: 1,
        spec: CachedImageSpec {
            image: format!("r.io/{name}"),
            tag: Some("1".to_owned()),
            image_pull_policy: ImagePullPolicy::Always,
            ..CachedImageSpec::default()
        },
        status: None,
    });
    let now = Now::at(Duration::from_secs(1));
    core.step(now, Input::Node(Change::Replaced(nodes.collect())));
    core.step(now, Input::Policy(Change::Replaced(Vec::new())));
    core.step(now, Input::Image(Change::Replaced(images.into())));
    core
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn whatever_agents_say_the_coordinator_goes_on(happenings in vec(happening(), 1..60)) {
        let mut core = coordinator();
        let mut now = Duration::from_secs(100);
        // Each stream has a number of its own, as the server gives it, and begins with a Hello.
        let mut open = BTreeMap::new();
        let mut streams = 0;
        for happening in happenings {
            let input = match happening {
                Happening::Connected(agent, hello) => {
                    streams += 1;
                    open.insert(agent, streams);
                    Input::Connected(SessionId(streams), hello)
                }
                Happening::Said(agent, kind) => {
                    Input::Said(SessionId(open.get(&agent).copied().unwrap_or(0)), kind)
                }
                Happening::Disconnected(agent) => {
                    Input::Disconnected(SessionId(open.remove(&agent).unwrap_or(0)))
                }
                Happening::Passed(millis) => {
                    now += Duration::from_millis(millis);
                    Input::Tick
                }
            };
            for output in core.step(Now::at(now), input) {
                if let Output::Write { name, uid, .. } = output {
                    core.step(Now::at(now), Input::Written(name, uid, Ok(2)));
                }
            }
        }
        // It still does its work for an agent that keeps to the rules.
        let hello = Hello {
            node: "n1".to_owned(),
            instance: "an honest one".to_owned(),
            max_parallel_pulls: 1,
            ..Hello::default()
        };
        for stream in 1..=streams {
            core.step(Now::at(now), Input::Disconnected(SessionId(stream)));
        }
        let outputs = core.step(Now::at(now), Input::Connected(SessionId(streams + 1), hello));
        let is_desired = |output: &Output| matches!(
            output,
            Output::Send(_, Message::Desired(desired))
                if desired.complete && desired.images.len() == 4
        );
        prop_assert!(outputs.iter().any(is_desired), "{outputs:?}");
    }

    #[test]
    fn whatever_a_coordinator_says_the_agent_goes_on(
        messages in vec((from_coordinator(), 0..50_000_u64, 0..8_u8), 1..60),
    ) {
        let mut node = Node::new(node::Config {
            node: "n1".to_owned(),
            instance: "i1".to_owned(),
            version: String::new(),
            max_parallel_pulls: 2,
            list_interval: Duration::from_secs(30),
            pull_deadline: Duration::from_secs(3600),
            shutdown_grace: Duration::from_secs(300),
            disk: node::DiskLimits::default(),
            allowed: Vec::new(),
        });
        let mut now = Duration::from_secs(100);
        let up = node::Input::RuntimeUp {
            runtime: "containerd 2".to_owned(),
            platform: "linux/amd64".to_owned(),
        };
        let mut answers = vec![up, node::Input::Connected];
        for (kind, millis, chance) in messages {
            now += Duration::from_millis(millis);
            let happened = match chance {
                0 => vec![node::Input::Disconnected, node::Input::Connected],
                1 => vec![node::Input::Tick],
                _ => vec![node::Input::Message(CoordinatorMessage { kind: Some(kind) })],
            };
            for input in std::mem::take(&mut answers).into_iter().chain(happened) {
                for output in node.step(now, input) {
                    match output {
                        node::Output::List => answers.push(node::Input::Listed(Ok(BTreeMap::from([(
                            "r.io/a:1".to_owned(),
                            Listed { digests: vec![digest_of('1')], size_bytes: 1 },
                        )])))),
                        node::Output::Pull { token, .. } => {
                            answers.push(node::Input::PullEnded { token, result: Ok(()) });
                        }
                        _ => {}
                    }
                }
            }
        }
        node.step(now, node::Input::Shutdown);
        let outputs = node.step(now, node::Input::Shutdown);
        prop_assert!(outputs.contains(&node::Output::Exit) || node.running_pulls() == 0, "{outputs:?}");
    }

    #[test]
    fn bytes_that_decode_are_taken_in_and_others_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(AgentMessage { kind: Some(kind) }) = AgentMessage::decode(&bytes[..]) {
            let mut core = coordinator();
            let now = Now::at(Duration::from_secs(100));
            core.step(now, Input::Connected(SessionId(1), Hello { node: "n1".to_owned(), ..Hello::default() }));
            core.step(now, Input::Said(SessionId(1), kind));
        }
        let _ = CoordinatorMessage::decode(&bytes[..]);
    }

    /// Decoding damaged messages reaches deeper than decoding noise.
    #[test]
    fn damaged_messages_are_decoded_or_refused(
        kind in from_agent(),
        answer in from_coordinator(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut said = AgentMessage { kind: Some(kind) }.encode_to_vec();
        let mut answered = CoordinatorMessage { kind: Some(answer) }.encode_to_vec();
        for bytes in [&mut said, &mut answered] {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        if let Ok(AgentMessage { kind: Some(kind) }) = AgentMessage::decode(&said[..]) {
            let mut core = coordinator();
            let now = Now::at(Duration::from_secs(100));
            core.step(now, Input::Connected(SessionId(1), Hello { node: "n1".to_owned(), ..Hello::default() }));
            core.step(now, Input::Said(SessionId(1), kind));
        }
        let _ = CoordinatorMessage::decode(&answered[..]);
    }
}

/// Pieces of what runtimes write, between pieces of anything.
fn runtime_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        2 => prop::sample::select(vec![
            "failed to pull and unpack image \"r.io/a:1\": ",
            "unexpected status from HEAD request to https://r.io/v2/a?token=hunter2: ",
            "429 Too Many Requests", "not found", ": ", "\"", "?", "://", "@", "%", "\n", "\\",
            "Authorization: Bearer hunter2", "password=hunter2", "x509", "no space left on device",
            "toomanyrequests", "http://user:hunter2@r.io/", "{\"auth\":\"hunter2\"}", "é", "\u{202e}",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn every_text_of_a_runtime_becomes_one_short_line(
        text in runtime_text(),
        code in -1..20_i32,
        reference in reference(),
        limit in 0..300_usize,
    ) {
        let failure = classify(Code::from(code), &text, &reference);
        prop_assert!(failure.message.chars().count() <= 200, "{}", failure.message);
        prop_assert!(!failure.message.contains('\n'));
        prop_assert!(shorten(&redact(&text), limit).chars().count() <= limit.max(1));
    }

    #[test]
    fn every_text_is_a_duration_that_reads_back_or_an_error(text in prop_oneof![
        any::<String>(),
        "[+-]?([0-9]{0,25}(\\.[0-9]{0,25})?(h|m|s|ms|us|µs|μs|ns|d)?){0,4}",
    ]) {
        if let Ok(duration) = text.parse::<GoDuration>() {
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}

/// Command lines of known flags with any values, and of anything.
fn command_line(flags: &'static [&'static str]) -> impl Strategy<Value = Vec<OsString>> {
    let word = prop_oneof![
        4 => (prop::sample::select(flags), any::<String>())
            .prop_map(|(flag, value)| vec![OsString::from(format!("{flag}={value}"))]),
        4 => (prop::sample::select(flags), "[a-z0-9:./-]{0,12}")
            .prop_map(|(flag, value)| vec![OsString::from(flag), OsString::from(value)]),
        1 => any::<OsString>().prop_map(|word| vec![word]),
    ];
    vec(word, 0..8).prop_map(|words| words.concat())
}

const AGENT_FLAGS: &[&str] = &[
    "--node-name",
    "--coordinator",
    "--runtime-endpoint",
    "--max-parallel-pulls",
    "--list-interval",
    "--pull-deadline",
    "--shutdown-grace",
    "--metrics-bind-address",
    "--health-probe-bind-address",
    "--log-format",
    "--wait-timeout",
    "--output",
    "-o",
];

const COORDINATOR_FLAGS: &[&str] = &[
    "--kubeconfig",
    "--session-bind-address",
    "--metrics-bind-address",
    "--health-probe-bind-address",
    "--pod-namespace",
    "--tls-cert-file",
    "--tls-key-file",
    "--insecure-plaintext",
    "--grant-ttl",
    "--agent-grace",
    "--max-pulls-per-registry",
    "--log-format",
];

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn every_command_line_is_understood_or_refused(
        subcommand in prop::sample::select(vec!["run", "bake", "help"]),
        agent in command_line(AGENT_FLAGS),
        coordinator in command_line(COORDINATOR_FLAGS),
    ) {
        let agent = ["drop-agent".into(), subcommand.into()].into_iter().chain(agent);
        if let Err(error) = Cli::try_parse_from(agent) {
            prop_assert!(!error.to_string().is_empty());
        }
        let coordinator = std::iter::once("drop-coordinator".into()).chain(coordinator);
        match Args::try_parse_from(coordinator) {
            Ok(args) => drop(args.validate()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
