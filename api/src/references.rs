//! References from one resource to another. All resources are cluster-scoped, so a name is enough.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names a `PullPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyReference {
    /// Name of the PullPolicy. If no PullPolicy has this name, the built-in pacing applies and the Ready message says so.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
