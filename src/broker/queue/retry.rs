//! When a message that came back is delivered again.
//!
//! Three ways to say it, of which a queue has one: a ladder of delays (`x-retry-delays`), a delay that grows by a
//! factor (`x-retry-min`, `x-retry-max`, `x-retry-factor`), and RabbitMQ 4.3's delay that grows by as much each time
//! (`x-delayed-retry-type`, `-min`, `-max`). The last one acts only where the others are not said.

use super::{
    Return,
    checks::{DURATION_MS_MAX, at_least, expiry, one_of, unacceptable},
};
use crate::amqp::{Table, Value};

/// The most delays that a ladder has.
const RUNGS_MAX: usize = 64;

/// The highest delay where the queue does not say one: a day.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// The names that describe a retry together: those of a policy count only where the queue has none of its own.
pub(super) const NAMES: [&str; 6] =
    ["x-retry-delays", "x-retry-min", "x-retry-max", "x-retry-factor", "x-retry-jitter", "x-retry-limit"];

/// When a message that came back is delivered again, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// The delays.
    pub schedule: Schedule,
    /// Which messages wait.
    pub on: RetryOn,
    /// By which part a delay may be shorter than the schedule says, 0 to 1, so that not all come back at once.
    pub jitter: f64,
    /// How many times a message comes again; `None` for no limit but the ladder's length.
    pub limit: Option<u64>,
}

/// The delays before the first, the second and each further time that a message comes again, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// One after the other. If there is a limit beyond the last one, that stands for all further ones.
    Delays(Box<[u64]>),
    /// The first, and each a number of times as long as the one before.
    Exponential {
        /// The first.
        min_ms: u64,
        /// None is longer.
        max_ms: u64,
        /// At least 1.
        factor: f64,
    },
    /// The first, and each longer by as much (RabbitMQ 4.3).
    Linear {
        /// The first.
        min_ms: u64,
        /// None is longer.
        max_ms: u64,
    },
}

/// Which messages that come back wait (RabbitMQ 4.3: `x-delayed-retry-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryOn {
    /// All.
    #[default]
    All,
    /// Those whose delivery failed: rejected, or their consumer's channel is gone.
    Failed,
    /// Those that were handed back.
    Returned,
}

impl Retry {
    /// Whether a message that came back like that waits.
    pub fn applies_to(&self, how: Return) -> bool {
        match self.on {
            RetryOn::All => how != Return::Unseen,
            RetryOn::Failed => how == Return::Failed,
            RetryOn::Returned => how == Return::Released,
        }
    }

    /// How long a message waits before it comes again for the `attempt`th time, from 1. The seed is any number that is
    /// another for each message. `None` if it does not come again.
    pub fn delay_ms(&self, attempt: u64, jitter_seed: u64) -> Option<u64> {
        let attempt = attempt.max(1);
        if attempt > self.limit.unwrap_or(u64::MAX) {
            return None;
        }
        let delay_ms = self.schedule.delay_ms(attempt, self.limit.is_some())?;
        let shorter_by = delay_ms as f64 * self.jitter * fraction(jitter_seed.wrapping_add(attempt));
        Some(delay_ms.saturating_sub(shorter_by as u64))
    }

    /// What checked arguments say; `None` if nothing of the kind.
    pub(super) fn of(table: &Table) -> Option<Self> {
        Self::own(table).or_else(|| Self::delayed(table))
    }

    fn own(table: &Table) -> Option<Self> {
        let schedule = match table.get("x-retry-delays") {
            Some(value) => Schedule::Delays(delays(value).ok()?.into()),
            None => {
                let min_ms = duration_of(table, "x-retry-min")?;
                let max_ms = duration_of(table, "x-retry-max").unwrap_or(MAX_MS.max(min_ms));
                let factor = table.get("x-retry-factor").and_then(|value| number(value).ok()).unwrap_or(2.0);
                Schedule::Exponential { min_ms, max_ms, factor }
            }
        };
        let jitter = table.get("x-retry-jitter").and_then(|value| number(value).ok()).unwrap_or(0.0);
        Some(Self { schedule, on: RetryOn::All, jitter, limit: integer_of(table, "x-retry-limit") })
    }

