//! `/api/bindings`, and the bindings of a queue or an exchange.
//!
//! Every queue is bound to the default exchange by its name: these bindings are listed, and can't be changed.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    amqp::Table,
    broker::{
        exchange::{Destination, Exchange},
        queue::QueueHandle,
        vhost::VirtualHost,
    },
    json::from_table,
    management::{
        Shared,
        amqp::{self, UserChannel},
        body::Fields,
        caller::Caller,
        error::ApiError,
        list::{ListQuery, Row},
        path::{Names, check_name, escaped, exchange_name},
    },
};

/// Octets of the hash that stands for the arguments of a binding.
const HASH_BYTES: usize = 6;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/bindings", get(list_all))
        .route("/bindings/{vhost}", get(list_in_host))
        .route("/bindings/{vhost}/", get(list_in_host))
        .route("/bindings/{vhost}/e/{source}/{kind}/{destination}", get(list_between).post(bind))
        .route("/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}", get(one).delete(unbind))
        .route("/queues/{vhost}/{queue}/bindings", get(list_of_queue))
        .route("/exchanges/{vhost}/{exchange}/bindings/{end}", get(list_of_exchange))
}

async fn list_all(caller: Caller, query: ListQuery, State(api): State<Shared>) -> Result<Response, ApiError> {
    let hosts = caller.visible_hosts(&api);
    listed(query, hosts.iter().flat_map(|host| all(host)).collect()).await
}

async fn list_in_host(
    caller: Caller,
    Names(host): Names<String>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    listed(query, all(&host)).await
}

