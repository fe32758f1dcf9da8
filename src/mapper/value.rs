//! Values and the types of a device model: conversion, ranges, text. Pure.

use std::fmt;

/// A value between device and model.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

/// Type of a property in its model. `STREAM` is no value and not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    /// 32 bits.
    Float,
    Double,
    Boolean,
    Text,
    /// As text: what the driver makes of the bytes.
    Bytes,
}

/// Why a value is none for this property.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ValueError {
    #[error("{value:?} is not of type {kind}")]
    Type { value: String, kind: Kind },
    #[error("{value} is below the minimum {minimum}")]
    TooSmall { value: String, minimum: String },
    #[error("{value} is above the maximum {maximum}")]
    TooLarge { value: String, maximum: String },
}

impl Kind {
    /// Reads `INT`, `FLOAT`, `DOUBLE`, `BOOLEAN`, `STRING` or `BYTES`, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "INT" => Self::Int,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "BOOLEAN" => Self::Boolean,
            "STRING" => Self::Text,
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// The type of a twin (protocol section 7.4).
    #[must_use]
    pub fn twin_type(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float | Self::Double => "float",
            Self::Boolean => "boolean",
            Self::Text | Self::Bytes => "string",
        }
    }

    /// `value` as this type. A fraction rounds to the nearest `INT`; numbers 0 and 1 are booleans.
    ///
    /// # Errors
    /// [`ValueError::Type`] when the type cannot hold it (too big, not a number).
    pub fn convert(self, value: Value) -> Result<Value, ValueError> {
        let wrong = ValueError::Type { value: value.to_string(), kind: self };
        match (self, value) {
            (Self::Int, Value::Float(float)) => nearest(float).map(Value::Int).ok_or(wrong),
            (Self::Int, Value::Bool(is)) => Ok(Value::Int(i64::from(is))),
            (Self::Float | Self::Double, Value::Int(whole)) => {
                #[expect(clippy::cast_precision_loss, reason = "what a model of this type asks for")]
                let float = Value::Float(whole as f64);
                self.convert(float)
            }
            (Self::Float, Value::Float(float)) => {
                #[expect(clippy::cast_possible_truncation, reason = "checked on the next line")]
                let narrow = float as f32;
                // Its shortest decimal: 21.3 stays 21.3.
                let short = narrow.to_string().parse().ok();
                short.filter(|_| narrow.is_finite()).map(Value::Float).ok_or(wrong)
            }
            (Self::Double, Value::Float(float)) if float.is_finite() => Ok(Value::Float(float)),
            (Self::Boolean, Value::Int(0)) => Ok(Value::Bool(false)),
            (Self::Boolean, Value::Int(1)) => Ok(Value::Bool(true)),
            (Self::Boolean, Value::Float(0.0)) => Ok(Value::Bool(false)),
            (Self::Boolean, Value::Float(1.0)) => Ok(Value::Bool(true)),
            (Self::Text | Self::Bytes, value) => Ok(Value::Text(value.to_string())),
            (kind, Value::Text(text)) => kind.parse_value(&text).map_err(|_| wrong),
            (Self::Int, value @ Value::Int(_)) | (Self::Boolean, value @ Value::Bool(_)) => Ok(value),
            _ => Err(wrong),
        }
    }

    /// Reads a desired value.
    ///
    /// # Errors
    /// [`ValueError::Type`].
    pub fn parse_value(self, text: &str) -> Result<Value, ValueError> {
        let wrong = || ValueError::Type { value: text.to_owned(), kind: self };
        let trimmed = text.trim();
        match self {
            Self::Int => trimmed.parse().map(Value::Int).map_err(|_| wrong()),
            Self::Float | Self::Double => {
                let float = trimmed.parse::<f64>().map_err(|_| wrong())?;
                self.convert(Value::Float(float)).map_err(|_| wrong())
            }
            Self::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "1" | "on" => Ok(Value::Bool(true)),
                "false" | "0" | "off" => Ok(Value::Bool(false)),
                _ => Err(wrong()),
            },
            Self::Text | Self::Bytes => Ok(Value::Text(text.to_owned())),
        }
    }
}

