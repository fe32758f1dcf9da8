use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::registers::{DataType, Table, Visitor};
use crate::mapper::value::{Kind, Value};

fn read(config: &Json, kind: Kind) -> Result<Visitor, String> {
    Visitor::read("v", config.as_object().unwrap(), kind)
}

#[test]
fn visitors_are_read_as_kubeedge_writes_them() {
    let holding = |offset, limit, data| Visitor {
        table: Table::Holding,
        offset,
        limit,
        scale: 1.0,
        data,
        swap_bytes: false,
        swap_registers: false,
    };
    for (config, kind, want) in [
        (
            json!({"register": "HoldingRegister", "offset": 2, "limit": 1}),
            Kind::Int,
            holding(2, 1, DataType::Uint),
        ),
        (
            json!({"register": "HoldingRegister", "offset": "2", "limit": "2"}),
            Kind::Float,
            holding(2, 2, DataType::Float),
        ),
        (json!({"register": "holding", "offset": 2}), Kind::Float, holding(2, 2, DataType::Float)),
        (json!({"register": "HoldingRegister", "offset": 2}), Kind::Double, holding(2, 4, DataType::Float)),
        (
            json!({"register": "HoldingRegister", "offset": 2, "dataType": "int32"}),
            Kind::Int,
            holding(2, 2, DataType::Int),
        ),
        (
            json!({"register": "HoldingRegister", "offset": 2, "limit": 8}),
            Kind::Text,
            holding(2, 8, DataType::Text),
        ),
        (
            json!({"register": "HoldingRegister", "offset": 2, "limit": 1}),
            Kind::Float,
            holding(2, 1, DataType::Uint),
        ),
        (
            json!({"register": "HoldingRegister", "offset": 2}),
            Kind::Boolean,
            holding(2, 1, DataType::Boolean),
        ),
    ] {
        assert_eq!(read(&config, kind), Ok(want), "{config}");
    }
    let coil = json!({"register": "CoilRegister", "offset": 0, "limit": 1, "isSwap": true, "IsRegisterSwap": true, "scale": 0});
    let coil = read(&coil, Kind::Boolean).unwrap();
    assert_eq!((coil.table, coil.data), (Table::Coil, DataType::Boolean));
    assert!(coil.swap_bytes && coil.swap_registers && (coil.scale - 1.0).abs() < 1e-9);
}

#[test]
fn wrong_visitors_name_the_field() {
    for (config, want) in [
        (json!({"offset": 1}), "v.register: is missing"),
        (json!({"register": "Holding"}), "v.offset: is missing"),
        (json!({"register": "Magic", "offset": 1}), "v.register: \"Magic\" is none of"),
        (
            json!({"register": "Holding", "offset": 70_000}),
            "v.offset: 70000 is not a whole number from 0 to 65535",
        ),
        (json!({"register": "Holding", "offset": 1, "limit": 3}), "v.limit: 3 registers do not hold one INT"),
        (
            json!({"register": "Holding", "offset": 1, "limit": 1, "dataType": "float32"}),
            "v.limit: 1 registers do not hold one float32",
        ),
        (json!({"register": "Holding", "offset": 1, "dataType": "bcd"}), "v.dataType: \"bcd\" is not known"),
        (json!({"register": "Holding", "offset": 1, "scale": "x"}), "v.scale: \"x\" is not a number"),
        (json!({"register": "Coil", "offset": 1, "limit": 2}), "v.limit: 2 registers do not hold one INT"),
    ] {
        let err = read(&config, Kind::Int).unwrap_err();
        assert!(err.starts_with(want), "{err}");
    }
}

fn visitor(data: &str, swap: bool, register_swap: bool, scale: f64) -> Visitor {
    let config = json!({"register": "Holding", "offset": 0, "dataType": data, "isSwap": swap,
        "isRegisterSwap": register_swap, "scale": scale});
    read(&config, Kind::Double).unwrap()
}

