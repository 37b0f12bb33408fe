//! The messages of a queue: getting them, and those that clients have and have not settled.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::{
    broker::queue::UnackedMessage,
    client::{Channel, ClientError, Got},
    json::text,
    management::{
        Api, Shared,
        amqp::{self, UserChannel},
        body::Fields,
        caller::Caller,
        error::ApiError,
        message::{PayloadEncoding, properties_to},
        path::Names,
    },
};

/// Octets of payloads and properties in one answer. The first message is in it whatever its size.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Messages in one answer.
const MESSAGES_MAX: usize = 100_000;

/// Unacked messages in one answer.
const UNACKED_MAX: usize = 1000;

/// What becomes of the messages that were got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckMode {
    /// They go back to the queue.
    AckRequeueTrue,
    /// They are gone.
    AckRequeueFalse,
    /// They are rejected, one by one, and go back.
    RejectRequeueTrue,
    /// They are rejected: dead-lettered, or gone.
    RejectRequeueFalse,
}

impl AckMode {
    /// Reads `ackmode`, or `requeue` as RabbitMQ up to 3.6 had it.
    fn parse(fields: &Fields) -> Result<Self, ApiError> {
        if fields.get("ackmode").is_none() && fields.get("requeue").is_some() {
            let requeues = fields.flag("requeue")?.unwrap_or(true);
            return Ok(if requeues { Self::AckRequeueTrue } else { Self::AckRequeueFalse });
        }
        fields.require(&["ackmode", "count", "encoding"])?;
        match fields.get("ackmode").and_then(Value::as_str) {
            Some("ack_requeue_true") => Ok(Self::AckRequeueTrue),
            Some("ack_requeue_false") => Ok(Self::AckRequeueFalse),
            Some("reject_requeue_true") => Ok(Self::RejectRequeueTrue),
            Some("reject_requeue_false") => Ok(Self::RejectRequeueFalse),
            _ => Err(ApiError::bad_request(
                "ackmode should be one of ack_requeue_true, ack_requeue_false, reject_requeue_true, reject_requeue_false",
            )),
        }
    }

    async fn settle(self, channel: &mut Channel, tags: &[u64]) -> Result<(), ClientError> {
        let Some(last) = tags.last() else { return Ok(()) };
        match self {
            Self::AckRequeueTrue => channel.nack(*last, true, true).await,
            Self::AckRequeueFalse => channel.ack(*last, true).await,
            Self::RejectRequeueTrue | Self::RejectRequeueFalse => {
                for tag in tags {
                    channel.reject(*tag, self == Self::RejectRequeueTrue).await?;
                }
                Ok(())
            }
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
struct GetRequest {
    count: usize,
    mode: AckMode,
    encoding: PayloadEncoding,
    /// Octets of each payload that are shown.
    truncate: Option<usize>,
}

impl GetRequest {
    fn parse(fields: &Fields) -> Result<Self, ApiError> {
        let mode = AckMode::parse(fields)?;
        fields.require(&["count", "encoding"])?;
        let at_most =
            |number: Option<i64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Ok(Self {
            // As in RabbitMQ, a negative number is all of them.
            count: at_most(fields.integer("count")?).unwrap_or(0).min(MESSAGES_MAX),
            mode,
            encoding: PayloadEncoding::parse(fields.get("encoding"))?,
            truncate: at_most(fields.integer("truncate")?),
        })
    }

    fn show(&self, got: &Got) -> Value {
        let (payload, encoding) = self.encoding.show(&got.body, self.truncate.unwrap_or(usize::MAX));
        json!({
            "payload_bytes": got.body.len(),
            "redelivered": got.redelivered,
            "exchange": text(&got.exchange),
            "routing_key": text(&got.routing_key),
            "message_count": got.message_count,
            "properties": properties_to(&got.properties),
            "payload": payload,
            "payload_encoding": encoding,
        })
    }
}

/// Gets messages. All of them are settled together at the end, so that none is lost if that is not reached.
pub(super) async fn get(
    caller: Caller,
    Names((host, queue)): Names<(String, String)>,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let host = amqp::host(&api, &caller, &host)?;
    let request = GetRequest::parse(&fields)?;
    let mut user = amqp::open(&api, &caller, &host).await?;
    let messages = get_messages(&mut user, &queue, &request).await.map_err(|error| refused(&error))?;
    user.close().await.map_err(|error| refused(&error))?;
    Ok(Json(Value::Array(messages)))
}

async fn get_messages(
    user: &mut UserChannel,
    queue: &str,
    request: &GetRequest,
) -> Result<Vec<Value>, ClientError> {
    let (mut messages, mut tags, mut bytes) = (Vec::new(), Vec::new(), 0);
    // A queue that is not there, or not the user's, is refused even if nothing is wanted.
    while messages.len() < request.count && bytes < ANSWER_BYTES_MAX {
        let Some(got) = user.channel.get(queue, false).await? else { break };
        bytes += got.body.len().min(request.truncate.unwrap_or(usize::MAX)) + got.properties.len();
        messages.push(request.show(&got));
        tags.push(got.delivery_tag);
    }
    request.mode.settle(&mut user.channel, &tags).await?;
    Ok(messages)
}

/// As RabbitMQ says it where messages are got.
fn refused(error: &ClientError) -> ApiError {
    match error.reply() {
        Some((404, text)) => ApiError::Missing(text.to_owned()),
        Some((403, text)) => ApiError::not_authorised(text),
        _ => amqp::refused_in_full(error),
    }
}

/// Those that clients have and have not settled, [`UNACKED_MAX`] of them at most (after LavinMQ, but without payloads).
pub(super) async fn unacked(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
) -> Result<Json<Value>, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let queue = super::queue(&host, &name)?;
    let unacked = queue.lock().unacked(UNACKED_MAX);
    Ok(Json(unacked.iter().map(|message| shown_unacked(&api, message)).collect()))
}

fn shown_unacked(api: &Api, unacked: &UnackedMessage) -> Value {
    let message = &unacked.message;
    let consumer = unacked.consumer.as_ref();
    let connection = consumer.and_then(|(_, connection, _)| api.broker.connections.get(*connection));
    let channel = connection.zip(consumer).map(|(connection, (.., number))| {
        json!({"name": format!("{} ({number})", connection.name()), "number": number,
            "connection_name": connection.name(), "user": &*connection.user})
    });
    json!({
        "exchange": text(message.exchange()),
        "routing_key": text(message.routing_key()),
        "payload_bytes": message.body().len(),
        "properties": properties_to(message.properties()),
        "redelivered": unacked.redelivered,
        "delivery_count": unacked.delivery_count,
        "consumer_tag": consumer.map(|(tag, ..)| &**tag),
        "channel_details": channel,
    })
}