fn nearest(float: f64) -> Option<i64> {
    /// 2^63: the first float above every `i64`.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let rounded = float.round();
    #[expect(clippy::cast_possible_truncation, reason = "in range")]
    (rounded >= -LIMIT && rounded < LIMIT).then_some(rounded as i64)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Boolean => "BOOLEAN",
            Self::Text => "STRING",
            Self::Bytes => "BYTES",
        })
    }
}

/// The text a twin carries: no exponent, no needless zeros.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(whole) => whole.fmt(f),
            Self::Float(float) => float.fmt(f),
            Self::Bool(is) => is.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Smallest and largest value of a number; texts and booleans have none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Range {
    minimum: Option<Bound>,
    maximum: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    Int(i64),
    Float(f64),
}

impl Bound {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(whole) = text.parse() {
            return Ok(Some(Self::Int(whole)));
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Some(Self::Float(float))),
            _ => Err(format!("{text:?} is not a number")),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "only where one side is a float anyway")]
    fn compare(self, value: &Value) -> Option<std::cmp::Ordering> {
        match (value, self) {
            (Value::Int(value), Self::Int(bound)) => Some(value.cmp(&bound)),
            (Value::Int(value), Self::Float(bound)) => (*value as f64).partial_cmp(&bound),
            (Value::Float(value), Self::Int(bound)) => value.partial_cmp(&(bound as f64)),
            (Value::Float(value), Self::Float(bound)) => value.partial_cmp(&bound),
            _ => None,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(whole) => whole.fmt(f),
            Self::Float(float) => float.fmt(f),
        }
    }
}

impl Range {
    /// Reads a model's `minimum` and `maximum`; empty means none.
    ///
    /// # Errors
    /// Names the one that is no number, or says that they are the wrong way round.
    pub fn parse(minimum: &str, maximum: &str) -> Result<Self, String> {
        let range = Self {
            minimum: Bound::parse(minimum).map_err(|why| format!("minimum: {why}"))?,
            maximum: Bound::parse(maximum).map_err(|why| format!("maximum: {why}"))?,
        };
        let floor = range.minimum.map(|bound| match bound {
            Bound::Int(whole) => Value::Int(whole),
            Bound::Float(float) => Value::Float(float),
        });
        if let (Some(floor), Some(ceiling)) = (floor, range.maximum)
            && ceiling.compare(&floor).is_some_and(std::cmp::Ordering::is_gt)
        {
            return Err(format!("minimum {floor} is above maximum {ceiling}"));
        }
        Ok(range)
    }

