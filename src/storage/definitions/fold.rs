//! The fold: what is defined after a sequence of definitions.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
    sync::Arc,
};

use crate::{
    amqp::Table,
    broker::{
        definition::{Binding, Definition},
        policy::PolicyKind,
        queue::QueueId,
    },
};

/// What is defined after a sequence of definitions. Bounded by it: what was deleted takes nothing.
///
/// A definition costs the same however much there is, and a deletion what goes with it. Things may lie in virtual
/// hosts, belong to users and be bound to exchanges that no definition made, for a broker has some by itself.
#[derive(Debug, Default)]
pub(in crate::storage) struct Definitions {
    next_id: u64,
    /// What tells of the last file that was loaded.
    loaded: Option<Definition>,
    users: BTreeMap<Arc<str>, Definition>,
    hosts: BTreeMap<Arc<str>, Host>,
    queues: BTreeMap<QueueId, Queue>,
    /// Global parameters, by name.
    globals: BTreeMap<Arc<str>, Definition>,
}

impl Definitions {
    /// Does what the definition says. The binding of a queue that there is not is left out, for the queue's deletion
    /// has taken it.
    pub(in crate::storage) fn apply(&mut self, definition: Definition) {
        use Definition as D;
        match definition {
            D::VirtualHostPut { ref name, .. } => {
                let host = self.host(name);
                host.put = Some(definition);
            }
            D::VirtualHostDescribed { ref name, .. } => {
                let host = self.host(name);
                host.described = Some(definition);
            }
            D::FileLoaded { .. } => self.loaded = Some(definition),
            D::VirtualHostDeleted { name } => self.delete_host(&name),
            D::UserPut(ref user) => drop(self.users.insert(Arc::clone(&user.name), definition)),
            D::UserDeleted { name } => self.delete_user(&name),
            D::PermissionPut { ref user, ref virtual_host, .. } => {
                let grants = self.host(virtual_host).grants(user);
                grants.permission = Some(definition);
            }
            D::PermissionDeleted { user, virtual_host } => {
                self.change_grants(&virtual_host, &user, |grants| grants.permission = None);
            }
            D::TopicPermissionPut { ref user, ref virtual_host, ref exchange, .. } => {
                let exchange = Arc::clone(exchange);
                self.host(virtual_host).grants(user).topics.insert(exchange, definition);
            }
            D::TopicPermissionDeleted { user, virtual_host, exchange } => {
                self.change_grants(&virtual_host, &user, |grants| drop(grants.topics.remove(&exchange)));
            }
            D::QueueDeclared { ref virtual_host, id, ref name, .. } => {
                let (host, name) = (Arc::clone(virtual_host), Arc::clone(name));
                self.declare_queue(id, Queue { host, name, declared: definition });
            }
            D::QueueDeleted { id } => self.delete_queue(id),
            D::ExchangeDeclared { ref virtual_host, ref name, .. } => {
                let name = Arc::clone(name);
                self.host(virtual_host).exchanges.insert(name, definition);
            }
            D::ExchangeDeleted { virtual_host, name } => {
                self.change_host(&virtual_host, |host| host.delete_exchange(name));
            }
            D::Bound(binding) => self.bind(binding),
            D::PolicyPut { ref virtual_host, ref policy } => {
                let key = (policy.kind, Arc::clone(&policy.name));
                self.host(virtual_host).policies.insert(key, definition);
            }
            D::PolicyDeleted { virtual_host, kind, name } => {
                self.change_host(&virtual_host, |host| drop(host.policies.remove(&(kind, name))));
            }
            D::ParameterPut(ref parameter) => {
                let key = (Arc::clone(&parameter.component), Arc::clone(&parameter.name));
                let host = Arc::clone(&parameter.virtual_host);
                self.host(&host).parameters.insert(key, definition);
            }
            D::ParameterDeleted { virtual_host, component, name } => {
                self.change_host(&virtual_host, |host| drop(host.parameters.remove(&(component, name))));
            }
            D::GlobalParameterPut { ref name, .. } => {
                self.globals.insert(Arc::clone(name), definition);
            }
            D::GlobalParameterDeleted { name } => drop(self.globals.remove(&name)),
            D::Unbound(binding) => {
                let host = Arc::clone(&binding.virtual_host);
                self.change_host(&host, |host| host.bindings.remove(binding));
            }
        }
    }

