//! Does the simulation's oracle bite? The product is broken on purpose in many places, one at a time, and each time some seed
//! must break the rule that is meant for it.

// A long test says how far it is.
#![allow(clippy::print_stdout)]

mod scratch;
mod table;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use table::MUTATIONS;

/// Seeds that a mutation has to be found in.
const SEEDS: u32 = 600;
/// Seeds in which the product must be found sound, or the mutations would prove nothing.
const SOUND_SEEDS: u32 = 20;

#[test]
fn each_mutation_of_the_product_breaks_its_rule_in_some_seed() -> anyhow::Result<()> {
    let simulation = scratch::build()?;
    let sound = hunt(&simulation, None, "any", SOUND_SEEDS)?;
    ensure!(
        sound.is_none(),
        "the product itself: {}",
        sound.unwrap_or_default()
    );
    let mut survivors = Vec::new();
    for (number, mutation) in MUTATIONS.iter().enumerate() {
        let found = hunt(&simulation, Some(number), mutation.rule, SEEDS)?;
        println!(
            "{:2} {}: {}",
            number,
            mutation.name,
            found.as_deref().unwrap_or("SURVIVES")
        );
        if found.is_none() {
            survivors.push(format!("{} ({})", mutation.name, mutation.rule));
        }
    }
    ensure!(
        survivors.is_empty(),
        "no seed of {SEEDS} notices: {}",
        survivors.join("; ")
    );
    Ok(())
}

/// Looks for a seed that breaks the rule while the mutation is switched on.
fn hunt(
    simulation: &Path,
    mutation: Option<usize>,
    rule: &str,
    seeds: u32,
) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(simulation);
    command.args(["--hunt", rule, "--seeds", &seeds.to_string()]);
    if let Some(number) = mutation {
        command.env(scratch::SWITCH, number.to_string());
    }
    let output = command.output().context("run the simulation")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text
        .lines()
        .find(|line| line.starts_with("seed "))
        .map(ToOwned::to_owned);
    ensure!(
        found.is_some() || output.status.success(),
        "the simulation broke off: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(found)
}