#[test]
fn registers_read_in_each_order() {
    // 0x41480000 is 12.5.
    for (swap, register_swap, words) in [
        (false, false, [0x4148, 0x0000]),
        (false, true, [0x0000, 0x4148]),
        (true, false, [0x4841, 0x0000]),
        (true, true, [0x0000, 0x4841]),
    ] {
        let visitor = visitor("float32", swap, register_swap, 1.0);
        assert_eq!(visitor.decode(&words), Ok(Value::Float(12.5)), "{swap} {register_swap}");
        assert_eq!(visitor.encode(&Value::Float(12.5)), Ok(words.to_vec()));
    }
    for (data, words, want) in [
        ("int16", vec![0xfff6], Value::Int(-10)),
        ("uint16", vec![0xfff6], Value::Int(65_526)),
        ("int32", vec![0xffff, 0xfff6], Value::Int(-10)),
        ("uint32", vec![0xffff, 0xffff], Value::Int(4_294_967_295)),
        ("int64", vec![0xffff, 0xffff, 0xffff, 0xfff6], Value::Int(-10)),
        ("float64", vec![0x4029, 0, 0, 0], Value::Float(12.5)),
    ] {
        let visitor = visitor(data, false, false, 1.0);
        assert_eq!(visitor.decode(&words), Ok(want.clone()), "{data}");
        assert_eq!(visitor.encode(&want), Ok(words), "{data}");
    }
    assert_eq!(
        visitor("uint64", false, false, 1.0).decode(&[0xffff; 4]),
        Ok(Value::Float(18_446_744_073_709_551_615.0))
    );
    assert_eq!(visitor("int16", false, false, 0.1).decode(&[215]), Ok(Value::Float(21.5)));
    assert_eq!(visitor("int16", false, false, 0.1).encode(&Value::Float(21.5)), Ok(vec![215]));
    assert!(visitor("int16", false, false, 1.0).decode(&[1, 2]).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    for (data, value) in [
        ("int16", Value::Int(40_000)),
        ("uint16", Value::Int(-1)),
        ("uint16", Value::Int(65_536)),
        ("float32", Value::Float(1e300)),
        ("int32", Value::Text("x".to_owned())),
    ] {
        assert!(visitor(data, false, false, 1.0).encode(&value).is_err(), "{data} {value}");
    }
}

#[test]
fn texts_fill_their_registers() {
    let config = json!({"register": "Holding", "offset": 0, "limit": 3});
    let plain = read(&config, Kind::Text).unwrap();
    let text = Value::Text("hallo".to_owned());
    assert_eq!(plain.encode(&text), Ok(vec![0x6861, 0x6c6c, 0x6f00]));
    assert_eq!(plain.decode(&[0x6861, 0x6c6c, 0x6f00]), Ok(text));
    assert!(plain.encode(&Value::Text("too long".to_owned())).is_err());
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        pick in 0_usize..8, swap in any::<bool>(), register_swap in any::<bool>(), whole in any::<i64>(), float in any::<f32>(),
    ) {
        let data = ["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"][pick];
        let visitor = visitor(data, swap, register_swap, 1.0);
        let value = if pick < 6 { Value::Int(whole) } else { Value::Float(f64::from(float)) };
        if let Ok(words) = visitor.encode(&value) {
            prop_assert_eq!(words.len(), usize::from(visitor.limit));
            let back = visitor.decode(&words).unwrap();
            match (&back, &value) {
                // A 32-bit float reads as its shortest decimal.
                #[expect(clippy::cast_possible_truncation, reason = "compared as 32 bits")]
                (Value::Float(back), Value::Float(_)) => prop_assert_eq!((*back as f32).to_bits(), float.to_bits()),
                _ => prop_assert_eq!(back, value),
            }
        }
    }

    #[test]
    fn no_registers_make_it_panic(pick in 0_usize..4, words in prop::collection::vec(any::<u16>(), 0..6), scale in any::<f64>()) {
        let data = ["int16", "uint64", "float32", "string"][pick];
        let visitor = Visitor { scale, ..visitor(data, true, true, 1.0) };
        drop(visitor.decode(&words));
        drop(visitor.encode(&Value::Float(scale)));
    }
}
