from splitlearn_client.tenant_ids import TenantIds
from splitlearn_comm import SessionOpening, wire


def test_a_tenant_has_one_id_and_no_other_tenant_or_process_has_it() -> None:
    ids = TenantIds()
    assert ids.id_of("alice") == ids.id_of("alice")
    assert len({ids.id_of("alice"), ids.id_of("bob"), TenantIds().id_of("alice")}) == 3


def test_an_id_says_nothing_and_fits_into_an_opening() -> None:
    tenant = TenantIds().id_of("alice")
    assert "alice" not in tenant
    opening = SessionOpening("one", "print", 64, tenant=tenant)
    assert wire.read_opening(wire.parse_request(wire.encode_request(opening, None))) == opening


def test_those_without_a_name_have_no_id() -> None:
    assert TenantIds().id_of("") == ""
