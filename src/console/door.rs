//! Which requests are answered at all. Pure.
//!
//! Whoever visits a page of somebody else must not be able to use this one by it: a name that somebody
//! else's DNS points here is not ours (DNS rebinding), and what changes something comes from this page or
//! from no browser at all (CSRF).

use std::net::{IpAddr, SocketAddr};

/// Why a request is not answered: label `reason` of `kubeedge_console_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Another host's name.
    Host,
    /// Another page's request.
    Origin,
    /// What changes something must be JSON: a form of another page cannot send that.
    ContentType,
    /// Too long, not JSON, not what it should be.
    Body,
    /// No credential at all.
    NoToken,
    /// A credential that is none, or not any more.
    BadToken,
    TooManyTries,
    TooManyStreams,
    /// The page did not take what it was sent.
    SlowReader,
    /// Who knows the credentials does not answer.
    Unavailable,
}

impl Refused {
    pub const ALL: [Self; 10] = [
        Self::Host,
        Self::Origin,
        Self::ContentType,
        Self::Body,
        Self::NoToken,
        Self::BadToken,
        Self::TooManyTries,
        Self::TooManyStreams,
        Self::SlowReader,
        Self::Unavailable,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::ContentType => "content_type",
            Self::Body => "body",
            Self::NoToken => "no_token",
            Self::BadToken => "bad_token",
            Self::TooManyTries => "too_many_tries",
            Self::TooManyStreams => "too_many_streams",
            Self::SlowReader => "slow_reader",
            Self::Unavailable => "unavailable",
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Host => 421,
            Self::Origin => 403,
            Self::ContentType => 415,
            Self::Body => 400,
            Self::NoToken | Self::BadToken => 401,
            Self::TooManyTries | Self::TooManyStreams => 429,
            Self::SlowReader | Self::Unavailable => 503,
        }
    }
}

/// Which names the page may be asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// It listens on loopback: only names of this machine itself.
    Local(IpAddr),
    /// It listens for others, who know it by names that are not known here.
    Any,
}

impl Hosts {
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        if ip.is_loopback() { Self::Local(ip) } else { Self::Any }
    }

    /// Is the `Host` header one of ours?
    #[must_use]
    pub fn admit(self, host: Option<&str>) -> bool {
        let Some(name) = host.and_then(host_name) else { return false };
        match self {
            Self::Any => true,
            Self::Local(own) => {
                let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                name.eq_ignore_ascii_case("localhost")
                    || ip.is_ok_and(|ip| ip == own || matches!(ip.to_string().as_str(), "127.0.0.1" | "::1"))
            }
        }
    }
}

/// A host header's name without its port; `None` for what is no host.
fn host_name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            (host.get(..end + 2)?, host.get(end + 2..)?)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let fine_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()));
    let fine_name = !name.is_empty() && name.len() <= 255 && name.bytes().all(|c| c.is_ascii_graphic());
    (fine_port && fine_name).then_some(name)
}

/// What a browser says of where a request comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'h> {
    pub host: Option<&'h str>,
    /// Header `Origin`.
    pub origin: Option<&'h str>,
    /// Header `Sec-Fetch-Site`.
    pub fetch_site: Option<&'h str>,
}

impl Origin<'_> {
    /// Does it come from this page, or from no browser?
    #[must_use]
    pub fn is_own(self) -> bool {
        // `none`: the user typed the address.
        let fine_site = self.fetch_site.is_none_or(|site| matches!(site, "same-origin" | "none"));
        let fine_origin = self.origin.is_none_or(|origin| {
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            authority.is_some_and(|own| self.host.is_some_and(|host| host.eq_ignore_ascii_case(own)))
        });
        fine_site && fine_origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_points_here_is_not_ours() {
        let local = Hosts::of("127.0.0.1:9443".parse().unwrap());
        let odd = Hosts::of("127.0.0.2:9443".parse().unwrap());
        let any = Hosts::of("0.0.0.0:9443".parse().unwrap());
        for (host, want) in [
            ("localhost:9443", true),
            ("LOCALHOST", true),
            ("127.0.0.1:9443", true),
            ("[::1]:9443", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:9443", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1:9443@evil.example", false),
            ("10.0.0.1", false),
            ("127.0.0.2", false),
            ("0.0.0.0:9443", false),
            ("", false),
            (":9443", false),
            ("[::1", false),
            ("local host", false),
        ] {
            assert_eq!(local.admit(Some(host)), want, "{host:?}");
        }
        assert!(odd.admit(Some("127.0.0.2:9443")));
        assert!(any.admit(Some("edge-7.plant.example:9443")) && !any.admit(Some("")) && !any.admit(None));
        assert_eq!(Hosts::of("[::ffff:127.0.0.1]:1".parse().unwrap()), local);
    }

    #[test]
    fn other_pages_change_nothing() {
        let host = Some("localhost:9443");
        for (origin, fetch_site, want) in [
            (None, None, true),
            (Some("http://localhost:9443"), Some("same-origin"), true),
            (Some("https://LOCALHOST:9443"), None, true),
            (None, Some("none"), true),
            (Some("https://evil.example"), None, false),
            (Some("http://localhost:9444"), None, false),
            (Some("http://localhost:9443.evil.example"), None, false),
            (Some("null"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (Some("http://localhost:9443"), Some("cross-site"), false),
        ] {
            assert_eq!(Origin { host, origin, fetch_site }.is_own(), want, "{origin:?} {fetch_site:?}");
        }
        assert!(!Origin { host: None, origin: Some("http://localhost"), fetch_site: None }.is_own());
    }
}
