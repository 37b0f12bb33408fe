//! Who makes a request: HTTP Basic credentials of a user of the broker, and what the user's tags allow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{header, request::Parts},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tracing::warn;

use super::{Shared, error::ApiError};
use crate::broker::{
    login::LoginRefused,
    user::{AuthFailure, User},
    vhost::VirtualHost,
};

/// The user who makes a request. As an argument of a handler it lets in who has logged in and has a tag of the
/// management.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) user: Arc<User>,
}

/// The tags that let in, from the least to the most; a later one has what an earlier one has (RabbitMQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    /// Sees what is the user's own, and the virtual hosts that the user may use.
    Management,
    /// Manages policies and parameters there, too.
    Policymaker,
    /// Sees everything.
    Monitoring,
    /// Does everything.
    Administrator,
}

impl Tag {
    fn name(self) -> &'static str {
        match self {
            Self::Management => "management",
            Self::Policymaker => "policymaker",
            Self::Monitoring => "monitoring",
            Self::Administrator => "administrator",
        }
    }
}

impl Caller {
    async fn with(tag: Tag, parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let caller = Self::from_request_parts(parts, api).await?;
        caller.require(tag)?;
        Ok(caller)
    }

    /// Whether the user has that tag, or one that has what it has. `monitoring` and `policymaker` do not have each other's.
    pub(super) fn has(&self, tag: Tag) -> bool {
        let tags: &[Tag] = match tag {
            Tag::Management => &[Tag::Management, Tag::Policymaker, Tag::Monitoring, Tag::Administrator],
            Tag::Policymaker => &[Tag::Policymaker, Tag::Administrator],
            Tag::Monitoring => &[Tag::Monitoring, Tag::Administrator],
            Tag::Administrator => &[Tag::Administrator],
        };
        tags.iter().any(|tag| self.user.has_tag(tag.name()))
    }

    /// # Errors
    /// 401 if the user does not have that tag, nor one that has what it has.
    pub(super) fn require(&self, tag: Tag) -> Result<(), ApiError> {
        if self.has(tag) {
            return Ok(());
        }
        Err(ApiError::not_authorised(match tag {
            Tag::Administrator => "Not administrator user",
            Tag::Monitoring => "Not monitor user",
            Tag::Policymaker => "User not authorised to access object",
            Tag::Management => "Not management user",
        }))
    }

    /// Whether the user is shown what is in a virtual host: it may connect there, or sees everything.
    ///
    /// Deviation: RabbitMQ 3.10 shows a user with the tag `monitoring` the queues of all virtual hosts, but not those of
    /// one that it may not connect to.
    pub(super) fn sees(&self, api: &Shared, virtual_host: &str) -> bool {
        self.has(Tag::Monitoring) || self.enters(api, virtual_host)
    }

    /// Whether the user may connect to a virtual host.
    pub(super) fn enters(&self, api: &Shared, virtual_host: &str) -> bool {
        api.broker.permissions.vhost_access(&self.user.name, virtual_host)
    }

    /// The virtual host of a path, for who looks at what is in it.
    ///
    /// # Errors
    /// 404 if there is none, 401 if the user is not shown it.
    pub(super) fn visible_host(&self, api: &Shared, name: &str) -> Result<Arc<VirtualHost>, ApiError> {
        let host = api.broker.virtual_host(name).ok_or(ApiError::NotFound)?;
        if self.sees(api, name) { Ok(host) } else { Err(not_this_host()) }
    }

    /// The virtual host of a path, for who changes what is in it. What else that needs (over AMQP, permissions) is to be
    /// checked too.
    ///
    /// # Errors
    /// 404 if there is none, 401 if the user is no administrator and may not connect to it.
    pub(super) fn own_host(&self, api: &Shared, name: &str) -> Result<Arc<VirtualHost>, ApiError> {
        let host = api.broker.virtual_host(name).ok_or(ApiError::NotFound)?;
        let may = self.has(Tag::Administrator) || self.enters(api, name);
        if may { Ok(host) } else { Err(not_this_host()) }
    }

    /// The virtual hosts that the user is shown, by name.
    pub(super) fn visible_hosts(&self, api: &Shared) -> Vec<Arc<VirtualHost>> {
        let mut hosts = api.broker.virtual_hosts();
        hosts.retain(|host| self.sees(api, &host.name));
        hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        hosts
    }
}

/// 401 for a virtual host that the user is not shown.
fn not_this_host() -> ApiError {
    ApiError::not_authorised("User not authorised to access virtual host")
}

/// A caller who is an administrator. As an argument of a handler before the body it keeps the body of anybody else from being
/// read.
#[derive(Clone, Debug)]
pub(super) struct Administrator(pub(super) Caller);

impl FromRequestParts<Shared> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        Caller::with(Tag::Administrator, parts, api).await.map(Self)
    }
}

/// The same for who may set policies and parameters.
#[derive(Clone, Debug)]
pub(super) struct Policymaker(pub(super) Caller);

impl FromRequestParts<Shared> for Policymaker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        Caller::with(Tag::Policymaker, parts, api).await.map(Self)
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let (name, password) = credentials(parts).ok_or(ApiError::Unauthorized("Login failed"))?;
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        // Who can't be told apart comes from nowhere in particular, which is not this machine.
        let from = from.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(address)| address.ip());
        let user = match api.broker.log_in(&name, &password, from, api.now()) {
            Ok(user) => user,
            Err(LoginRefused { failure, wait_ms }) => {
                warn!(peer = %from, "HTTP login refused: {failure}");
                return Err(match failure {
                    AuthFailure::TooManyFailures(_) => {
                        ApiError::TooManyAttempts { wait_secs: wait_ms.div_ceil(1000) }
                    }
                    _ => ApiError::Unauthorized("Login failed"),
                });
            }
        };
        let caller = Self { user };
        caller.require(Tag::Management)?;
        Ok(caller)
    }
}

/// The name and password of the header `Authorization`.
fn credentials(parts: &Parts) -> Option<(String, Vec<u8>)> {
    let header = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded =
        BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|octet| *octet == b':')?;
    Some((String::from_utf8(decoded[..colon].to_vec()).ok()?, decoded[colon + 1..].to_vec()))
}
