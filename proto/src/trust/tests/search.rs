//! The search for a target over many delegations, as other TUF repositories have them.

use serde_json::{Value, json};

use crate::trust::{
    Signer,
    client::{Found, Next, Refresh},
    error::TrustError,
    role::Role,
    testing::{TestHost, TestRepository, amend, forge, key, role},
};

struct Graph {
    repository: TestRepository,
}

/// A delegation to a role whose key bears its name.
fn delegation(name: &str, paths: &[&str], terminating: bool) -> Value {
    delegation_by(name, name, paths, terminating)
}

fn delegation_by(name: &str, key_name: &str, paths: &[&str], terminating: bool) -> Value {
    json!({
        "name": name, "keyids": [key(key_name).public().id().to_string()], "threshold": 1,
        "paths": paths, "terminating": terminating,
    })
}

fn delegations(roles: &[Value], keys: &[&str]) -> Value {
    let keys: serde_json::Map<String, Value> = keys
        .iter()
        .map(|name| (key(name).public().id().to_string(), key(name).public().to_value().clone()))
        .collect();
    json!({ "keys": keys, "roles": roles })
}

impl Graph {
    fn new(roles: &[Value], keys: &[&str]) -> Graph {
        Graph::over(&delegations(roles, keys))
    }

    fn over(delegations: &Value) -> Graph {
        let mut repository = TestRepository::new();
        let targets =
            amend(&repository.held[&Role::Targets], &Role::Targets, &["targets"], |file| {
                file["version"] = json!(2);
                file["delegations"] = delegations.clone();
            });
        repository.plant(&Role::Targets, 2, targets);
        Graph { repository }
    }

    fn role(mut self, name: &str, targets: &[(&str, &str)], then: Option<Value>) -> Graph {
        let listed: serde_json::Map<String, Value> = targets
            .iter()
            .map(|(path, content)| {
                let digest = crate::names::Digest::of(content.as_bytes()).to_string();
                let target = json!({ "length": content.len(), "hashes": { "sha256": digest } });
                ((*path).to_owned(), target)
            })
            .collect();
        let mut signed = json!({
            "_type": "targets", "spec_version": "1.0.31", "version": 1,
            "expires": "2027-01-01T00:00:00Z", "targets": listed,
        });
        if let Some(then) = then {
            signed["delegations"] = then;
        }
        self.repository.plant(&role(name), 1, forge(&signed, &[name]));
        self
    }

    /// What is found, and the roles asked for on the way.
    fn find(&self, path: &str) -> (Option<String>, Vec<String>) {
        self.find_as(path, &mut TestHost::new(&self.repository))
    }

    fn find_as(&self, path: &str, host: &mut TestHost) -> (Option<String>, Vec<String>) {
        let mut refresh = Refresh::start(host.stored.clone(), &[], self.repository.now).unwrap();
        while let Next::Fetch(request) = refresh.next().unwrap() {
            match self.repository.serve(&request) {
                Some(bytes) => drop(refresh.supply(&bytes).unwrap()),
                None => refresh.absent().unwrap(),
            }
        }
        let mut asked = Vec::new();
        loop {
            match refresh.find(path).unwrap() {
                Found::Target(target) => {
                    return (Some(target.digest().unwrap().to_string()), asked);
                }
                Found::Nothing => return (None, asked),
                Found::Fetch(request) => {
                    asked.push(request.role.to_string());
                    match self.repository.serve(&request) {
                        Some(bytes) => {
                            for write in refresh.supply(&bytes).unwrap() {
                                write.apply(&mut host.stored);
                            }
                        }
                        None => refresh.absent().unwrap(),
                    }
                }
            }
        }
    }
}

fn digest(content: &str) -> Option<String> {
    Some(crate::names::Digest::of(content.as_bytes()).to_string())
}