    /// A number above every identity of a queue that was ever named, deleted ones included, and not below what
    /// [`Definitions::raise_next_id`] has said.
    pub(in crate::storage) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Every identity below that one may have been a queue's, though no definition tells of it any more.
    pub(in crate::storage) fn raise_next_id(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    /// The queues that there are.
    pub(in crate::storage) fn queues(&self) -> impl ExactSizeIterator<Item = (QueueId, &Definition)> {
        self.queues.iter().map(|(id, queue)| (*id, &queue.declared))
    }

    /// The exchanges that definitions made: the virtual host and the name of each.
    pub(in crate::storage) fn exchanges(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.hosts.iter().flat_map(|(host, of_host)| of_host.exchanges.keys().map(move |name| (host, name)))
    }

    /// The shortest sequence that makes the same: each thing before what needs it, queues and the bindings of a virtual
    /// host in the order in which they were made.
    pub(in crate::storage) fn into_definitions(self) -> Vec<Definition> {
        let mut definitions = Vec::new();
        let (mut grants, mut policies) = (Vec::new(), Vec::new());
        let (mut exchanges, mut bindings) = (Vec::new(), Vec::new());
        let mut parameters: Vec<_> = self.globals.into_values().collect();
        for host in self.hosts.into_values() {
            definitions.extend(host.put);
            definitions.extend(host.described);
            for of_user in host.grants.into_values() {
                grants.extend(of_user.permission);
                grants.extend(of_user.topics.into_values());
            }
            policies.extend(host.policies.into_values());
            parameters.extend(host.parameters.into_values());
            exchanges.extend(host.exchanges.into_values());
            bindings.extend(host.bindings.into_sorted().map(Definition::Bound));
        }
        definitions.extend(self.users.into_values());
        definitions.append(&mut grants);
        definitions.append(&mut policies);
        definitions.append(&mut exchanges);
        definitions.extend(self.queues.into_values().map(|queue| queue.declared));
        definitions.append(&mut bindings);
        definitions.append(&mut parameters);
        definitions.extend(self.loaded);
        definitions
    }

    fn host(&mut self, name: &Arc<str>) -> &mut Host {
        if !self.hosts.contains_key(name) {
            self.hosts.insert(Arc::clone(name), Host::default());
        }
        self.hosts.get_mut(name).expect("invariant: it was inserted")
    }

    /// Changes a virtual host about which there is anything, and forgets it once there is nothing any more.
    fn change_host(&mut self, name: &str, change: impl FnOnce(&mut Host)) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        change(host);
        if host.is_empty() {
            self.hosts.remove(name);
        }
    }

    fn change_grants(&mut self, host: &str, user: &str, change: impl FnOnce(&mut Grants)) {
        self.change_host(host, |host| {
            let Some(grants) = host.grants.get_mut(user) else { return };
            change(grants);
            if grants.permission.is_none() && grants.topics.is_empty() {
                host.grants.remove(user);
            }
        });
    }

    fn delete_host(&mut self, name: &str) {
        let host = self.hosts.remove(name).unwrap_or_default();
        host.queues.values().for_each(|queue| drop(self.queues.remove(queue)));
    }

    fn delete_user(&mut self, name: &str) {
        self.users.remove(name);
        self.hosts.retain(|_, host| host.grants.remove(name).is_none() || !host.is_empty());
    }

    fn declare_queue(&mut self, id: QueueId, queue: Queue) {
        let named = self.hosts.get(&queue.host).and_then(|host| host.queues.get(&queue.name)).copied();
        if named != Some(id) {
            // If the one before was not deleted, that has been lost: there is one of a name, and one of an identity.
            named.into_iter().chain([id]).for_each(|before| self.delete_queue(before));
            self.host(&queue.host).queues.insert(Arc::clone(&queue.name), id);
        }
        self.queues.insert(id, queue);
    }

    fn delete_queue(&mut self, id: QueueId) {
        self.raise_next_id(id.0.saturating_add(1));
        if let Some(queue) = self.queues.remove(&id) {
            self.change_host(&queue.host, |host| {
                host.queues.remove(&queue.name);
                host.bindings.remove_destination(&Destination { is_exchange: false, name: queue.name });
            });
        }
    }

    fn bind(&mut self, mut binding: Binding) {
        let host = self.hosts.get(&binding.virtual_host);
        if binding.to_exchange || host.is_some_and(|host| host.queues.contains_key(&binding.destination)) {
            let host = self.hosts.entry(Arc::clone(&binding.virtual_host));
            binding.virtual_host = Arc::clone(host.key());
            host.or_default().bindings.insert(binding);
        }
    }
}

#[derive(Debug)]
struct Queue {
    host: Arc<str>,
    name: Arc<str>,
    declared: Definition,
}

/// What is defined in a virtual host.
#[derive(Debug, Default)]
struct Host {
    /// The definition of the host itself.
    put: Option<Definition>,
    /// What is said about it.
    described: Option<Definition>,
    /// By user.
    grants: BTreeMap<Arc<str>, Grants>,
    /// By kind and name.
    policies: BTreeMap<(PolicyKind, Arc<str>), Definition>,
    /// By component and name.
    parameters: BTreeMap<(Arc<str>, Arc<str>), Definition>,
    exchanges: BTreeMap<Arc<str>, Definition>,
    queues: HashMap<Arc<str>, QueueId>,
    bindings: Bindings,
}

impl Host {
    fn is_empty(&self) -> bool {
        self.put.is_none()
            && self.described.is_none()
            && self.grants.is_empty()
            && self.policies.is_empty()
            && self.parameters.is_empty()
            && self.exchanges.is_empty()
            && self.queues.is_empty()
            && self.bindings.is_empty()
    }

