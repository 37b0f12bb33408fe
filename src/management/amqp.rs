//! What a user does over HTTP that could as well be done over AMQP is done over AMQP, on a connection within the broker:
//! so permissions, limits, exclusive queues and the texts of errors are the same.

use std::{sync::Arc, time::Duration};

use super::{Shared, caller::Caller, error::ApiError};
use crate::{
    broker::vhost::VirtualHost,
    client::{Channel, ClientError, Connection, Options},
};

/// How long the broker may take for each answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A channel of a user's own, on a connection of its own. What was not settled goes back to its queue when it is dropped.
pub(super) struct UserChannel {
    /// The channel.
    pub(super) channel: Channel,
    /// It is open as long as this is there.
    connection: Connection,
}

impl UserChannel {
    /// Waits until the broker has done everything that it was told.
    pub(super) async fn close(self) -> Result<(), ClientError> {
        self.channel.close().await?;
        self.connection.close().await
    }
}

/// Opens a channel as the user who makes a request.
///
/// # Errors
/// 401 if the user may not connect to the virtual host.
pub(super) async fn open(api: &Shared, caller: &Caller, host: &VirtualHost) -> Result<UserChannel, ApiError> {
    if !caller.enters(api, &host.name) {
        return Err(ApiError::not_authorised("User not authorised to access virtual host"));
    }
    let stream = api.connect(Arc::clone(&caller.user));
    let message_bytes_max = api.broker.limits.message_bytes_max;
    let options = Options { message_bytes_max, timeout: TIMEOUT, ..Options::within(&host.name) };
    let connection = Connection::open(stream, &options).await.map_err(refused)?;
    let channel = connection.open_channel().await.map_err(refused)?;
    Ok(UserChannel { channel, connection })
}

/// The virtual host that a user changes something in.
///
/// # Errors
/// 404 if there is none, 401 if the user may not connect to it.
pub(super) fn host(api: &Shared, caller: &Caller, name: &str) -> Result<Arc<VirtualHost>, ApiError> {
    caller.own_host(api, name).map_err(|error| match error {
        ApiError::NotFound => ApiError::NoVirtualHost,
        other => other,
    })
}

/// What the API says where the broker has said no, but for what [`refused_in_full`] is for: the broker's words, without
/// the code and its name.
///
/// Deviation: where a permission is missing, RabbitMQ says no more than `Access refused.`
pub(super) fn refused(error: ClientError) -> ApiError {
    let Some((code, text)) = error.reply() else { return not_done(&error) };
    let words = text.split_once(" - ").map_or(text, |(_, words)| words).to_owned();
    match code {
        403 => ApiError::not_authorised(words),
        404 => ApiError::Missing(words),
        541 => ApiError::Unavailable(words),
        _ => ApiError::BadRequest(words),
    }
}

/// The same with code and name, as RabbitMQ does where messages are published and got.
pub(super) fn refused_in_full(error: &ClientError) -> ApiError {
    match error.reply() {
        Some((code, text)) => ApiError::BadRequest(format!("{code} {text}")),
        None => not_done(error),
    }
}

fn not_done(error: &ClientError) -> ApiError {
    match error {
        ClientError::TooLong(_) => ApiError::BadRequest(error.to_string()),
        _ => ApiError::Unavailable(error.to_string()),
    }
}