/// CVE-2024-47534.
#[test]
fn delegations_are_searched_depth_first_in_their_order() {
    let inner = delegations(&[delegation("a-a", &["*"], false)], &["a-a"]);
    let graph =
        Graph::new(&[delegation("a", &["*"], false), delegation("b", &["*"], false)], &["a", "b"])
            .role("a", &[], Some(inner))
            .role("a-a", &[("x", "from a-a")], None)
            .role("b", &[("x", "from b"), ("y", "y")], None);
    assert_eq!(graph.find("x"), (digest("from a-a"), vec!["a".into(), "a-a".into()]));
    assert_eq!(graph.find("y"), (digest("y"), vec!["a".into(), "a-a".into(), "b".into()]));
    assert_eq!(graph.find("d/x").0, None);
}

/// CVE-2025-2886.
#[test]
fn a_terminating_delegation_ends_the_search() {
    let graph =
        Graph::new(&[delegation("a", &["x*"], true), delegation("b", &["*"], false)], &["a", "b"])
            .role("a", &[], None)
            .role("b", &[("x1", "b"), ("y", "y")], None);
    assert_eq!(graph.find("x1"), (None, vec!["a".into()]));
    assert_eq!(graph.find("y"), (digest("y"), vec!["b".into()]));
}

/// CVE-2025-2886.
#[test]
fn a_terminating_delegation_ends_the_search_also_for_those_still_waiting() {
    let inner = delegations(&[delegation("a-a", &["x"], true)], &["a-a"]);
    let graph =
        Graph::new(&[delegation("a", &["*"], false), delegation("b", &["*"], false)], &["a", "b"])
            .role("a", &[], Some(inner))
            .role("a-a", &[], None)
            .role("b", &[("x", "from b"), ("y", "y")], None);
    assert_eq!(graph.find("x"), (None, vec!["a".into(), "a-a".into()]));
    assert_eq!(graph.find("y").0, digest("y"));
}

/// tough-0.20-cycle.
#[test]
fn a_cycle_of_delegations_ends() {
    let to_b = delegations(&[delegation("b", &["*"], false)], &["b"]);
    let to_a = delegations(&[delegation("a", &["*"], false)], &["a"]);
    let graph = Graph::new(&[delegation("a", &["*"], false)], &["a"])
        .role("a", &[], Some(to_b))
        .role("b", &[], Some(to_a));
    assert_eq!(graph.find("x"), (None, vec!["a".into(), "b".into()]));
}

#[test]
fn a_search_visits_a_bounded_number_of_roles() {
    let names: Vec<String> = (0..100).map(|n| format!("r{n}")).collect();
    let roles: Vec<Value> = names.iter().map(|name| delegation(name, &["*"], false)).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut graph = Graph::new(&roles, &keys);
    for name in &names {
        graph = graph.role(name, &[], None);
    }
    assert_eq!(graph.find("x").1.len(), crate::trust::metadata::limits::VISITS);
}

/// TOB-SIGSTORE-14.
#[test]
fn a_file_that_one_delegator_vouches_for_says_nothing_under_another() {
    // `shared` is signed by its own key, which `a` names; `b` names another key for it.
    let by_own = delegations(&[delegation("shared", &["x"], false)], &["shared"]);
    let by_other = delegations(&[delegation_by("shared", "someone", &["y"], false)], &["someone"]);
    let graph =
        Graph::new(&[delegation("a", &["x"], false), delegation("b", &["y"], false)], &["a", "b"])
            .role("a", &[], Some(by_own))
            .role("b", &[], Some(by_other))
            .role("shared", &[("x", "x"), ("y", "y")], None);
    let mut host = TestHost::new(&graph.repository);
    assert_eq!(graph.find_as("x", &mut host).0, digest("x"));
    assert!(host.stored.contains_key(&role("shared")));
    assert_eq!(graph.find_as("y", &mut host).0, None);
}

#[test]
fn a_role_that_cannot_be_verified_ends_the_search() {
    let graph =
        Graph::new(&[delegation("a", &["*"], false), delegation("b", &["*"], false)], &["b"])
            .role("a", &[], None)
            .role("b", &[("x", "x")], None);
    assert_eq!(graph.find("x"), (None, vec!["a".into()]));
}

