//! What the cluster declares: every resource seen, and which of those that claim one service id stands for it.
//!
//! Pure. The watch tells it of changes and gets back whom they concern. Resources are kept as documents, not as the custom
//! resource's type: one that this version cannot read must not hide the others, as it would in a typed watch.

use crds::Document;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use tiebar::id::ServiceId;

/// A resource's place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A status as last seen, as text: a tree takes six times the memory, for every resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StatusText(Box<str>);

impl StatusText {
    /// None and null are the same: no status.
    pub(crate) fn of(status: Option<&Value>) -> Self {
        let status = status.filter(|status| !status.is_null());
        Self(status.map(Value::to_string).unwrap_or_default().into())
    }

    /// Null when there is none.
    pub(crate) fn read(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A resource as read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declared {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) created: Timestamp,
    pub(crate) generation: i64,
    /// Rises with every change of the resource.
    pub(crate) version: u64,
    /// None when the name cannot be one.
    pub(crate) id: Option<ServiceId>,
    /// The document, or what is wrong with it.
    pub(crate) document: Result<Arc<Document>, String>,
    pub(crate) status: StatusText,
}

/// Whom a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Ids to be programmed.
    pub(crate) ids: BTreeSet<ServiceId>,
    /// Resources whose status somebody else changed, or that are gone.
    pub(crate) reports: BTreeSet<Key>,
}

/// The oldest first; of one age, by name.
type Claimant = (Timestamp, Key);

#[derive(Debug, Default)]
pub(crate) struct World {
    declared: HashMap<Key, Declared>,
    claims: HashMap<ServiceId, BTreeSet<Claimant>>,
    /// Ids that nobody declared for a moment: what they held then must not come back with the next resource.
    vacated: HashSet<ServiceId>,
    /// Per watch: what was listed so far while it lists, and whether it ever finished.
    lists: Vec<List>,
}

#[derive(Debug, Default)]
struct List {
    listing: Option<HashSet<Key>>,
    done: bool,
}

impl World {
    /// A world seen through so many watches.
    pub(crate) fn new(watches: usize) -> Self {
        Self {
            lists: (0..watches).map(|_| List::default()).collect(),
            ..Self::default()
        }
    }

    /// A watch begins a list.
    pub(crate) fn begin(&mut self, watch: usize) {
        self.lists[watch].listing = Some(HashSet::new());
    }

    /// A list is complete: what it should have held and did not is gone.
    pub(crate) fn end(&mut self, watch: usize, covers: impl Fn(&Key) -> bool) -> Touched {
        let listed = self.lists[watch].listing.take().unwrap_or_default();
        self.lists[watch].done = true;
        let is_gone = |key: &&Key| covers(key) && !listed.contains(*key);
        let gone: Vec<Key> = self.declared.keys().filter(is_gone).cloned().collect();
        let mut touched = Touched::default();
        for key in gone {
            let removed = self.remove(&key);
            touched.ids.extend(removed.ids);
            touched.reports.extend(removed.reports);
        }
        touched
    }

    /// Every watch finished a list and none is in the middle of one: what is not here does not exist.
    pub(crate) fn is_complete(&self) -> bool {
        self.lists.iter().all(|list| list.done && list.listing.is_none())
    }

    /// Every watch finished a list once.
    pub(crate) fn was_complete(&self) -> bool {
        self.lists.iter().all(|list| list.done)
    }

    /// A resource as it is now.
    pub(crate) fn apply(&mut self, watch: usize, declared: Declared) -> Touched {
        if let Some(listing) = &mut self.lists[watch].listing {
            listing.insert(declared.key.clone());
        }
        let mut touched = Touched::default();
        let before = self.declared.get(&declared.key);
        if let Some(before) = before {
            let listing = self.lists[watch].listing.is_some();
            if !listing && before.uid == declared.uid && declared.version > 0 && before.version >= declared.version {
                // Older than what a write of our own returned. (A list is believed: a restored cluster counts anew.)
                return touched;
            }
            let same = before.uid == declared.uid
                && before.generation == declared.generation
                && before.document == declared.document;
            if same {
                if before.status != declared.status {
                    touched.reports.insert(declared.key.clone());
                }
                self.declared.insert(declared.key.clone(), declared);
                return touched;
            }
            if before.uid != declared.uid || before.id != declared.id {
                touched.ids.extend(self.remove(&declared.key.clone()).ids);
            }
        }
        match &declared.id {
            Some(id) => {
                let claimants = self.claims.entry(id.clone()).or_default();
                claimants.insert((declared.created, declared.key.clone()));
                touched.ids.insert(id.clone());
            }
            None => {
                touched.reports.insert(declared.key.clone());
            }
        }
        self.declared.insert(declared.key.clone(), declared);
        touched
    }

    /// A resource is gone.
    pub(crate) fn remove(&mut self, key: &Key) -> Touched {
        let mut touched = Touched::default();
        let Some(gone) = self.declared.remove(key) else {
            return touched;
        };
        if let Some(id) = gone.id {
            if let Some(claimants) = self.claims.get_mut(&id) {
                claimants.remove(&(gone.created, gone.key));
                if claimants.is_empty() {
                    self.claims.remove(&id);
                    self.vacated.insert(id.clone());
                }
            }
            touched.ids.insert(id);
        }
        touched.reports.insert(key.clone());
        touched
    }

