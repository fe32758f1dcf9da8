//! Topic names and topic filters (mqtt-v5.0-os 4.7 and 4.8.2).

use super::limits::Limits;

/// Why a topic or a filter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// [MQTT-4.7.3-1]
    #[error("it is empty")]
    Empty,
    /// [MQTT-4.7.3-2]
    #[error("it contains NUL")]
    Nul,
    /// [MQTT-3.3.2-2], [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    #[error("a wildcard stands where none may stand")]
    Wildcard,
    #[error("it is longer than this broker takes")]
    TooLong,
    #[error("it has more levels than this broker takes")]
    TooDeep,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[error("a shared subscription needs $share/group/filter with a group without + and #")]
    Share,
}

impl BadTopic {
    /// The standard forbids it, not just our limits: the packet is malformed.
    #[must_use]
    pub fn is_malformed(self) -> bool {
        !matches!(self, Self::TooLong | Self::TooDeep)
    }
}

/// Is it a topic that messages may be published to?
///
/// # Errors
/// [`BadTopic`]
pub fn check_topic(topic: &str, limits: &Limits) -> Result<(), BadTopic> {
    if topic.is_empty() {
        return Err(BadTopic::Empty);
    }
    let mut levels = 1;
    for byte in topic.bytes() {
        match byte {
            b'/' => levels += 1,
            b'+' | b'#' => return Err(BadTopic::Wildcard),
            0 => return Err(BadTopic::Nul),
            _ => {}
        }
    }
    check_size(topic, levels, limits)
}

fn check_size(topic: &str, levels: usize, limits: &Limits) -> Result<(), BadTopic> {
    if topic.len() > limits.topic_bytes.min(usize::from(u16::MAX)) {
        return Err(BadTopic::TooLong);
    }
    if levels > limits.topic_levels { Err(BadTopic::TooDeep) } else { Ok(()) }
}

/// A filter without its `$share/{group}/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterParts<'t> {
    pub group: Option<&'t str>,
    pub filter: &'t str,
}

/// Takes `filter` apart without checking it.
#[must_use]
pub fn filter_parts(filter: &str) -> FilterParts<'_> {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    match shared {
        Some((group, filter)) => FilterParts { group: Some(group), filter },
        None => FilterParts { group: None, filter },
    }
}

/// Is it a filter that clients may subscribe to?
///
/// # Errors
/// [`BadTopic`]
pub fn check_filter<'t>(filter: &'t str, limits: &Limits) -> Result<FilterParts<'t>, BadTopic> {
    if filter.is_empty() {
        return Err(BadTopic::Empty);
    }
    if filter.contains('\0') {
        return Err(BadTopic::Nul);
    }
    let parts = filter_parts(filter);
    if filter == "$share" || filter.starts_with("$share/") {
        let group = parts.group.unwrap_or_default();
        if group.is_empty() || group.contains(['+', '#']) || parts.filter.is_empty() {
            return Err(BadTopic::Share);
        }
    }
    let mut levels = 0;
    let mut ended = false;
    for level in parts.filter.split('/') {
        levels += 1;
        if ended || level.len() > 1 && level.contains(['+', '#']) {
            return Err(BadTopic::Wildcard);
        }
        ended = level == "#";
    }
    check_size(filter, levels, limits)?;
    Ok(parts)
}

/// Does `topic` match `filter` (without `$share`)? Level by level; the broker uses
/// [`super::trie::Trie`] for many filters at once.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false; // [MQTT-4.7.2-1]
    }
    let mut filters = filter.split('/');
    let mut levels = topic.split('/');
    loop {
        match (filters.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(level)) if filter == level => {}
            _ => return false,
        }
    }
}

/// The part of `filter` before its first wildcard: every topic that matches starts with it, except
/// that `a/#` also matches `a`.
#[must_use]
pub fn fixed_prefix(filter: &str) -> &str {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    let prefix = filter.get(..end).unwrap_or_default();
    if filter.get(end..) == Some("#") { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix }
}

/// Only the broker itself publishes there.
#[must_use]
pub fn is_sys(topic: &str) -> bool {
    topic == "$SYS" || topic.starts_with("$SYS/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let limits = Limits { topic_bytes: 20, topic_levels: 4, ..Limits::default() };
        for (topic, want) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a//b/", Ok(())),
            ("$hw/events", Ok(())),
            ("été/☃", Ok(())),
            ("", Err(BadTopic::Empty)),
            ("a/+", Err(BadTopic::Wildcard)),
            ("a#", Err(BadTopic::Wildcard)),
            ("a\0", Err(BadTopic::Nul)),
            ("a/b/c/d/e", Err(BadTopic::TooDeep)),
            ("aaaaaaaaaaaaaaaaaaaaa", Err(BadTopic::TooLong)),
        ] {
            assert_eq!(check_topic(topic, &limits), want, "{topic:?}");
        }
        let long = "a".repeat(65_536);
        let roomy = Limits { topic_bytes: usize::MAX, ..Limits::default() };
        assert_eq!(check_topic(&long, &roomy), Err(BadTopic::TooLong), "[MQTT-4.7.3-3]");
    }

    #[test]
    fn filters() {
        let limits = Limits { topic_bytes: 20, topic_levels: 4, ..Limits::default() };
        for (filter, want) in [
            ("#", Ok((None, "#"))),
            ("a/+/#", Ok((None, "a/+/#"))),
            ("+", Ok((None, "+"))),
            ("/+", Ok((None, "/+"))),
            ("$share/g/a/#", Ok((Some("g"), "a/#"))),
            ("$share/g//x", Ok((Some("g"), "/x"))),
            ("$shared/g", Ok((None, "$shared/g"))),
            ("", Err(BadTopic::Empty)),
            ("a#", Err(BadTopic::Wildcard)),
            ("+a", Err(BadTopic::Wildcard)),
            ("#/a", Err(BadTopic::Wildcard)),
            ("a/#/", Err(BadTopic::Wildcard)),
            ("##", Err(BadTopic::Wildcard)),
            ("a\0", Err(BadTopic::Nul)),
            ("$share", Err(BadTopic::Share)),
            ("$share/", Err(BadTopic::Share)),
            ("$share/g", Err(BadTopic::Share)),
            ("$share/g/", Err(BadTopic::Share)),
            ("$share//a", Err(BadTopic::Share)),
            ("$share/+/a", Err(BadTopic::Share)),
            ("a/b/c/d/e", Err(BadTopic::TooDeep)),
            ("aaaaaaaaaaaaaaaaaaaaa", Err(BadTopic::TooLong)),
        ] {
            let got = check_filter(filter, &limits).map(|parts| (parts.group, parts.filter));
            assert_eq!(got, want, "{filter:?}");
        }
    }

    #[test]
    fn matching() {
        for (filter, topic, want) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/#", "sports", false),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/+", "$SYS/a", true),
            ("sport/+", "sport/", true),
            ("sport/+", "sport", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/b", "a/B", false),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, topic), want, "{filter} {topic}");
            if want {
                assert!(topic.starts_with(fixed_prefix(filter)), "{filter} {topic}");
            }
        }
    }
}
