//! Finds images that are built on each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

/// Each cycle once, as the path from its first name back to it.
pub(super) fn find(parents: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let mut walk = Walk {
        parents,
        path: Vec::new(),
        done: BTreeSet::new(),
        cycles: Vec::new(),
    };
    for image in parents.keys() {
        walk.visit(image);
    }
    walk.cycles
}

struct Walk<'a> {
    parents: &'a BTreeMap<&'a str, BTreeSet<&'a str>>,
    path: Vec<&'a str>,
    done: BTreeSet<&'a str>,
    cycles: Vec<Vec<String>>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, image: &'a str) {
        if let Some(begin) = self.path.iter().position(|step| *step == image) {
            let around = &self.path[begin..];
            let first = (0..around.len()).min_by_key(|i| around[*i]).unwrap_or(0);
            let mut cycle: Vec<String> = around[first..]
                .iter()
                .chain(&around[..first])
                .map(|step| (*step).to_owned())
                .collect();
            cycle.push(cycle[0].clone());
            self.cycles.push(cycle);
            return;
        }
        if self.done.contains(image) {
            return;
        }
        self.path.push(image);
        for parent in self.parents.get(image).into_iter().flatten() {
            self.visit(parent);
        }
        self.path.pop();
        self.done.insert(image);
    }
}