    /// Takes note of what a write of our own returned.
    pub(crate) fn wrote(&mut self, key: &Key, uid: &str, version: u64, status: StatusText) {
        if let Some(declared) = self.declared.get_mut(key)
            && declared.uid == uid
            && declared.version < version
        {
            declared.version = version;
            declared.status = status;
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Declared> {
        self.declared.get(key)
    }

    /// Who stands for an id.
    pub(crate) fn winner(&self, id: &ServiceId) -> Option<&Declared> {
        let (_, key) = self.claims.get(id)?.first()?;
        self.declared.get(key)
    }

    /// Everyone who claims an id.
    pub(crate) fn claimants(&self, id: &ServiceId) -> Vec<Key> {
        let claimants = self.claims.get(id);
        claimants.map_or_else(Vec::new, |list| list.iter().map(|(_, key)| key.clone()).collect())
    }

    pub(crate) fn ids(&self) -> Vec<ServiceId> {
        self.claims.keys().cloned().collect()
    }

    pub(crate) fn declared(&self) -> impl Iterator<Item = &Declared> {
        self.declared.values()
    }

    /// Whether nobody declared the id for a moment since [`Self::reburied`].
    pub(crate) fn is_vacated(&self, id: &ServiceId) -> bool {
        self.vacated.contains(id)
    }

    /// Leaves what was vacated to whoever led then; the ids.
    pub(crate) fn take_vacated(&mut self) -> HashSet<ServiceId> {
        std::mem::take(&mut self.vacated)
    }

    /// What the id held when it was vacated is buried.
    pub(crate) fn reburied(&mut self, id: &ServiceId) {
        self.vacated.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, created: i64, version: u64) -> Declared {
        let text = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: a, namespace: shop}\n";
        let document = crds::parse_documents(text).remove(0).unwrap();
        Declared {
            key: key(name),
            uid: format!("{name}{created}"),
            created: Timestamp::from_second(created).unwrap(),
            generation: 1,
            version,
            id: Some(document.id.clone()),
            document: Ok(Arc::new(document)),
            status: StatusText::default(),
        }
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn id() -> ServiceId {
        ServiceId::parse("shop/a").unwrap()
    }

    #[test]
    fn the_oldest_stands_for_the_id_and_the_next_is_promoted() {
        let mut world = World::new(1);
        world.apply(0, declared("young", 2, 1));
        assert_eq!(world.winner(&id()).unwrap().key, key("young"));
        let touched = world.apply(0, declared("old", 1, 2));
        assert_eq!(touched.ids, BTreeSet::from([id()]));
        assert_eq!(world.winner(&id()).unwrap().key, key("old"));
        assert_eq!(world.claimants(&id()), [key("old"), key("young")]);
        world.remove(&key("old"));
        assert_eq!(world.winner(&id()).unwrap().key, key("young"));
        assert!(!world.is_vacated(&id()), "somebody declared it all the time");
        world.remove(&key("young"));
        assert!(world.winner(&id()).is_none() && world.is_vacated(&id()));
    }

    #[test]
    fn of_one_age_the_name_decides() {
        let mut world = World::new(1);
        world.apply(0, declared("b", 1, 1));
        world.apply(0, declared("a", 1, 2));
        assert_eq!(world.winner(&id()).unwrap().key, key("a"));
    }

    #[test]
    fn an_own_status_write_concerns_nobody_and_a_foreign_one_the_report() {
        let mut world = World::new(1);
        world.apply(0, declared("a", 1, 1));
        let status = StatusText::of(Some(&serde_json::json!({"state": "Open"})));
        world.wrote(&key("a"), "a1", 5, status.clone());
        let mut seen = declared("a", 1, 5);
        seen.status = status;
        assert_eq!(world.apply(0, seen.clone()), Touched::default());
        seen.version = 3;
        seen.status = StatusText::default();
        assert_eq!(world.apply(0, seen.clone()), Touched::default(), "an older event");
        seen.version = 6;
        assert_eq!(world.apply(0, seen).reports, BTreeSet::from([key("a")]));
    }

    #[test]
    fn a_resource_made_anew_leaves_nothing_of_the_one_before() {
        let mut world = World::new(1);
        world.apply(0, declared("a", 1, 1));
        world.apply(0, declared("a", 7, 2));
        assert!(world.is_vacated(&id()));
        assert_eq!(world.winner(&id()).unwrap().uid, "a7");
        world.reburied(&id());
        assert!(!world.is_vacated(&id()));
    }

    #[test]
    fn only_a_complete_list_tells_what_is_gone() {
        let mut world = World::new(2);
        world.apply(0, declared("a", 1, 1));
        assert!(!world.is_complete());
        world.begin(0);
        assert_eq!(world.end(0, |_| true).ids, BTreeSet::from([id()]));
        assert!(!world.is_complete(), "the other watch has not listed");
        world.begin(1);
        world.apply(1, declared("b", 1, 2));
        assert_eq!(world.end(1, |_| true), Touched::default());
        assert!(world.is_complete());
        world.begin(1);
        assert!(!world.is_complete() && world.was_complete());
    }
}
