//! Credentials: where a request carries one, and how often a stranger may try. Pure.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the cookie that holds the token: a restart of the program needs no new sign-in.
pub const COOKIE: &str = "kubeedge-console";
/// A browser keeps at most 4 KiB of a cookie.
const MAX_TOKEN_BYTES: usize = 3800;
/// Wrong credentials from one address, at first and then one for each pause.
const TRIES: u32 = 10;
const ONE_MORE_AFTER: Duration = Duration::from_secs(6);
/// Addresses remembered.
const MAX_ADDRESSES: usize = 4096;

/// A token as a visitor shows it. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// `None` for what cannot stand in a cookie or a header.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fine = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=:".contains(&c);
        let fits = !text.is_empty() && text.len() <= MAX_TOKEN_BYTES;
        (fits && text.bytes().all(fine)).then(|| Self(text.into()))
    }

    /// Of a request's headers; `Authorization` counts before the cookie.
    #[must_use]
    pub fn of(authorization: Option<&str>, cookies: Option<&str>) -> Option<Self> {
        if let Some(header) = authorization {
            let (scheme, token) = header.split_once(' ')?;
            return scheme.eq_ignore_ascii_case("bearer").then(|| Self::parse(token)).flatten();
        }
        let mut pairs = cookies?.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == COOKIE).and_then(|(_, token)| Self::parse(token))
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `Set-Cookie` that keeps it: no script reads it, no other page's request carries it.
    #[must_use]
    pub fn cookie(&self, secure: bool) -> String {
        let secure = if secure { "; Secure" } else { "" };
        format!("{COOKIE}={}; Path=/console; HttpOnly; SameSite=Strict{secure}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// `Set-Cookie` that forgets it.
#[must_use]
pub fn no_cookie(secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}=; Path=/console; Max-Age=0; HttpOnly; SameSite=Strict{secure}")
}

/// Wrong credentials by address.
#[derive(Debug, Default)]
pub struct Tries {
    /// Wrong ones that still count, and when that was worked out.
    wrong: HashMap<IpAddr, (u32, Instant)>,
}

impl Tries {
    /// # Errors
    /// How long this address has to wait before it may try again.
    pub fn check(&mut self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        match self.count(network(from), now) {
            count if count < TRIES => Ok(()),
            _ => Err(ONE_MORE_AFTER),
        }
    }

    /// A credential from there was wrong.
    pub fn failed(&mut self, from: IpAddr, now: Instant) {
        let from = network(from);
        let count = self.count(from, now);
        if !self.wrong.contains_key(&from) && self.wrong.len() >= MAX_ADDRESSES {
            self.make_room(now);
        }
        let entry = self.wrong.entry(from).or_insert((0, now));
        if count == 0 {
            *entry = (0, now);
        }
        entry.0 = count.saturating_add(1).min(TRIES);
    }

    /// Wrong credentials of this address that still count.
    fn count(&mut self, from: IpAddr, now: Instant) -> u32 {
        let Some((count, since)) = self.wrong.get_mut(&from) else { return 0 };
        let periods = now.saturating_duration_since(*since).as_secs() / ONE_MORE_AFTER.as_secs().max(1);
        let forgiven = u32::try_from(periods).unwrap_or(u32::MAX);
        *count = count.saturating_sub(forgiven);
        *since += ONE_MORE_AFTER.saturating_mul(forgiven.min(TRIES));
        if *count == 0 {
            self.wrong.remove(&from);
            return 0;
        }
        *count
    }

    /// Forgets who has nothing left to forgive, else the one whose last wrong try is the oldest.
    fn make_room(&mut self, now: Instant) {
        let all: Vec<IpAddr> = self.wrong.keys().copied().collect();
        for address in all {
            self.count(address, now);
        }
        if self.wrong.len() >= MAX_ADDRESSES {
            let oldest = self.wrong.iter().min_by_key(|(_, (_, since))| *since).map(|(address, _)| *address);
            oldest.and_then(|address| self.wrong.remove(&address));
        }
    }
}

/// Who has one IPv6 address has a whole network of them.
fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_comes_in_a_header_or_a_cookie() {
        let token = |text: &str| Token::parse(text);
        for (authorization, cookies, want) in [
            (None, None, None),
            (Some("Bearer a.b-c_d"), None, token("a.b-c_d")),
            (Some("bearer x"), Some("kubeedge-console=y"), token("x")),
            (Some("Basic x"), Some("kubeedge-console=y"), None),
            (Some("Bearer"), None, None),
            (None, Some("kubeedge-console=y"), token("y")),
            (None, Some("other=1; kubeedge-console=y; more=2"), token("y")),
            (None, Some("xkubeedge-console=y"), None),
            (None, Some("kubeedge-console="), None),
            (None, Some("kubeedge-console=a b"), None),
        ] {
            assert_eq!(Token::of(authorization, cookies), want, "{authorization:?} {cookies:?}");
        }
        assert_eq!(Token::parse(&"x".repeat(MAX_TOKEN_BYTES + 1)), None);
        assert_eq!(Token::parse("a;Path=/\r\nx: y"), None, "it cannot leave its cookie");
        assert_eq!(format!("{:?}", token("secret")), "Some(Token(..))");
        let cookie = Token::parse("t").unwrap().cookie(true);
        assert_eq!(cookie, "kubeedge-console=t; Path=/console; HttpOnly; SameSite=Strict; Secure");
    }

    #[test]
    fn strangers_try_a_few_times() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..TRIES {
            assert_eq!(tries.check(from("192.0.2.1"), start), Ok(()));
            tries.failed(from("192.0.2.1"), start);
        }
        assert!(tries.check(from("192.0.2.1"), start).is_err());
        assert!(tries.check(from("::ffff:192.0.2.1"), start).is_err(), "the same one");
        assert_eq!(tries.check(from("192.0.2.2"), start), Ok(()), "others may");
        let later = start + ONE_MORE_AFTER;
        assert_eq!(tries.check(from("192.0.2.1"), later), Ok(()), "one more");
        tries.failed(from("192.0.2.1"), later);
        assert!(tries.check(from("192.0.2.1"), later).is_err());
        assert_eq!(tries.check(from("192.0.2.1"), later + 100 * ONE_MORE_AFTER), Ok(()));
        for _ in 0..TRIES {
            tries.failed(from("2001:db8::1"), start);
        }
        assert!(tries.check(from("2001:db8::ffff"), start).is_err(), "the same network");
    }

    proptest! {
        /// However many addresses try, memory is bounded and nobody gets more than his tries in a row.
        #[test]
        fn memory_is_bounded(addresses in prop::collection::vec(any::<[u8; 4]>(), 1..300), pause in 0..20_u64) {
            let (mut tries, mut now) = (Tries::default(), Instant::now());
            for address in addresses {
                let address = IpAddr::from(address);
                for _ in 0..TRIES {
                    tries.failed(address, now);
                }
                prop_assert!(tries.check(address, now).is_err());
                now += Duration::from_secs(pause);
                prop_assert!(tries.wrong.len() <= MAX_ADDRESSES);
            }
        }
    }
}