    /// # Errors
    /// [`ValueError::TooSmall`], [`ValueError::TooLarge`].
    pub fn check(&self, value: &Value) -> Result<(), ValueError> {
        if let Some(minimum) = self.minimum
            && minimum.compare(value).is_some_and(std::cmp::Ordering::is_lt)
        {
            return Err(ValueError::TooSmall { value: value.to_string(), minimum: minimum.to_string() });
        }
        if let Some(maximum) = self.maximum
            && maximum.compare(value).is_some_and(std::cmp::Ordering::is_gt)
        {
            return Err(ValueError::TooLarge { value: value.to_string(), maximum: maximum.to_string() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_become_what_the_model_asks_for() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (kind, value, want) in [
            (Kind::Int, Value::Float(21.5), Some("22")),
            (Kind::Int, Value::Float(-0.4), Some("0")),
            (Kind::Int, Value::Float(1e30), None),
            (Kind::Int, Value::Float(f64::NAN), None),
            (Kind::Int, Value::Bool(true), Some("1")),
            (Kind::Int, text(" 7 "), Some("7")),
            (Kind::Int, text("7.5"), None),
            (Kind::Float, Value::Float(21.3), Some("21.3")),
            (Kind::Float, Value::Float(0.1 + 0.2), Some("0.3")),
            (Kind::Float, Value::Float(1e300), None),
            (Kind::Float, Value::Int(5), Some("5")),
            (Kind::Double, Value::Float(1_234.567_89), Some("1234.56789")),
            (Kind::Double, Value::Float(f64::INFINITY), None),
            (Kind::Double, Value::Bool(true), None),
            (Kind::Boolean, Value::Int(1), Some("true")),
            (Kind::Boolean, Value::Int(2), None),
            (Kind::Boolean, Value::Float(0.0), Some("false")),
            (Kind::Boolean, text("ON"), Some("true")),
            (Kind::Text, Value::Int(5), Some("5")),
            (Kind::Bytes, text("00ff"), Some("00ff")),
        ] {
            let got = kind.convert(value.clone()).ok().map(|value| value.to_string());
            assert_eq!(got.as_deref(), want, "{kind} of {value:?}");
        }
    }

    #[test]
    fn desired_values_are_read_strictly() {
        for (kind, text, want) in [
            (Kind::Int, "20", Some("20")),
            (Kind::Int, "20.5", None),
            (Kind::Int, "", None),
            (Kind::Float, "20.5", Some("20.5")),
            (Kind::Float, "NaN", None),
            (Kind::Double, "inf", None),
            (Kind::Boolean, "off", Some("false")),
            (Kind::Boolean, "yes", None),
            (Kind::Text, " as it is ", Some(" as it is ")),
        ] {
            let got = kind.parse_value(text).ok().map(|value| value.to_string());
            assert_eq!(got.as_deref(), want, "{kind} of {text:?}");
        }
        assert_eq!(
            [Kind::parse("double"), Kind::parse("STREAM"), Kind::parse("")],
            [Some(Kind::Double), None, None]
        );
    }

    #[test]
    fn ranges_include_their_ends() {
        let range = Range::parse("-10", "99.5").unwrap();
        for (value, want) in [
            (Value::Int(-10), Ok(())),
            (Value::Float(99.5), Ok(())),
            (Value::Int(-11), Err("-11 is below the minimum -10")),
            (Value::Float(99.6), Err("99.6 is above the maximum 99.5")),
            (Value::Text("hot".to_owned()), Ok(())),
        ] {
            assert_eq!(range.check(&value).map_err(|err| err.to_string()), want.map_err(str::to_owned));
        }
        let exact = Range::parse("", "9007199254740993").unwrap();
        assert!(exact.check(&Value::Int(9_007_199_254_740_994)).is_err(), "exact beyond 2^53");
        assert_eq!(Range::parse("", "").unwrap(), Range::default());
        assert_eq!(Range::parse("a", "").unwrap_err(), "minimum: \"a\" is not a number");
        assert_eq!(Range::parse("5", "4").unwrap_err(), "minimum 5 is above maximum 4");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Float),
            any::<bool>().prop_map(Value::Bool),
            ".{0,12}".prop_map(Value::Text),
        ]
    }

    proptest! {
        /// What was converted reads back from its own text: a reported value can be desired.
        #[test]
        fn converted_values_read_back(value in any_value(), pick in 0_usize..6) {
            let kind = [Kind::Int, Kind::Float, Kind::Double, Kind::Boolean, Kind::Text, Kind::Bytes][pick];
            if let Ok(value) = kind.convert(value) {
                prop_assert_eq!(kind.parse_value(&value.to_string()), Ok(value.clone()));
                prop_assert_eq!(kind.convert(value.clone()), Ok(value));
            }
        }

        #[test]
        fn a_range_takes_exactly_what_is_in_it(low in -1_000_i64..1_000, size in 0_i64..1_000, value in -3_000_i64..3_000) {
            let range = Range::parse(&low.to_string(), &(low + size).to_string()).unwrap();
            let inside = value >= low && value <= low + size;
            prop_assert_eq!(range.check(&Value::Int(value)).is_ok(), inside);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let float = value as f64;
            prop_assert_eq!(range.check(&Value::Float(float)).is_ok(), inside);
        }
    }
}
