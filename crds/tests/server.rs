//! The resource on a real API server.

use crds::testing::ApiServer;

#[test]
fn the_definition_is_accepted() {
    let server = ApiServer::shared();
    let said = server.kubectl(&[
        "get",
        "crd",
        "circuitbreakers.tiebar.dev",
        "-o",
        "jsonpath={.status.conditions[*].type}={.status.conditions[*].status}",
    ]);
    assert_eq!(said.expect_ok("the definition"), "NamesAccepted Established=True True");
}
