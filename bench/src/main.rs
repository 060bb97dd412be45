//! `hack/bench`: measures drop against its targets (docs/benchmarks.md says how, and keeps the results).
//!
//! One file is one figure or a few that come from the same scene: `rest`, `pull_overhead` and `apply_to_ready` on a real
//! containerd node, `scale`, `grants` and `reconnect` with a swarm of agents, `rescan` with a registry. Each takes its scene, measures, and returns
//! [`figure::Figure`]s; none prints. A new figure is a new file, called from [`node`] or [`fleet`].

mod apply_to_ready;
mod args;
mod core_alone;
mod figure;
mod fleet;
mod grants;
mod machine;
mod markdown;
mod node;
mod process;
mod pull_overhead;
mod readiness;
mod reconnect;
mod rescan;
mod rest;
mod scale;
mod secrets;
mod statistics;
mod swarm;
mod table;
mod traffic;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use drop_tests::demo::screen::{Paint, Screen};
use drop_tests::parts;
use jiff::Timestamp;

use args::{Args, Command, Scene};
use figure::{Figure, Verdict};
use fleet::Size;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut screen = Screen::new();
    let ended = match &args.command {
        Some(Command::Swarm(args)) => swarm::run(args).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Core(args)) => {
            screen.say(Paint::Plain, &core_alone::run(args));
            Ok(ExitCode::SUCCESS)
        }
        None => Box::pin(measure(&args, &mut screen)).await,
    };
    ended.unwrap_or_else(|cause| {
        screen.say(Paint::Red, &format!("bench: failed: {cause:#}"));
        ExitCode::FAILURE
    })
}

async fn measure(args: &Args, screen: &mut Screen) -> Result<ExitCode> {
    parts::require_root()?;
    let machine = machine::describe();
    screen.say(Paint::Dim, &machine.to_string());
    let mut figures = Vec::new();
    let is_wanted = |scene| args.scene.is_none_or(|only| only == scene);
    if is_wanted(Scene::Registry) {
        figures.extend(rescan::measure(args.effort(), screen).await?);
    }
    if is_wanted(Scene::Node) {
        figures.extend(node::measure(args.effort(), screen).await?);
    }
    if is_wanted(Scene::Fleet) {
        for size in sizes(args) {
            figures.extend(fleet::measure(size, args.effort(), screen).await?);
        }
    }
    table::print(screen, &figures);
    if let Some(path) = &args.json {
        let report = table::json(&machine, args.effort(), &figures);
        std::fs::write(path, report).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        let page = markdown::page(&machine, args.effort(), Timestamp::now(), &figures);
        std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(conclude(screen, &figures))
}

fn sizes(args: &Args) -> Vec<Size> {
    match (args.agents, args.images) {
        (Some(agents), images) => vec![Size { agents, images }],
        (None, _) if args.quick => vec![Size {
            agents: 200,
            images: 20,
        }],
        (None, _) => vec![
            Size {
                agents: 1_000,
                images: 20,
            },
            Size {
                agents: 5_000,
                images: 50,
            },
        ],
    }
}

/// Names what missed its target.
fn conclude(screen: &mut Screen, figures: &[Figure]) -> ExitCode {
    let missed: Vec<&Figure> = figures
        .iter()
        .filter(|figure| figure.verdict() == Some(Verdict::Over))
        .collect();
    if missed.is_empty() {
        screen.say(Paint::Green, "bench: ok: every target is met");
        return ExitCode::SUCCESS;
    }
    let names: Vec<String> = missed.iter().map(|figure| figure.title()).collect();
    screen.say(
        Paint::Red,
        &format!("bench: over target: {}", names.join("; ")),
    );
    ExitCode::FAILURE
}
