//! JSON that means one thing only: a strict parser, and the OLPC canonical form that TUF signatures cover.
//!
//! Other parsers keep the last of two equal members, round large integers or normalise text; whoever
//! signs and whoever verifies would then read different things. Here all of that is refused. What the
//! values mean is for the callers to decide.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{printable::printable, sorted::sort_by};

/// How deep objects and arrays may nest. TUF metadata needs 8; `custom` members some more.
pub const MAX_DEPTH: usize = 32;

/// Why bytes are not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8 from the first byte to the last.
    #[error("not UTF-8 after byte {0}")]
    NotUtf8(usize),
    /// Not JSON, or JSON that different readers read differently.
    #[error("not strict JSON: {0}")]
    NotStrict(String),
}

/// Reads strict JSON: no duplicate members, no floats, no `-0`, integers within `i64`, valid UTF-8, no
/// byte order mark, nothing behind the value, at most [`MAX_DEPTH`] levels.
///
/// # Errors
/// What is not strict, and where.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|e| JsonError::NotUtf8(e.valid_up_to()))?;
    let refuse = |error: serde_json::Error| JsonError::NotStrict(printable(&error.to_string()));
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { levels_left: MAX_DEPTH }.deserialize(&mut reader).map_err(refuse)?;
    reader.end().map_err(refuse)?;
    Ok(value)
}

/// The OLPC canonical form: no white space, members in code-point order, only `"` and `\` escaped,
/// control characters raw, text not normalised. Signatures cover these bytes.
///
/// A value from [`parse`] has no floats; one made elsewhere that has them is written as serde_json
/// writes it, and [`parse`] then refuses the file on every reader.
pub fn to_canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_value(value, &mut out);
    out
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => write_object(members, out),
    }
}

fn write_object(members: &Map<String, Value>, out: &mut Vec<u8>) {
    // Sorted here, since a feature of serde_json that any crate of the build may switch on changes the
    // order of its maps. UTF-8 sorts by bytes as it does by code points.
    let mut sorted: Vec<_> = members.iter().collect();
    sort_by(&mut sorted, |a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    out.push(b'{');
    for (index, (name, member)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write_value(member, out);
    }
    out.push(b'}');
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Reads one value, `levels_left` levels above the limit.
#[derive(Clone, Copy)]
struct Strict {
    levels_left: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Strict, E> {
        let levels_left = self
            .levels_left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))?;
        Ok(Strict { levels_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::from)
            .map_err(|_| E::custom(format_args!("{value} is beyond 64-bit signed integers")))
    }

    // serde_json also brings `-0` and integers beyond 64 bits here.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("{value:?} is not a 64-bit signed integer")))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                let shown: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format_args!("member {shown:?} appears twice")));
            }
            let member = members.next_value_seed(inner)?;
            object.insert(name, member);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical(text: &str) -> Result<String, JsonError> {
        Ok(String::from_utf8(to_canonical(&parse(text.as_bytes())?)).unwrap())
    }

    #[test]
    fn control_characters_stay_raw_and_only_quote_and_backslash_are_escaped() {
        assert_eq!(
            canonical(r#""a\nb\u0001\t\"\\\/\u007f""#).unwrap(),
            "\"a\nb\u{1}\t\\\"\\\\/\u{7f}\""
        );
    }

    #[test]
    fn text_is_not_normalised() {
        assert_eq!(canonical("\"e\u{301}\"").unwrap(), "\"e\u{301}\"");
        assert_ne!(canonical("\"e\u{301}\"").unwrap(), canonical("\"\u{e9}\"").unwrap());
    }

    #[test]
    fn members_stand_in_code_point_order_not_in_utf16_order() {
        assert_eq!(
            canonical("{\"\u{1F600}\":1,\"\u{FF5E}\":2,\"b\":3,\"B\":4}").unwrap(),
            "{\"B\":4,\"b\":3,\"\u{FF5E}\":2,\"\u{1F600}\":1}"
        );
    }

    #[test]
    fn integers_are_exact_within_64_bits_and_refused_beyond() {
        assert_eq!(canonical("9007199254740993").unwrap(), "9007199254740993");
        assert_eq!(canonical("9223372036854775807").unwrap(), i64::MAX.to_string());
        assert_eq!(canonical("-9223372036854775808").unwrap(), i64::MIN.to_string());
        for beyond in ["9223372036854775808", "-9223372036854775809", "18446744073709551616"] {
            assert!(canonical(beyond).is_err(), "{beyond}");
        }
    }

    #[test]
    fn floats_exponents_and_minus_zero_are_refused() {
        for bad in ["1.0", "1e2", "1E2", "-0", "-0.0", "0.5", "01", "+1", "NaN", "Infinity"] {
            assert!(canonical(bad).is_err(), "{bad}");
        }
        assert_eq!(canonical("0").unwrap(), "0");
    }

    #[test]
    fn a_member_given_twice_is_refused_however_it_is_spelt() {
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"b":{"x":1,"y":2,"x":3}}]"#] {
            let error = canonical(bad).unwrap_err().to_string();
            assert!(error.contains("appears twice"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_not_one_utf8_json_value_is_refused() {
        for bad in [
            &b""[..],
            b"\xef\xbb\xbf{}",
            b"{} {}",
            b"{}x",
            b"\"\xff\"",
            b"\"\\ud800\"",
            b"\"\\udc00\\ud800\"",
            b"\"\xed\xa0\x80\"",
            b"\"a\nb\"",
            b"[1,]",
            b"{\"a\":1,}",
            b"{a:1}",
            b"'a'",
            b"// c\n1",
            b"\xff\xfe{\0}\0",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        assert!(parse(b" \r\n\t{} \n").is_ok());
    }

    #[test]
    fn nesting_ends_at_32_levels() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(parse(nested(MAX_DEPTH + 1).as_bytes()).is_err());
        let objects = |levels| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(parse(objects(MAX_DEPTH).as_bytes()).is_ok());
        assert!(parse(objects(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn the_form_is_that_of_securesystemslib() {
        let value = json!({"b": [true, false, null], "a": {"z": -1, "y": ""}, "": {}, "c": []});
        assert_eq!(
            String::from_utf8(to_canonical(&value)).unwrap(),
            r#"{"":{},"a":{"y":"","z":-1},"b":[true,false,null],"c":[]}"#
        );
    }

    fn values(text: &'static str) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_in_any_json_form_has_one_canonical_form(value in values("(?s).{0,8}")) {
            let compact = parse(&serde_json::to_vec(&value).unwrap()).unwrap();
            let spread = parse(&serde_json::to_vec_pretty(&value).unwrap()).unwrap();
            prop_assert_eq!(&compact, &value);
            prop_assert_eq!(to_canonical(&compact), to_canonical(&value));
            prop_assert_eq!(to_canonical(&spread), to_canonical(&value));
        }

        // Raw control characters are no JSON, so a canonical form that holds them can't be read back.
        #[test]
        fn the_canonical_form_read_back_gives_itself(value in values("[^\\x00-\\x1f]{0,8}")) {
            let once = to_canonical(&value);
            let again = to_canonical(&parse(&once).unwrap());
            prop_assert_eq!(once, again);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
