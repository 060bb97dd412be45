//! Digest lists, stored once for all nodes that hold the same.

/// A list of digests in [`DigestSets`]; the default is the empty list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetId(u16);

impl SetId {
    fn place(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// The distinct lists, counted so that those of bygone tags go.
#[derive(Debug, Default)]
pub(super) struct DigestSets {
    // Place 0 would be the empty list; ids are places plus one.
    sets: Vec<(Vec<String>, u32)>,
}

impl DigestSets {
    pub(super) fn intern(&mut self, digests: &[String]) -> SetId {
        if digests.is_empty() {
            return SetId::default();
        }
        let mut sorted = digests.to_vec();
        sorted.sort_unstable();
        let place = self
            .sets
            .iter()
            .position(|(set, users)| *users > 0 && *set == sorted)
            .or_else(|| self.sets.iter().position(|(_, users)| *users == 0));
        let place = place.unwrap_or_else(|| {
            self.sets.push((Vec::new(), 0));
            self.sets.len() - 1
        });
        // One list per node at the most, so the number of places is bounded by the cluster's size; past u16 the list is
        // forgotten, which makes the node "present with an unknown digest".
        let Ok(id) = u16::try_from(place + 1) else {
            return SetId::default();
        };
        if let Some((set, users)) = self.sets.get_mut(place) {
            *set = sorted;
            *users += 1;
        }
        SetId(id)
    }

    pub(super) fn release(&mut self, id: SetId) {
        if let Some((_, users)) = id.place().and_then(|place| self.sets.get_mut(place)) {
            *users = users.saturating_sub(1);
        }
    }

    pub(super) fn get(&self, id: SetId) -> &[String] {
        id.place()
            .and_then(|place| self.sets.get(place))
            .map_or(&[], |(set, _)| set.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_share_a_place_and_free_it() {
        let mut sets = DigestSets::default();
        let a = sets.intern(&["b".to_owned(), "a".to_owned()]);
        assert_eq!(a, sets.intern(&["a".to_owned(), "b".to_owned()]));
        let c = sets.intern(&["c".to_owned()]);
        assert_ne!(a, c);
        assert_eq!(sets.get(a), ["a", "b"]);
        sets.release(a);
        sets.release(a);
        assert_eq!(
            sets.intern(&["d".to_owned()]),
            a,
            "a place without users is used again"
        );
        assert_eq!(sets.get(SetId::default()), [""; 0]);
        assert_eq!(sets.intern(&[]), SetId::default());
    }
}
