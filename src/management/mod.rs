//! HTTP: the management API as RabbitMQ's users know it, the web page, and metrics.
//!
//! One file for each kind of resource, named as its path. A handler reads snapshots of the broker, or calls the methods
//! that a session calls; what a user may do over AMQP it does over AMQP, by a connection within the broker
//! ([`Api::connect`]), so that permissions, limits and errors are the same.

mod amqp;
mod api;
mod body;
mod caller;
pub(crate) mod definitions;
mod durable;
mod error;
mod list;
mod message;
mod metrics;
mod page;
mod path;
mod process;
mod rates;
mod sampler;
mod time;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
};
use tokio::io::DuplexStream;

use self::rates::Rates;
pub(crate) use self::sampler::sample;
use crate::{
    broker::{Broker, Now, user::User},
    config::Config,
    server::{Clock, Connections, Tls},
    shovel::Shovels,
};

/// What every handler has.
#[derive(Debug)]
pub(crate) struct Api {
    /// The broker.
    pub(crate) broker: Arc<Broker>,
    /// What it was started with.
    pub(crate) config: Arc<Config>,
    /// Where it listens.
    pub(crate) listeners: Vec<Listening>,
    /// When it was started.
    pub(crate) started: Now,
    /// How figures change.
    rates: Rates,
    /// The broker's certificates, if it has any.
    pub(crate) tls: Option<Arc<Tls>>,
    /// How the shovels are.
    pub(crate) shovels: Arc<Shovels>,
    clock: Clock,
    connections: Connections,
}

/// A listener, for those who ask what there is.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    /// RabbitMQ's name of what is spoken: `amqp`, `amqp/ssl`, `http`, `https`, `http/prometheus`, `https/prometheus`.
    pub(crate) protocol: &'static str,
    /// Where.
    pub(crate) address: SocketAddr,
}

/// How handlers get at it.
type Shared = Arc<Api>;

impl Api {
    /// What the handlers of a broker share.
    pub(crate) fn new(
        broker: Arc<Broker>,
        config: Arc<Config>,
        listeners: Vec<Listening>,
        clock: Clock,
        connections: Connections,
        tls: Option<Arc<Tls>>,
        shovels: Arc<Shovels>,
    ) -> Self {
        let (started, rates) = (clock.now(), Rates::default());
        Self { broker, config, listeners, started, tls, rates, shovels, clock, connections }
    }

    /// The time.
    fn now(&self) -> Now {
        self.clock.now()
    }

    /// The name of the node, which is what RabbitMQ's tools show beside everything.
    fn node(&self) -> &str {
        &self.broker.identity.cluster_name
    }

    /// The octets of a connection within the broker, as that user: AMQP, in which any login is taken for that user's.
    fn connect(&self, user: Arc<User>) -> DuplexStream {
        self.connections.connect_internally(user)
    }
}

/// Everything on the management port: API and page.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let challenge = middleware::from_fn(page::without_challenge);
    let api_routes = Router::new().nest("/api", api::routes()).layer(challenge);
    let routes = api_routes.merge(page::routes()).with_state(api);
    Router::new().fallback_service(routes).layer(middleware::from_fn(without_trailing_slashes))
}

/// Takes slashes off the end of a path of the API. RabbitMQ takes one off; Flower, for the virtual host `/`, sends two.
async fn without_trailing_slashes(mut request: Request, next: Next) -> Response {
    let uri = request.uri();
    let path = uri.path().trim_end_matches('/');
    if path.starts_with("/api/") && path.len() < uri.path().len() {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(uri) = format!("{path}{query}").parse() {
            *request.uri_mut() = uri;
        }
    }
    next.run(request).await
}

/// Everything on the port for metrics.
pub(crate) fn metrics_router(api: Arc<Api>) -> Router {
    metrics::routes().with_state(api)
}
