//! Times as Kubernetes writes them.

use jiff::Timestamp;

/// `at` without its fraction of a second: what an object's times keep.
#[must_use]
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_without_a_fraction() {
        let at: Timestamp = "2027-01-15T08:05:07.999Z".parse().unwrap();
        assert_eq!(whole_second(at).to_string(), "2027-01-15T08:05:07Z");
        assert_eq!(whole_second(Timestamp::MAX).to_string(), "9999-12-30T22:00:00Z");
    }
}
