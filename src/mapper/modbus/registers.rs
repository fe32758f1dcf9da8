//! Where a value stands in a Modbus device and how its registers read. Pure.
//!
//! Names are those of KubeEdge's Modbus mappers: `register`, `offset`, `limit`, `scale`, `isSwap`
//! (bytes within each register), `isRegisterSwap` (order of the registers), `dataType`. As there,
//! plain integers are unsigned; `dataType: int16` and its kin say otherwise.

use serde_json::{Map, Value as Json};

use crate::mapper::fields::Fields;
use crate::mapper::value::{Kind, Value};

/// Most registers of one read (the protocol's limit).
const MAX_REGISTERS: i64 = 125;

/// One of the four tables of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Coil,
    DiscreteInput,
    Holding,
    Input,
}

/// How registers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    Int,
    Uint,
    Float,
    Text,
    Boolean,
}

/// Where and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visitor {
    pub table: Table,
    pub offset: u16,
    /// Registers.
    pub limit: u16,
    pub scale: f64,
    pub data: DataType,
    pub swap_bytes: bool,
    pub swap_registers: bool,
}

impl Visitor {
    /// Reads a visitor's `configData`; what it leaves open follows from the model's type.
    ///
    /// # Errors
    /// Names the field.
    pub fn read(path: &str, map: &Map<String, Json>, kind: Kind) -> Result<Self, String> {
        let fields = Fields::new(path, map);
        let Some(register) = fields.text(&["register"])? else {
            return Err(format!("{path}.register: is missing"));
        };
        let table = match register.to_ascii_lowercase().trim_end_matches("register") {
            "coil" => Table::Coil,
            "discreteinput" => Table::DiscreteInput,
            "holding" => Table::Holding,
            "input" => Table::Input,
            _ => {
                return Err(format!(
                    "{path}.register: {register:?} is none of CoilRegister, DiscreteInputRegister, HoldingRegister, \
                     InputRegister"
                ));
            }
        };
        let Some(offset) = fields.int(&["offset"], 0, 65_535)? else {
            return Err(format!("{path}.offset: is missing"));
        };
        let limit = fields.int(&["limit"], 1, MAX_REGISTERS)?;
        let scale = fields.float(&["scale"])?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
        let named = fields.text(&["dataType"])?.unwrap_or_default().to_ascii_lowercase();
        let (data, width) = match named.as_str() {
            "int8" | "int16" => (DataType::Int, Some(1)),
            "uint8" | "uint16" => (DataType::Uint, Some(1)),
            "int32" => (DataType::Int, Some(2)),
            "uint32" => (DataType::Uint, Some(2)),
            "int64" => (DataType::Int, Some(4)),
            "uint64" => (DataType::Uint, Some(4)),
            "float32" => (DataType::Float, Some(2)),
            "float64" => (DataType::Float, Some(4)),
            "string" | "text" => (DataType::Text, None),
            "bool" | "boolean" => (DataType::Boolean, Some(1)),
            "" | "int" | "float" | "double" => general(&named, kind, limit),
            _ => return Err(format!("{path}.dataType: {named:?} is not known")),
        };
        let bits = matches!(table, Table::Coil | Table::DiscreteInput);
        let data = if bits { DataType::Boolean } else { data };
        let limit = limit.or(width).unwrap_or(1);
        let fits = match data {
            DataType::Text => true,
            DataType::Boolean => limit == 1,
            DataType::Float => matches!(limit, 2 | 4),
            DataType::Int | DataType::Uint => matches!(limit, 1 | 2 | 4),
        };
        if !fits || width.is_some_and(|width| !bits && width != limit) {
            let what = if named.is_empty() { kind.to_string() } else { named };
            return Err(format!("{path}.limit: {limit} registers do not hold one {what}"));
        }
        Ok(Self {
            table,
            offset: u16::try_from(offset).unwrap_or_default(),
            limit: u16::try_from(limit).unwrap_or(1),
            scale,
            data,
            swap_bytes: fields.flag(&["isSwap"])?,
            swap_registers: fields.flag(&["isRegisterSwap"])?,
        })
    }

