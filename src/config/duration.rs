//! Go durations, as the kubelet's keys have them: `10s`, `5m`, `1h30m`, `1m0.5s`.

use std::time::Duration;

/// Nanoseconds of each unit, longest spelling first so that `ms` is not read as `m`.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration as Go's `time.ParseDuration` does, negative ones excepted.
///
/// # Errors
/// A clause that says what is wrong with the text.
pub fn parse_go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 10s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() || text.len() > 64 {
        return Err(wrong());
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.len() > 18 {
            return Err(wrong());
        }
        let (unit, after) = UNITS
            .iter()
            .find_map(|(name, nanos)| after.strip_prefix(name).map(|after| (u128::from(*nanos), after)))
            .ok_or_else(wrong)?;
        nanos += whole.parse::<u128>().unwrap_or(0) * unit;
        let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        nanos += fraction.parse::<u128>().unwrap_or(0) * unit / scale;
        rest = after;
    }
    let nanos = u64::try_from(nanos).ok().filter(|nanos| i64::try_from(*nanos).is_ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| format!("{text:?} is longer than 292 years"))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
            ("5m", 300_000),
            ("5m0s", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("250ms", 250),
            ("1m0.25s", 60_250),
            ("2000us", 2),
            ("2000µs", 2),
        ] {
            assert_eq!(parse_go_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", ".s", "-1s", "1 s", "1x", "1s2", "1d", "9999999h", "1e3s", &"1".repeat(30)]
        {
            assert!(parse_go_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "[0-9.]{0,20}[nuµmsh]{0,2}.{0,8}") {
            if let Ok(duration) = parse_go_duration(&text) {
                prop_assert!(duration <= Duration::from_nanos(i64::MAX as u64));
            }
        }

        #[test]
        fn whole_seconds(secs in 0u64..9_000_000_000) {
            prop_assert_eq!(parse_go_duration(&format!("{secs}s")), Ok(Duration::from_secs(secs)));
        }
    }
}
