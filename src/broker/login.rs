//! Logins, over AMQP and HTTP: who guesses passwords is slowed down.
//!
//! A few failed logins cost nothing. From then on each one doubles the time in which further logins are refused without a
//! look at the password: those of the same user from the same address, and after more failures all from that address, but
//! for users who have logged in from there before. Logins from elsewhere go on as if nothing had happened, so nobody can
//! lock a user out.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Broker, Now,
    user::{AuthFailure, User, loggable},
};

/// Failures of a user from an address that cost nothing.
const FREE_OF_USER: u32 = 5;
/// Failures from an address, whichever the users, that cost nothing.
const FREE_OF_ADDRESS: u32 = 20;
/// How long the first failure that does cost something holds up, in milliseconds.
const FIRST_WAIT_MS: u64 = 250;
/// The longest time that a failure holds up, in milliseconds.
const LONGEST_WAIT_MS: u64 = 30_000;
/// After how long without a login an address or a user is forgotten, in milliseconds.
const FORGOTTEN_AFTER_MS: u64 = 600_000;
/// How many addresses and users are known at most; beyond it, those that were seen longest ago are forgotten.
const KNOWN_MAX: usize = 10_000;

/// Who has logged in, or has tried to, of late.
#[derive(Debug, Default)]
pub struct Logins {
    known: Mutex<HashMap<Key, Attempts>>,
    hasher: RandomState,
}

/// A login that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// Why, for the log.
    pub failure: AuthFailure,
    /// For how long the next one will be refused too, in milliseconds.
    pub wait_ms: u64,
}

/// An address, and the user (hashed) if it is about one.
type Key = (IpAddr, Option<u64>);

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    failures: u32,
    /// Until when logins are refused.
    until_ms: u64,
    /// When there was the last one.
    last_ms: u64,
    /// Whether the user has logged in from there.
    is_known: bool,
}

impl Logins {
    fn keys(&self, from: IpAddr, user: &str) -> (Key, Key) {
        let from = network(from);
        ((from, Some(self.hasher.hash_one(user))), (from, None))
    }

    /// # Errors
    /// For how long that user may not log in from there.
    fn check(&self, from: IpAddr, user: &str, now_ms: u64) -> Result<(), u64> {
        let (user, address) = self.keys(from, user);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let until = |key| known.get(key).map_or(0, |attempts| attempts.until_ms);
        let is_known = known.get(&user).is_some_and(|attempts| attempts.is_known);
        let until_ms = if is_known { until(&user) } else { until(&user).max(until(&address)) };
        if until_ms > now_ms { Err(until_ms - now_ms) } else { Ok(()) }
    }

    fn succeeded(&self, from: IpAddr, user: &str, now_ms: u64) {
        let (user, _) = self.keys(from, user);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut known, now_ms);
        known.insert(user, Attempts { last_ms: now_ms, is_known: true, ..Attempts::default() });
    }

    /// Returns for how long the next login is refused.
    fn failed(&self, from: IpAddr, user: &str, now_ms: u64) -> u64 {
        let (user, address) = self.keys(from, user);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut known, now_ms);
        let waits = [(user, FREE_OF_USER), (address, FREE_OF_ADDRESS)].map(|(key, free)| {
            let attempts = known.entry(key).or_default();
            if attempts.last_ms + FORGOTTEN_AFTER_MS < now_ms {
                *attempts = Attempts::default();
            }
            attempts.failures = attempts.failures.saturating_add(1);
            attempts.last_ms = now_ms;
            let wait_ms = wait_ms(attempts.failures, free);
            attempts.until_ms = attempts.until_ms.max(now_ms + wait_ms);
            wait_ms
        });
        waits.into_iter().max().unwrap_or(0)
    }
}

fn wait_ms(failures: u32, free: u32) -> u64 {
    match failures.checked_sub(free + 1) {
        None => 0,
        Some(more) => FIRST_WAIT_MS.saturating_mul(1 << more.min(20)).min(LONGEST_WAIT_MS),
    }
}

