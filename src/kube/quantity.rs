//! Resource quantities (`100m`, `1.5Gi`).
//!
//! Grammar and rounding follow Kubernetes (reference/kubernetes-api, "Quantity"): a decimal number
//! and a binary suffix, a decimal suffix or a decimal exponent; what is finer than can be held is
//! rounded away from zero, what is larger than 2^63-1 is capped there.

/// Most of a unit that a quantity can name: 2^63 - 1.
const CAP_UNITS: i128 = i64::MAX as i128;
/// Digits of a number that are kept exactly; later ones only round the result up.
const KEPT_DIGITS: usize = 22;
/// With a binary suffix fewer digits fit beside the power of two.
const KEPT_DIGITS_BINARY: usize = 19;

const NOT_A_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const BAD_SUFFIX: &str = "unable to parse quantity's suffix";
const BAD_NUMBER: &str = "unable to parse numeric part of quantity";

/// A quantity in thousandths of the unit, rounded up as Kubernetes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    pub milli: i128,
}

/// What a suffix multiplies with: `10^ten * 2^two`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    ten: i64,
    two: u32,
}

impl Quantity {
    /// Reads `100m`, `1.5Gi`, `1e3`, `-2`.
    ///
    /// # Errors
    /// Says what is wrong with the text, in Kubernetes' words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(NOT_A_QUANTITY.to_owned());
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number_len = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = unsigned.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(if number.is_empty() { NOT_A_QUANTITY } else { BAD_NUMBER }.to_owned());
        }
        let scale = Scale::parse(suffix).ok_or_else(|| BAD_SUFFIX.to_owned())?;
        let milli = magnitude(whole, fraction, scale);
        Ok(Self { milli: if negative { -milli } else { milli } })
    }
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        let decimal = |ten| Some(Self { ten, two: 0 });
        let binary = |two| Some(Self { ten: 0, two });
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E'])?;
                let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
                // Ten digits hold every exponent Kubernetes takes (32 bits).
                if bare.is_empty() || bare.len() > 10 || !bare.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                decimal(digits.strip_prefix('+').unwrap_or(digits).parse().ok()?)
            }
        }
    }
}

/// `whole.fraction * scale` in thousandths, rounded up, capped.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let kept = if scale.two == 0 { KEPT_DIGITS } else { KEPT_DIGITS_BINARY };
    let mut mantissa: i128 = 0;
    let mut significant = 0usize;
    let mut dropped_whole = 0i64;
    let mut used_fraction = 0i64;
    let mut inexact = false;
    let digits = whole.bytes().map(|byte| (byte, true)).chain(fraction.bytes().map(|byte| (byte, false)));
    for (byte, is_whole) in digits {
        let digit = i128::from(byte.saturating_sub(b'0'));
        if significant < kept {
            mantissa = mantissa * 10 + digit;
            significant += usize::from(mantissa != 0);
            used_fraction += i64::from(!is_whole);
        } else {
            inexact |= digit != 0;
            dropped_whole += i64::from(is_whole);
        }
    }
    if mantissa == 0 {
        return 0;
    }
    let cap = CAP_UNITS * 1000;
    let Some(scaled) = mantissa.checked_mul(1i128 << scale.two) else { return cap };
    let ten = scale.ten + dropped_whole - used_fraction + 3;
    let power = 10i128.checked_pow(u32::try_from(ten.unsigned_abs()).unwrap_or(u32::MAX));
    let milli = match (ten >= 0, power) {
        (true, Some(power)) => scaled.checked_mul(power).map_or(cap, |exact| exact + i128::from(inexact)),
        (true, None) => cap,
        (false, Some(power)) => scaled / power + i128::from(inexact || scaled % power != 0),
        (false, None) => 1,
    };
    milli.min(cap)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_have_the_value_kubernetes_gives_them() {
        let gi: i128 = 1 << 30;
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("-2", -2000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", gi * 1500),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("12e-3", 12),
            ("1n", 1),
            ("1u", 1),
            ("-1n", -1),
            ("1001u", 2),
            ("0.0000000000000000000000000000001", 1),
            ("0e99", 0),
            ("9999E", CAP_UNITS * 1000),
            ("1e999999999", CAP_UNITS * 1000),
            ("1e-999999999", 1),
            ("99999999999999999999999999999999999999999999", CAP_UNITS * 1000),
            ("24684092Ki", 24_684_092 * 1_024_000),
        ] {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.milli), Ok(milli), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", " ", "abc", "1 Gi", "1gi", "1.2.3", "1ki", "--1", "1e", "1e+", "1ee3", ".", "1Zi", "é"]
        {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_exact(units in 0i64..i64::MAX) {
            let quantity = Quantity::parse(&units.to_string());
            prop_assert_eq!(quantity.map(|quantity| quantity.milli), Ok(i128::from(units) * 1000));
        }

        #[test]
        fn order_is_the_order_of_the_numbers(a in 0u32.., b in 0u32.., suffix in "[numkMGT]|[KMGT]i|") {
            let parse = |number: u32| Quantity::parse(&format!("{number}{suffix}")).map(|quantity| quantity.milli);
            let (x, y) = (parse(a), parse(b));
            prop_assert!(x.is_ok() && y.is_ok());
            // Rounding may make two different ones equal, never swap them.
            let in_order = if a <= b { x <= y } else { x >= y };
            prop_assert!(in_order, "{} {}", a, b);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert!(quantity.milli.abs() <= CAP_UNITS * 1000);
            }
        }

        #[test]
        fn anything_of_the_grammar_is_read(text in "[+-]?[0-9]{1,30}(\\.[0-9]{0,30})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,9})?") {
            prop_assert!(Quantity::parse(&text).is_ok(), "{}", text);
        }
    }
}
