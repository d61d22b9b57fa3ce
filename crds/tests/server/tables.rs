//! What must be refused and what must be accepted, by the API server and offline, from the same two files.

use super::{document, offline, online};
use crds::testing::ApiServer;
use serde::Deserialize;
use serde_json::{Value, json};

const BAD: &str = include_str!("../data/bad.yaml");
const GOOD: &str = include_str!("../data/good.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bad {
    field: String,
    spec: Option<Value>,
    document: Option<Value>,
    says: String,
    offline: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Good {
    why: String,
    spec: Option<Value>,
    document: Option<Value>,
}

fn whole(name: &str, spec: Option<&Value>, parts: Option<&Value>) -> Value {
    let mut whole = document(name, spec.unwrap_or(&Value::Null));
    if spec.is_none() {
        whole.as_object_mut().unwrap().remove("spec");
    }
    for (field, value) in parts.and_then(Value::as_object).into_iter().flatten() {
        whole[field] = value.clone();
    }
    whole
}

#[test]
fn what_is_wrong_is_refused_by_both_with_words_a_person_understands() {
    let cases: Vec<Bad> = serde_yaml::from_str(BAD).unwrap();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let (mut names, mut wrong) = (Vec::new(), Vec::new());
    let mut batch = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("bad-{number}");
        let whole = whole(&name, case.spec.as_ref(), case.document.as_ref());
        let wanted = case.offline.as_ref().unwrap_or(&case.says);
        match offline(&whole) {
            Err(message) if message.contains(wanted) && message.contains(&case.field) && !message.contains('\n') => {}
            other => wrong.push(format!(
                "{name} offline: {other:?}; wanted {} and {wanted:?}",
                case.field
            )),
        }
        if case.spec.is_some() {
            batch.push(whole);
        } else {
            // Its name may be what is wrong.
            let said = ApiServer::shared().kubectl_input(&["apply", "-f", "-"], &whole.to_string());
            if said.ok || !said.err.contains(&case.says) || !said.err.contains(&case.field) {
                wrong.push(format!(
                    "{name} online: {said:?}; wanted {} and {:?}",
                    case.field, case.says
                ));
            }
        }
        names.push(name);
    }
    let verdicts = online(&["apply"], &batch);
    for (name, case) in names.iter().zip(&cases) {
        match verdicts.get(name) {
            None => {}
            Some(Err(message)) if message.contains(&case.says) && message.contains(&case.field) => {}
            Some(other) => wrong.push(format!(
                "{name} online: {other:?}; wanted {} and {:?}",
                case.field, case.says
            )),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_right_is_accepted_by_both() {
    let cases: Vec<Good> = serde_yaml::from_str(GOOD).unwrap();
    let mut batch = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let whole = whole(&format!("good-{number}"), case.spec.as_ref(), case.document.as_ref());
        assert_eq!(offline(&whole), Ok(()), "{}", case.why);
        batch.push(whole);
    }
    let verdicts = online(&["apply"], &batch);
    for (case, document) in cases.iter().zip(&batch) {
        let name = document["metadata"]["name"].as_str().unwrap();
        assert_eq!(verdicts[name], Ok(()), "{}", case.why);
    }
}

#[test]
fn what_is_stored_is_what_was_written_and_the_mode() {
    let server = ApiServer::shared();
    let stored = |name: &str, spec: &Value| -> Value {
        let whole = document(name, spec).to_string();
        let said = server.kubectl_input(&["apply", "-f", "-", "-o", "json"], &whole);
        serde_json::from_str::<Value>(&said.expect_ok("apply")).unwrap()["spec"].clone()
    };
    assert_eq!(stored("stored-a", &json!({})), json!({"mode": "Enforce"}));
    let written = json!({"mode": "Observe", "trip": {"consecutiveFailures": 3}, "open": {"duration": "1m"}});
    assert_eq!(stored("stored-b", &written), written);
}