    fn delayed(table: &Table) -> Option<Self> {
        let on = match table.get("x-delayed-retry-type")?.as_str()? {
            "all" => RetryOn::All,
            "failed" => RetryOn::Failed,
            "returned" => RetryOn::Returned,
            _ => return None,
        };
        let min_ms = integer_of(table, "x-delayed-retry-min")?;
        let max_ms = integer_of(table, "x-delayed-retry-max").unwrap_or(MAX_MS.max(min_ms));
        Some(Self { schedule: Schedule::Linear { min_ms, max_ms }, on, jitter: 0.0, limit: None })
    }
}

impl Schedule {
    fn delay_ms(&self, attempt: u64, repeats_last: bool) -> Option<u64> {
        match self {
            Self::Delays(delays) => {
                let rung = usize::try_from(attempt - 1).ok().and_then(|index| delays.get(index));
                rung.or(delays.last().filter(|_| repeats_last)).copied()
            }
            Self::Exponential { min_ms, max_ms, factor } => {
                let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
                // Too large a float becomes the largest integer.
                Some(((*min_ms as f64 * factor.powi(exponent)) as u64).min(*max_ms))
            }
            Self::Linear { min_ms, max_ms } => Some(min_ms.saturating_mul(attempt).min(*max_ms)),
        }
    }
}

/// A number from 0 to 1 that looks like any other (the finalizer of splitmix64).
fn fraction(seed: u64) -> f64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

pub(super) fn check_delays(value: &Value, _: &Table) -> Result<(), String> {
    delays(value).map(drop)
}

/// `x-retry-min` is another way than the ladder.
pub(super) fn check_min(value: &Value, table: &Table) -> Result<(), String> {
    if table.get("x-retry-delays").is_some() {
        return Err("retry_min_but_retry_delays_defined".to_owned());
    }
    match duration_ms(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => Ok(()),
    }
}

pub(super) fn check_max(value: &Value, table: &Table) -> Result<(), String> {
    needs(table, &["x-retry-min"], "retry_max_but_no_retry_min_defined")?;
    let max_ms = duration_ms(value)?;
    match duration_of(table, "x-retry-min") {
        Some(min_ms) if max_ms < min_ms => Err(format!("{{retry_max_below_retry_min,{max_ms},{min_ms}}}")),
        _ => Ok(()),
    }
}

pub(super) fn check_factor(value: &Value, table: &Table) -> Result<(), String> {
    needs(table, &["x-retry-min"], "retry_factor_but_no_retry_min_defined")?;
    let factor = number(value)?;
    if factor >= 1.0 { Ok(()) } else { Err(format!("{{value_below_one,{factor:?}}}")) }
}

pub(super) fn check_jitter(value: &Value, table: &Table) -> Result<(), String> {
    needs(table, &["x-retry-min", "x-retry-delays"], "retry_jitter_but_no_retry_defined")?;
    let jitter = number(value)?;
    if (0.0..=1.0).contains(&jitter) { Ok(()) } else { Err(format!("{{not_from_zero_to_one,{jitter:?}}}")) }
}

pub(super) fn check_limit(value: &Value, table: &Table) -> Result<(), String> {
    needs(table, &["x-retry-min", "x-retry-delays"], "retry_limit_but_no_retry_defined")?;
    at_least(value, 0)
}

pub(super) fn check_delayed_type(value: &Value, _: &Table) -> Result<(), String> {
    one_of(value, &["disabled", "all", "failed", "returned"], "invalid_delayed_retry_type")
}

pub(super) fn check_delayed_ms(value: &Value, _: &Table) -> Result<(), String> {
    expiry(value, 1)
}

