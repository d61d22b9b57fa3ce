//! What the operator's service account may do, and what it may not.

use crate::support::Place;

#[test]
fn the_service_account_may_do_its_work_and_nothing_else() {
    let place = Place::new("rights");
    let may = |arguments: &[&str]| {
        let arguments = [&["auth", "can-i"], arguments].concat();
        let said = place.server().kubectl_with(&place.account, &arguments, "");
        said.out.trim() == "yes"
    };
    let (here, there) = (["-n", "rights"], ["-n", "default"]);
    let with = |words: &[&'static str], place: [&'static str; 2]| [words, &place].concat();
    for allowed in [
        with(&["list", "circuitbreakers.tiebar.dev"], there),
        with(&["watch", "circuitbreakers.tiebar.dev"], there),
        with(&["patch", "circuitbreakers.tiebar.dev", "--subresource=status"], there),
        with(&["create", "events.events.k8s.io"], there),
        with(&["patch", "events.events.k8s.io"], there),
        with(&["create", "leases.coordination.k8s.io"], here),
        with(&["get", "leases.coordination.k8s.io/tiebar-operator"], here),
        with(&["update", "leases.coordination.k8s.io/tiebar-operator"], here),
        vec!["get", "namespaces/kube-system"],
        vec![
            "get",
            "customresourcedefinitions.apiextensions.k8s.io/circuitbreakers.tiebar.dev",
        ],
    ] {
        assert!(may(&allowed), "may not {allowed:?}");
    }
    for forbidden in [
        with(&["create", "circuitbreakers.tiebar.dev"], here),
        with(&["update", "circuitbreakers.tiebar.dev"], here),
        with(&["patch", "circuitbreakers.tiebar.dev"], here),
        with(&["delete", "circuitbreakers.tiebar.dev"], here),
        with(&["update", "circuitbreakers.tiebar.dev", "--subresource=status"], here),
        with(&["get", "secrets"], here),
        with(&["list", "secrets"], here),
        with(&["get", "configmaps"], here),
        with(&["list", "pods"], here),
        with(&["create", "pods"], here),
        with(&["create", "events"], here),
        with(&["delete", "events.events.k8s.io"], here),
        with(&["list", "events.events.k8s.io"], here),
        with(&["get", "leases.coordination.k8s.io/other"], here),
        with(&["update", "leases.coordination.k8s.io/other"], here),
        with(&["delete", "leases.coordination.k8s.io/tiebar-operator"], here),
        with(&["list", "leases.coordination.k8s.io"], here),
        with(&["create", "leases.coordination.k8s.io"], there),
        with(&["get", "leases.coordination.k8s.io/tiebar-operator"], there),
        vec!["get", "namespaces/default"],
        vec!["list", "namespaces"],
        vec!["get", "nodes"],
        vec![
            "get",
            "customresourcedefinitions.apiextensions.k8s.io/others.example.org",
        ],
        vec![
            "update",
            "customresourcedefinitions.apiextensions.k8s.io/circuitbreakers.tiebar.dev",
        ],
        with(&["create", "serviceaccounts", "--subresource=token"], here),
        with(&["bind", "clusterroles.rbac.authorization.k8s.io"], here),
        with(&["impersonate", "users"], here),
    ] {
        assert!(!may(&forbidden), "may {forbidden:?}");
    }
}
