//! Kubernetes' toleration rules, all of them.
//!
//! Source: the fields' documentation in core/v1 and "Taints and Tolerations" in the Kubernetes documentation; `Lt` and `Gt`
//! are KEP-5471 (alpha in 1.35).

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether the taint does not keep the image away: it is only a preference, or one of the tolerations covers it.
#[must_use]
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    // PreferNoSchedule asks the scheduler to look elsewhere first; an image takes no place from anybody.
    !matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
        || tolerations
            .iter()
            .any(|toleration| covers(toleration, taint))
}

/// Unset and empty mean the same in each field: an empty effect or key matches every one.
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let taint_value = taint.value.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        // An empty key is only valid with Exists; the API server does not check the tolerations of a custom resource.
        _ if key.is_empty() => false,
        "" | "Equal" => value == taint_value,
        "Lt" => compare(taint_value, value).is_some_and(std::cmp::Ordering::is_lt),
        "Gt" => compare(taint_value, value).is_some_and(std::cmp::Ordering::is_gt),
        _ => false,
    }
}

fn compare(taint: &str, toleration: &str) -> Option<std::cmp::Ordering> {
    Some(taint.parse::<i64>().ok()?.cmp(&toleration.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            value: (!value.is_empty()).then(|| value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: set(key),
            operator: set(operator),
            value: set(value),
            effect: set(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn every_rule_of_tolerations() {
        let dedicated = taint("dedicated", "ci", "NoSchedule");
        for (toleration, expected, rule) in [
            (
                toleration("dedicated", "Equal", "ci", "NoSchedule"),
                true,
                "equal",
            ),
            (
                toleration("dedicated", "", "ci", "NoSchedule"),
                true,
                "the operator defaults to Equal",
            ),
            (
                toleration("dedicated", "Equal", "ci", ""),
                true,
                "an empty effect matches all",
            ),
            (
                toleration("dedicated", "Equal", "web", "NoSchedule"),
                false,
                "another value",
            ),
            (
                toleration("dedicated", "Equal", "", "NoSchedule"),
                false,
                "no value is not any value",
            ),
            (
                toleration("dedicated", "Exists", "", "NoSchedule"),
                true,
                "exists ignores the value",
            ),
            (
                toleration("dedicated", "Exists", "", "NoExecute"),
                false,
                "another effect",
            ),
            (toleration("other", "Exists", "", ""), false, "another key"),
            (
                toleration("", "Exists", "", ""),
                true,
                "an empty key with Exists matches everything",
            ),
            (
                toleration("", "Exists", "", "NoExecute"),
                false,
                "an empty key still minds the effect",
            ),
            (
                toleration("", "Equal", "ci", ""),
                false,
                "an empty key needs Exists",
            ),
            (
                toleration("dedicated", "Maybe", "ci", ""),
                false,
                "an unknown operator matches nothing",
            ),
            (
                toleration("Dedicated", "Exists", "", ""),
                false,
                "keys are case-sensitive",
            ),
        ] {
            assert_eq!(tolerates(&[toleration], &dedicated), expected, "{rule}");
        }
    }

    #[test]
    fn numbers_compare_as_numbers() {
        let level = taint("sla", "950", "NoSchedule");
        assert!(tolerates(&[toleration("sla", "Gt", "900", "")], &level));
        assert!(!tolerates(&[toleration("sla", "Gt", "1000", "")], &level));
        assert!(tolerates(&[toleration("sla", "Lt", "1000", "")], &level));
        assert!(!tolerates(&[toleration("sla", "Lt", "x", "")], &level));
    }

    #[test]
    fn a_preference_needs_no_toleration() {
        assert!(tolerates(&[], &taint("a", "", "PreferNoSchedule")));
        assert!(!tolerates(&[], &taint("a", "", "NoSchedule")));
        assert!(!tolerates(&[], &taint("a", "", "NoExecute")));
    }

    #[test]
    fn tolerations_for_a_time_count_as_tolerations() {
        let mut short = toleration("a", "Exists", "", "NoExecute");
        short.toleration_seconds = Some(0);
        assert!(tolerates(&[short], &taint("a", "", "NoExecute")));
    }
}