    /// The value in these registers.
    ///
    /// # Errors
    /// In words, when the device sent fewer than asked for.
    pub fn decode(&self, words: &[u16]) -> Result<Value, String> {
        if words.len() != usize::from(self.limit) {
            return Err(format!("the device sent {} registers, {} were asked for", words.len(), self.limit));
        }
        let words = self.swapped(words);
        let bits = words.iter().fold(0_u64, |bits, word| bits << 16 | u64::from(*word));
        Ok(match self.data {
            DataType::Boolean => Value::Bool(bits != 0),
            DataType::Text => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                Value::Text(String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned())
            }
            DataType::Uint => match i64::try_from(bits) {
                Ok(whole) => self.scaled(whole),
                #[expect(clippy::cast_precision_loss, reason = "no type of a model holds it exactly")]
                Err(_) => Value::Float(bits as f64 * self.scale),
            },
            DataType::Int => {
                let unused = 64 - 16 * u32::from(self.limit.min(4));
                self.scaled((bits << unused).cast_signed() >> unused)
            }
            DataType::Float if self.limit == 2 => {
                let narrow = f32::from_bits(u32::try_from(bits).unwrap_or_default());
                // Its shortest decimal, so that a scale works on what a reader would see.
                Value::Float(narrow.to_string().parse().unwrap_or(f64::from(narrow)) * self.scale)
            }
            DataType::Float => Value::Float(f64::from_bits(bits) * self.scale),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a scale makes it a float anyway")]
    fn scaled(&self, whole: i64) -> Value {
        if (self.scale - 1.0).abs() < f64::EPSILON {
            Value::Int(whole)
        } else {
            Value::Float(tidy(whole as f64 * self.scale))
        }
    }

    /// The registers of a value.
    ///
    /// # Errors
    /// In words, when they cannot hold it.
    pub fn encode(&self, value: &Value) -> Result<Vec<u16>, String> {
        let width = usize::from(self.limit);
        if let (DataType::Text, Value::Text(text)) = (self.data, value) {
            let mut bytes = text.as_bytes().to_vec();
            if bytes.len() > 2 * width {
                return Err(format!("{} bytes do not fit {width} registers", bytes.len()));
            }
            bytes.resize(2 * width, 0);
            let words = bytes.chunks_exact(2).map(|pair| match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                _ => 0,
            });
            return Ok(self.swapped(&words.collect::<Vec<u16>>()));
        }
        let wrong = || format!("{value} does not fit {width} registers of this type");
        let bits = match self.data {
            DataType::Boolean => u64::from(number(value).ok_or_else(wrong)? != 0.0),
            DataType::Float => {
                let float = number(value).ok_or_else(wrong)? / self.scale;
                #[expect(clippy::cast_possible_truncation, reason = "checked on the next line")]
                let narrow = float as f32;
                match width {
                    2 if narrow.is_finite() => u64::from(narrow.to_bits()),
                    4 => float.to_bits(),
                    _ => return Err(wrong()),
                }
            }
            DataType::Int | DataType::Uint | DataType::Text => {
                let whole = self.unscaled(value).ok_or_else(wrong)?;
                let size = 16 * self.limit.min(4);
                let (low, high) = match self.data {
                    DataType::Int => (-(1_i128 << (size - 1)), (1_i128 << (size - 1)) - 1),
                    _ => (0, (1_i128 << size) - 1),
                };
                if whole < low || whole > high {
                    return Err(wrong());
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "two's complement"
                )]
                let bits = whole as u64;
                bits
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "one register")]
        let words: Vec<u16> = (0..width).rev().map(|place| (bits >> (16 * place.min(3))) as u16).collect();
        Ok(self.swapped(&words))
    }

    fn unscaled(&self, value: &Value) -> Option<i128> {
        if let (Value::Int(whole), true) = (value, (self.scale - 1.0).abs() < f64::EPSILON) {
            return Some(i128::from(*whole));
        }
        let raw = (number(value)? / self.scale).round();
        #[expect(clippy::cast_possible_truncation, reason = "far inside i128")]
        (raw.abs() < 1e30).then_some(raw as i128)
    }

    /// Both swaps are their own opposite, and either may come first.
    fn swapped(&self, words: &[u16]) -> Vec<u16> {
        let bytes = words.iter().map(|word| if self.swap_bytes { word.swap_bytes() } else { *word });
        if self.swap_registers { bytes.rev().collect() } else { bytes.collect() }
    }
}

/// What `int`, `float`, `double` or nothing means for a property of this type.
fn general(named: &str, kind: Kind, limit: Option<i64>) -> (DataType, Option<i64>) {
    let float = match (named, kind) {
        ("int", _) => false,
        ("float" | "double", _) => true,
        (_, Kind::Float | Kind::Double) => true,
        (_, Kind::Text | Kind::Bytes) => return (DataType::Text, None),
        (_, Kind::Boolean) => return (DataType::Boolean, Some(1)),
        _ => false,
    };
    match (float, limit) {
        // One register with a scale: how most sensors say 21.5 degrees.
        (true, Some(1)) => (DataType::Uint, None),
        (true, Some(_)) => (DataType::Float, None),
        (true, None) if named == "double" || named.is_empty() && kind == Kind::Double => {
            (DataType::Float, Some(4))
        }
        (true, None) => (DataType::Float, Some(2)),
        (false, _) => (DataType::Uint, None),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "only for floats and scales")]
        Value::Int(whole) => Some(*whole as f64),
        Value::Float(float) => Some(*float),
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        Value::Text(text) => text.trim().parse().ok(),
    }
}

/// 215 * 0.1 is 21.5, not 21.500000000000004: twelve digits are more than any register has.
fn tidy(float: f64) -> f64 {
    format!("{float:.11e}").parse().unwrap_or(float)
}
