"""The role table."""

import importlib
import itertools
import pkgutil

import pytest
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from rsfed import v1
from rsfed.errors import NotAdmitted
from rsfed.trust.access import RULES, UNNAMED_PORTS, Port, authorize
from rsfed.trust.names import MemberId, Role

# Written by hand from the contract, so that a slip in the table shows: call -> {port: roles}; "any" is a port without
# certificates.
C, N, A = Role.COORDINATOR, Role.NODE, Role.ANALYST
EXPECTED = {
    "ArchiveService/Describe": {Port.NODE: {C}},
    "ArchiveService/Search": {Port.NODE: {C}},
    "ArchiveService/ExpandBucket": {Port.NODE: {C}},
    "ArchiveService/GetCatalogue": {Port.NODE: {C}},
    "ArchiveService/Refine": {Port.NODE: {C}},
    "ArchiveService/ProveAudit": {Port.NODE: {C}},
    "ArchiveService/RequestAccess": {Port.NODE: {C}},
    "ArchiveService/CollectAccess": {Port.NODE: {C}},
    "FederationService/Enroll": {Port.JOIN: "any"},
    "FederationService/Recover": {Port.JOIN: "any"},
    "FederationService/Renew": {Port.FEDERATION: {N, A}},
    "FederationService/Announce": {Port.FEDERATION: {N}},
    "FederationService/GetTrustBundle": {Port.FEDERATION: {N, A}},
    "FederationService/GetRelease": {Port.FEDERATION: {N, A}},
    "QueryService/Search": {Port.FEDERATION: {A}},
    "QueryService/WatchSearch": {Port.FEDERATION: {A}},
    "QueryService/ExpandBucket": {Port.FEDERATION: {A}},
    "QueryService/GetCatalogue": {Port.FEDERATION: {A}},
    "QueryService/Refine": {Port.FEDERATION: {A}},
    "QueryService/ListNodes": {Port.FEDERATION: {N, A}},
    "QueryService/RequestAccess": {Port.FEDERATION: {A}},
    "QueryService/CollectAccess": {Port.FEDERATION: {A}},
    "TrainingService/PullTask": {Port.FEDERATION: {N}},
    "TrainingService/PushResult": {Port.FEDERATION: {N}},
    "ControlService/Notify": {Port.CONTROL: "any"},
    "ControlService/Status": {Port.CONTROL: "any"},
    "Health/Check": {Port.NODE: {C, N}, Port.FEDERATION: {C, N, A}},
}


def methods():
    """Every call of every service in rsfed.v1, and of grpc.health.v1."""
    modules = [importlib.import_module(f"rsfed.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)]
    files = [m.DESCRIPTOR for m in (*modules, health_pb2) if isinstance(getattr(m, "DESCRIPTOR", None), FileDescriptor)]
    services = [service for file in files for service in file.services_by_name.values()]
    return sorted(f"/{service.full_name}/{method.name}" for service in services for method in service.methods)


def allowed(method, port, member):
    try:
        authorize(method, port, member)
    except NotAdmitted as error:
        return error.reason != "WRONG_ROLE"
    return True


def test_every_call_of_the_contract_has_a_row_and_no_row_is_left_over():
    unused = {"/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"}  # one reads much, one never ends
    assert sorted(RULES) == [m for m in methods() if m not in unused]


@pytest.mark.parametrize("method", methods())
def test_every_role_may_make_exactly_the_calls_it_should(method):
    expected = EXPECTED.get(method.split(".")[-1], {})
    for port, role in itertools.product(Port, [None, *Role]):
        roles = expected.get(port, set())
        member = MemberId("alps", role, "x") if role else None
        assert allowed(method, port, member) == (roles == "any" or role in roles), (port, role)


def test_a_call_without_a_row_is_denied_to_everybody():
    for port, role in itertools.product(Port, Role):
        assert not allowed("/rsfed.v1.ArchiveService/Delete", port, MemberId("alps", role, "x"))


def test_ports_without_certificates_serve_nothing_else():
    for rule in RULES.values():
        assert not (set(rule.grants) & UNNAMED_PORTS) or len(rule.grants) == 1


def test_only_calls_that_may_be_repeated_are_reads():
    assert {m.split(".")[-1] for m, rule in RULES.items() if rule.read} == {
        "ArchiveService/Describe",
        "ArchiveService/ExpandBucket",
        "ArchiveService/GetCatalogue",
        "ArchiveService/ProveAudit",
        "FederationService/GetTrustBundle",
        "FederationService/GetRelease",
        "QueryService/ExpandBucket",
        "QueryService/GetCatalogue",
        "QueryService/ListNodes",
    }