/// The addresses that one party has: of IPv6 a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// Forgets what is old, and if that is not enough the half that was seen longest ago.
fn make_room(known: &mut HashMap<Key, Attempts>, now_ms: u64) {
    if known.len() + 2 <= KNOWN_MAX {
        return;
    }
    known.retain(|_, attempts| attempts.last_ms + FORGOTTEN_AFTER_MS >= now_ms);
    if known.len() + 2 > KNOWN_MAX {
        let mut times: Vec<u64> = known.values().map(|attempts| attempts.last_ms).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let (median, mut spare) = (*median, middle);
        known.retain(|_, attempts| {
            let goes = attempts.last_ms <= median && spare > 0;
            spare -= usize::from(goes);
            !goes
        });
    }
}

impl Broker {
    /// The user of that name, if the password is right, the user may connect from that address, and not too many logins
    /// from there have failed. All logins are counted.
    ///
    /// # Errors
    /// Why not, and for how long the next one will be refused too.
    pub fn log_in(
        &self,
        name: &str,
        password: &[u8],
        from: IpAddr,
        now: Now,
    ) -> Result<Arc<User>, LoginRefused> {
        let now_ms = now.monotonic_ms;
        let refused = match self.logins.check(from, name, now_ms) {
            Err(wait_ms) => LoginRefused { failure: AuthFailure::TooManyFailures(loggable(name)), wait_ms },
            Ok(()) => match self.users.authenticate(name, password, from.to_canonical().is_loopback()) {
                Ok(user) => {
                    self.stats.logins_succeeded.add(1);
                    self.logins.succeeded(from, name, now_ms);
                    return Ok(user);
                }
                Err(failure) => {
                    let wait_ms = self.logins.failed(from, name, now_ms);
                    LoginRefused { failure, wait_ms }
                }
            },
        };
        self.stats.logins_failed.add(1);
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn failures_hold_up_for_longer_and_longer() {
        let logins = Logins::default();
        let mut now_ms = 1000;
        let mut waits = Vec::new();
        for _ in 0..16 {
            assert_eq!(logins.check(address(1), "ann", now_ms), Ok(()));
            let wait_ms = logins.failed(address(1), "ann", now_ms);
            if wait_ms > 0 {
                assert_eq!(logins.check(address(1), "ann", now_ms), Err(wait_ms));
            }
            waits.push(wait_ms);
            now_ms += wait_ms;
        }
        assert_eq!(waits[..8], [0, 0, 0, 0, 0, 250, 500, 1000]);
        assert_eq!(waits.last(), Some(&LONGEST_WAIT_MS));
        logins.succeeded(address(1), "ann", now_ms);
        assert_eq!(logins.failed(address(1), "ann", now_ms), 0, "a login that succeeds ends it");
    }

    #[test]
    fn others_are_not_held_up() {
        let logins = Logins::default();
        logins.succeeded(address(1), "bob", 0);
        for number in 0..100 {
            logins.failed(address(1), &format!("user{number}"), 0);
            logins.failed(address(1), "ann", 0);
        }
        assert!(logins.check(address(1), "ann", 0).is_err());
        assert!(logins.check(address(1), "cid", 0).is_err(), "all from there are");
        assert_eq!(logins.check(address(1), "bob", 0), Ok(()), "but who has logged in from there");
        assert_eq!(logins.check(address(2), "ann", 0), Ok(()), "from elsewhere");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let logins = Logins::default();
        let from = |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 2, 3, 4, 5, last]);
        for last in 0..30 {
            logins.failed(from(last), "ann", 0);
        }
        assert!(logins.check(from(99), "ann", 0).is_err());
        assert_eq!(logins.check(IpAddr::from([0x2001, 0xdb8, 1, 3, 0, 0, 0, 1]), "ann", 0), Ok(()));
    }

    #[test]
    fn what_is_known_is_bounded_and_forgotten() {
        let logins = Logins::default();
        for number in 0..100_000_u32 {
            logins.failed(IpAddr::from(number.to_be_bytes()), "ann", 1);
        }
        let len = || logins.known.lock().expect("no panic").len();
        assert!(len() <= KNOWN_MAX, "{}", len());
        for _ in 0..10 {
            logins.failed(address(1), "ann", 2);
        }
        let later_ms = 3 + FORGOTTEN_AFTER_MS;
        assert_eq!(logins.failed(address(1), "ann", later_ms), 0);
    }
}
