//! PullPolicies come, change and go.

use drop_api::PullPolicySpec;

use crate::core::{Change, Core, Now};
use crate::pacing::backoff::Backoff;
use crate::pacing::policy::{BUILT_IN, Limits};

/// The fields of a PullPolicy as limits. Values that admission would have refused become the nearest allowed ones.
#[must_use]
pub fn limits(spec: &PullPolicySpec) -> Limits {
    let initial = spec.failure_backoff.initial.get();
    Limits {
        max_nodes: u32::try_from(spec.max_concurrent_nodes).unwrap_or(1).max(1),
        max_pulls: spec
            .max_concurrent_pulls
            .and_then(|max| u32::try_from(max).ok())
            .map(|max| max.max(1)),
        min_delay: spec.min_delay_between_pulls.get(),
        backoff: Backoff {
            initial,
            max: spec.failure_backoff.max.get().max(initial),
        },
        pull_timeout: Some(spec.pull_timeout.get()).filter(|d| !d.is_zero()),
        repull_interval: spec
            .repull_interval
            .as_ref()
            .map(|d| d.get())
            .filter(|d| !d.is_zero()),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.clone(),
    }
}

impl Core {
    pub(crate) fn policy_changed(&mut self, now: Now, change: Change<(String, Limits)>) {
        match change {
            Change::Applied((name, limits)) => self.apply_policy(now, &name, Some(limits)),
            Change::Deleted(name) => self.apply_policy(now, &name, None),
            Change::Replaced(all) => {
                self.synced.policies = true;
                let gone: Vec<String> = self
                    .policies
                    .keys()
                    .filter(|name| *name != BUILT_IN && !all.iter().any(|(n, _)| n == *name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.apply_policy(now, &name, None);
                }
                for (name, limits) in all {
                    self.apply_policy(now, &name, Some(limits));
                }
                self.begin(now);
            }
        }
    }

    fn apply_policy(&mut self, now: Now, name: &str, limits: Option<Limits>) {
        if let Some(limits) = limits {
            let policy = self.policies.entry(name.to_owned()).or_default();
            let existed = std::mem::replace(&mut policy.exists, true);
            if existed && policy.limits == limits {
                return;
            }
            policy.limits = limits;
        } else {
            if let Some(policy) = self.policies.get_mut(name) {
                policy.exists = false;
            }
            self.drop_idle_policy(name);
        }
        let users: Vec<String> = self
            .objects
            .iter()
            .filter(|(_, o)| {
                o.facts
                    .spec
                    .policy_ref
                    .as_ref()
                    .is_some_and(|r| r.name == name)
            })
            .map(|(user, _)| user.clone())
            .collect();
        for user in users {
            self.retarget(now, &user, None);
            self.mark(now, &user);
        }
        self.unsettled = true;
    }

    /// A deleted policy stays until the pulls under it have ended.
    pub(crate) fn drop_idle_policy(&mut self, name: &str) {
        if name != BUILT_IN
            && self
                .policies
                .get(name)
                .is_some_and(|p| !p.exists && p.is_idle())
        {
            self.policies.remove(name);
        }
    }
}
