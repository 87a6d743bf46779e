//! Whole scenarios on a modelled host, told as operations, checked as spans with parents.

mod host;

use host::Host;

#[test]
fn a_call_is_joined_to_its_service() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    assert_eq!(host.lines(), ["curl client /a", "shop server /a < curl client /a (tcp-sequence)"]);
}
