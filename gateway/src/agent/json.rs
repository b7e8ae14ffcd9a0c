//! google.protobuf.Struct as JSON and back.
use prost_types::{ListValue, Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value};

pub(super) fn from_struct(wire: &Struct) -> Value {
    Value::Object(wire.fields.iter().map(|(name, value)| (name.clone(), from_wire(value))).collect())
}

pub(super) fn to_struct(object: Map<String, Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name, to_wire(value))).collect() }
}

fn from_wire(wire: &Wire) -> Value {
    match &wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(it)) => Value::Bool(*it),
        Some(Kind::StringValue(it)) => Value::String(it.clone()),
        Some(Kind::NumberValue(it)) => number(*it),
        Some(Kind::ListValue(it)) => Value::Array(it.values.iter().map(from_wire).collect()),
        Some(Kind::StructValue(it)) => from_struct(it),
    }
}

/// Whole numbers without a point, as they were written.
fn number(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked: it is whole and within 2^53")]
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn to_wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(it) => Kind::BoolValue(it),
        Value::Number(it) => Kind::NumberValue(it.as_f64().unwrap_or_default()),
        Value::String(it) => Kind::StringValue(it),
        Value::Array(it) => Kind::ListValue(ListValue { values: it.into_iter().map(to_wire).collect() }),
        Value::Object(it) => Kind::StructValue(to_struct(it)),
    };
    Wire { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_comes_back_as_it_went() {
        let value = json!({ "a": [1, 2.5, -3, true, null, "x"], "b": { "c": {} } });
        let Value::Object(object) = value.clone() else { panic!("an object") };
        assert_eq!(from_struct(&to_struct(object)), value);
    }
}
