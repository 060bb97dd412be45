//! Leaders that stand still, are cut off, or lose their Lease.

use crate::faults::Kind;
use crate::named::{Case, secs};
use crate::registry::Supply;
use crate::scenario::Scenario;
use crate::world::World;

/// The oracle's rules `fence` and `two-leaders`; and the wave goes on.
pub(super) fn stood_still() -> Result<String, String> {
    let stands_still = Kind::ReplicaPauses {
        replica: None,
        lasts: secs(18),
    };
    leaders()
        .fault(20, stands_still)
        .look(120, World::unrest)
        .play()
}

pub(super) fn cut_off() -> Result<String, String> {
    let is_cut_off = Kind::ReplicaCutOff {
        replica: None,
        lasts: secs(60),
    };
    leaders()
        .fault(20, is_cut_off)
        .look(120, World::unrest)
        .play()
}

pub(super) fn deleted_lease() -> Result<String, String> {
    leaders()
        .fault(20, Kind::LeaseDeleted)
        .look(120, World::unrest)
        .play()
}

/// Two replicas, and a wave that lasts a while.
fn leaders() -> Case {
    let slowly = |scenario: &mut Scenario| {
        scenario.replicas = 2;
        scenario.policies[0].max_nodes = 2;
    };
    Case::new(20).image(Supply::Served, secs(3)).edit(slowly)
}
