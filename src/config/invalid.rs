//! What the sections' checks say, and the checks they share.

use std::net::IpAddr;
use std::path::Path;

use super::duration::parse_go_duration;

/// A value out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Dotted path from the top of the file.
    pub key: String,
    /// A clause: what is wanted and what is there.
    pub why: String,
}

pub(super) type Check = Result<(), Invalid>;

/// Fails with this text unless `fine`.
pub(super) fn require(fine: bool, key: &str, why: impl Into<String>) -> Check {
    if fine { Ok(()) } else { Err(Invalid { key: key.to_owned(), why: why.into() }) }
}

pub(super) fn not_empty(key: &str, text: &str) -> Check {
    require(!text.trim().is_empty(), key, "it must not be empty")
}

/// A level, or levels of targets: `info,kubeedge::actors=debug`. A word that is no level would be
/// taken for a target, and everything else would be silent.
pub(super) fn log_filter(key: &str, text: &str) -> Check {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text.trim()));
    let wrong =
        text.split(',').find(|part| !is_level(part.rsplit_once('=').map_or(*part, |(_, level)| level)));
    let why =
        format!("{:?} is not error, warn, info, debug, trace or target=level", wrong.unwrap_or_default());
    require(wrong.is_none(), key, why)
}

pub(super) fn file(key: &str, path: &Path) -> Check {
    require(!path.as_os_str().is_empty(), key, "it must name a file")
}

pub(super) fn folder(key: &str, path: &Path) -> Check {
    require(
        path.is_absolute(),
        key,
        format!("it must be an absolute path, found {:?}", path.display().to_string()),
    )
}

/// A module that the program does not run without.
pub(super) fn enabled(section: &str, enable: bool) -> Check {
    require(enable, &format!("{section}.enable"), "it cannot be turned off")
}

pub(super) fn at_least_one(key: &str, number: u64) -> Check {
    require(number > 0, key, "it must be at least 1, found 0")
}

pub(super) fn ip(key: &str, text: &str) -> Check {
    require(text.parse::<IpAddr>().is_ok(), key, format!("{text:?} is not an IP address"))
}

/// `host:port` or `[v6]:port`; port 0 is allowed where we listen (the system picks one).
pub(super) fn host_port(key: &str, text: &str) -> Check {
    let fine = text.rsplit_once(':').is_some_and(|(host, port)| {
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fine = match v6 {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
        };
        host_fine && port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    require(fine, key, format!("{text:?} is not host:port with a port up to 65535"))
}

/// `scheme://host[:port]`, nothing after it.
pub(super) fn url(key: &str, text: &str, schemes: &[&str]) -> Check {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)?.strip_prefix("://"));
    let authority = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let fine = authority.is_some_and(|authority| {
        let with_port = format!("{authority}:0");
        host_port(key, authority).is_ok() || host_port(key, &with_port).is_ok()
    });
    let wanted = schemes.join(" or ");
    require(fine, key, format!("{text:?} is not a URL such as {wanted}://host:port"))
}

/// A Go duration longer than zero.
pub(super) fn duration(key: &str, text: &str) -> Check {
    match parse_go_duration(text) {
        Ok(duration) => require(!duration.is_zero(), key, "it must be longer than 0s"),
        Err(why) => Err(Invalid { key: key.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["127.0.0.1:9091", "localhost:0", "[::1]:10000", "cloud.example:65535"] {
            assert_eq!(host_port("k", good), Ok(()), "{good}");
        }
        for bad in
            ["", "host", ":1", "host:", "host:65536", "host:+1", "::1:80", "a b:1", "https://a:1", "[x]:1"]
        {
            assert!(host_port("k", bad).is_err(), "{bad}");
        }
        for good in ["https://10.0.0.1:10002", "https://cloud.example", "https://[::1]:10002/"] {
            assert_eq!(url("k", good, &["https"]), Ok(()), "{good}");
        }
        for bad in ["http://a:1", "10.0.0.1:10002", "https://", "https://a/b", "https://a:x"] {
            assert!(url("k", bad, &["https"]).is_err(), "{bad}");
        }
    }
}
