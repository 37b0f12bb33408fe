//! What a value of an argument must be. The reasons are RabbitMQ's, or worded like them.

use crate::{
    amqp::{Table, Value},
    broker::dedup::CACHE_SIZE_MAX,
};

/// Milliseconds of ten years: the highest `x-expires`, `x-message-ttl` and delay.
pub(super) const DURATION_MS_MAX: i64 = 315_360_000_000;

pub(super) fn integer(value: &Value) -> Result<i64, String> {
    value.as_int().ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

pub(super) fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

pub(super) fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unacceptable(value))
}

pub(super) fn boolean(value: &Value) -> Result<(), String> {
    matches!(value, Value::Bool(_)).then_some(()).ok_or_else(|| unacceptable(value))
}

pub(super) fn at_least(value: &Value, least: i64) -> Result<(), String> {
    match integer(value)? {
        value if value < 0 => Err(format!("{{value_negative,{value}}}")),
        value if value < least => Err(format!("{{value_zero,{value}}}")),
        _ => Ok(()),
    }
}

pub(super) fn expiry(value: &Value, least: i64) -> Result<(), String> {
    at_least(value, least)?;
    match integer(value)? {
        value if value > DURATION_MS_MAX => Err(format!("{{value_too_large,{value}}}")),
        _ => Ok(()),
    }
}

pub(super) fn one_of(value: &Value, allowed: &[&str], otherwise: &str) -> Result<(), String> {
    if allowed.contains(&string(value)?) { Ok(()) } else { Err(otherwise.to_owned()) }
}

pub(super) fn dead_letter_routing_key(value: &Value, table: &Table) -> Result<(), String> {
    string(value)?;
    match table.get("x-dead-letter-exchange") {
        Some(_) => Ok(()),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

pub(super) fn max_priority(value: &Value, _: &Table) -> Result<(), String> {
    at_least(value, 0)?;
    match integer(value)? {
        value if value > 255 => Err(format!("{{max_value_exceeded,{value}}}")),
        _ => Ok(()),
    }
}

pub(super) fn queue_mode(value: &Value, _: &Table) -> Result<(), String> {
    match string(value)? {
        "lazy" | "default" => Ok(()),
        mode => Err(format!("\"unsupported queue mode '{mode}'\"")),
    }
}

pub(super) fn queue_version(value: &Value, _: &Table) -> Result<(), String> {
    match integer(value)? {
        1 | 2 => Ok(()),
        version => Err(format!("\"unsupported queue version '{version}'\"")),
    }
}

pub(super) fn queue_type(value: &Value, _: &Table) -> Result<(), String> {
    match string(value)? {
        "classic" | "quorum" => Ok(()),
        "stream" => Err("\"queue type 'stream' is not supported yet\"".to_owned()),
        kind => Err(format!("\"unsupported queue type '{kind}'\"")),
    }
}

pub(super) fn max_age(value: &Value, _: &Table) -> Result<(), String> {
    let age = string(value)?;
    let (number, unit) = age.split_at(age.len().saturating_sub(1));
    let valid = matches!(unit, "Y" | "M" | "D" | "h" | "m" | "s")
        && number.bytes().all(|digit| digit.is_ascii_digit())
        && number.parse::<u64>().is_ok_and(|number| number > 0);
    if valid { Ok(()) } else { Err("invalid_max_age".to_owned()) }
}

pub(super) fn cache_size(value: &Value, _: &Table) -> Result<(), String> {
    at_least(value, 1)?;
    match integer(value)? {
        value if value > CACHE_SIZE_MAX.into() => Err(format!("{{max_value_exceeded,{value}}}")),
        _ => Ok(()),
    }
}