    fn grants(&mut self, user: &Arc<str>) -> &mut Grants {
        self.grants.entry(Arc::clone(user)).or_default()
    }

    fn delete_exchange(&mut self, name: Arc<str>) {
        self.exchanges.remove(&name);
        self.bindings.remove_source(&name);
        self.bindings.remove_destination(&Destination { is_exchange: true, name });
    }
}

/// What a user has in a virtual host.
#[derive(Debug, Default)]
struct Grants {
    permission: Option<Definition>,
    /// By exchange.
    topics: BTreeMap<Arc<str>, Definition>,
}

/// The bindings of a virtual host, to be found from both ends.
#[derive(Debug, Default)]
struct Bindings {
    by_destination: HashMap<Destination, Bound>,
    by_source: HashMap<Arc<str>, Bound>,
    /// How many were ever made.
    made: u64,
    hasher: RandomState,
}

type Bound = HashSet<Made, BuildHasherDefault<Known>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Destination {
    is_exchange: bool,
    name: Arc<str>,
}

impl Destination {
    fn of(binding: &Binding) -> Self {
        Self { is_exchange: binding.to_exchange, name: Arc::clone(&binding.destination) }
    }
}

impl Bindings {
    fn is_empty(&self) -> bool {
        self.by_destination.is_empty()
    }

    /// Adds a binding, unless it is there. Names that others have are shared with them.
    fn insert(&mut self, mut binding: Binding) {
        self.made += 1;
        let from = self.by_source.entry(Arc::clone(&binding.source));
        binding.source = Arc::clone(from.key());
        let to = self.by_destination.entry(Destination::of(&binding));
        binding.destination = Arc::clone(&to.key().name);
        let made = Made::new(binding, self.made, &self.hasher);
        if to.or_default().insert(made.clone()) {
            from.or_default().insert(made);
        }
    }

    fn remove(&mut self, binding: Binding) {
        let made = Made::new(binding, 0, &self.hasher);
        remove_from(&mut self.by_destination, &Destination::of(&made.shared.binding), &made);
        remove_from(&mut self.by_source, &made.shared.binding.source, &made);
    }

    fn remove_destination(&mut self, destination: &Destination) {
        for made in self.by_destination.remove(destination).unwrap_or_default() {
            remove_from(&mut self.by_source, &made.shared.binding.source, &made);
        }
    }

    fn remove_source(&mut self, source: &Arc<str>) {
        for made in self.by_source.remove(source).unwrap_or_default() {
            remove_from(&mut self.by_destination, &Destination::of(&made.shared.binding), &made);
        }
    }

    /// The bindings in the order in which they were made.
    fn into_sorted(self) -> impl Iterator<Item = Binding> {
        drop(self.by_source);
        let all = self.by_destination.into_values().flatten();
        let mut numbered: Vec<_> = all.map(|made| (made.shared.number, made.shared)).collect();
        numbered.sort_unstable_by_key(|(number, _)| *number);
        numbered.into_iter().map(|(_, shared)| Arc::unwrap_or_clone(shared).binding)
    }
}

fn remove_from<K: Eq + Hash>(ends: &mut HashMap<K, Bound>, end: &K, made: &Made) {
    let Some(bound) = ends.get_mut(end) else { return };
    bound.remove(made);
    if bound.is_empty() {
        ends.remove(end);
    } else if bound.len() < bound.capacity() / 8 {
        bound.shrink_to_fit();
    }
}

/// A binding that was made. It is the same as another with the same ends, key and arguments in any order.
#[derive(Clone, Debug)]
struct Made {
    /// Of all that makes it the same. Here, so that a set of many grows without a look at each.
    hash: u64,
    shared: Arc<Numbered>,
}

#[derive(Clone, Debug)]
struct Numbered {
    binding: Binding,
    number: u64,
    /// The arguments on the wire, sorted by name: their exact types count, and NaN is the same as itself.
    arguments: Box<[u8]>,
}

impl Made {
    fn new(binding: Binding, number: u64, hasher: &RandomState) -> Self {
        let arguments = sorted_octets(&binding.arguments).into_boxed_slice();
        let numbered = Numbered { binding, number, arguments };
        Self { hash: hasher.hash_one(numbered.same()), shared: Arc::new(numbered) }
    }
}

impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.shared.same() == other.shared.same()
    }
}

impl Eq for Made {}

impl Hash for Made {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Numbered {
    /// What makes it the same as another.
    fn same(&self) -> (bool, &str, &str, &str, &[u8]) {
        let Binding { to_exchange, destination, source, binding_key, .. } = &self.binding;
        (*to_exchange, destination, source, binding_key, &self.arguments)
    }
}

fn sorted_octets(arguments: &Table) -> Vec<u8> {
    let mut octets = Vec::new();
    if !arguments.0.is_empty() {
        let mut sorted = arguments.clone();
        sorted.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        sorted.encode(&mut octets);
    }
    octets
}

/// Takes a hash for what it is.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn write(&mut self, _octets: &[u8]) {
        unreachable!("a binding writes its hash");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