/// The bindings of a queue. Its binding to the default exchange is there even if it is not, as in RabbitMQ.
async fn list_of_queue(
    caller: Caller,
    Names((host, queue)): Names<(String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let by_default = Binding::by_default(&host.name, Arc::from(queue.as_str()));
    let bindings = host.queue(&queue).map(|queue| to(&host, &Destination::Queue(queue)));
    listed(query, std::iter::once(by_default).chain(bindings.unwrap_or_default()).collect()).await
}

/// The bindings of which an exchange is the source, or the destination.
async fn list_of_exchange(
    caller: Caller,
    Names((host, exchange, end)): Names<(String, String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let exchange = host.exchange(exchange_name(&exchange));
    let bindings = match (end.as_str(), exchange) {
        ("source", Some(exchange)) => from(&host, &exchange),
        ("destination", Some(exchange)) => to(&host, &Destination::Exchange(exchange)),
        ("source" | "destination", None) => Vec::new(),
        _ => return Err(ApiError::NotFound),
    };
    listed(query, bindings).await
}

async fn list_between(
    caller: Caller,
    Names((host, source, kind, destination)): Names<(String, String, String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    listed(query, between(&host, exchange_name(&source), Kind::parse(&kind)?, &destination)).await
}

async fn one(
    caller: Caller,
    Names((host, source, kind, destination, key)): Names<(String, String, String, String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let bindings = between(&host, exchange_name(&source), Kind::parse(&kind)?, &destination);
    Ok(query.one(with_key(bindings, &key)?.to_json()))
}

async fn bind(
    caller: Caller,
    Names((host, source, kind, destination)): Names<(String, String, String, String)>,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (host, kind) = (amqp::host(&api, &caller, &host)?, Kind::parse(&kind)?);
    let binding = Binding {
        virtual_host: Arc::clone(&host.name),
        source: exchange_name(&source).into(),
        kind,
        destination: destination.into(),
        routing_key: routing_key(&fields)?,
        arguments: fields.table("arguments")?,
    };
    check_name("routing_key", &binding.routing_key)?;
    let mut user = amqp::open(&api, &caller, &host).await?;
    binding.bind(&mut user).await?;
    user.close().await.map_err(amqp::refused)?;
    let key = escaped(&binding.properties_key()).replace("%7E", "~");
    let location = format!("{}/{key}", escaped(&binding.destination));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

async fn unbind(
    caller: Caller,
    Names((host, source, kind, destination, key)): Names<(String, String, String, String, String)>,
    State(api): State<Shared>,
) -> Result<StatusCode, ApiError> {
    let host = amqp::host(&api, &caller, &host)?;
    let bindings = between(&host, exchange_name(&source), Kind::parse(&kind)?, &destination);
    let binding = with_key(bindings, &key)?;
    let mut user = amqp::open(&api, &caller, &host).await?;
    binding.unbind(&mut user).await?;
    user.close().await.map_err(amqp::refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// RabbitMQ does not page bindings.
async fn listed(query: ListQuery, bindings: Vec<Binding>) -> Result<Response, ApiError> {
    query.whole_list(bindings, Binding::to_json).await
}

/// The routing key of a request. RabbitMQ takes a number too.
fn routing_key(fields: &Fields) -> Result<String, ApiError> {
    match fields.get("routing_key") {
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Ok(fields.text("routing_key")?.unwrap_or_default().to_owned()),
    }
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Queue,
    Exchange,
}

impl Kind {
    /// Reads it from a path.
    fn parse(letter: &str) -> Result<Self, ApiError> {
        match letter {
            "q" => Ok(Self::Queue),
            "e" => Ok(Self::Exchange),
            _ => Err(ApiError::NotFound),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// A binding in a list.
#[derive(Debug)]
struct Binding {
    virtual_host: Arc<str>,
    source: Arc<str>,
    kind: Kind,
    destination: Arc<str>,
    routing_key: String,
    arguments: Table,
}

impl Binding {
    /// That of a queue to the default exchange.
    fn by_default(virtual_host: &Arc<str>, queue: Arc<str>) -> Self {
        Self {
            virtual_host: Arc::clone(virtual_host),
            source: "".into(),
            kind: Kind::Queue,
            routing_key: (*queue).to_owned(),
            destination: queue,
            arguments: Table::default(),
        }
    }

    fn new(source: &Exchange, to: &Destination, (key, arguments): (&str, &Table)) -> Self {
        let (kind, name) = match to {
            Destination::Queue(queue) => (Kind::Queue, &queue.name),
            Destination::Exchange(exchange) => (Kind::Exchange, &exchange.name),
        };
        Self {
            virtual_host: Arc::clone(&source.virtual_host),
            source: Arc::clone(&source.name),
            kind,
            destination: Arc::clone(name),
            routing_key: key.to_owned(),
            arguments: arguments.clone(),
        }
    }

    /// What tells it from the other bindings between the same two: the routing key as it is written in a path, `~` if it
    /// is empty, and a hash of the arguments if there are any.
    ///
    /// Deviation: the hash is another one than RabbitMQ's.
    fn properties_key(&self) -> String {
        let key = escaped(&self.routing_key).replace("%20", "+");
        if self.arguments.0.is_empty() {
            return if key.is_empty() { "~".to_owned() } else { key };
        }
        let mut octets = Vec::new();
        self.arguments.encode(&mut octets);
        let hash = Sha256::digest(&octets);
        format!("{key}~{}", BASE64_URL_SAFE_NO_PAD.encode(&hash[..HASH_BYTES]))
    }

    fn to_json(&self) -> Value {
        json!({
            "source": &*self.source,
            "vhost": &*self.virtual_host,
            "destination": &*self.destination,
            "destination_type": self.kind.name(),
            "routing_key": self.routing_key,
            "arguments": from_table(&self.arguments),
            "properties_key": self.properties_key(),
        })
    }

    async fn bind(&self, user: &mut UserChannel) -> Result<(), ApiError> {
        let (to, from, key, arguments) =
            (&self.destination, &self.source, &self.routing_key, &self.arguments);
        let done = match self.kind {
            Kind::Queue => user.channel.bind_queue(to, from, key, arguments).await,
            Kind::Exchange => user.channel.bind_exchange(to, from, key, arguments).await,
        };
        done.map_err(amqp::refused)
    }

    async fn unbind(&self, user: &mut UserChannel) -> Result<(), ApiError> {
        let (to, from, key, arguments) =
            (&self.destination, &self.source, &self.routing_key, &self.arguments);
        let done = match self.kind {
            Kind::Queue => user.channel.unbind_queue(to, from, key, arguments).await,
            Kind::Exchange => user.channel.unbind_exchange(to, from, key, arguments).await,
        };
        done.map_err(amqp::refused)
    }
}

impl Row for Binding {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    /// By what bindings are sorted.
    fn name(&self) -> Cow<'_, str> {
        let (kind, key) = (self.kind.name(), &self.routing_key);
        format!("{}\0{kind}\0{}\0{key}", self.source, self.destination).into()
    }

    fn column(&self, column: &str) -> Option<Value> {
        Some(match column {
            "source" => Value::from(&*self.source),
            "destination" => Value::from(&*self.destination),
            "destination_type" => Value::from(self.kind.name()),
            "routing_key" => Value::from(self.routing_key.as_str()),
            _ => return None,
        })
    }
}

/// All bindings of a virtual host.
fn all(host: &VirtualHost) -> Vec<Binding> {
    host.exchanges().iter().flat_map(|exchange| from(host, exchange)).collect()
}

/// Those from an exchange.
fn from(host: &VirtualHost, source: &Exchange) -> Vec<Binding> {
    if source.is_default() {
        let queues = host.queues().into_iter().filter(|queue| !queue.delays);
        return queues.map(|queue| Binding::by_default(&host.name, Arc::clone(&queue.name))).collect();
    }
    // The lock is taken for each destination, for messages are routed under it too.
    let destinations: Vec<Destination> = source.read_bindings().destinations().cloned().collect();
    destinations.iter().flat_map(|destination| pair(source, destination)).collect()
}

/// Those to a queue or an exchange, but for that from the default exchange.
fn to(host: &VirtualHost, destination: &Destination) -> Vec<Binding> {
    let sources = host.sources_of(destination);
    sources.iter().flat_map(|source| pair(source, destination)).collect()
}

fn pair(source: &Exchange, destination: &Destination) -> Vec<Binding> {
    let bindings = source.read_bindings();
    bindings.to(destination).map(|binding| Binding::new(source, destination, binding)).collect()
}

/// Those between the two of these names; none if one of them is not there.
fn between(host: &VirtualHost, source: &str, kind: Kind, destination: &str) -> Vec<Binding> {
    let Some(source) = host.exchange(source) else { return Vec::new() };
    let queue = || host.queue(destination).filter(|queue: &Arc<QueueHandle>| !queue.delays);
    let destination = match kind {
        Kind::Queue if source.is_default() => {
            let by_default =
                |queue: Arc<QueueHandle>| Binding::by_default(&host.name, Arc::clone(&queue.name));
            return queue().map(by_default).into_iter().collect();
        }
        Kind::Queue => queue().map(Destination::Queue),
        Kind::Exchange => host.exchange(destination).map(Destination::Exchange),
    };
    destination.map(|destination| pair(&source, &destination)).unwrap_or_default()
}

/// The one with that key, which may be as it is listed or as it is without its escapes.
///
/// # Errors
/// 404 if there is none.
fn with_key(bindings: Vec<Binding>, key: &str) -> Result<Binding, ApiError> {
    let plain = |key: &str| percent_decode_str(key).decode_utf8_lossy().into_owned();
    let keys: Vec<String> = bindings.iter().map(Binding::properties_key).collect();
    let exact = keys.iter().position(|known| known == key);
    let place = exact.or_else(|| keys.iter().position(|known| known != "~" && plain(known) == plain(key)));
    place.and_then(|place| bindings.into_iter().nth(place)).ok_or(ApiError::NotFound)
}
