//! The roles of the installation, and less of them: one right at a time is taken away and given back.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::Result;
use drop_tests::coordinator::NAMESPACE;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One verb on one resource, as one rule grants it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Right<'a> {
    pub(crate) resource: &'a str,
    /// The one object that the rule is limited to; empty: all.
    pub(crate) name: &'a str,
    pub(crate) verb: &'a str,
}

pub(crate) const fn right<'a>(resource: &'a str, name: &'a str, verb: &'a str) -> Right<'a> {
    Right {
        resource,
        name,
        verb,
    }
}

/// The coordinator's roles as the installation has them.
pub(crate) struct Roles {
    here: Api<Role>,
    everywhere: Api<ClusterRole>,
    role: Role,
    cluster_role: ClusterRole,
}

impl Roles {
    /// As they stand in the API server.
    pub(crate) async fn installed(client: &Client) -> Result<Self> {
        let name = "drop-coordinator";
        let roles: Api<Role> = Api::namespaced(client.clone(), NAMESPACE);
        let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
        Ok(Self {
            role: roles.get(name).await?,
            cluster_role: cluster_roles.get(name).await?,
            here: roles,
            everywhere: cluster_roles,
        })
    }

    /// All that they grant.
    pub(crate) fn rights(&self) -> BTreeSet<Right<'_>> {
        let mut rights = BTreeSet::new();
        for rule in self
            .role
            .rules
            .iter()
            .chain(&self.cluster_role.rules)
            .flatten()
        {
            for resource in rule.resources.iter().flatten() {
                for name in names(rule) {
                    let granted = rule.verbs.iter().map(|verb| right(resource, name, verb));
                    rights.extend(granted);
                }
            }
        }
        rights
    }

    /// Grants all but these.
    pub(crate) async fn cut(&self, rights: &[Right<'_>]) -> Result<()> {
        let (mut role, mut cluster_role) = (self.role.clone(), self.cluster_role.clone());
        for right in rights {
            role.rules = role.rules.map(|rules| without(&rules, *right));
            cluster_role.rules = cluster_role.rules.map(|rules| without(&rules, *right));
        }
        replace(&self.here, role).await?;
        replace(&self.everywhere, cluster_role).await
    }

    /// Grants all of it again.
    pub(crate) async fn restore(&self) -> Result<()> {
        self.cut(&[]).await
    }
}

fn names(rule: &PolicyRule) -> Vec<&str> {
    match rule.resource_names.as_deref() {
        None | Some([]) => vec![""],
        Some(names) => names.iter().map(String::as_str).collect(),
    }
}

/// The rules without one right. A rule that grants it with others is divided.
fn without(rules: &[PolicyRule], cut: Right<'_>) -> Vec<PolicyRule> {
    let mut less = Vec::new();
    for rule in rules {
        if !names(rule).contains(&cut.name) {
            less.push(rule.clone());
            continue;
        }
        let resources = rule.resources.clone().unwrap_or_default();
        let (concerned, others): (Vec<String>, Vec<String>) =
            resources.into_iter().partition(|name| name == cut.resource);
        let mut verbs = rule.verbs.clone();
        verbs.retain(|verb| verb != cut.verb);
        let rest = PolicyRule {
            resources: Some(others),
            ..rule.clone()
        };
        let reduced = PolicyRule {
            resources: Some(concerned),
            verbs,
            ..rule.clone()
        };
        let has_some = |rule: &PolicyRule| {
            !rule.verbs.is_empty() && rule.resources.as_ref().is_some_and(|r| !r.is_empty())
        };
        less.extend([rest, reduced].into_iter().filter(has_some));
    }
    less
}

async fn replace<K>(api: &Api<K>, mut object: K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    object.meta_mut().resource_version = None;
    object.meta_mut().managed_fields = None;
    let name = object.name_any();
    api.replace(&name, &PostParams::default(), &object).await?;
    Ok(())
}
