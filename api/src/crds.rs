//! The `CustomResourceDefinition`s as they are installed: what the derives yield, tidied into what a reader of CRD YAML expects.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Number, Value, json};

use crate::{CachedImage, PullPolicy};

/// A definition as a file of the chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrdFile {
    /// `<plural>.yaml`.
    pub name: String,
    /// The YAML, with its leading comment.
    pub yaml: String,
}

/// All definitions of drop, sorted by name. Install these, not what the derives' `crd()` returns.
///
/// # Panics
/// If the types in this crate yield no valid definition, which its tests would show.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut cached_image = tidied(&CachedImage::crd());
    let mut pull_policy = tidied(&PullPolicy::crd());
    // Nothing in a PullPolicy is required, so its spec is not either; the API server fills in the defaults.
    optional_spec(&mut pull_policy);
    [&mut cached_image, &mut pull_policy]
        .into_iter()
        .map(|crd| {
            serde_json::from_value(crd.take()).expect("a tidied definition is still a definition")
        })
        .collect()
}

/// The files of the chart's `crds` directory.
///
/// # Panics
/// As [`crds`].
pub fn render() -> Result<Vec<CrdFile>, serde_saphyr::ser_error::Error> {
    crds()
        .iter()
        .map(|crd| {
            let plural = &crd.spec.names.plural;
            let mut crd = serde_json::to_value(crd).expect("a definition is plain data");
            whole_numbers(&mut crd);
            let yaml = serde_saphyr::to_string(&crd)?;
            Ok(CrdFile {
                name: format!("{plural}.yaml"),
                yaml: format!("# Printed by crdgen from the types in api/. Do not edit.\n{yaml}"),
            })
        })
        .collect()
}

fn tidied(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition is plain data");
    if let Some(versions) = crd
        .pointer_mut("/spec/versions")
        .and_then(Value::as_array_mut)
    {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                tidy_schema(schema);
                if let Some(status) = schema.pointer_mut("/properties/status") {
                    without_defaults(status);
                }
                standard_fields(schema);
            }
        }
    }
    crd
}

/// Removes what the derives add and no hand-written definition has.
///
/// `nullable` would let `tag: null` through to the rules as a value; without it the API server treats null as absent.
fn tidy_schema(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("nullable");
    schema.remove("title");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = reflowed(text);
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(tidy_schema);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            tidy_schema(inner);
        }
    }
}

/// `minimum: 1`, not `minimum: 1.0`: bounds are floating-point numbers in the type of a definition.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number
                .as_f64()
                .filter(|f| number.is_f64() && f.fract() == 0.0)
            {
                *number = Number::from(float as i64);
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// A status says what its writer wrote; defaults would say things that nobody has seen.
fn without_defaults(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("default");
            fields.values_mut().for_each(without_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

/// `apiVersion`, `kind` and `metadata`, which `kubectl explain` shows only where the schema names them.
fn standard_fields(schema: &mut Value) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else {
        return;
    };
    let text = |description: &str| json!({ "description": description, "type": "string" });
    let mut standard = Map::new();
    standard.insert(
        "apiVersion".into(),
        text("Version of the schema: drop.corewire.io/v1alpha1."),
    );
    standard.insert("kind".into(), text("Kind of the object."));
    standard.insert("metadata".into(), json!({ "type": "object" }));
    properties.append(&mut standard);
}

fn optional_spec(crd: &mut Value) {
    if let Some(Value::Object(schema)) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
    {
        schema.remove("required");
        if let Some(spec) = schema.get_mut("properties").and_then(|p| p.get_mut("spec")) {
            spec["default"] = json!({});
        }
    }
}

/// Doc comments are wrapped for the source; a description has one line for each paragraph or list item.
fn reflowed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut starts_anew = true;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            starts_anew = true;
            continue;
        }
        if !out.is_empty() {
            out.push(if starts_anew || line.starts_with("- ") {
                '\n'
            } else {
                ' '
            });
        }
        out.push_str(line);
        starts_anew = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_become_paragraphs_and_items() {
        assert_eq!(
            reflowed("When\nnodes pull.\n\n- Always: the\ndigest.\n- Never: no."),
            "When nodes pull.\n- Always: the digest.\n- Never: no."
        );
    }
}
