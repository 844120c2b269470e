//! Every address of the API, and its description as OpenAPI 3.1.
//!
//! One table: what is answered and what is described cannot differ.

use serde_json::{Map, Value, json};

use super::api::ROOT;

/// An address and a method.
#[derive(Debug)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Below the root; `{run}` stands for a run's id, or the start of it.
    pub path: &'static str,
    /// Its name.
    pub id: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Whether the token is asked for.
    pub needs_token: bool,
    /// The status if all is well, and the schema of the body.
    answers: (u16, Shape),
    /// The schema of the body that is sent.
    takes: Option<&'static str>,
    /// What the query may have: name, schema, description.
    query: &'static [(&'static str, &'static str, &'static str)],
}

#[derive(Debug)]
enum Shape {
    One(&'static str),
    Many(&'static str),
    Lines,
    Document,
}

const QUERY: &[(&str, &str, &str)] = &[
    ("stack", "string", "Only of this stack."),
    ("source", "string", "Only of this source."),
    ("job", "string", "Only of this job."),
    ("state", "State", "Only in this state. May be given several times."),
    ("limit", "limit", "At most so many, the newest."),
];

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        needs_token: false,
        ..get("/openapi.json", "describe", "This description.", Shape::Document)
    },
    get(
        "/status",
        "status",
        "How well every source is protected: `backstay status --output json`, from the repositories as they are now. May take minutes.",
        Shape::Many("Protection"),
    ),
    get("/jobs", "jobs", "The jobs in force, and when each is due next.", Shape::Many("Job")),
    Route {
        query: QUERY,
        ..get(
            "/runs",
            "runs",
            "What was done, is done and is to be done; the newest last.",
            Shape::Many("Run"),
        )
    },
    Route {
        method: "POST",
        takes: Some("Wish"),
        answers: (202, Shape::Many("Run")),
        ..get(
            "/runs",
            "trigger",
            "Do a job now. Its runs begin when there is room for them.",
            Shape::Lines,
        )
    },
    get("/runs/{run}", "run", "One run.", Shape::One("Run")),
    get(
        "/runs/{run}/log",
        "log",
        "What a run said: a JSON object a line; of much, the end.",
        Shape::Lines,
    ),
    Route {
        method: "POST",
        answers: (202, Shape::One("Run")),
        ..get(
            "/runs/{run}/cancel",
            "cancel",
            "End a run: one that waits does not begin.",
            Shape::Lines,
        )
    },
];

const fn get(path: &'static str, id: &'static str, summary: &'static str, body: Shape) -> Route {
    Route {
        method: "GET",
        path,
        id,
        summary,
        needs_token: true,
        answers: (200, body),
        takes: None,
        query: &[],
    }
}

impl Route {
    /// Whether an address is this one's.
    pub fn fits(&self, segments: &[&str]) -> bool {
        let own: Vec<&str> = self.path.split('/').skip(1).collect();
        let same = |(own, given): (&&str, &&str)| {
            own == given || (own.starts_with('{') && !given.is_empty())
        };
        own.len() == segments.len() && own.iter().zip(segments).all(same)
    }

