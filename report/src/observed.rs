//! A value that was measured, or the reason why it was not.
//!
//! In JSON an observed value is `{"value": 12.5}` and a missing one is
//! `{"value": null, "reason": "no hardware PMU"}`. A missing value is never
//! written as 0: nobody can tell a 0 that was counted from one that was not.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value, or why it could not be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// The value as measured.
    Value(T),
    /// Not observed, and why, as a clause a reader can act on.
    Missing(String),
}

impl<T> Observed<T> {
    /// A missing value with its reason.
    pub fn missing(reason: impl Into<String>) -> Self {
        Self::Missing(reason.into())
    }

    /// The value if there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing(_) => None,
        }
    }

    /// The reason if there is no value.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::Missing(reason) => Some(reason),
        }
    }

    /// Adds another value to this one. A sum that lacks a part is no sum: the first reason
    /// stays.
    pub fn add_with(&mut self, more: &Self, plus: impl FnOnce(&mut T, &T)) {
        match (&mut *self, more) {
            (Self::Value(sum), Self::Value(more)) => plus(sum, more),
            (Self::Value(_), Self::Missing(reason)) => *self = Self::Missing(reason.clone()),
            (Self::Missing(_), _) => {}
        }
    }

    /// Applies `f` to the value, keeps the reason.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Self::Value(value) => Observed::Value(f(value)),
            Self::Missing(reason) => Observed::Missing(reason),
        }
    }
}

impl<T> From<T> for Observed<T> {
    fn from(value: T) -> Self {
        Self::Value(value)
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Observed<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Missing(error.to_string()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Wire<T> {
    value: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl<T: Serialize> Serialize for Observed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = match self {
            Self::Value(value) => Wire {
                value: Some(value),
                reason: None,
            },
            Self::Missing(reason) => Wire {
                value: None,
                reason: Some(reason.clone()),
            },
        };
        wire.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Observed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        match (wire.value, wire.reason) {
            (Some(value), None) => Ok(Self::Value(value)),
            (None, Some(reason)) => Ok(Self::Missing(reason)),
            (Some(_), Some(_)) => Err(serde::de::Error::custom(
                "an observed value has both a value and a reason for having none",
            )),
            (None, None) => Err(serde::de::Error::custom(
                "a null value has no reason beside it",
            )),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Observed<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Observed_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "description": "A value, or null with the reason why it could not be observed.",
            "oneOf": [
                {
                    "type": "object",
                    "required": ["value"],
                    "properties": { "value": value, "reason": { "type": "null" } },
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "required": ["value", "reason"],
                    "properties": { "value": { "type": "null" }, "reason": { "type": "string" } },
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_null_with_its_reason() {
        let json = serde_json::to_string(&Observed::<u64>::missing("no PMU")).unwrap();
        assert_eq!(json, r#"{"value":null,"reason":"no PMU"}"#);
        let back: Observed<u64> = serde_json::from_str(&json).unwrap();
        assert_eq!(back.reason(), Some("no PMU"));
    }

    #[test]
    fn a_reason_is_never_turned_into_a_count() {
        let plus = |sum: &mut u64, more: &u64| *sum += more;
        let mut sum = Observed::Value(3);
        sum.add_with(&Observed::Value(4), plus);
        assert_eq!(sum, Observed::Value(7));
        sum.add_with(&Observed::missing("no perf events"), plus);
        sum.add_with(&Observed::Value(1), plus);
        assert_eq!(sum, Observed::missing("no perf events"));
    }

    #[test]
    fn null_without_a_reason_is_refused() {
        assert!(serde_json::from_str::<Observed<u64>>(r#"{"value":null}"#).is_err());
        assert!(serde_json::from_str::<Observed<u64>>(r#"{"value":1,"reason":"x"}"#).is_err());
    }
}