fn needs(table: &Table, names: &[&str], otherwise: &str) -> Result<(), String> {
    if names.iter().any(|name| table.get(name).is_some()) { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn integer_of(table: &Table, name: &str) -> Option<u64> {
    u64::try_from(table.get(name)?.as_int()?).ok()
}

fn duration_of(table: &Table, name: &str) -> Option<u64> {
    duration_ms(table.get(name)?).ok()
}

/// A number with or without a fraction. Clients that have no floats, such as pika, send a decimal.
fn number(value: &Value) -> Result<f64, String> {
    match *value {
        Value::F32(number) => Ok(number.into()),
        Value::F64(number) => Ok(number),
        Value::Decimal { scale, value } => Ok(f64::from(value) / 10_f64.powi(scale.into())),
        _ => value.as_int().map(|number| number as f64).ok_or_else(|| unacceptable(value)),
    }
}

/// A ladder: durations with commas between them, or an array of durations.
fn delays(value: &Value) -> Result<Vec<u64>, String> {
    let delays: Vec<u64> = match value {
        Value::Array(values) => {
            let values = values.get(..=RUNGS_MAX).unwrap_or(values);
            values.iter().map(duration_ms).collect::<Result<_, _>>()?
        }
        _ => {
            let text = value.as_str().ok_or_else(|| unacceptable(value))?;
            text.split(',').take(RUNGS_MAX + 1).map(parse_duration).collect::<Result<_, _>>()?
        }
    };
    match delays.len() {
        0 => Err("\"at least one delay is needed\"".to_owned()),
        1..=RUNGS_MAX => Ok(delays),
        _ => Err(format!("\"at most {RUNGS_MAX} delays are possible\"")),
    }
}

/// A duration: milliseconds, or a text as [`parse_duration`] reads it.
fn duration_ms(value: &Value) -> Result<u64, String> {
    if let Some(text) = value.as_str() {
        return parse_duration(text);
    }
    let ms = value.as_int().ok_or_else(|| unacceptable(value))?;
    expiry(value, 0)?;
    u64::try_from(ms).map_err(|error| error.to_string())
}

/// A whole number and its unit, of at most ten years.
fn parse_duration(text: &str) -> Result<u64, String> {
    let shown = || text.trim().chars().take(32).collect::<String>();
    let wrong = || format!("\"'{}' is not a duration: a number and ms, s, m, h or d\"", shown());
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|ms| *ms <= DURATION_MS_MAX.unsigned_abs())
        .ok_or_else(|| format!("{{value_too_large,{}}}", shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(fields: [(&str, Value); N]) -> Table {
        Table(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn retry<const N: usize>(fields: [(&str, Value); N]) -> Retry {
        Retry::of(&table(fields)).expect("a retry")
    }

    fn first(retry: &Retry, count: u64) -> Vec<Option<u64>> {
        (1..=count).map(|attempt| retry.delay_ms(attempt, 7)).collect()
    }

    #[test]
    fn b1_a_ladder_is_climbed_once() {
        let ladder = Value::Array(vec![Value::I32(0), "2s".into(), " 1m".into(), Value::I64(5)]);
        let expected = [Some(0), Some(2000), Some(60_000), Some(5), None, None];
        assert_eq!(first(&retry([("x-retry-delays", ladder)]), 6), expected);
        let texts = retry([("x-retry-delays", "7ms, 1s,1m,1h,1d".into())]);
        assert_eq!(
            first(&texts, 6),
            [Some(7), Some(1000), Some(60_000), Some(3_600_000), Some(86_400_000), None]
        );
        assert_eq!(texts.delay_ms(u64::MAX, 0), None);
    }

    #[test]
    fn b1_a_limit_cuts_a_ladder_or_repeats_its_last_rung() {
        let limited =
            |limit| retry([("x-retry-delays", "1s,2s".into()), ("x-retry-limit", Value::I32(limit))]);
        assert_eq!(first(&limited(0), 1), [None]);
        assert_eq!(first(&limited(1), 2), [Some(1000), None]);
        assert_eq!(first(&limited(4), 5), [Some(1000), Some(2000), Some(2000), Some(2000), None]);
    }

    #[test]
    fn b1_a_delay_grows_by_its_factor_up_to_the_highest() {
        let doubling = retry([("x-retry-min", Value::I32(100)), ("x-retry-max", "1s".into())]);
        assert_eq!(first(&doubling, 6), [100, 200, 400, 800, 1000, 1000].map(Some));
        assert_eq!(doubling.delay_ms(u64::MAX, 0), Some(1000));
        let factor = |value| retry([("x-retry-min", Value::I32(10)), ("x-retry-factor", value)]);
        assert_eq!(first(&factor(Value::I32(1)), 3), [10, 10, 10].map(Some));
        assert_eq!(first(&factor(Value::F64(1.5)), 3), [10, 15, 22].map(Some));
        let decimal = |scale, value| Value::Decimal { scale, value };
        assert_eq!(first(&factor(decimal(1, 15)), 3), [10, 15, 22].map(Some));
        let fields = |value| table([("x-retry-min", Value::I32(10)), ("x-retry-jitter", value)]);
        let jitter = |value: Value| check_jitter(&value, &fields(value.clone()));
        assert_eq!(jitter(decimal(2, 50)), Ok(()));
        assert_eq!(jitter(decimal(0, 2)), Err("{not_from_zero_to_one,2.0}".to_owned()));
        assert_eq!(jitter(decimal(255, u32::MAX)), Ok(()), "as good as nothing");
        assert_eq!(factor(Value::F64(1e308)).delay_ms(9, 0), Some(MAX_MS), "a day, unless it says another");
    }

    #[test]
    fn b1_rabbitmqs_delay_grows_by_as_much_each_time() {
        let delayed = |on: &str| {
            let (min, max) = (Value::I32(5000), Value::I32(15_000));
            let names = [("x-delayed-retry-type", on.into()), ("x-delayed-retry-min", min)];
            let [kind, min] = names;
            Retry::of(&table([kind, min, ("x-delayed-retry-max", max)]))
        };
        let all = delayed("all").expect("a retry");
        assert_eq!(first(&all, 4), [5000, 10_000, 15_000, 15_000].map(Some));
        assert_eq!(all.delay_ms(u64::MAX, 0), Some(15_000));
        let on = |kind| delayed(kind).map(|retry| retry.on);
        assert_eq!(on("all"), Some(RetryOn::All));
        assert_eq!(on("failed"), Some(RetryOn::Failed));
        assert_eq!(on("returned"), Some(RetryOn::Returned));
        assert_eq!(on("disabled"), None);
        assert_eq!(Retry::of(&table([("x-delayed-retry-min", Value::I32(1))])), None, "it has no type");
    }

    #[test]
    fn b1_jitter_only_shortens_and_spreads() {
        let fields = [("x-retry-min", Value::I32(1000)), ("x-retry-jitter", Value::F64(0.5))];
        let jittered = retry(fields);
        let delays: Vec<u64> = (0..1000).filter_map(|seed| jittered.delay_ms(1, seed)).collect();
        assert!(delays.iter().all(|delay| (500..=1000).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < 550) && delays.iter().any(|delay| *delay > 950));
        assert_eq!(jittered.delay_ms(3, 42), jittered.delay_ms(3, 42), "by the seed alone");
    }

    #[test]
    fn b1_what_is_no_ladder_is_refused() {
        let long = vec!["1s"; 65].join(",");
        let array = Value::Array(vec![Value::I32(1); 65]);
        for (value, reason) in [
            (Value::from(""), "\"'' is not a duration: a number and ms, s, m, h or d\""),
            ("1".into(), "\"'1' is not a duration: a number and ms, s, m, h or d\""),
            ("1s,".into(), "\"'' is not a duration: a number and ms, s, m, h or d\""),
            ("-1s".into(), "\"'-1s' is not a duration: a number and ms, s, m, h or d\""),
            ("1.5s".into(), "\"'1.5s' is not a duration: a number and ms, s, m, h or d\""),
            ("s".into(), "\"'s' is not a duration: a number and ms, s, m, h or d\""),
            ("3651d".into(), "{value_too_large,3651d}"),
            ("99999999999999999999s".into(), "{value_too_large,99999999999999999999s}"),
            (Value::I64(-1), "{unacceptable_type,long}"),
            (long.as_str().into(), "\"at most 64 delays are possible\""),
            (array, "\"at most 64 delays are possible\""),
            (Value::Array(Vec::new()), "\"at least one delay is needed\""),
            (Value::Array(vec![Value::I64(-1)]), "{value_negative,-1}"),
            (Value::Array(vec![Value::Void]), "{unacceptable_type,void}"),
            (Value::I32(5), "{unacceptable_type,signedint}"),
        ] {
            assert_eq!(check_delays(&value, &Table::default()), Err(reason.to_owned()), "{value:?}");
        }
        let most = vec!["1s"; 64].join(",");
        assert_eq!(check_delays(&most.as_str().into(), &Table::default()), Ok(()));
    }
}
