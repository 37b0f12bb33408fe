//! Parameters: what operators set for a component of the broker, such as a shovel, as JSON (RabbitMQ: runtime
//! parameters). Those of a virtual host go with it; global ones belong to nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use serde_json::Value;

/// The component whose parameters are shovels.
pub const SHOVEL: &str = "shovel";

/// How many parameters there may be, those of all virtual hosts and global ones.
pub const PARAMETERS_MAX: usize = 10_000;

/// The largest value of a parameter, in octets of JSON: with [`PARAMETERS_MAX`], what all of them may take.
pub const VALUE_BYTES_MAX: usize = 16 << 10;

/// A parameter of a virtual host. Printed for debugging it does not show its value, which may have passwords.
#[derive(Clone, PartialEq)]
pub struct Parameter {
    /// The virtual host.
    pub virtual_host: Arc<str>,
    /// What it is for.
    pub component: Arc<str>,
    /// Its name, of those of its component in its virtual host.
    pub name: Arc<str>,
    /// What it says.
    pub value: Value,
    /// The user who has set it, if one has: what the component does within the broker it does as that user.
    pub set_by: Option<Arc<str>>,
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { virtual_host, component, name, .. } = self;
        write!(f, "Parameter {{ {component} {name:?} of {virtual_host:?}, .. }}")
    }
}

/// A value that is not shown in logs.
#[derive(Clone, PartialEq)]
pub struct Hidden(pub Arc<Value>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// There are [`PARAMETERS_MAX`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {PARAMETERS_MAX} parameters already; delete some")]
pub struct TooManyParameters;

/// The value of a parameter is too large: so many octets of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value has {0} bytes as JSON, and may have {VALUE_BYTES_MAX}")]
pub struct ValueTooLarge(usize);

/// # Errors
/// If the value is too large for a parameter.
pub fn check_value(value: &Value) -> Result<(), ValueTooLarge> {
    match value.to_string().len() {
        ..=VALUE_BYTES_MAX => Ok(()),
        bytes => Err(ValueTooLarge(bytes)),
    }
}

/// All parameters. They may change while the broker runs.
#[derive(Debug, Default)]
pub struct Parameters {
    inner: RwLock<Inner>,
    generation: AtomicU64,
    /// Who is woken when one changes.
    waker: Mutex<Option<Waker>>,
}

#[derive(Debug, Default)]
struct Inner {
    hosts: BTreeMap<Arc<str>, OfHost>,
    globals: BTreeMap<Arc<str>, Hidden>,
}

/// By component and name.
type OfHost = BTreeMap<(Arc<str>, Arc<str>), Arc<Parameter>>;

impl Parameters {
    /// Those of all virtual hosts, by virtual host, component and name.
    pub fn list(&self) -> Vec<Arc<Parameter>> {
        self.read().hosts.values().flat_map(|of_host| of_host.values().cloned()).collect()
    }

    /// Those of a component in all virtual hosts.
    pub fn of_component(&self, component: &str) -> Vec<Arc<Parameter>> {
        let mut list = self.list();
        list.retain(|parameter| *parameter.component == *component);
        list
    }

    /// That one.
    pub fn get(&self, virtual_host: &str, component: &str, name: &str) -> Option<Arc<Parameter>> {
        self.read().hosts.get(virtual_host)?.get(&key(component, name)).cloned()
    }

    /// The global ones, by name.
    pub fn globals(&self) -> Vec<(Arc<str>, Arc<Value>)> {
        let globals = &self.read().globals;
        globals.iter().map(|(name, value)| (Arc::clone(name), Arc::clone(&value.0))).collect()
    }

    /// The global one of that name.
    pub fn global(&self, name: &str) -> Option<Arc<Value>> {
        self.read().globals.get(name).map(|value| Arc::clone(&value.0))
    }

    /// A number that grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Has that task woken at the next change. To miss none, look at [`Parameters::generation`] after this.
    pub fn set_waker(&self, waker: &Waker) {
        let mut current = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *current {
            Some(current) => current.clone_from(waker),
            None => *current = Some(waker.clone()),
        }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.read();
        let of_hosts: usize = inner.hosts.values().map(BTreeMap::len).sum();
        of_hosts + inner.globals.len() < PARAMETERS_MAX
    }

    pub(super) fn put(&self, parameter: Arc<Parameter>) {
        self.change(|inner| {
            let of_host = inner.hosts.entry(Arc::clone(&parameter.virtual_host)).or_default();
            let key = (Arc::clone(&parameter.component), Arc::clone(&parameter.name));
            of_host.insert(key, parameter);
        });
    }

    pub(super) fn remove(&self, virtual_host: &str, component: &str, name: &str) {
        self.change(|inner| {
            if let Some(of_host) = inner.hosts.get_mut(virtual_host) {
                of_host.remove(&key(component, name));
                if of_host.is_empty() {
                    inner.hosts.remove(virtual_host);
                }
            }
        });
    }

    pub(super) fn put_global(&self, name: &Arc<str>, value: Hidden) {
        self.change(|inner| inner.globals.insert(Arc::clone(name), value));
    }

    pub(super) fn remove_global(&self, name: &str) {
        self.change(|inner| inner.globals.remove(name));
    }

    /// Forgets those of a virtual host that is deleted.
    pub(super) fn remove_virtual_host(&self, name: &str) {
        self.change(|inner| inner.hosts.remove(name));
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
        self.generation.fetch_add(1, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        waker.into_iter().for_each(Waker::wake);
    }
}

fn key(component: &str, name: &str) -> (Arc<str>, Arc<str>) {
    (component.into(), name.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(virtual_host: &str, name: &str) -> Arc<Parameter> {
        Arc::new(Parameter {
            virtual_host: virtual_host.into(),
            component: SHOVEL.into(),
            name: name.into(),
            value: json!({"src-uri": "amqp://ann:secret@host"}),
            set_by: None,
        })
    }

    #[test]
    fn values_are_not_printed() {
        assert_eq!(format!("{:?}", parameter("/", "s")), "Parameter { shovel \"s\" of \"/\", .. }");
        assert_eq!(format!("{:?}", Hidden(Arc::new(json!("secret")))), "..");
    }

    #[test]
    fn those_of_a_virtual_host_go_with_it() {
        let parameters = Parameters::default();
        parameters.put(parameter("a", "1"));
        parameters.put(parameter("b", "1"));
        let generation = parameters.generation();
        parameters.remove_virtual_host("a");
        assert_eq!(parameters.list(), [parameter("b", "1")]);
        assert!(parameters.generation() > generation);
        assert!(parameters.get("a", SHOVEL, "1").is_none() && parameters.get("b", SHOVEL, "1").is_some());
    }
}