/// CVE-2021-41149, CVE-2021-41150.
#[test]
fn odd_role_names_are_followed_and_stay_in_their_folder() {
    let names = ["../../evil", "?", "a/b", "."];
    let roles: Vec<Value> = names.iter().map(|name| delegation(name, &["*"], false)).collect();
    let mut graph = Graph::new(&roles, &names);
    for name in names {
        graph = graph.role(name, &[(&format!("t{}", name.len()), name)], None);
        assert!(!role(name).file_name().contains('/'));
    }
    assert_eq!(graph.find("t10").0, digest("../../evil"));
}

#[test]
fn the_top_level_targets_come_first() {
    let graph = Graph::new(&[delegation("a", &["*"], true)], &["a"]).role("a", &[("x", "a")], None);
    let mut graph = graph;
    let held = graph.repository.held[&Role::Targets].clone();
    let own = amend(&held, &Role::Targets, &["targets"], |file| {
        file["version"] = json!(3);
        let digest = crate::names::Digest::of(b"own").to_string();
        file["targets"]["x"] = json!({ "length": 3, "hashes": { "sha256": digest } });
    });
    graph.repository.plant(&Role::Targets, 3, own);
    assert_eq!(graph.find("x"), (digest("own"), vec![]));
}

/// `succinct_roles` (TAP 15) whose key is "bins".
fn bins(bits: u64, prefix: &str) -> Value {
    let mut bins = delegations(&[], &["bins"]);
    bins.as_object_mut().unwrap().remove("roles");
    bins["succinct_roles"] = json!({
        "keyids": [key("bins").public().id().to_string()], "threshold": 1,
        "bit_length": bits, "name_prefix": prefix,
    });
    bins
}

#[test]
fn a_path_belongs_to_the_one_bin_that_its_hash_names() {
    // Sixteen bins: the first hex digit of the path's hash.
    let digit = &crate::names::Digest::of(b"x").to_string()[..1];
    let (own, other) = (format!("bin-{digit}"), if digit == "0" { "bin-1" } else { "bin-0" });
    let listed = [("x", "from a bin")];
    let sign = |mut graph: Graph, name: &str, by: &str| {
        graph = graph.role(name, &listed, None);
        let bytes = graph.repository.held[&role(name)].clone();
        let signed = serde_json::from_slice::<Value>(&bytes).unwrap()["signed"].clone();
        graph.repository.plant(&role(name), 1, forge(&signed, &[by]));
        graph
    };
    let right = sign(Graph::over(&bins(4, "bin")), &own, "bins");
    assert_eq!(right.find("x"), (digest("from a bin"), vec![own.clone()]));
    let elsewhere = sign(Graph::over(&bins(4, "bin")), other, "bins");
    assert_eq!(elsewhere.find("x"), (None, vec![]));
    let forged = sign(Graph::over(&bins(4, "bin")), &own, "somebody else");
    assert_eq!(forged.find("x"), (None, vec![own]));
}

#[test]
fn bins_without_bound_or_beside_named_roles_are_refused() {
    let mut both = bins(4, "bin");
    both["roles"] = json!([]);
    let long = "x".repeat(255);
    for delegations in [bins(0, "bin"), bins(33, "bin"), bins(4, ""), bins(4, &long), both] {
        let graph = Graph::over(&delegations);
        let host = TestHost::new(&graph.repository);
        let mut refresh = Refresh::start(host.stored.clone(), &[], graph.repository.now).unwrap();
        let refused = loop {
            let Next::Fetch(request) = refresh.next().unwrap() else { break None };
            let served = graph.repository.serve(&request);
            let outcome = match &served {
                Some(bytes) => refresh.supply(bytes).map(drop),
                None => refresh.absent(),
            };
            if let Err(error) = outcome {
                break Some(error);
            }
        };
        assert!(
            matches!(refused, Some(TrustError::Malformed { .. })),
            "{delegations}: {refused:?}"
        );
    }
}