    fn described(&self) -> Value {
        let mut parameters: Vec<Value> = Vec::new();
        if self.path.contains("{run}") {
            parameters.push(json!({
                "name": "run", "in": "path", "required": true,
                "description": "The run's id, or the start of it.",
                "schema": { "type": "string" },
            }));
        }
        for (name, schema, description) in self.query {
            let (schema, explode) = match *schema {
                "State" => (json!({ "type": "array", "items": reference("State") }), true),
                "limit" => {
                    let bounds = json!({ "type": "integer", "minimum": 1, "maximum": 10_000, "default": 50 });
                    (bounds, false)
                }
                kind => (json!({ "type": kind }), false),
            };
            let mut parameter = json!({ "name": name, "in": "query", "description": description, "schema": schema });
            if explode {
                parameter["style"] = json!("form");
                parameter["explode"] = json!(true);
            }
            parameters.push(parameter);
        }
        let (status, body) = &self.answers;
        let content = match body {
            Shape::One(name) => json!({ "application/json": { "schema": reference(name) } }),
            Shape::Many(name) => {
                json!({ "application/json": { "schema": { "type": "array", "items": reference(name) } } })
            }
            Shape::Lines => json!({ "application/jsonl": { "schema": { "type": "string" } } }),
            Shape::Document => json!({ "application/json": { "schema": { "type": "object" } } }),
        };
        let mut responses = Map::new();
        responses.insert(status.to_string(), json!({ "description": "Done.", "content": content }));
        responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Failed" }));
        let mut described = json!({
            "operationId": self.id,
            "summary": self.summary,
            "responses": responses,
        });
        if !parameters.is_empty() {
            described["parameters"] = Value::Array(parameters);
        }
        if !self.needs_token {
            described["security"] = json!([]);
        }
        if let Some(name) = self.takes {
            described["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": reference(name) } },
            });
        }
        described
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The description.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(format!("{ROOT}{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = route.described();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Backstay daemon",
            "version": "1",
            "description": "What `backstay daemon --listen ADDRESS --token-file FILE` answers. Fields may be added; none changes its meaning within /api/v1.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:9187" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": { "Failed": {
                "description": "400 asked wrongly, 401 no or a wrong token, 404 not there, 405 not so, 409 too late, 413 too long, 503 does not answer, 500 failed.",
                "content": { "application/json": { "schema": reference("Failure") } },
            } },
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let time = json!({ "type": "string", "format": "date-time" });
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "State": {
            "type": "string",
            "enum": ["waiting", "running", "succeeded", "failed", "skipped", "missed", "abandoned"],
        },
        "Run": {
            "type": "object",
            "description": "A time that a job was due, or was asked for, and what came of it.",
            "required": ["id", "stack", "job", "source", "nominal", "due", "not_before", "state", "attempts", "cancelled"],
            "properties": {
                "id": text,
                "stack": text,
                "job": text,
                "source": { "type": "string", "description": "Empty for work that is not of one source." },
                "nominal": { "type": "string", "description": "The time as the schedule names it." },
                "due": time,
                "not_before": time,
                "state": reference("State"),
                "why": { "type": "string", "description": "Why it was skipped, missed or failed, or waits again." },
                "attempts": count,
                "owner": text,
                "heartbeat": time,
                "started": time,
                "ended": time,
                "backup": { "type": "string", "description": "The backup that it made; of one that was skipped the one that another made in its place." },
                "cancelled": { "type": "boolean", "description": "Somebody wants it to end." },
            },
        },
        "Job": {
            "type": "object",
            "required": ["stack", "job", "sources", "next_due"],
            "properties": {
                "stack": text,
                "job": text,
                "kind": { "enum": ["full", "incremental", "snapshot", null] },
                "sources": { "type": "array", "items": text },
                "next_due": { "type": ["string", "null"], "format": "date-time" },
            },
        },
        "Protection": {
            "type": "object",
            "description": "A source, as `backstay status --output json` shows it.",
            "required": ["source", "rpo_seconds", "rto_seconds", "backups", "damaged", "verdict"],
            "properties": {
                "source": { "type": "string", "description": "STACK/SOURCE" },
                "time": { "type": "string", "format": "date-time", "description": "The newest instant that it can be restored to." },
                "ahead": { "type": "boolean", "description": "That instant lies in the future: a clock was wrong, or is, and it proves nothing." },
                "exposure_seconds": { "type": "integer", "minimum": 0, "description": "What would be lost now." },
                "rpo_seconds": count,
                "rto_seconds": count,
                "backups": count,
                "damaged": count,
                "verdict": { "enum": ["holds", "missed", "unprotected", "unknown"] },
                "playbooks": {
                    "type": "object",
                    "description": "The playbooks of its stack, and whether each could be carried out.",
                    "additionalProperties": { "enum": ["ready", "not ready", "needs verify"] },
                },
            },
        },
        "Wish": {
            "type": "object",
            "required": ["job"],
            "additionalProperties": false,
            "properties": {
                "stack": { "type": "string", "description": "Needed where several stacks have a job of this name." },
                "job": text,
                "sources": { "type": "array", "items": text, "description": "Only these of its sources." },
            },
        },
        "Failure": {
            "type": "object",
            "required": ["error"],
            "properties": { "error": {
                "type": "object",
                "required": ["kind", "message", "hints"],
                "properties": { "kind": text, "message": text, "hints": { "type": "array", "items": text } },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::state::{RunRow, RunState, Slot};

    #[test]
    fn addresses_are_told_apart() {
        let ids = |segments: &[&str]| -> Vec<&str> {
            ROUTES.iter().filter(|route| route.fits(segments)).map(|route| route.id).collect()
        };
        assert_eq!(ids(&["runs"]), ["runs", "trigger"]);
        assert_eq!(ids(&["runs", "r-1"]), ["run"]);
        assert_eq!(ids(&["runs", "r-1", "log"]), ["log"]);
        assert!(ids(&["runs", ""]).is_empty() && ids(&[]).is_empty() && ids(&["run"]).is_empty());
    }

    /// Every field of a run is described, and those that are said to be there are.
    #[test]
    fn a_run_is_what_is_described() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let text = || "x".to_owned();
        let mut row = RunRow {
            id: text(),
            slot: Slot { stack: text(), job: text(), source: text(), nominal: text() },
            due: now,
            not_before: now,
            state: RunState::Failed,
            why: Some(text()),
            attempts: 1,
            owner: Some(text()),
            heartbeat: Some(now),
            started: Some(now),
            ended: Some(now),
            backup: Some(text()),
            cancelled: false,
        };
        let schema = &document()["components"]["schemas"]["Run"];
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&json!(row)), keys(&schema["properties"]));
        (row.why, row.owner, row.heartbeat) = (None, None, None);
        (row.started, row.ended, row.backup) = (None, None, None);
        let mut required: Vec<String> = serde_json::from_value(schema["required"].clone()).unwrap();
        required.sort();
        assert_eq!(keys(&json!(row)), required);
    }

    /// Whatever is referred to is there.
    #[test]
    fn references_lead_somewhere() {
        let document = document();
        let text = document.to_string();
        let mut found = 0;
        for part in text.split("\"#/").skip(1) {
            let pointer = format!("/{}", part.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
            found += 1;
        }
        assert!(found > 15, "{found}");
    }
}
