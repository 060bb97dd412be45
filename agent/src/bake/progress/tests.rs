//! What people see.

use drop_proto::FailureClass;

use super::*;
use crate::node::Failure;

fn row(name: &str, state: State) -> Row {
    Row {
        name: name.to_owned(),
        reference: format!("r.example/{name}:1"),
        state,
        elapsed: Duration::from_millis(1500),
    }
}

fn failure() -> Failure {
    Failure {
        class: FailureClass::Dns,
        message: "dns: cannot resolve r.example".to_owned(),
    }
}

fn present() -> State {
    State::Present {
        digest: Some("sha256:12".to_owned()),
        size_bytes: 5_002_881,
    }
}

fn shown(style: Style, steps: &[(u64, Vec<Row>, Option<&str>)]) -> String {
    let mut bytes = Vec::new();
    let mut progress = Progress::new(&mut bytes, style);
    for (now, rows, problem) in steps {
        progress
            .show(Duration::from_secs(*now), rows, *problem)
            .expect("memory");
    }
    String::from_utf8(bytes).expect("text")
}

#[test]
fn without_a_terminal_each_change_is_one_line() {
    let retrying = |at| State::Retrying {
        at: Duration::from_secs(at),
        failure: failure(),
    };
    let text = shown(
        Style::Plain,
        &[
            (0, vec![row("a", State::Waiting)], Some("no socket at /x")),
            (1, vec![row("a", State::Waiting)], Some("no socket at /x")),
            (
                2,
                vec![row(
                    "a",
                    State::Pulling {
                        since: Duration::from_secs(2),
                    },
                )],
                None,
            ),
            (3, vec![row("a", retrying(5))], None),
            (6, vec![row("a", retrying(9))], None),
            (9, vec![row("a", present())], None),
        ],
    );
    assert_eq!(
        text,
        "    0.0s  waiting for the runtime: no socket at /x\n    \
         2.0s  pulling  a  r.example/a:1\n    \
         3.0s  retrying  a  dns: cannot resolve r.example, next try in 2 s\n    \
         9.0s  present  a  r.example/a:1  5.0 MB  sha256:12\n"
    );
}

#[test]
fn on_a_terminal_the_lines_are_drawn_over_the_former_ones() {
    let style = Style::Terminal {
        columns: 50,
        lines: 24,
        colour: false,
    };
    let rows = vec![row("a", present()), row("bb", State::Waiting)];
    let text = shown(style, &[(1, rows.clone(), None), (2, rows, None)]);
    let frame = "\r\x1b[2Ka   present      1.5s  r.example/a:1  5.0 MB  sh…\n\
                 \r\x1b[2Kbb  waiting      1.5s  r.example/bb:1\n\
                 \r\x1b[2K1/2 present\n\x1b[J";
    assert_eq!(text, format!("{frame}\x1b[3A{frame}"));
}

#[test]
fn a_small_terminal_shows_what_moves_and_counts_the_rest() {
    let mut rows: Vec<Row> = (0..10).map(|i| row(&format!("p{i}"), present())).collect();
    rows.push(row(
        "moving",
        State::Pulling {
            since: Duration::ZERO,
        },
    ));
    rows.push(row("broken", State::Failed(failure())));
    let frame = frame(Duration::from_secs(1), &rows, Some("x"), (80, 5), false);
    assert_eq!(frame.len(), 3);
    assert!(
        frame[0].starts_with("moving") && frame[1].starts_with("broken"),
        "{frame:?}"
    );
    assert_eq!(
        frame[2],
        "10/12 present, 10 not shown, waiting for the runtime: x"
    );
}

#[test]
fn colour_does_not_count_as_width() {
    let rows = [row("a", State::Failed(failure()))];
    let plain = frame(Duration::ZERO, &rows, None, (30, 24), false);
    let coloured = frame(Duration::ZERO, &rows, None, (30, 24), true);
    assert_eq!(
        coloured[0].replace("\x1b[31m", "").replace("\x1b[0m", ""),
        plain[0]
    );
    assert!(plain[0].chars().count() < 30, "{plain:?}");
}
