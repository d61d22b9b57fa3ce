//! From bounds and rules to the schema that the API server enforces: transforms that the derives in `spec` and `status`
//! name. Structural schemas only, without `nullable`: the API server drops a null, which is what absent means here.

use crate::bounds::{Names, Number, Span, Text, Texts, duration_pattern};
use crate::constraints::{IMMUTABLE, Rule, Ruled};
use crate::spec::CircuitBreakerSpec;
use schemars::Schema;
use serde_json::{Value, json};
use std::any::TypeId;

/// Where [`names`] leaves the meaning of each value for [`tidy`] to find.
const MEANINGS: &str = "x-meanings";
/// The longest duration: `99999h99999m99999s99999ms`.
const LONGEST_DURATION: usize = 25;

fn validation(rule: &str, message: &str, field: &str) -> Value {
    let mut validation = json!({"rule": rule, "message": message});
    if !field.is_empty() {
        validation["fieldPath"] = format!(".{field}").into();
    }
    validation
}

/// Ends the description, as range and default are the last thing one wants to know.
fn describe(schema: &mut Schema, end: &str) {
    let meaning = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let text = format!("{meaning} {end}");
    schema.insert("description".to_owned(), text.trim().into());
}

impl Number {
    pub(crate) fn write(&self, schema: &mut Schema) {
        schema.insert("type".to_owned(), "integer".into());
        schema.insert("format".to_owned(), "int32".into());
        schema.insert("minimum".to_owned(), self.low.into());
        schema.insert("maximum".to_owned(), self.high.into());
        describe(schema, &self.describe());
    }
}

impl Span {
    pub(crate) fn write(&self, schema: &mut Schema) {
        let (low, high) = (tiebar::duration::format(self.low), tiebar::duration::format(self.high));
        let rule = format!(
            "self.size() > 1 && self.matches('{}') && duration(self) >= duration('{low}') && duration(self) <= \
             duration('{high}')",
            duration_pattern!()
        );
        schema.insert("type".to_owned(), "string".into());
        schema.insert("maxLength".to_owned(), LONGEST_DURATION.into());
        schema.insert(
            "x-kubernetes-validations".to_owned(),
            json!([validation(&rule, &self.wanted(), "")]),
        );
        describe(schema, &self.describe());
    }
}

impl Text {
    pub(crate) fn write(&self, schema: &mut Schema) {
        schema.insert("type".to_owned(), "string".into());
        schema.insert("maxLength".to_owned(), self.longest.into());
        if !self.pattern.is_empty() {
            // As a rule rather than a `pattern`, for the sake of the message.
            let pattern = self.pattern.replace('\\', "\\\\");
            let mut rule = format!("self.matches('{pattern}')");
            if let Some(further) = &self.further {
                rule = format!("{rule} && {}", further.cel);
            }
            schema.insert(
                "x-kubernetes-validations".to_owned(),
                json!([validation(&rule, self.wanted, "")]),
            );
        }
    }
}

fn list(schema: &mut Schema, most: usize) {
    schema.insert("type".to_owned(), "array".into());
    schema.insert("maxItems".to_owned(), most.into());
    // A list replaces its default as a whole; nobody owns single codes of it.
    schema.insert("x-kubernetes-list-type".to_owned(), "atomic".into());
}

impl Texts {
    pub(crate) fn write(&self, schema: &mut Schema) {
        let mut items = Schema::default();
        self.each.write(&mut items);
        schema.insert("items".to_owned(), items.to_value());
        list(schema, self.most);
    }
}

impl Names {
    pub(crate) fn write(&self, schema: &mut Schema) {
        list(schema, self.most);
        if let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut) {
            items.remove(MEANINGS);
        }
    }
}

/// Both ends of an instant.
impl crate::bounds::Instants {
    pub(crate) fn write(&self, schema: &mut Schema) {
        let rule = format!(
            "self >= timestamp('{}') && self < timestamp('{}')",
            self.from, self.before
        );
        schema.insert("type".to_owned(), "string".into());
        schema.insert("format".to_owned(), "date-time".into());
        schema.insert("maxLength".to_owned(), self.longest.into());
        schema.insert(
            "x-kubernetes-validations".to_owned(),
            json!([validation(&rule, self.wanted, "")]),
        );
    }
}

/// The schema of an enumeration; the meanings go into the description of the field that uses it.
pub(crate) fn names(values: &[(&str, &[&str])]) -> Schema {
    let meaning = |(name, doc): &(&str, &[&str])| {
        let doc: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
        format!("{name}: {}", doc.join(" ").trim_end_matches('.'))
    };
    let meanings: Vec<String> = values.iter().map(meaning).collect();
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let mut schema = Schema::default();
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), json!(names));
    schema.insert(MEANINGS.to_owned(), format!("{}.", meanings.join("; ")).into());
    schema
}

/// Completes an object of `spec`: required fields, rules, tidy properties.
pub(crate) fn object<T: Ruled>(schema: &mut Schema) {
    let mut rules: Vec<Value> = T::RULES
        .iter()
        .map(
            |Rule {
                 cel, message, field, ..
             }| validation(cel, message, field),
        )
        .collect();
    if TypeId::of::<T>() == TypeId::of::<CircuitBreakerSpec>() {
        let (rule, message, field) = IMMUTABLE;
        rules.push(validation(rule, message, field));
        schema.insert("default".to_owned(), json!({}));
        if let Some(mode) = schema.pointer_mut("/properties/mode").and_then(Value::as_object_mut) {
            mode.insert("default".to_owned(), "Enforce".into());
        }
    }
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".to_owned(), rules.into());
    }
    if !T::REQUIRED.is_empty() {
        let required: Vec<&str> = T::REQUIRED.iter().map(|(field, _)| *field).collect();
        schema.insert("required".to_owned(), json!(required));
    }
    tidy(schema);
}

/// A list keyed by `type` needs one in each entry; the others are Kubernetes' convention.
pub(crate) fn condition(schema: &mut Schema) {
    let required = ["type", "status", "lastTransitionTime", "reason", "message"];
    schema.insert("required".to_owned(), json!(required));
}

/// Completes an object of `status`: what serde assumes of an absent field is no default that the API server should write.
pub(crate) fn report(schema: &mut Schema) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|properties| properties.values_mut()) {
        property.as_object_mut().map(|property| property.remove("default"));
    }
    tidy(schema);
}

/// Comments are wrapped for the editor; `kubectl explain` wraps for the terminal.
fn unwrap_lines(schema: &mut serde_json::Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

/// Drops `null` from optional properties, and moves the meanings of values into descriptions.
fn tidy(schema: &mut Schema) {
    unwrap_lines(schema.ensure_object());
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|properties| properties.values_mut()) {
        let Some(property) = property.as_object_mut() else {
            continue;
        };
        unwrap_lines(property);
        if let Some(Value::Array(types)) = property.get("type") {
            let named = types.iter().find(|name| *name != "null").cloned();
            property.insert("type".to_owned(), named.unwrap_or_default());
        }
        if let Some(Value::Array(values)) = property.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        if let Some(Value::String(meanings)) = property.remove(MEANINGS) {
            let text = property.get("description").and_then(Value::as_str).unwrap_or_default();
            let text = format!("{text} {meanings}");
            property.insert("description".to_owned(), text.trim().into());
        }
    }
}
